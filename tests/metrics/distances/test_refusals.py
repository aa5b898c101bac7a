"""What has no distance is refused in one line."""

from __future__ import annotations

import pytest
import torch

import metrics


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda x: metrics.density_coverage(x, x[:4]), "at least 6"),
        (lambda x: metrics.authentic_percentage(x, x[:, :2]), "3 and 2 columns"),
        (lambda x: metrics.gaussian_discrepancy(x, x, bandwidth=0), "bandwidth is 0"),
        (lambda x: metrics.kernel_distance_of_subsets(x, x, subsets=0), "0 subsets"),
        (lambda x: metrics.sliced_distance(x, x, directions=0), "0 directions"),
        (lambda x: metrics.frechet_floor(torch.zeros(3), torch.eye(3), 1), "num_images is 1"),
        (lambda x: metrics.frechet_infinity(x, torch.zeros(2), torch.eye(2)), "one feature space"),
    ],
)
def test_what_has_no_distance_is_one_clear_line(call, message, normal):
    with pytest.raises(ValueError, match=message):
        call(normal(60, 3))
