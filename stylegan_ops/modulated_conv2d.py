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
from jaxtyping import Float

from stylegan_ops.conv2d_resample import conv2d_resample
from stylegan_ops.modulate import modulate

EPS = 1e-8


def modulated_conv2d(
    x: Float[torch.Tensor, "n c h w"],
    weight: Float[torch.Tensor, "c_out c kh kw"],
    styles: Float[torch.Tensor, "n c"],
    noise: torch.Tensor | None = None,
    *,
    up: int = 1,
    down: int = 1,
    padding: int = 0,
    resample_filter: Float[torch.Tensor, "*taps"] | None = None,
    demodulate: bool = True,
    flip_weight: bool = True,
    bias: Float[torch.Tensor, " c_out"] | None = None,
    act: str = "linear",
    gain: float | None = None,
    clamp: float | None = None,
    impl: str = "auto",
) -> Float[torch.Tensor, "n c_out h_out w_out"]:
    """Convolve each sample with its own modulated weights, then apply bias_act.

    Args:
        x: [n, in, h, w].
        weight: [out, in, kh, kw], float32 or in the dtype of x.
        styles: [n, in], the factors s_i, likewise.
        noise: added to the result, [n, 1, h', w'] or a shape that broadcasts to it, likewise;
            None adds none.
        up: integer factor, as in conv2d_resample.
        down: integer factor, as in conv2d_resample.
        padding: relative to the upsampled image.
        resample_filter: float32 filter of up and down, or None.
        demodulate: normalise every output channel to unit expected variance.
        flip_weight: True correlates with the weights, False convolves.
        bias: [out] in the dtype of x, added after the noise; None adds none.
        act: as in bias_act.
        gain: as in bias_act.
        clamp: as in bias_act.
        impl: "auto", "reference" (this file) or "cpu" (kernels scale, or an error).

    Returns:
        [n, out, h', w'].

    Raises:
        ValueError: styles that do not fit x, a dtype that is neither x's nor float32, and what
            conv2d_resample and bias_act refuse.
    """
    _check(x, weight, styles, noise)
    if demodulate and x.dtype == torch.float16:
        # Half precision would overflow; both factors cancel in the demodulation.
        fan_in = math.sqrt(weight[0].numel())
        weight = weight / (fan_in * weight.abs().amax(dim=[1, 2, 3], keepdim=True))
        styles = styles / styles.abs().amax(dim=1, keepdim=True)
    x = conv2d_resample(
        x,
        weight.to(x.dtype),
        f=resample_filter,
        up=up,
        down=down,
        padding=padding,
        flip_weight=flip_weight,
        scale=styles.to(x.dtype),
        impl="reference" if impl == "reference" else "auto",
    )
    scale = None
    if demodulate:
        squared = weight.square().sum(dim=[2, 3])
        scale = (styles.square() @ squared.T + EPS).rsqrt().to(x.dtype)
    noise = None if noise is None else noise.to(x.dtype)
    return modulate(
        x, scale, noise, bias, act=act, gain=gain, clamp=clamp, is_fresh=True, impl=impl
    )


def _check(
    x: torch.Tensor, weight: torch.Tensor, styles: torch.Tensor, noise: torch.Tensor | None
) -> None:
    """Raise ValueError, naming the argument, unless shapes and dtypes belong together."""
    if list(styles.shape) != list(x.shape[:2]):
        raise ValueError(f"styles is {list(styles.shape)}; it must be {list(x.shape[:2])} as x is")
    for name, tensor in (("weight", weight), ("styles", styles), ("noise", noise)):
        if tensor is None or tensor.dtype in (x.dtype, torch.float32):
            continue
        if not torch.is_autocast_enabled(x.device.type):  # which mixes dtypes by its own rules
            raise ValueError(f"{name} is {tensor.dtype}; it must be float32 or {x.dtype} as x is")
