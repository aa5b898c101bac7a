"""Metrics over pairs, made from one table, equal what their definitions give set by set."""

from __future__ import annotations

import pytest
import torch

import metrics
from metrics.pairs import (
    authentic_percentages,
    gaussian_discrepancies,
    kernel_distances,
    precisions_and_recalls,
    sliced_distances,
)


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
