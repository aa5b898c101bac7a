"""Weight modulation and demodulation (Karras et al. 2020, arXiv:1912.04958, equations 1 to 3).

    w'_ijk = s_i w_ijk                                          modulation (1)
    w''_ijk = w'_ijk / sqrt(sum over i, k of w'_ijk^2 + eps)    demodulation (3)

with i over input maps, j over output maps, k over the kernel. Both factors are taken out of the
convolution: conv(x, w'') = conv(s_i x, w) / norm_j, the same numbers in one ordinary convolution
for the whole batch.
"""

from __future__ import annotations

import math

import torch

from stylegan_ops.conv2d_resample import conv2d_resample
from stylegan_ops.fma import fma
from stylegan_ops.kernels.choice import kernels_wanted

EPS = 1e-8


def modulated_conv2d(
    x: torch.Tensor,
    weight: torch.Tensor,
    styles: torch.Tensor,
    noise: torch.Tensor | None = None,
    *,
    up: int = 1,
    down: int = 1,
    padding: int = 0,
    resample_filter: torch.Tensor | None = None,
    demodulate: bool = True,
    flip_weight: bool = True,
    impl: str = "auto",
) -> torch.Tensor:
    """Convolve each sample with its own modulated weights.

    Args:
        x: [n, in, h, w].
        weight: [out, in, kh, kw].
        styles: [n, in], the factors s_i.
        noise: added to the result, [n, 1, h', w'] or a shape that broadcasts to it; None adds none.
        up: integer factor, as in conv2d_resample.
        down: integer factor, as in conv2d_resample.
        padding: relative to the upsampled image.
        resample_filter: float32 filter of up and down, or None.
        demodulate: normalise every output channel to unit expected variance.
        flip_weight: True correlates with the weights, False convolves.
        impl: "auto", "reference" (this file), "cpu" or "cuda" (kernels scale, or an error).

    Returns:
        [n, out, h', w'].

    Raises:
        ValueError: styles that do not fit x, and what conv2d_resample refuses.
    """
    if list(styles.shape) != list(x.shape[:2]):
        raise ValueError(f"styles is {list(styles.shape)}; it must be {list(x.shape[:2])} as x is")
    if demodulate and x.dtype == torch.float16:
        # Half precision would overflow; both factors cancel in the demodulation.
        fan_in = math.sqrt(weight[0].numel())
        weight = weight / (fan_in * weight.abs().amax(dim=[1, 2, 3], keepdim=True))
        styles = styles / styles.abs().amax(dim=1, keepdim=True)
    x = _scale(x, styles.to(x.dtype), None, impl)
    x = conv2d_resample(
        x,
        weight.to(x.dtype),
        f=resample_filter,
        up=up,
        down=down,
        padding=padding,
        flip_weight=flip_weight,
        impl="reference" if impl == "reference" else "auto",
    )
    if not demodulate:
        return x if noise is None else x + noise.to(x.dtype)
    squared = weight.square().sum(dim=[2, 3])
    scale = (styles.square() @ squared.T + EPS).rsqrt().to(x.dtype)
    return _scale(x, scale, None if noise is None else noise.to(x.dtype), impl)


def _scale(x: torch.Tensor, s: torch.Tensor, noise: torch.Tensor | None, impl: str) -> torch.Tensor:
    """Return x * s[n, c] + noise."""
    if kernels_wanted(impl, x, s, noise) and (noise is None or _is_per_pixel(noise, x)):
        from stylegan_ops.kernels.modulation import modulate

        if noise is not None:
            noise = noise.reshape(-1, 1, *x.shape[2:])
        return modulate(x, s, noise)
    s = s[:, :, None, None]
    return x * s if noise is None else fma(x, s, noise)


def _is_per_pixel(noise: torch.Tensor, x: torch.Tensor) -> bool:
    """Whether noise is [n or 1, 1, h, w] or [h, w], which the kernel adds."""
    shape = [1] * (4 - noise.ndim) + list(noise.shape)
    return shape[0] in (1, len(x)) and shape[1:] == [1, *x.shape[2:]]
