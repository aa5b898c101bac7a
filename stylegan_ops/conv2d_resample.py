"""Convolution with resampling: upsample with f, convolve with w, downsample with f.

The three are linear and shift-invariant, so their order is free where nothing is decimated in
between; each branch below picks the order with the least work. All give the same numbers up to
rounding.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Float

from stylegan_ops.conv3x3 import conv3x3, pays
from stylegan_ops.kernels.choice import kernels_wanted
from stylegan_ops.modulate import modulate
from stylegan_ops.upfirdn2d import Pair, filter_size, padding_sides, upfirdn2d

# Four times the outputs of a plain convolution have to be transformed for each tile.
LEAST_TILES_UP = 128


def conv2d_resample(
    x: Float[torch.Tensor, "n c h w"],
    w: Float[torch.Tensor, "c_out c_in kh kw"],
    f: Float[torch.Tensor, "*taps"] | None = None,
    *,
    up: int = 1,
    down: int = 1,
    padding: Pair = 0,
    groups: int = 1,
    flip_weight: bool = True,
    flip_filter: bool = False,
    scale: torch.Tensor | None = None,
    impl: str = "auto",
) -> Float[torch.Tensor, "n c_out h_out w_out"]:
    """Upsample x, convolve, downsample.

    Args:
        x: [n, in, h, w].
        w: [out, in / groups, kh, kw] in the dtype of x.
        f: float32 resampling filter, or None.
        up: integer factor.
        down: integer factor.
        padding: relative to the upsampled image: integer, [x, y] or [x0, x1, y0, y1].
        groups: as in torch.nn.functional.conv2d.
        flip_weight: True correlates with w (torch's convention), False convolves.
        flip_filter: likewise for f, with False convolving.
        scale: [n, in], factors on x; None is one.
        impl: "auto" or "reference" (torch's own convolutions).

    Returns:
        [n, out, h', w']; with padding k // 2, h' = h * up / down.

    Raises:
        ValueError: a weight that does not fit x, a factor below 1, a malformed filter or padding.
    """
    _check(x, w, up, down, groups)
    kh, kw = w.shape[-2:]
    (tx, ty), (x0, x1, y0, y1) = filter_size(f), padding_sides(padding)
    if up > 1:
        x0, x1 = x0 + (tx + up - 1) // 2, x1 + (tx - up) // 2
        y0, y1 = y0 + (ty + up - 1) // 2, y1 + (ty - up) // 2
    if down > 1:
        x0, x1 = x0 + (tx - down + 1) // 2, x1 + (tx - down) // 2
        y0, y1 = y0 + (ty - down + 1) // 2, y1 + (ty - down) // 2
    # Upsampling turns the weights itself: there, two turns are none.
    turned = w if flip_weight or kh * kw == 1 else w.flip([2, 3])

    sides = [x0, x1, y0, y1]
    if impl == "auto" and groups == down == 1 and up == 2:
        doubled = _doubled(x, turned, f, sides, flip_filter, scale)
        if doubled is not None:
            return doubled
    if up == down == groups == 1 and sides == [1, 1, 1, 1] and kh == kw == 3:
        return conv3x3(x, turned, scale=scale, impl=impl)
    x = modulate(x, scale, impl=impl)
    if up == 1 and down == 1:
        if x0 == x1 >= 0 and y0 == y1 >= 0:
            return F.conv2d(x, turned, padding=(y0, x0), groups=groups)
        return F.conv2d(F.pad(x, sides), turned, groups=groups)
    if kh == kw == 1 and up == 1:
        x = upfirdn2d(x, f, down=down, padding=sides, flip_filter=flip_filter)
        return F.conv2d(x, turned, groups=groups)
    if kh == kw == 1 and down == 1:
        x = F.conv2d(x, turned, groups=groups)
        return upfirdn2d(x, f, up=up, padding=sides, flip_filter=flip_filter, gain=up**2)
    if up == 1:
        x = upfirdn2d(x, f, padding=sides, flip_filter=flip_filter)
        return F.conv2d(x, turned, stride=down, groups=groups)
    # Zero insertion followed by a full convolution is one transposed convolution; it starts k - 1
    # pixels early and lacks the up - 1 zeros after the last pixel, which the padding of the filter
    # step makes good.
    mirrored = w.flip([2, 3]) if flip_weight else w
    x = F.conv_transpose2d(x, _transposed(mirrored, groups), stride=up, groups=groups)
    sides = [x0 - (kw - 1), x1 - (kw - up), y0 - (kh - 1), y1 - (kh - up)]
    x = upfirdn2d(x, f, padding=sides, flip_filter=flip_filter, gain=up**2)
    return x if down == 1 else upfirdn2d(x, f, down=down, flip_filter=flip_filter)


def _check(x: torch.Tensor, w: torch.Tensor, up: int, down: int, groups: int) -> None:
    """Raise ValueError, naming the argument, unless the shapes and factors belong together."""
    if x.ndim != 4:
        raise ValueError(f"x is {list(x.shape)}; it must be [n, in, h, w]")
    if w.ndim != 4 or w.shape[1] * groups != x.shape[1] or w.shape[0] % groups:
        raise ValueError(
            f"w is {list(w.shape)}; it must be [out, {x.shape[1]} / groups, kh, kw], "
            f"groups is {groups}"
        )
    if w.dtype != x.dtype:
        raise ValueError(f"w is {w.dtype}; it must be {x.dtype} as x is")
    for name, factor in (("up", up), ("down", down)):
        if factor < 1:
            raise ValueError(f"{name} is {factor}; it must be at least 1")


def _doubled(
    x: torch.Tensor,
    w: torch.Tensor,
    f: torch.Tensor | None,
    sides: list[int],
    flip_filter: bool,
    scale: torch.Tensor | None,
) -> torch.Tensor | None:
    """Return the result of up=2 by four 3 x 3 convolutions where that is faster, or None."""
    if list(w.shape[2:]) != [3, 3] or f is None or list(f.shape) != [4, 4] or f.requires_grad:
        return None
    if sides != [3, 2, 3, 2] or not pays(x, w, LEAST_TILES_UP):
        return None
    if not kernels_wanted("auto", x, w, scale, least=0):
        return None
    from stylegan_ops.kernels import winograd

    taps = f * 4
    return winograd.conv3x3(x, w, scale, taps if flip_filter else taps.flip([0, 1]))


def _transposed(w: torch.Tensor, groups: int) -> torch.Tensor:
    """Turn [out, in / groups, kh, kw] into conv_transpose2d's [in, out / groups, kh, kw]."""
    out, inner, kh, kw = w.shape
    w = w.reshape(groups, out // groups, inner, kh, kw).transpose(1, 2)
    return w.reshape(groups * inner, out // groups, kh, kw)
