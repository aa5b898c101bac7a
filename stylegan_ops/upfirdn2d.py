"""Upsample, filter, downsample: the one resampling primitive of StyleGAN 2 and 3.

Per channel: insert up - 1 zeros after every pixel, pad (negative padding crops), convolve with the filter, keep every down-th
pixel. Everything is linear in x, so torch's own derivatives are exact to any order.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F

Pair = int | Sequence[int]


def _pair(value: Pair, name: str) -> tuple[int, int]:
    """Return (x, y) factors from one integer or two."""
    x, y = (value, value) if isinstance(value, int) else value
    if x < 1 or y < 1:
        raise ValueError(f"{name} is {value}; it must be at least 1")
    return x, y


def _sides(padding: Pair) -> tuple[int, int, int, int]:
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


def _taps(f: torch.Tensor | None) -> tuple[int, int]:
    """Return the filter's (width, height); a 1-D filter is separable, so both are its length."""
    if f is None:
        return 1, 1
    if f.ndim not in (1, 2):
        raise ValueError(f"the filter is {list(f.shape)}; it must have one or two dimensions")
    return f.shape[-1], f.shape[0]


def setup_filter(
    f: torch.Tensor | Sequence | float | None,
    device: torch.device | str | None = None,
    normalize: bool = True,
    flip_filter: bool = False,
    gain: float = 1,
    separable: bool | None = None,
) -> torch.Tensor:
    """Make a float32 filter from its coefficients.

    Args:
        f: coefficients, 1-D or 2-D; a number or None is a single tap.
        device: where the result lives; None is torch's current default.
        normalize: divide by the sum, so that constants pass unchanged.
        flip_filter: reverse the coefficients.
        gain: overall factor on a signal that is filtered along both axes.
        separable: keep a 1-D filter 1-D; None keeps it so from 8 taps on, where two 1-D passes are cheaper.
    """
    f = torch.as_tensor(1 if f is None else f, dtype=torch.float32, device=device)
    if f.ndim > 2 or f.numel() == 0:
        raise ValueError(
            f"the filter is {list(f.shape)}; it must be one or two dimensions, not empty"
        )
    f = f.reshape(1) if f.ndim == 0 else f
    keep_1d = f.ndim == 1 and (f.numel() >= 8 if separable is None else separable)
    if f.ndim == 1 and not keep_1d:
        f = torch.outer(f, f)
    if normalize:
        f = f / f.sum()
    if flip_filter:
        f = f.flip(list(range(f.ndim)))
    return f * gain ** (f.ndim / 2)


def _correlate(x: torch.Tensor, f: torch.Tensor, stride: tuple[int, int]) -> torch.Tensor:
    """Correlate every channel of x [n, c, h, w] with f [kh, kw], keeping every stride-th position."""
    c = x.shape[1]
    return F.conv2d(x, f.expand(c, 1, *f.shape), stride=stride, groups=c)


def upfirdn2d(
    x: torch.Tensor,
    f: torch.Tensor | None = None,
    up: Pair = 1,
    down: Pair = 1,
    padding: Pair = 0,
    flip_filter: bool = False,
    gain: float = 1,
) -> torch.Tensor:
    """Upsample by zero insertion, pad, filter, downsample.

    Args:
        x: [n, c, h, w].
        f: float32 filter, [taps] (separable) or [height, width]; None is the identity.
        up, down: integer factors, or [x, y].
        padding: relative to the upsampled image; integer, [x, y] or [x0, x1, y0, y1]; negative values crop.
        flip_filter: False convolves, True correlates.
        gain: overall factor.

    Returns:
        [n, c, (h * up + y0 + y1 - taps) // down + 1, likewise for w].

    Raises:
        ValueError: a factor below 1, a malformed filter or padding, an output without pixels.
    """
    (up_x, up_y), (down_x, down_y) = _pair(up, "up"), _pair(down, "down")
    x0, x1, y0, y1 = _sides(padding)
    taps_x, taps_y = _taps(f)
    n, c, h, w = x.shape
    if w * up_x + x0 + x1 < taps_x or h * up_y + y0 + y1 < taps_y:
        raise ValueError(
            f"x is {h} x {w}: with up {up} and padding {padding} it is smaller than the filter's {taps_y} x {taps_x} taps"
        )
    if up_x > 1 or up_y > 1:
        x = x.reshape(n, c, h, 1, w, 1)
        x = F.pad(x, [0, up_x - 1, 0, 0, 0, up_y - 1]).reshape(n, c, h * up_y, w * up_x)
    if x0 or x1 or y0 or y1:
        x = F.pad(x, [x0, x1, y0, y1])
    if f is None:
        return x[:, :, ::down_y, ::down_x] * gain
    # Scaled in the filter's own float32 before the cast, as files were trained with.
    f = (f * gain ** (f.ndim / 2)).to(x.dtype)
    if not flip_filter:
        f = f.flip(list(range(f.ndim)))
    if f.ndim == 2:
        return _correlate(x, f, (down_y, down_x))
    x = _correlate(x, f[:, None], (down_y, 1))
    return _correlate(x, f[None, :], (1, down_x))


def filter2d(x, f, padding: Pair = 0, flip_filter: bool = False, gain: float = 1) -> torch.Tensor:
    """Filter x [n, c, h, w] with f at the same size; padding is added to the one that keeps the size."""
    (tx, ty), (x0, x1, y0, y1) = _taps(f), _sides(padding)
    sides = [x0 + tx // 2, x1 + (tx - 1) // 2, y0 + ty // 2, y1 + (ty - 1) // 2]
    return upfirdn2d(x, f, padding=sides, flip_filter=flip_filter, gain=gain)


def upsample2d(
    x, f, up: Pair = 2, padding: Pair = 0, flip_filter: bool = False, gain: float = 1
) -> torch.Tensor:
    """Upsample x [n, c, h, w] by integer factors; f is centred and the mean is kept."""
    (ux, uy), (tx, ty), (x0, x1, y0, y1) = _pair(up, "up"), _taps(f), _sides(padding)
    sides = [
        x0 + (tx + ux - 1) // 2,
        x1 + (tx - ux) // 2,
        y0 + (ty + uy - 1) // 2,
        y1 + (ty - uy) // 2,
    ]
    return upfirdn2d(x, f, up=up, padding=sides, flip_filter=flip_filter, gain=gain * ux * uy)


def downsample2d(
    x, f, down: Pair = 2, padding: Pair = 0, flip_filter: bool = False, gain: float = 1
) -> torch.Tensor:
    """Downsample x [n, c, h, w] by integer factors; f is centred."""
    (dx, dy), (tx, ty), (x0, x1, y0, y1) = _pair(down, "down"), _taps(f), _sides(padding)
    sides = [
        x0 + (tx - dx + 1) // 2,
        x1 + (tx - dx) // 2,
        y0 + (ty - dy + 1) // 2,
        y1 + (ty - dy) // 2,
    ]
    return upfirdn2d(x, f, down=down, padding=sides, flip_filter=flip_filter, gain=gain)
