"""Leaky ReLU between two resampling filters (Karras et al. 2021, arXiv:2106.12423, section 3.2).

The nonlinearity acts on a signal of higher sampling rate, so that the frequencies it makes are
filtered away before they alias.
"""

from __future__ import annotations

import math

import torch
from jaxtyping import Float

from stylegan_ops.bias_act import bias_act, check_activation
from stylegan_ops.kernels.choice import kernels_wanted
from stylegan_ops.upfirdn2d import Pair, filter_size, padding_sides, upfirdn2d


def filtered_lrelu(
    x: Float[torch.Tensor, "n c h w"],
    fu: Float[torch.Tensor, "*taps_up"] | None = None,
    fd: Float[torch.Tensor, "*taps_down"] | None = None,
    b: Float[torch.Tensor, " c"] | None = None,
    *,
    up: int = 1,
    down: int = 1,
    padding: Pair = 0,
    gain: float = math.sqrt(2),
    slope: float = 0.2,
    clamp: float | None = None,
    flip_filter: bool = False,
    impl: str = "auto",
) -> Float[torch.Tensor, "n c h_out w_out"]:
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
        impl: "auto", "reference" (this file) or "cpu" (a kernel, or an error; it takes
            both filters, without their gradients).

    Returns:
        [n, c, (h * up + y0 + y1 - (taps_u - 1) - (taps_d - 1) + down - 1) // down, likewise for w].

    Raises:
        ValueError: what bias_act and upfirdn2d refuse.
    """
    check_activation(x, b, 1, "lrelu", clamp)
    for name, f in (("fu", fu), ("fd", fd)):
        filter_size(f, name)  # which refuses what is no filter
    if kernels_wanted(impl, x, fu, fd, b):
        fused = _fused(x, fu, fd, b, up, down, padding, gain, slope, clamp, flip_filter)
        if fused is not None:
            return fused
        if impl != "auto":
            raise ValueError(f"fu and fd do not suit impl {impl!r}; use 'auto' or 'reference'")
    x = bias_act(x, b, impl=impl)
    x = upfirdn2d(x, fu, up=up, padding=padding, flip_filter=flip_filter, gain=up**2, impl=impl)
    x = bias_act(x, act="lrelu", alpha=slope, gain=gain, clamp=clamp, impl=impl)
    return upfirdn2d(x, fd, down=down, flip_filter=flip_filter, impl=impl)


def _fused(
    x: torch.Tensor,
    fu: torch.Tensor | None,
    fd: torch.Tensor | None,
    b: torch.Tensor | None,
    up: int,
    down: int,
    padding: Pair,
    gain: float,
    slope: float,
    clamp: float | None,
    flip_filter: bool,
) -> torch.Tensor | None:
    """Return the result of the kernel, or None where it does not take these arguments."""
    from stylegan_ops.kernels import filtered_lrelu as kernel

    if fu is None or fd is None or fu.requires_grad or fd.requires_grad or x.ndim != 4:
        return None
    if up < 1 or down < 1:
        return None
    x0, x1, y0, y1 = sides = padding_sides(padding)
    smallest = min(
        x.shape[2] * up + y0 + y1 - fu.shape[0] - fd.shape[0],
        x.shape[3] * up + x0 + x1 - fu.shape[-1] - fd.shape[-1],
    )
    if smallest < -1:
        return None
    up_taps, down_taps = fu.float() * (up**2) ** (fu.ndim / 2), fd.float()
    if not flip_filter:
        up_taps = up_taps.flip(list(range(up_taps.ndim)))
        down_taps = down_taps.flip(list(range(down_taps.ndim)))
    return kernel.filtered_lrelu(
        x,
        up_taps,
        down_taps,
        b,
        up=up,
        down=down,
        padding=sides,
        gain=gain,
        slope=slope,
        clamp=clamp,
    )
