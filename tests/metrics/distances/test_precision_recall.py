"""Precision and recall against their definition, and what they say."""

from __future__ import annotations

import numpy as np
import pytest

import metrics
from metrics.distances.precision_recall import precisions_and_recalls


def test_disjoint_sets_have_no_precision_and_no_recall_and_equal_sets_have_all():
    x = np.random.default_rng(10).standard_normal((200, 16))
    assert metrics.precision_recall(x, x + 100) == (0, 0)
    assert metrics.precision_recall(x, x.copy()) == (1, 1)


def test_mode_collapse_has_high_precision_and_low_recall_and_scatter_the_reverse():
    rng = np.random.default_rng(11)
    real = rng.standard_normal((400, 4))
    collapsed = real[:1] + 0.01 * rng.standard_normal((400, 4))
    precision, recall = metrics.precision_recall(real, collapsed)
    assert precision > 0.95
    assert recall < 0.05
    scattered = metrics.precision_recall(real, 3 * rng.standard_normal((400, 4)))
    assert scattered.precision < 0.5
    assert scattered.recall > 0.9


def test_precision_and_recall_do_not_depend_on_the_origin_nor_on_float32_input():
    rng = np.random.default_rng(12)
    real, fake = rng.standard_normal((300, 8)), rng.standard_normal((250, 8)) + 0.5
    there = metrics.precision_recall(real, fake)
    assert metrics.precision_recall(real + 1000, fake + 1000) == there
    assert metrics.precision_recall(real.astype(np.float32), fake.astype(np.float32)) == there


def test_precision_and_recall_are_the_definition_point_by_point():
    rng = np.random.default_rng(13)
    real, fake = rng.standard_normal((60, 3)), rng.standard_normal((50, 3)) + 0.8

    def inside(points, centres):
        radii = [np.sort(np.linalg.norm(centres - c, axis=1))[3] for c in centres]
        return np.mean([(np.linalg.norm(centres - p, axis=1) <= radii).any() for p in points])

    got = metrics.precision_recall(real, fake, k=3)
    assert (got.precision, got.recall) == (inside(fake, real), inside(real, fake))


@pytest.mark.parametrize("k", [0, 4])
def test_more_neighbours_than_points_are_refused(k):
    with pytest.raises(ValueError, match=r"k = 0|at least 5"):
        metrics.precision_recall(np.eye(4), np.eye(4), k=k)


@pytest.mark.parametrize("groups", [2, 5, 40])
def test_precision_and_recall_without_each_group_equal_direct_recomputation(sets, groups, kept):
    real, fake = sets
    want = [metrics.precision_recall(real, part) for part in kept(fake, groups)]
    assert precisions_and_recalls(real, fake, groups) == want
