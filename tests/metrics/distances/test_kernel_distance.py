"""The kernel distance against its definition, whole and without each group."""

from __future__ import annotations

import numpy as np
import pytest

import metrics
from metrics.distances.kernel_distance import kernel_distances


def test_kernel_distance_is_the_sum_over_all_pairs():
    rng = np.random.default_rng(8)
    x, y = rng.standard_normal((17, 5)), rng.standard_normal((13, 5)) + 0.3

    def k(a, b):
        return (a @ b / 5 + 1) ** 3

    xx = np.mean([k(a, b) for i, a in enumerate(x) for j, b in enumerate(x) if i != j])
    yy = np.mean([k(a, b) for i, a in enumerate(y) for j, b in enumerate(y) if i != j])
    xy = np.mean([k(a, b) for a in x for b in y])
    assert metrics.kernel_distance(x, y) == pytest.approx(xx + yy - 2 * xy, rel=1e-12)


def test_kernel_distance_of_one_law_is_zero_on_average_and_negative_about_half_the_time():
    rng = np.random.default_rng(9)
    draws = [metrics.kernel_distance(*rng.standard_normal((2, 40, 8))) for _ in range(500)]
    assert abs(np.mean(draws)) < 3 * np.std(draws) / np.sqrt(500)
    assert 150 < np.sum(np.array(draws) < 0) < 350


def test_kernel_distance_without_each_group_equals_direct_recomputation(sets, kept):
    real, fake = sets
    want = [metrics.kernel_distance(real, part) for part in kept(fake, 5)]
    assert kernel_distances(real, fake, 5) == pytest.approx(want, rel=1e-10)


def test_too_few_images_for_a_kernel_distance_without_a_group_are_refused(sets):
    real, fake = sets
    with pytest.raises(ValueError, match="90 real and 3 generated images in 2 groups"):
        kernel_distances(real, fake[:3], 2)
