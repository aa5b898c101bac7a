"""Kernels of a GPU in Triton: the operations of this folder on float32, float16 and bfloat16.

Each element is computed in float32 and rounded once. Indices are 32 bits wide. By Triton's
interpreter (TRITON_INTERPRET=1) the same arithmetic runs on a CPU, which tests compare with the
definitions. Imported only where Triton is; gpu.py says where the kernels are used.
"""

# Triton's programs are no Python to a type checker, and Triton is not everywhere.
# pyright: reportMissingImports=false, reportUntypedFunctionDecorator=false
# pyright: reportIndexIssue=false, reportArgumentType=false, reportGeneralTypeIssues=false

from __future__ import annotations

import torch
import triton
import triton.language as tl

from stylegan_ops.kernels.native import layout

BLOCK = 1024
TILE_PIXELS, TILE_CHANNELS = 64, 64

# As in bias_act.py.
LINEAR, RELU, LRELU, TANH, SIGMOID, ELU, SELU, SOFTPLUS, SWISH = map(tl.constexpr, range(9))
SELU_ALPHA = tl.constexpr(1.6732632423543772)
SELU_SCALE = tl.constexpr(1.0507009873554805)


@triton.jit
def _less_one(x):
    # exp(x) - 1, by its series where the difference would lose digits.
    series = x * (1 + x / 2 * (1 + x / 3 * (1 + x / 4)))
    return tl.where(tl.abs(x) < 0.03, series, tl.exp(x) - 1)


@triton.jit
def _activation(x, alpha, ACT: tl.constexpr, ORDER: tl.constexpr):
    # f(x), f'(x) or f''(x), for order 0, 1, 2.
    y = x
    if ORDER > 0:
        y = tl.zeros_like(x) + (2 - ORDER)
    s = tl.sigmoid(x)
    slope = s * (1 - s)
    if ACT == RELU:
        y = tl.where(x > 0, y, 0.0)
    elif ACT == LRELU:
        y = tl.where(x > 0, y, y * alpha)
    elif ACT == TANH:
        t = 2 * tl.sigmoid(2 * x) - 1
        if ORDER == 0:
            # Near zero the difference would lose digits.
            y = tl.where(tl.abs(x) < 0.03, x * (1 - x * x / 3), t)
        elif ORDER == 1:
            y = 1 - t * t
        else:
            y = -2 * t * (1 - t * t)
    elif ACT == SIGMOID:
        y = s if ORDER == 0 else (slope if ORDER == 1 else slope * (1 - 2 * s))
    elif ACT == ELU:
        y = tl.where(x > 0, y, _less_one(x) if ORDER == 0 else tl.exp(x))
    elif ACT == SELU:
        below = SELU_ALPHA * (_less_one(x) if ORDER == 0 else tl.exp(x))
        y = SELU_SCALE * tl.where(x > 0, y, below)
    elif ACT == SOFTPLUS:
        # As torch's: linear beyond 20; exp(x) where 1 would hide it.
        bent = tl.where(x < -10, tl.exp(x), tl.log(1 + tl.exp(tl.minimum(x, 20.0))))
        bent = bent if ORDER == 0 else (s if ORDER == 1 else slope)
        y = tl.where(x > 20, y, bent)
    elif ACT == SWISH:
        if ORDER == 0:
            y = x * s
        elif ORDER == 1:
            y = s + x * slope
        else:
            y = slope * (2 + x * (1 - 2 * s))
    return y


@triton.jit
def _limited(x, clamp):
    # A NaN stays one.
    return tl.where(x < -clamp, -clamp, tl.where(x > clamp, clamp, x))


@triton.jit
def _bias_act(
    x, b, g, h, y, count, step, channels, alpha, gain, clamp,
    ACT: tl.constexpr, ORDER: tl.constexpr, BIASED: tl.constexpr, CLAMPED: tl.constexpr,
    SIZE: tl.constexpr,
):  # fmt: skip
    i = tl.program_id(0) * SIZE + tl.arange(0, SIZE)
    inside = i < count
    value = tl.load(x + i, mask=inside, other=0.0).to(tl.float32)
    if BIASED:
        value += tl.load(b + i // step % channels, mask=inside, other=0.0).to(tl.float32)
    out = _activation(value, alpha, ACT, ORDER) * gain
    if ORDER == 0:
        if CLAMPED:
            out = _limited(out, clamp)
    else:
        out *= tl.load(g + i, mask=inside, other=0.0).to(tl.float32)
        if ORDER == 2:
            out *= tl.load(h + i, mask=inside, other=0.0).to(tl.float32)
        if CLAMPED:
            before = _activation(value, alpha, ACT, 0) * gain
            out = tl.where((before >= -clamp) & (before <= clamp), out, 0.0)
    tl.store(y + i, out.to(y.dtype.element_ty), mask=inside)


@triton.jit
def _modulate(
    x, s, noise, b, y, count, pixels, channels, alpha, gain, clamp,
    ACT: tl.constexpr, LAST: tl.constexpr, NOISES: tl.constexpr, BIASED: tl.constexpr,
    CLAMPED: tl.constexpr, SIZE: tl.constexpr,
):  # fmt: skip
    i = tl.program_id(0) * SIZE + tl.arange(0, SIZE)
    inside = i < count
    if LAST:
        channel, row = i % channels, i // channels
        pixel, sample = row % pixels, row // pixels
    else:
        pixel, plane = i % pixels, i // pixels
        channel, sample = plane % channels, plane // channels
    value = tl.load(x + i, mask=inside, other=0.0).to(tl.float32)
    value *= tl.load(s + sample * channels + channel, mask=inside, other=0.0).to(tl.float32)
    if NOISES > 0:
        at = pixel if NOISES == 1 else sample * pixels + pixel
        value += tl.load(noise + at, mask=inside, other=0.0).to(tl.float32)
    if BIASED:
        value += tl.load(b + channel, mask=inside, other=0.0).to(tl.float32)
    out = _activation(value, alpha, ACT, 0) * gain
    if CLAMPED:
        out = _limited(out, clamp)
    tl.store(y + i, out.to(y.dtype.element_ty), mask=inside)


@triton.jit
def _channel_dot(
    a, b, y, pixels, channels,
    LAST: tl.constexpr, PIXELS: tl.constexpr, CHANNELS: tl.constexpr,
):  # fmt: skip
    # A tile of pixels by channels of one sample, whichever of the two are neighbours in memory.
    sample = tl.program_id(0)
    channel = tl.program_id(1) * CHANNELS + tl.arange(0, CHANNELS)
    total = tl.zeros([CHANNELS], tl.float32)
    for start in range(0, pixels, PIXELS):
        pixel = start + tl.arange(0, PIXELS)
        inside = (pixel[:, None] < pixels) & (channel[None, :] < channels)
        if LAST:
            at = (sample * pixels + pixel[:, None]) * channels + channel[None, :]
        else:
            at = (sample * channels + channel[None, :]) * pixels + pixel[:, None]
        product = tl.load(a + at, mask=inside, other=0.0).to(tl.float32)
        product *= tl.load(b + at, mask=inside, other=0.0).to(tl.float32)
        total += tl.sum(product, axis=0)
    tl.store(y + sample * channels + channel, total.to(y.dtype.element_ty), mask=channel < channels)


@triton.jit
def _upfirdn2d(
    x, taps, y, count, channels, in_h, in_w, out_h, out_w, x0, y0,
    UP_X: tl.constexpr, UP_Y: tl.constexpr, DOWN_X: tl.constexpr, DOWN_Y: tl.constexpr,
    TAPS_H: tl.constexpr, TAPS_W: tl.constexpr, LAST: tl.constexpr, SIZE: tl.constexpr,
):  # fmt: skip
    i = tl.program_id(0) * SIZE + tl.arange(0, SIZE)
    inside = i < count
    if LAST:
        channel, row = i % channels, i // channels
        column, row = row % out_w, row // out_w
        line, sample = row % out_h, row // out_h
    else:
        column, row = i % out_w, i // out_w
        line, plane = row % out_h, row // out_h
        channel, sample = plane % channels, plane // channels
    total = tl.zeros([SIZE], tl.float32)
    for ky in tl.static_range(TAPS_H):
        v = line * DOWN_Y + ky - y0
        there_y = inside & (v >= 0) & (v % UP_Y == 0) & (v < in_h * UP_Y)
        for kx in tl.static_range(TAPS_W):
            u = column * DOWN_X + kx - x0
            there = there_y & (u >= 0) & (u % UP_X == 0) & (u < in_w * UP_X)
            if LAST:
                at = ((sample * in_h + v // UP_Y) * in_w + u // UP_X) * channels + channel
            else:
                at = ((sample * channels + channel) * in_h + v // UP_Y) * in_w + u // UP_X
            weight = tl.load(taps + ky * TAPS_W + kx)
            total += weight * tl.load(x + at, mask=there, other=0.0).to(tl.float32)
    tl.store(y + i, total.to(y.dtype.element_ty), mask=inside)


def _blocks(count: int) -> tuple[int]:
    return (triton.cdiv(count, BLOCK),)


def bias_act(x, b, g, h, order, dim, act, alpha, gain, clamp):
    """As the operation in bias_act.py."""
    form = layout(x)
    x = x.contiguous(memory_format=form)
    g, h = (x if v is None else v.contiguous(memory_format=form) for v in (g, h))
    y = torch.empty_like(x)
    if x.numel():
        step = max(1, x.stride(dim)) if x.ndim else 1
        channels = x.shape[dim] if x.ndim else 1
        _bias_act[_blocks(x.numel())](
            x, x if b is None else b.contiguous(), g, h, y, x.numel(), step, channels,
            alpha, gain, clamp,
            ACT=act, ORDER=order, BIASED=b is not None, CLAMPED=clamp >= 0, SIZE=BLOCK,
        )  # fmt: skip
    return y


def modulate(x, s, noise, b, act, alpha, gain, clamp):
    """As the operation in modulation.py."""
    form = layout(x)
    x = x.contiguous(memory_format=form)
    y = torch.empty_like(x)
    s, noise_, b_ = (x if v is None else v.contiguous() for v in (s, noise, b))
    if x.numel():
        c, h, w = x.shape[1:]
        _modulate[_blocks(x.numel())](
            x, s, noise_, b_, y, x.numel(), h * w, c, alpha, gain, clamp,
            ACT=act, LAST=form == torch.channels_last,
            NOISES=0 if noise is None else min(noise.shape[0], 2), BIASED=b is not None,
            CLAMPED=clamp >= 0, SIZE=BLOCK,
        )  # fmt: skip
    return y


def channel_dot(a, b):
    """As the operation in modulation.py."""
    form, (n, c, h, w) = layout(a), a.shape
    a, b = a.contiguous(memory_format=form), b.contiguous(memory_format=form)
    y = a.new_zeros(n, c)
    if a.numel():
        _channel_dot[(n, triton.cdiv(c, TILE_CHANNELS))](
            a, b, y, h * w, c,
            LAST=form == torch.channels_last, PIXELS=TILE_PIXELS, CHANNELS=TILE_CHANNELS,
        )  # fmt: skip
    return y


def upfirdn2d(x, taps, numbers):
    """As the operation in upfirdn2d.py."""
    form = layout(x)
    x, (n, c, in_h, in_w) = x.contiguous(memory_format=form), x.shape
    up_x, up_y, down_x, down_y, x0, x1, y0, y1 = numbers
    taps_h, taps_w = taps.shape
    out_h = (in_h * up_y + y0 + y1 - taps_h) // down_y + 1
    out_w = (in_w * up_x + x0 + x1 - taps_w) // down_x + 1
    y = torch.empty(
        [n, c, out_h, out_w], dtype=x.dtype, device=x.device, memory_format=form
    )  # fmt: skip
    if y.numel():
        _upfirdn2d[_blocks(y.numel())](
            x, taps.contiguous(), y, y.numel(), c, in_h, in_w, out_h, out_w, x0, y0,
            UP_X=up_x, UP_Y=up_y, DOWN_X=down_x, DOWN_Y=down_y, TAPS_H=taps_h, TAPS_W=taps_w,
            LAST=form == torch.channels_last, SIZE=BLOCK,
        )  # fmt: skip
    return y


def filtered_lrelu(x, fu, fd, b, numbers, gain, slope, clamp):
    """As the operation in filtered_lrelu.py, as three of the others: each is bound by memory."""
    up, down, x0, x1, y0, y1 = numbers
    if b is not None:
        x = bias_act(x, b, None, None, 0, 1, 0, 0.0, 1.0, -1.0)
    x = _resampled(x, fu, [up, up, 1, 1, x0, x1, y0, y1])
    x = bias_act(x, None, None, None, 0, 1, 2, slope, gain, clamp)
    return _resampled(x, fd, [1, 1, down, down, 0, 0, 0, 0])


def _resampled(x, taps, numbers):
    if taps.ndim == 2:
        return upfirdn2d(x, taps, numbers)
    up_x, up_y, down_x, down_y, x0, x1, y0, y1 = numbers
    x = upfirdn2d(x, taps[:, None], [1, up_y, 1, down_y, 0, 0, y0, y1])
    return upfirdn2d(x, taps[None, :], [up_x, 1, down_x, 1, x0, x1, 0, 0])
