"""Bias, upsampling, leaky ReLU, downsampling in one pass.

The derivative makes the middle signal again and is composed of the other kernels, so that only x
is kept for it.
"""

from __future__ import annotations

import torch

import stylegan_ops.kernels.upfirdn2d  # noqa: F401  the derivative calls its operation
from stylegan_ops.kernels.bias_act import ACTS
from stylegan_ops.kernels.native import call, define, differentiate, empty


def filtered_lrelu(
    x: torch.Tensor,
    fu: torch.Tensor,
    fd: torch.Tensor,
    b: torch.Tensor | None,
    *,
    up: int,
    down: int,
    padding: tuple[int, int, int, int],
    gain: float,
    slope: float,
    clamp: float | None,
) -> torch.Tensor:
    """As stylegan_ops.filtered_lrelu; fu and fd are correlated, with the gain of up in fu."""
    limit = -1.0 if clamp is None else float(clamp)
    numbers = [up, down, *padding]
    op = torch.ops.stylegan_ops.filtered_lrelu
    return op(x, fu, fd, b, numbers, float(gain), float(slope), limit)


def _height_width(taps):
    return taps.shape[0], taps.shape[-1]


def _size(x, fu, fd, numbers):
    up, down, x0, x1, y0, y1 = numbers
    (uh, uw), (dh, dw) = _height_width(fu), _height_width(fd)
    h = (x.shape[2] * up + y0 + y1 - (uh - 1) - (dh - 1) + down - 1) // down
    return h, (x.shape[3] * up + x0 + x1 - (uw - 1) - (dw - 1) + down - 1) // down


def _run(x, fu, fd, b, numbers, gain, slope, clamp):
    x, (n, c, in_h, in_w) = x.contiguous(), x.shape
    out_h, out_w = _size(x, fu, fd, numbers)
    up, down, x0, _, y0, _ = numbers
    y = empty([n, c, out_h, out_w], x)
    if y.numel():
        taps = [*_height_width(fu), *_height_width(fd), int(fu.ndim == 1), int(fd.ndim == 1)]
        call(
            "filtered_lrelu",
            [x, None if b is None else b.contiguous(), fu.contiguous(), fd.contiguous(), y],
            [n * c, c, in_h, in_w, out_h, out_w, up, down, x0, y0, *taps],
            [gain, slope, clamp],
        )
    return y


def _save(ctx, inputs, output):
    ctx.save_for_backward(*inputs[:4])
    ctx.settings = inputs[4:]


def _resampled(x, taps, numbers):
    op = torch.ops.stylegan_ops.upfirdn2d
    up, down, x0, x1, y0, y1 = numbers
    if taps.ndim == 2:
        return op(x, taps, [up, up, down, down, x0, x1, y0, y1])
    x = op(x, taps[:, None], [1, up, 1, down, 0, 0, y0, y1])
    return op(x, taps[None, :], [up, 1, down, 1, x0, x1, 0, 0])


def _transposed(g, taps, numbers, size):
    """Apply the transpose of _resampled, for an input of the given (height, width)."""
    up, down, x0, _, y0, _ = numbers
    (taps_h, taps_w), (h, w) = _height_width(taps), size
    left, top = taps_w - 1 - x0, taps_h - 1 - y0
    right = w * up - g.shape[3] * down + x0 - up + 1
    bottom = h * up - g.shape[2] * down + y0 - up + 1
    flipped = taps.flip(list(range(taps.ndim)))
    return _resampled(g, flipped, [down, up, left, right, top, bottom])


def _backward(ctx, g):
    x, fu, fd, b = ctx.saved_tensors
    numbers, gain, slope, clamp = ctx.settings
    up, down, *padding = numbers
    act, lrelu = torch.ops.stylegan_ops.bias_act, ACTS.index("lrelu")
    biased = x if b is None else x + b[:, None, None]
    middle = _resampled(biased, fu, [up, 1, *padding])
    g = _transposed(g, fd, [1, down, 0, 0, 0, 0], middle.shape[2:])
    g = act(middle, None, g, None, 1, 1, lrelu, slope, gain, clamp)
    g = _transposed(g, fu, [up, 1, *padding], x.shape[2:])
    g_b = g.sum(dim=[0, 2, 3]) if ctx.needs_input_grad[3] else None
    return g, None, None, g_b, None, None, None, None


define(
    "filtered_lrelu(Tensor x, Tensor fu, Tensor fd, Tensor? b, int[] numbers, float gain, "
    "float slope, float clamp) -> Tensor",
    _run,
    lambda x, fu, fd, b, numbers, *rest: x.new_empty(*x.shape[:2], *_size(x, fu, fd, numbers)),
)
differentiate("filtered_lrelu", _backward, _save)
