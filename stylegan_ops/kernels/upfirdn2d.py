"""Upsample, filter, downsample in one pass; its derivative is the same operation, transposed."""

from __future__ import annotations

import torch

from stylegan_ops.kernels.native import call, define, differentiate, empty, layout


def upfirdn2d(
    x: torch.Tensor,
    taps: torch.Tensor,
    *,
    up: tuple[int, int],
    down: tuple[int, int],
    padding: tuple[int, int, int, int],
) -> torch.Tensor:
    """Resample x [n, c, h, w]; taps are float32, correlated, with the gain in them.

    Args:
        x: any dtype with kernels.
        taps: [height, width], or [taps] for one pass along y and one along x.
        up: (x, y).
        down: (x, y).
        padding: (x0, x1, y0, y1).
    """
    op = torch.ops.stylegan_ops.upfirdn2d
    (up_x, up_y), (down_x, down_y), (x0, x1, y0, y1) = up, down, padding
    if taps.ndim == 2:
        return op(x, taps, [up_x, up_y, down_x, down_y, x0, x1, y0, y1])
    x = op(x, taps[:, None], [1, up_y, 1, down_y, 0, 0, y0, y1])
    return op(x, taps[None, :], [up_x, 1, down_x, 1, x0, x1, 0, 0])


def _size(x, taps, numbers):
    up_x, up_y, down_x, down_y, x0, x1, y0, y1 = numbers
    h = (x.shape[2] * up_y + y0 + y1 - taps.shape[0]) // down_y + 1
    return h, (x.shape[3] * up_x + x0 + x1 - taps.shape[1]) // down_x + 1


def _run(x, taps, numbers):
    form = layout(x)
    x, (n, c, in_h, in_w) = x.contiguous(memory_format=form), x.shape
    (out_h, out_w), (up_x, up_y, down_x, down_y, x0, _, y0, _) = _size(x, taps, numbers), numbers
    y = empty([n, c, out_h, out_w], x, form)
    if y.numel():
        sizes = [n * c, c, in_h, in_w, out_h, out_w, *taps.shape, up_x, up_y, down_x, down_y]
        is_last = int(form == torch.channels_last)
        call("upfirdn2d", [x, taps.contiguous(), y], [*sizes, x0, y0, is_last])
    return y


def _fake(x, taps, numbers):
    y = x.new_empty(x.shape[0], x.shape[1], *_size(x, taps, numbers))
    return y.contiguous(memory_format=layout(x))


def _save(ctx, inputs, output):
    x, taps, numbers = inputs
    ctx.save_for_backward(taps)
    ctx.numbers, ctx.sizes = numbers, (*x.shape[2:], *output.shape[2:])


def _backward(ctx, g):
    (taps,) = ctx.saved_tensors
    up_x, up_y, down_x, down_y, x0, _, y0, _ = ctx.numbers
    in_h, in_w, out_h, out_w = ctx.sizes
    taps_h, taps_w = taps.shape
    left, top = taps_w - 1 - x0, taps_h - 1 - y0
    right = in_w * up_x - out_w * down_x + x0 - up_x + 1
    bottom = in_h * up_y - out_h * down_y + y0 - up_y + 1
    numbers = [down_x, down_y, up_x, up_y, left, right, top, bottom]
    return torch.ops.stylegan_ops.upfirdn2d(g, taps.flip([0, 1]), numbers), None, None


define("upfirdn2d(Tensor x, Tensor taps, int[] numbers) -> Tensor", _run, _fake)
differentiate("upfirdn2d", _backward, _save)
