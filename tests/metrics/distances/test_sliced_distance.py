"""MIND: what sorted projections see, whole and without each group."""

from __future__ import annotations

import pytest
import torch

import metrics
from metrics.distances.sliced_distance import sliced_distances


def test_sorted_projections_see_a_shift_as_three_times_its_square(normal):
    x, shift = normal(200, 32), normal(1, 32, 5)
    found = metrics.sliced_distance(x, x + shift, directions=4000)
    assert found == pytest.approx(3 * shift.square().sum().item(), rel=0.05)


def test_sorted_projections_see_a_scale_as_three_times_the_mean_square_it_moved(normal):
    x = normal(500, 32)
    found = metrics.sliced_distance(x, 1.1 * x, directions=4000)
    assert found == pytest.approx(3 * 0.01 * x.square().sum(1).mean().item(), rel=0.01)
    assert metrics.sliced_distance(x, x[torch.randperm(500)]) == 0


def test_sets_of_different_sizes_have_no_sorted_projections(normal):
    with pytest.raises(ValueError, match=r"30 and 20 rows: .* give as many of each"):
        metrics.sliced_distance(normal(30, 3), normal(20, 3))


def test_sliced_distance_without_each_group_equals_direct_recomputation(sets, kept):
    real, fake = sets
    pairs = zip(kept(real[:83], 5), kept(fake, 5), strict=True)
    want = [metrics.sliced_distance(a, b) for a, b in pairs]
    assert sliced_distances(real, fake, 5) == pytest.approx(want, rel=1e-12)
