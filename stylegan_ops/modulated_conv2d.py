"""Weight modulation and demodulation (Karras et al. 2020, arXiv:1912.04958, equations 1 to 3)."""

from __future__ import annotations

import math

import torch

from stylegan_ops.conv2d_resample import conv2d_resample
from stylegan_ops.fma import fma


def modulated_conv2d(
    x: torch.Tensor,
    weight: torch.Tensor,
    styles: torch.Tensor,
    noise: torch.Tensor | None = None,
    up: int = 1,
    down: int = 1,
    padding: int = 0,
    resample_filter: torch.Tensor | None = None,
    demodulate: bool = True,
    flip_weight: bool = True,
) -> torch.Tensor:
    """Convolve each sample with its own modulated weights.

    The weights w' = s_i w are applied as conv(s_i x, w), and demodulation divides the output by the norm of w': the same numbers as
    per-sample weights, in one ordinary convolution for the whole batch.

    Args:
        x: [n, in, h, w].
        weight: [out, in, kh, kw].
        styles: [n, in], the factors s_i.
        noise: added to the result, [n, 1, h', w'] or a shape that broadcasts to it; None adds nothing.
        up, down, padding, resample_filter, flip_weight: as in conv2d_resample.
        demodulate: normalise every output channel to unit expected variance.

    Returns:
        [n, out, h', w'].
    """
    if demodulate and x.dtype == torch.float16:
        # Half precision would overflow; both factors cancel in the demodulation.
        fan_in = math.sqrt(weight[0].numel())
        weight = weight / (fan_in * weight.abs().amax(dim=[1, 2, 3], keepdim=True))
        styles = styles / styles.abs().amax(dim=1, keepdim=True)
    x = x * styles.to(x.dtype)[:, :, None, None]
    x = conv2d_resample(
        x,
        weight.to(x.dtype),
        f=resample_filter,
        up=up,
        down=down,
        padding=padding,
        flip_weight=flip_weight,
    )
    if not demodulate:
        return x if noise is None else x + noise.to(x.dtype)
    squared = weight.square().sum(dim=[2, 3])
    scale = (styles.square() @ squared.T + 1e-8).rsqrt().to(x.dtype)[:, :, None, None]
    return x * scale if noise is None else fma(x, scale, noise.to(x.dtype))
