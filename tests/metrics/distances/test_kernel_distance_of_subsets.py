"""KID of subsets: what it estimates, whole and without each group."""

from __future__ import annotations

import pytest
import torch

import metrics
from metrics.distances.kernel_distance_of_subsets import draw_subsets, mean_kernel_distances


def test_one_subset_of_everything_is_the_kernel_distance_itself(normal):
    x, y = normal(80, 6), normal(80, 6, 1) + 0.3
    mean, spread = metrics.kernel_distance_of_subsets(x, y, subsets=1, size=1000)
    assert mean == pytest.approx(metrics.kernel_distance(x, y), rel=1e-9)
    assert spread == 0


def test_subsets_estimate_the_kernel_distance_and_depend_on_their_seed_alone(normal):
    x, y = normal(400, 6), normal(300, 6, 1) + 0.3
    want = metrics.kernel_distance(x, y)
    mean, spread = metrics.kernel_distance_of_subsets(x, y, subsets=60, size=80)
    assert abs(mean - want) < 4 * spread / 60**0.5
    assert metrics.kernel_distance_of_subsets(x, y, subsets=60, size=80) == (mean, spread)
    assert metrics.kernel_distance_of_subsets(x, y, subsets=60, size=80, seed=1)[0] != mean


def test_subsets_keep_their_images_when_a_group_is_left_out_of_them(sets):
    real, fake = sets
    group = torch.arange(len(fake)) % 5
    # Smaller than both sets, so that every subset is another one.
    subsets = list(draw_subsets(90, 83, subsets=6, size=40))
    want = [
        sum(metrics.kernel_distance(real[i], fake[j[group[j] != k]]) for i, j in subsets) / 6
        for k in range(-1, 5)
    ]
    found = mean_kernel_distances(real, fake, 5, subsets=6, size=40)
    assert found == pytest.approx(want, rel=1e-10)
    whole, _ = metrics.kernel_distance_of_subsets(real, fake, subsets=6, size=40)
    assert found[0] == pytest.approx(whole, rel=1e-10)
