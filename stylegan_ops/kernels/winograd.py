"""3 x 3 convolution with a quarter of the multiplications, on a CPU in float32.

Minimal filtering F(4 x 4, 3 x 3) (Winograd 1980; Lavin and Gray 2016, arXiv:1509.09308):

    y = A^T [ (G w G^T) * (B^T d B) ] A

for every 6 x 6 tile d, the product over input channels being 36 matrix products. Images are taken
and returned channels last, the layout of the products' rows. The rounding error is that of a direct
convolution (winograd.cpp says why).

"Insert zeros, filter with taps [4, 4], convolve" is four such convolutions of the small image, one
for each phase of the large: both filters together have 6 x 6 taps, of which a phase meets every
second along each axis. Their weights are linear in w too, so G changes and nothing else does.

A convolution is linear in x and in w, so it, its transpose in x and its transpose in w are closed
under differentiation.
"""

from __future__ import annotations

import functools
import math

import torch
import torch.nn.functional as F
from torch.utils.flop_counter import register_flop_formula

from stylegan_ops.kernels.modulation import modulate
from stylegan_ops.kernels.native import call, define, differentiate, empty

POINTS = (0.0, 0.5**0.5, -(0.5**0.5), 2**0.5, -(2**0.5))
# Tiles whose transforms are in memory at a time: 19 MB of scratch at 512 channels.
CHUNK = 128
PANEL = 16  # as in panels.cpp


def conv3x3(
    x: torch.Tensor,
    w: torch.Tensor,
    s: torch.Tensor | None = None,
    taps: torch.Tensor | None = None,
) -> torch.Tensor:
    """Correlate x [n, in, h, w] with w [out, in, 3, 3], padded by one pixel, in float32.

    Args:
        x: the images.
        w: the weights.
        s: [n, in], factors on x.
        taps: [4, 4]; x is first doubled in size by zeros and correlated with them, and what that
            gives beyond the borders counts: the padding is of x alone.
    """
    return torch.ops.stylegan_ops.conv3x3(x, w, s, taps)


@functools.cache
def _kernel_transform() -> torch.Tensor:
    """G as a map of the nine weights to the 36 points, [36, 9]."""
    rows = [[p**k / math.prod(p - q for q in POINTS if q != p) for k in range(3)] for p in POINTS]
    g = torch.tensor([*rows, [0.0, 0.0, 1.0]], dtype=torch.float64)
    return torch.kron(g, g).float()


def _transforms(taps: torch.Tensor | None, *, turned: bool = False) -> torch.Tensor:
    """Map the nine weights to the points of each phase, [phases, 36, 9].

    With `turned` to those of the weights turned by 180 degrees, which the transpose in x takes.
    """
    maps = torch.eye(9)[None]
    if taps is not None:
        # Full convolution of each of the nine weights with the filter: its 6 x 6 taps.
        nine = F.pad(torch.eye(9).reshape(9, 1, 3, 3), [3, 3, 3, 3])
        whole = F.conv2d(nine, taps.flip([0, 1])[None, None])
        maps = torch.stack(
            [whole[:, 0, 1 - top :: 2, 1 - left :: 2].reshape(9, 9) for top, left in _phases(taps)]
        )
    return (_kernel_transform() @ (maps.flip(2) if turned else maps).transpose(1, 2)).contiguous()


def _phases(taps: torch.Tensor | None) -> list[tuple[int, int]]:
    """Return where each phase begins in the large image, (top, left)."""
    return [(0, 0)] if taps is None else [(0, 0), (0, 1), (1, 0), (1, 1)]


def _weight_points(
    w: torch.Tensor, taps: torch.Tensor | None, *, turned: bool = False
) -> torch.Tensor:
    """Return w's points for each phase in panels of columns, [phases, 36, panels, depth, PANEL].

    Columns are outputs and depth is inputs; with `turned`, of w turned by 180 degrees, the other
    way round.
    """
    (out, inner), maps = w.shape[:2], _transforms(taps, turned=turned)
    (columns, across), (depth, along) = (out, 9 * inner), (inner, 9)
    if turned:
        (columns, across), (depth, along) = (depth, along), (columns, across)
    points = empty([*maps.shape[:2], -(-columns // PANEL), depth, PANEL], w)
    numbers = [columns, depth, 36 * len(maps), across, along]
    call("winograd_weight", [w.contiguous(), maps, points], numbers)
    return points


def _chunks(n: int, h: int, w: int):
    """Yield the integers that place rows of tiles of n images, and how many tiles they are."""
    tiles_h, tiles_w = -(-h // 4), -(-w // 4)
    rows = max(1, CHUNK // tiles_w)
    for first in range(0, n * tiles_h, rows):
        last = min(first + rows, n * tiles_h)
        yield (h, w, tiles_h, tiles_w, first, last), (last - first) * tiles_w


def _scratch(
    n: int, h: int, w: int, *channels: int, like: torch.Tensor
) -> list[tuple[int, torch.Tensor]]:
    """Return memory for the points of the largest chunk: fresh pages for each would cost more."""
    most = max((tiles for _, tiles in _chunks(n, h, w)), default=0)
    return [(c, empty([36 * most * c], like)) for c in channels]


def _views(scratch: list[tuple[int, torch.Tensor]], tiles: int) -> list[torch.Tensor]:
    return [flat[: 36 * tiles * c].view(36, tiles, c) for c, flat in scratch]


def _images(n: int, channels: int, h: int, w: int, like: torch.Tensor) -> torch.Tensor:
    """Return memory for images, channels last."""
    return empty([n, channels, h, w], like, torch.channels_last)


def _last(x: torch.Tensor) -> torch.Tensor:
    return x.contiguous(memory_format=torch.channels_last)


def _conv3x3(x, w, s, taps):
    x, (out, inner), (n, _, *size) = _last(x), w.shape[:2], x.shape
    s, phases = None if s is None else s.contiguous(), _phases(taps)
    step = 1 if taps is None else 2
    y = _images(n, out, size[0] * step, size[1] * step, x)
    w_points = _weight_points(w, taps)
    scratch = _scratch(n, *size, inner, out, like=x)
    for place, tiles in _chunks(n, *size):
        points, products = _views(scratch, tiles)
        call("winograd_input", [x, s, points], [inner, *place, 1, 0, 0])
        for phase, matrices in zip(phases, w_points, strict=True):
            call("winograd_product", [points, matrices, products], [tiles, inner, out, 0])
            call("winograd_output", [products, y], [out, *place, step, *phase])
    return y


def _conv3x3_transposed(g, w, taps):
    g, (out, inner), phases = _last(g), w.shape[:2], _phases(taps)
    step = 1 if taps is None else 2
    n, size = len(g), (g.shape[2] // step, g.shape[3] // step)
    x = _images(n, inner, *size, g)
    w_points = _weight_points(w, taps, turned=True)
    scratch = _scratch(n, *size, out, inner, like=g)
    for place, tiles in _chunks(n, *size):
        points, products = _views(scratch, tiles)
        for i, (phase, matrices) in enumerate(zip(phases, w_points, strict=True)):
            call("winograd_input", [g, None, points], [out, *place, step, *phase])
            # The first product sets what the memory holds, the others add to it.
            call("winograd_product", [points, matrices, products], [tiles, out, inner, min(i, 1)])
        call("winograd_output", [products, x], [inner, *place, 1, 0, 0])
    return x


def _conv3x3_weight(x, g, s, taps):
    x, g, s = _last(x), _last(g), None if s is None else s.contiguous()
    (n, inner, *size), out, phases = x.shape, g.shape[1], _phases(taps)
    step = 1 if taps is None else 2
    sums = empty([len(phases), 36, out, inner], x)
    if not n:
        sums.zero_()
    scratch = _scratch(n, *size, inner, out, like=x)
    for place, tiles in _chunks(n, *size):
        points, slopes = _views(scratch, tiles)
        call("winograd_input", [x, s, points], [inner, *place, 1, 0, 0])
        for phase, total in zip(phases, sums, strict=True):
            call("winograd_adjoint", [g, slopes], [out, *place, step, *phase])
            # Here too the first product sets the memory; place[4] is the chunk's first row.
            beta = min(place[4], 1)
            torch.baddbmm(total, slopes.transpose(1, 2), points, beta=beta, out=total)
    w = empty([out, inner, 3, 3], x)
    call("winograd_weight_adjoint", [sums, _transforms(taps), w], [out, inner, 36 * len(phases)])
    return w


def _save(ctx, inputs, output):
    ctx.save_for_backward(*inputs)


def _input_slopes(x, g, w, s, taps, need_x, need_s):
    """Return the gradients of x and of its factors s, for weights w and slopes g of the result."""
    if not (need_x or need_s):
        return None, None
    ops = torch.ops.stylegan_ops
    scaled = ops.conv3x3_transposed(g, w, taps)
    g_s = ops.channel_dot(scaled, x) if need_s else None
    if not need_x:
        return None, g_s
    return scaled if s is None else modulate(scaled, s), g_s


def _backward(ctx, g):
    x, w, s, taps = ctx.saved_tensors
    need_x, need_w, need_s, _ = ctx.needs_input_grad
    g_x, g_s = _input_slopes(x, g, w, s, taps, need_x, need_s)
    g_w = torch.ops.stylegan_ops.conv3x3_weight(x, g, s, taps) if need_w else None
    return g_x, g_w, g_s, None


def _transposed_backward(ctx, v):
    g, w, taps = ctx.saved_tensors
    need_g, need_w, _ = ctx.needs_input_grad
    g_g = conv3x3(v, w, None, taps) if need_g else None
    return g_g, torch.ops.stylegan_ops.conv3x3_weight(v, g, None, taps) if need_w else None, None


def _weight_backward(ctx, v):
    x, g, s, taps = ctx.saved_tensors
    need_x, need_g, need_s, _ = ctx.needs_input_grad
    g_x, g_s = _input_slopes(x, g, v, s, taps, need_x, need_s)
    return g_x, conv3x3(x, v, s, taps) if need_g else None, g_s, None


def _fake(x, w, s, taps):
    step = 1 if taps is None else 2
    y = x.new_empty(len(x), w.shape[0], x.shape[2] * step, x.shape[3] * step)
    return _last(y)


def _fake_transposed(g, w, taps):
    step = 1 if taps is None else 2
    return _last(g.new_empty(len(g), w.shape[1], g.shape[2] // step, g.shape[3] // step))


define("conv3x3(Tensor x, Tensor w, Tensor? s, Tensor? taps) -> Tensor", _conv3x3, _fake)
define(
    "conv3x3_transposed(Tensor g, Tensor w, Tensor? taps) -> Tensor",
    _conv3x3_transposed,
    _fake_transposed,
)
define(
    "conv3x3_weight(Tensor x, Tensor g, Tensor? s, Tensor? taps) -> Tensor",
    _conv3x3_weight,
    lambda x, g, s, taps: x.new_empty(g.shape[1], x.shape[1], 3, 3),
)
differentiate("conv3x3", _backward, _save)
differentiate("conv3x3_transposed", _transposed_backward, _save)
differentiate("conv3x3_weight", _weight_backward, _save)

# A counter of work sees the convolution and not how it is done, two operations a weight and place
# of the small image: a share of a machine's peak can then be compared with that of torch's own.
OPS = torch.ops.stylegan_ops


@register_flop_formula(OPS.conv3x3)
def _flop(x, w, *rest, **results):
    return 2 * math.prod(w) * x[0] * x[2] * x[3]


@register_flop_formula(OPS.conv3x3_transposed)
def _flop_transposed(g, w, *rest, out_shape, **results):
    return _flop(out_shape, w)


@register_flop_formula(OPS.conv3x3_weight)
def _flop_weight(x, *rest, out_shape, **results):
    return _flop(x, out_shape)
