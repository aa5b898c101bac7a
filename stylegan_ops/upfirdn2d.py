"""Upsample, filter, downsample: the one resampling primitive of StyleGAN 2 and 3.

Per channel: insert up - 1 zeros after every pixel, pad (negative padding crops), convolve with the
filter, keep every down-th pixel. Everything is linear in x, so torch's own derivatives are exact to
any order.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from jaxtyping import Float

from stylegan_ops.kernels.choice import kernels_wanted

Pair = int | Sequence[int]

# A filter by its coefficients: separable, or rows of both directions.
Taps = Sequence[float] | Sequence[Sequence[float]]


def padding_sides(padding: Pair) -> tuple[int, int, int, int]:
    """Return (x0, x1, y0, y1) from one integer, [x, y], or all four."""
    if isinstance(padding, int):
        return padding, padding, padding, padding
    if len(padding) == 2:
        x, y = padding
        return x, x, y, y
    if len(padding) == 4:
        x0, x1, y0, y1 = padding
        return x0, x1, y0, y1
    raise ValueError(f"padding is {padding}; give an integer, [x, y] or [x0, x1, y0, y1]")


def filter_size(f: torch.Tensor | None, name: str = "f") -> tuple[int, int]:
    """Return the filter's (width, height) in taps; a 1-D filter is separable and counts twice.

    Raises:
        ValueError: a filter that is not 1-D or 2-D, not of floating point, or not contiguous.
    """
    if f is None:
        return 1, 1
    if f.ndim not in (1, 2) or not f.is_floating_point():
        raise ValueError(
            f"{name}, the filter, is {list(f.shape)} {f.dtype}; it must be float32 with one or two "
            "dimensions"
        )
    if not f.is_contiguous():
        raise ValueError(f"{name}, the filter, is not contiguous; give {name}.contiguous()")
    return f.shape[-1], f.shape[0]


def _factors(value: Pair, name: str) -> tuple[int, int]:
    """Return (x, y) factors from one integer or two."""
    x, y = (value, value) if isinstance(value, int) else value
    if x < 1 or y < 1:
        raise ValueError(f"{name} is {value}; it must be at least 1")
    return x, y


def setup_filter(
    f: torch.Tensor | Taps | float | None,
    *,
    device: torch.device | str | None = None,
    normalize: bool = True,
    flip_filter: bool = False,
    gain: float = 1,
    separable: bool | None = None,
) -> Float[torch.Tensor, "*taps"]:
    """Make a float32 filter from its coefficients.

    Args:
        f: coefficients, 1-D or 2-D; a number or None is a single tap.
        device: where the result lives; None is torch's current default.
        normalize: divide by the sum, so that constants pass unchanged.
        flip_filter: reverse the coefficients.
        gain: overall factor on a signal that is filtered along both axes.
        separable: keep a 1-D filter 1-D; None keeps it so from 8 taps on, where two 1-D passes are
            cheaper.

    Returns:
        [taps] or [height, width].

    Raises:
        ValueError: coefficients of more than two dimensions, or none.
    """
    # A handful of numbers is computed on the CPU: on the meta device, where files are fitted,
    # arithmetic imports a compiler, which takes seconds.
    where = torch.empty(0, device=device).device
    if isinstance(f, torch.Tensor) and device is None:
        where = f.device
    taps = torch.as_tensor(1 if f is None else f, dtype=torch.float32, device="cpu")
    if taps.ndim > 2 or taps.numel() == 0:
        raise ValueError(
            f"the filter is {list(taps.shape)}; it must have one or two dimensions and not be empty"
        )
    taps = taps.reshape(1) if taps.ndim == 0 else taps
    keep_1d = taps.ndim == 1 and (taps.numel() >= 8 if separable is None else separable)
    if taps.ndim == 1 and not keep_1d:
        taps = torch.outer(taps, taps)
    if normalize:
        taps = taps / taps.sum()
    if flip_filter:
        taps = taps.flip(list(range(taps.ndim)))
    return (taps * gain ** (taps.ndim / 2)).to(where)


def _correlate(x: torch.Tensor, f: torch.Tensor, stride: tuple[int, int]) -> torch.Tensor:
    """Correlate each channel of x [n, c, h, w] with f [kh, kw]; keep every stride-th position."""
    c = x.shape[1]
    return F.conv2d(x, f.expand(c, 1, *f.shape), stride=stride, groups=c)


def upfirdn2d(
    x: Float[torch.Tensor, "n c h w"],
    f: Float[torch.Tensor, "*taps"] | None = None,
    *,
    up: Pair = 1,
    down: Pair = 1,
    padding: Pair = 0,
    flip_filter: bool = False,
    gain: float = 1,
    impl: str = "auto",
) -> Float[torch.Tensor, "n c h_out w_out"]:
    """Upsample by zero insertion, pad, filter, downsample.

    Args:
        x: [n, c, h, w].
        f: float32 filter, [taps] (separable) or [height, width]; None is the identity.
        up: integer factor, or [x, y].
        down: integer factor, or [x, y].
        padding: relative to the upsampled image; integer, [x, y] or [x0, x1, y0, y1]; negative
            values crop.
        flip_filter: False convolves, True correlates.
        gain: overall factor.
        impl: "auto", "reference" (this file) or "cpu" (a kernel, or an error; it has no
            gradient of f).

    Returns:
        [n, c, (h * up + y0 + y1 - taps) // down + 1, likewise for w].

    Raises:
        ValueError: a factor below 1, a malformed filter or padding, an output without pixels.
    """
    (up_x, up_y), (down_x, down_y) = _factors(up, "up"), _factors(down, "down")
    x0, x1, y0, y1 = padding_sides(padding)
    taps_x, taps_y = filter_size(f)
    if x.ndim != 4:
        raise ValueError(f"x is {list(x.shape)}; it must be [n, c, h, w]")
    n, c, h, w = x.shape
    if w * up_x + x0 + x1 < taps_x or h * up_y + y0 + y1 < taps_y:
        raise ValueError(
            f"x is {h} x {w}: with up {up} and padding {padding} it is smaller than the filter, "
            f"{taps_y} x {taps_x} taps"
        )
    if f is not None and kernels_wanted(impl, x, f) and (impl != "auto" or not f.requires_grad):
        from stylegan_ops.kernels import upfirdn2d as kernel

        if f.requires_grad:
            raise ValueError(f"f requires a gradient, which impl {impl!r} has not; use 'reference'")
        taps = f.float() * gain ** (f.ndim / 2)
        taps = taps if flip_filter else taps.flip(list(range(taps.ndim)))
        sides = (x0, x1, y0, y1)
        return kernel.upfirdn2d(x, taps, up=(up_x, up_y), down=(down_x, down_y), padding=sides)
    if up_x > 1 or up_y > 1:
        x = x.reshape(n, c, h, 1, w, 1)
        x = F.pad(x, [0, up_x - 1, 0, 0, 0, up_y - 1]).reshape(n, c, h * up_y, w * up_x)
    if x0 or x1 or y0 or y1:
        x = F.pad(x, [x0, x1, y0, y1])
    if f is None:
        return x[:, :, ::down_y, ::down_x] * gain
    # Scaled in the filter's own float32 before the cast, as files were trained with.
    taps = (f * gain ** (f.ndim / 2)).to(x.dtype)
    if not flip_filter:
        taps = taps.flip(list(range(taps.ndim)))
    if taps.ndim == 2:
        return _correlate(x, taps, (down_y, down_x))
    x = _correlate(x, taps[:, None], (down_y, 1))
    return _correlate(x, taps[None, :], (1, down_x))


def filter2d(
    x: Float[torch.Tensor, "n c h w"],
    f: Float[torch.Tensor, "*taps"] | None,
    *,
    padding: Pair = 0,
    flip_filter: bool = False,
    gain: float = 1,
) -> Float[torch.Tensor, "n c h_out w_out"]:
    """Filter x [n, c, h, w] at the same size; padding is beyond what keeps the size."""
    (tx, ty), (x0, x1, y0, y1) = filter_size(f), padding_sides(padding)
    sides = [x0 + tx // 2, x1 + (tx - 1) // 2, y0 + ty // 2, y1 + (ty - 1) // 2]
    return upfirdn2d(x, f, padding=sides, flip_filter=flip_filter, gain=gain)


def upsample2d(
    x: Float[torch.Tensor, "n c h w"],
    f: Float[torch.Tensor, "*taps"] | None,
    *,
    up: Pair = 2,
    padding: Pair = 0,
    flip_filter: bool = False,
    gain: float = 1,
) -> Float[torch.Tensor, "n c h_out w_out"]:
    """Upsample x [n, c, h, w] to [n, c, h * up, w * up]; f is centred and the mean is kept."""
    (ux, uy), (tx, ty) = _factors(up, "up"), filter_size(f)
    x0, x1, y0, y1 = padding_sides(padding)
    sides = [
        x0 + (tx + ux - 1) // 2,
        x1 + (tx - ux) // 2,
        y0 + (ty + uy - 1) // 2,
        y1 + (ty - uy) // 2,
    ]
    return upfirdn2d(x, f, up=up, padding=sides, flip_filter=flip_filter, gain=gain * ux * uy)


def downsample2d(
    x: Float[torch.Tensor, "n c h w"],
    f: Float[torch.Tensor, "*taps"] | None,
    *,
    down: Pair = 2,
    padding: Pair = 0,
    flip_filter: bool = False,
    gain: float = 1,
) -> Float[torch.Tensor, "n c h_out w_out"]:
    """Downsample x [n, c, h, w] to [n, c, h / down, w / down]; f is centred."""
    (dx, dy), (tx, ty) = _factors(down, "down"), filter_size(f)
    x0, x1, y0, y1 = padding_sides(padding)
    sides = [
        x0 + (tx - dx + 1) // 2,
        x1 + (tx - dx) // 2,
        y0 + (ty - dy + 1) // 2,
        y1 + (ty - dy) // 2,
    ]
    return upfirdn2d(x, f, down=down, padding=sides, flip_filter=flip_filter, gain=gain)
