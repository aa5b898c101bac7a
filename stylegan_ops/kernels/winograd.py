"""3 x 3 convolution with a quarter of the multiplications, on a CPU in float32.

Minimal filtering F(4 x 4, 3 x 3) (Winograd 1980; Lavin and Gray 2016, arXiv:1509.09308):

    y = A^T [ (G w G^T) * (B^T d B) ] A

for every 6 x 6 tile d, the product over input channels being 36 matrix products. Images are taken
and returned channels last, the layout of the products' rows. The rounding
error is that of a direct convolution (winograd.cpp says why). Both derivatives of a convolution are
convolutions, so three operations are closed under differentiation.
"""

from __future__ import annotations

import functools
import math

import torch
import torch.nn.functional as F

from stylegan_ops.kernels.native import call, define, differentiate

POINTS = (0.0, 0.5**0.5, -(0.5**0.5), 2**0.5, -(2**0.5))
# Tiles whose transforms are in memory at a time: 75 MB of scratch at 512 channels.
CHUNK = 512


def conv3x3(x: torch.Tensor, w: torch.Tensor) -> torch.Tensor:
    """Correlate x [n, in, h, w] with w [out, in, 3, 3], padded by one pixel, in float32."""
    return torch.ops.stylegan_ops.conv3x3(x, w)


@functools.cache
def _kernel_transform() -> torch.Tensor:
    """G as a map of the nine weights to the 36 points, [36, 9]."""
    rows = [[p**k / math.prod(p - q for q in POINTS if q != p) for k in range(3)] for p in POINTS]
    g = torch.tensor([*rows, [0.0, 0.0, 1.0]], dtype=torch.float64)
    return torch.kron(g, g).float()


def _chunks(x: torch.Tensor):
    """Yield the integers that place rows of tiles, and how many tiles they are."""
    n, _, h, w = x.shape
    tiles_h, tiles_w = -(-h // 4), -(-w // 4)
    rows = max(1, CHUNK // tiles_w)
    for first in range(0, n * tiles_h, rows):
        last = min(first + rows, n * tiles_h)
        yield (h, w, tiles_h, tiles_w, first, last), (last - first) * tiles_w


def _scratch(x: torch.Tensor, *channels: int) -> list[tuple[int, torch.Tensor]]:
    """Return memory for the points of the largest chunk: fresh pages for each would cost more."""
    most = max((tiles for _, tiles in _chunks(x)), default=0)
    return [(c, x.new_empty(36 * most * c)) for c in channels]


def _empty(x: torch.Tensor, channels: int) -> torch.Tensor:
    """Return memory for images of x's size, channels last."""
    shape = [len(x), channels, *x.shape[2:]]
    return torch.empty(shape, device=x.device, memory_format=torch.channels_last)


def _conv3x3(x: torch.Tensor, w: torch.Tensor) -> torch.Tensor:
    x, (out, inner) = x.contiguous(memory_format=torch.channels_last), w.shape[:2]
    y = _empty(x, out)
    w_points = _kernel_transform() @ w.permute(2, 3, 1, 0).reshape(9, inner * out)
    w_points = w_points.reshape(36, inner, out)
    scratch = _scratch(x, inner, out)
    for place, tiles in _chunks(x):
        points, products = (flat[: 36 * tiles * c].view(36, tiles, c) for c, flat in scratch)
        call("winograd_input", [x, points], [inner, *place])
        torch.bmm(points, w_points, out=products)
        call("winograd_output", [products, y], [out, *place])
    return y


def _conv3x3_weight(x: torch.Tensor, g: torch.Tensor) -> torch.Tensor:
    x, g = (both.contiguous(memory_format=torch.channels_last) for both in (x, g))
    inner, out = x.shape[1], g.shape[1]
    sums = x.new_zeros(36, inner, out)
    scratch = _scratch(x, inner, out)
    for place, tiles in _chunks(x):
        points, slopes = (flat[: 36 * tiles * c].view(36, tiles, c) for c, flat in scratch)
        call("winograd_input", [x, points], [inner, *place])
        call("winograd_adjoint", [g, slopes], [out, *place])
        torch.baddbmm(sums, points.transpose(1, 2), slopes, out=sums)
    w = _kernel_transform().T @ sums.reshape(36, inner * out)
    return w.reshape(3, 3, inner, out).permute(3, 2, 0, 1).contiguous()


def turned(w: torch.Tensor) -> torch.Tensor:
    """The weights with which the gradient of the input is a convolution of that of the output."""
    return w.flip([2, 3]).transpose(0, 1)


def _backward(ctx, g):
    x, w = ctx.saved_tensors
    need_x, need_w = ctx.needs_input_grad
    g_x = conv3x3(g, turned(w)) if need_x else None
    return g_x, torch.ops.stylegan_ops.conv3x3_weight(x, g) if need_w else None


def _weight_backward(ctx, g_w):
    x, g = ctx.saved_tensors
    need_x, need_g = ctx.needs_input_grad
    return conv3x3(g, turned(g_w)) if need_x else None, conv3x3(x, g_w) if need_g else None


def _save(ctx, inputs, output):
    ctx.save_for_backward(*inputs)


define(
    "conv3x3(Tensor x, Tensor w) -> Tensor",
    _conv3x3,
    lambda x, w: _empty(x, w.shape[0]),
)
define(
    "conv3x3_weight(Tensor x, Tensor g) -> Tensor",
    _conv3x3_weight,
    lambda x, g: x.new_empty(g.shape[1], x.shape[1], 3, 3),
)
differentiate("conv3x3", _backward, _save)
differentiate("conv3x3_weight", _weight_backward, _save)


def upsampled_weights(w: torch.Tensor, taps: torch.Tensor) -> torch.Tensor:
    """Turn "insert zeros, filter with taps [4, 4], correlate with w" into a 3 x 3 convolution.

    Both filters together have 6 x 6 taps; of the zeros' places every output phase skips half, which
    leaves 3 x 3 taps for each of the four. Returns [4 * out, in, 3, 3] in pixel_shuffle's order.
    """
    out, inner = w.shape[:2]
    basis = torch.eye(9, dtype=w.dtype).reshape(9, 1, 3, 3)
    # Full convolution of each of the nine positions with the filter: the 6 x 6 taps are linear.
    whole = F.conv2d(F.pad(basis, [3, 3, 3, 3]), taps.flip([0, 1])[None, None])
    phases = [whole[:, 0, 1 - ry :: 2, 1 - rx :: 2].reshape(9, 9) for ry in (0, 1) for rx in (0, 1)]
    merged = w.reshape(out * inner, 9) @ torch.cat(phases, dim=1)
    return merged.reshape(out, inner, 4, 9).transpose(1, 2).reshape(4 * out, inner, 3, 3)
