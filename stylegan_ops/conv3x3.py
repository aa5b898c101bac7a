"""3 x 3 convolution that keeps the size: torch's own, or minimal filtering where that is faster."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Float

from stylegan_ops.kernels.choice import kernels_wanted
from stylegan_ops.modulate import modulate

# Where minimal filtering wins on a CPU (measured): enough channels for matrix products, and enough
# 4 x 4 tiles that transforming the weights pays.
LEAST_CHANNELS = 128
LEAST_TILES = 64


def conv3x3(
    x: Float[torch.Tensor, "n c h w"],
    w: Float[torch.Tensor, "c_out c_in 3 3"],
    bias: Float[torch.Tensor, " c_out"] | None = None,
    *,
    scale: torch.Tensor | None = None,
    impl: str = "auto",
) -> Float[torch.Tensor, "n c_out h_out w_out"]:
    """Correlate x with w, stride 1, padded by one pixel of zeros.

    Args:
        x: [n, in, h, w].
        w: [out, in, 3, 3] in the dtype of x.
        bias: [out], or None.
        scale: [n, in], factors on x; None is one.
        impl: "auto", "reference" (torch's own), or "cpu" (minimal filtering, float32).

    Returns:
        [n, out, h, w].

    Raises:
        ValueError: a weight that does not fit x in shape or dtype, an unknown impl, a kernel that
            cannot take x.
    """
    if x.ndim != 4 or list(w.shape[1:]) != [x.shape[1], 3, 3]:
        raise ValueError(f"w is {list(w.shape)}; for x {list(x.shape)} it must be [out, in, 3, 3]")
    if w.dtype != x.dtype and not torch.is_autocast_enabled(x.device.type):
        raise ValueError(f"w is {w.dtype}; it must be {x.dtype} as x is")
    if impl == "cpu" and x.dtype != torch.float32:
        raise ValueError(f"x is {x.dtype}; impl 'cpu' takes float32")
    if impl == "auto" and not pays(x, w):
        impl = "reference"
    if not kernels_wanted(impl, x, w, scale, least=0):
        return F.conv2d(modulate(x, scale), w, bias, padding=1)
    from stylegan_ops.kernels import winograd

    y = winograd.conv3x3(x, w, scale)
    return y if bias is None else y + bias[:, None, None]


def pays(x: torch.Tensor, w: torch.Tensor, least_tiles: int = LEAST_TILES) -> bool:
    """Whether minimal filtering is worth its transforms."""
    if x.device.type != "cpu" or x.dtype != torch.float32:
        return False
    n, _, height, width = x.shape
    tiles = n * -(-height // 4) * -(-width // 4)
    return min(w.shape[:2]) >= LEAST_CHANNELS and tiles >= least_tiles
