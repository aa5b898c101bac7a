"""What a perfect generator would measure."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import metrics


@pytest.mark.parametrize("num", [30, 200])
def test_the_floor_is_what_draws_of_the_reference_measure_on_average(num, normal):
    # With fewer draws than features the covariance is singular: the other branch.
    d = 48
    scale = torch.linspace(0.2, 2, d, dtype=torch.float64)
    mu, sigma = torch.ones(d), torch.diag(scale**2)
    drawn = []
    for seed in range(40):
        mean, cov = (lambda x: (x.mean(0), x.T.cov()))(normal(num, d, seed) * scale + 1)
        drawn.append(metrics.frechet_distance(mean, cov, mu, sigma))
    floors = [metrics.frechet_floor(mu, sigma, num, seed=seed) for seed in range(40)]
    error = np.hypot(np.std(drawn), np.std(floors)) / 40**0.5
    assert abs(np.mean(floors) - np.mean(drawn)) < 4 * error
    assert error < 0.05 * np.mean(drawn)
