"""Metrics over pairs, made from one table, equal what their definitions give set by set."""

from __future__ import annotations

import pytest
import torch

import metrics
from metrics.distances.jackknife import (
    authentic_percentages,
    gaussian_discrepancies,
    kernel_distances,
    precisions_and_recalls,
    sliced_distances,
    subset_kernel_distances,
)
from metrics.distances.kernels import draw_subsets


@pytest.fixture
def sets() -> tuple[torch.Tensor, torch.Tensor]:
    real = torch.randn(90, 6, dtype=torch.float64)
    # 83 is no multiple of 5 groups: the last rows of the table's groups are padding.
    return real, torch.randn(83, 6, dtype=torch.float64) + 0.4


def kept(fake: torch.Tensor, groups: int) -> list[torch.Tensor]:
    group = torch.arange(len(fake)) % groups
    return [fake[group != left_out] for left_out in range(-1, groups)]


def test_kernel_distance_without_each_group_equals_direct_recomputation(sets):
    real, fake = sets
    want = [metrics.kernel_distance(real, part) for part in kept(fake, 5)]
    assert kernel_distances(real, fake, groups=5) == pytest.approx(want, rel=1e-10)


def test_subsets_keep_their_images_when_a_group_is_left_out_of_them(sets, monkeypatch):
    # Smaller than both sets, so that every subset is another one.
    monkeypatch.setattr(draw_subsets, "__kwdefaults__", {"subsets": 6, "size": 40, "seed": 0})
    real, fake = sets
    group = torch.arange(len(fake)) % 5
    subsets = list(draw_subsets(90, 83))
    want = [
        sum(metrics.kernel_distance(real[i], fake[j[group[j] != k]]) for i, j in subsets) / 6
        for k in range(-1, 5)
    ]
    found = subset_kernel_distances(real, fake, groups=5)
    assert found == pytest.approx(want, rel=1e-10)
    whole, _ = metrics.kernel_distance_of_subsets(real, fake, subsets=6, size=40)
    assert found[0] == pytest.approx(whole, rel=1e-10)


def test_too_few_images_for_a_kernel_distance_without_a_group_are_refused(sets):
    real, fake = sets
    with pytest.raises(ValueError, match="90 real and 3 generated images in 2 groups"):
        kernel_distances(real, fake[:3], groups=2)


@pytest.mark.parametrize("groups", [2, 5, 40])
def test_precision_and_recall_without_each_group_equal_direct_recomputation(sets, groups):
    real, fake = sets
    want = [metrics.precision_recall(real, part) for part in kept(fake, groups)]
    precisions, recalls = precisions_and_recalls(real, fake, groups=groups, k=3)
    assert precisions == [w.precision for w in want]
    assert recalls == [w.recall for w in want]


def test_other_metrics_without_each_group_equal_direct_recomputation(sets):
    real, fake = sets
    want = [metrics.gaussian_discrepancy(real, part) for part in kept(fake, 5)]
    assert gaussian_discrepancies(real, fake, groups=5) == pytest.approx(want, rel=1e-9)
    want = [metrics.authentic_percentage(real, part) for part in kept(fake, 5)]
    assert authentic_percentages(real, fake, groups=5) == pytest.approx(want, rel=1e-12)
    pairs = zip(kept(real[:83], 5), kept(fake, 5), strict=True)
    want = [metrics.sliced_distance(a, b) for a, b in pairs]
    assert sliced_distances(real, fake, groups=5) == pytest.approx(want, rel=1e-12)
