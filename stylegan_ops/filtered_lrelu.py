"""Leaky ReLU between two resampling filters (Karras et al. 2021, arXiv:2106.12423, section 3.2).

The nonlinearity acts on a signal of higher sampling rate, so that the frequencies it makes are
filtered away before they alias.
"""

from __future__ import annotations

import math

import torch

from stylegan_ops.bias_act import bias_act
from stylegan_ops.upfirdn2d import Pair, upfirdn2d


def filtered_lrelu(
    x: torch.Tensor,
    fu: torch.Tensor | None = None,
    fd: torch.Tensor | None = None,
    b: torch.Tensor | None = None,
    *,
    up: int = 1,
    down: int = 1,
    padding: Pair = 0,
    gain: float = math.sqrt(2),
    slope: float = 0.2,
    clamp: float | None = None,
    flip_filter: bool = False,
) -> torch.Tensor:
    """Add a bias, upsample with fu, activate, downsample with fd.

    Args:
        x: [n, c, h, w].
        fu: float32 filter of the upsampling step; None is the identity.
        fd: float32 filter of the downsampling step; None is the identity.
        b: [c] or None.
        up: integer factor.
        down: integer factor.
        padding: relative to the upsampled image, as in upfirdn2d.
        gain: factor after the activation.
        slope: of the activation below zero.
        clamp: limit to [-clamp, clamp]; None means no limit.
        flip_filter: False convolves with both filters, True correlates.

    Returns:
        [n, c, (h * up + y0 + y1 - (taps_u - 1) - (taps_d - 1) + down - 1) // down, likewise for w].

    Raises:
        ValueError: what bias_act and upfirdn2d refuse.
    """
    x = bias_act(x, b)
    x = upfirdn2d(x, fu, up=up, padding=padding, flip_filter=flip_filter, gain=up**2)
    x = bias_act(x, act="lrelu", alpha=slope, gain=gain, clamp=clamp)
    return upfirdn2d(x, fd, down=down, flip_filter=flip_filter)
