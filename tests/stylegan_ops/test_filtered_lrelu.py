"""filtered_lrelu against its four steps, and the aliasing that it is there to suppress."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F

from stylegan_ops import filtered_lrelu, setup_filter, upfirdn2d

FU = setup_filter([1.0, 2.0, 3.0, 5.0, 1.0, 0.5, 2.0, 1.0])
FD = setup_filter([[1.0, 2.0, 0.1], [3.0, 1.0, 0.2], [0.0, 1.0, 2.0]])
OPTIONS: dict[str, Any] = {"up": 2, "down": 2, "padding": [5, 4, 6, 3]}


def world() -> tuple[torch.Tensor, torch.Tensor]:
    x = torch.randn(1, 2, 4, 4, dtype=torch.float64, requires_grad=True)
    return x, torch.randn(2, dtype=torch.float64, requires_grad=True)


@pytest.mark.parametrize("flip_filter", [False, True])
def test_it_adds_the_bias_upsamples_activates_and_downsamples(flip_filter):
    x, b = world()
    y = upfirdn2d(
        x + b[:, None, None], FU, up=2, padding=[5, 4, 6, 3], flip_filter=flip_filter, gain=4
    )
    y = (1.5 * F.leaky_relu(y, 0.3)).clamp(-0.8, 0.8)
    expected = upfirdn2d(y, FD, down=2, flip_filter=flip_filter)
    result = filtered_lrelu(
        x, FU, FD, b, gain=1.5, slope=0.3, clamp=0.8, flip_filter=flip_filter, **OPTIONS
    )
    torch.testing.assert_close(result, expected)
    # (h * up + y0 + y1 - (taps_u - 1) - (taps_d - 1) + down - 1) // down
    assert result.shape == (1, 2, (8 + 9 - 7 - 2 + 1) // 2, (8 + 9 - 7 - 2 + 1) // 2)


def test_without_filters_it_is_a_leaky_relu_that_keeps_the_variance():
    x, b = world()
    expected = math.sqrt(2) * F.leaky_relu(x + b[:, None, None], 0.2)
    torch.testing.assert_close(filtered_lrelu(x, b=b), expected)


def test_first_and_second_derivatives_are_exact():
    def run(x, b):
        return filtered_lrelu(x, FU, FD, b, clamp=0.9, **OPTIONS).sin()

    assert torch.autograd.gradcheck(run, world(), fast_mode=True)
    assert torch.autograd.gradgradcheck(run, world(), fast_mode=True)


def test_arguments_that_do_not_fit_are_named():
    x, b = world()
    with pytest.raises(ValueError, match=r"b is \[1\]"):
        filtered_lrelu(x, b=b[:1])
    with pytest.raises(ValueError, match="up is 0"):
        filtered_lrelu(x, up=0)
