"""MMD with a Gaussian: its limits, whole and without each group."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import metrics
from metrics.distances.gaussian_discrepancy import gaussian_discrepancies


def test_the_biased_discrepancy_of_a_set_from_itself_is_zero(normal):
    x = normal(50, 8)
    assert metrics.gaussian_discrepancy(x, x, bandwidth=3.0) == pytest.approx(0, abs=1e-9)


def test_the_unbiased_discrepancy_of_one_law_is_zero_on_average(normal):
    values = [
        metrics.gaussian_discrepancy(
            normal(40, 3, 2 * i), normal(40, 3, 2 * i + 1), bandwidth=2.0, biased=False
        )
        for i in range(200)
    ]
    assert abs(np.mean(values)) < 3 * np.std(values) / 200**0.5


def test_a_wide_kernel_sees_the_square_of_the_shift_of_means(normal):
    # exp(-r / 200) is 1 - r / 200 for unit vectors: 1000 MMD^2 = 10 |mean - mean|^2.
    x, y = (
        torch.nn.functional.normalize(v, dim=1) for v in (normal(300, 16), normal(300, 16, 1) + 1)
    )
    want = 10 * (x.mean(0) - y.mean(0)).square().sum().item()
    assert metrics.gaussian_discrepancy(x, y) == pytest.approx(want, rel=0.01)


def test_gaussian_discrepancy_without_each_group_equals_direct_recomputation(sets, kept):
    real, fake = sets
    want = [metrics.gaussian_discrepancy(real, part) for part in kept(fake, 5)]
    assert gaussian_discrepancies(real, fake, 5) == pytest.approx(want, rel=1e-9)
