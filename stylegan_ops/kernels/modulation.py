"""What surrounds a modulated convolution, in one pass, and its derivatives by the same kernels.

y = clamp(gain * f(x * s[n, c] + noise + b))
"""

from __future__ import annotations

import torch

from stylegan_ops.kernels.bias_act import ACTS
from stylegan_ops.kernels.native import call, define, differentiate, empty, layout

# f and its numbers where there is neither activation nor gain nor clamp.
PLAIN = (0, 0.0, 1.0, -1.0)


def modulate(
    x: torch.Tensor,
    s: torch.Tensor,
    noise: torch.Tensor | None = None,
    b: torch.Tensor | None = None,
    *,
    act: str = "linear",
    alpha: float = 0.0,
    gain: float = 1.0,
    clamp: float | None = None,
    in_place: bool = False,
) -> torch.Tensor:
    """Take x [n, c, h, w], s [n, c], noise [1 or n, 1, h, w], b [c]; one dtype and device.

    With `in_place` x, where it is dense, becomes the result, which has no gradient then: the first
    touch of fresh memory would cost as much as the work on it.
    """
    limit = -1.0 if clamp is None else float(clamp)
    numbers = (ACTS.index(act), float(alpha), float(gain), limit)
    # A GPU's memory costs nothing to touch.
    if in_place and x.device.type == "cpu" and x.is_contiguous(memory_format=layout(x)):
        return _write(x, x, s, noise, b, *numbers)
    return torch.ops.stylegan_ops.modulate(x, s, noise, b, *numbers)


def _modulate(x, s, noise, b, *numbers):
    form = layout(x)
    x = x.contiguous(memory_format=form)
    return _write(empty(x.shape, x, form), x, s, noise, b, *numbers)


def _write(y, x, s, noise, b, act, alpha, gain, clamp):
    (c, h, w), form = x.shape[1:], layout(x)
    noises = 0 if noise is None else noise.shape[0]
    small = [None if v is None else v.contiguous() for v in (s, noise, b)]
    if x.numel():
        call(
            "modulate",
            [x, *small, y],
            [x.numel(), h * w, c, int(form == torch.channels_last), noises, act],
            [alpha, gain, clamp],
        )
    return y


def _channel_dot(a, b):
    form, (n, c, h, w) = layout(a), a.shape
    a, b = a.contiguous(memory_format=form), b.contiguous(memory_format=form)
    y = a.new_zeros(n, c)
    if a.numel():
        call("channel_dot", [a, b, y], [n * c, h * w, c, int(form == torch.channels_last)])
    return y


def _save(ctx, inputs, output):
    x, s, noise, b, *numbers = inputs
    ctx.numbers = tuple(numbers)
    is_plain = ctx.numbers == PLAIN
    # The value before the activation is made again: one pass, for one image tensor less in memory.
    ctx.save_for_backward(x, s, *((None, None) if is_plain else (noise, b)))
    ctx.noises = 0 if noise is None else noise.shape[0]


def _backward(ctx, g):
    x, s, noise, b = ctx.saved_tensors
    need_x, need_s, need_noise, need_b = ctx.needs_input_grad[:4]
    if ctx.numbers != PLAIN:
        before = modulate(x, s, noise)
        g = torch.ops.stylegan_ops.bias_act(before, b, g, None, 1, 1, *ctx.numbers)
    g_noise = None
    if need_noise and ctx.noises:
        g_noise = g.sum(dim=1, keepdim=True)
        g_noise = g_noise.sum(dim=0, keepdim=True) if ctx.noises == 1 else g_noise
    g_x = modulate(g, s) if need_x else None
    g_s = torch.ops.stylegan_ops.channel_dot(g, x) if need_s else None
    return g_x, g_s, g_noise, g.sum(dim=[0, 2, 3]) if need_b else None, None, None, None, None


def _save_both(ctx, inputs, output):
    ctx.save_for_backward(*inputs)


def _dot_backward(ctx, g):
    a, b = ctx.saved_tensors
    need_a, need_b = ctx.needs_input_grad
    return modulate(b, g) if need_a else None, modulate(a, g) if need_b else None


define(
    "modulate(Tensor x, Tensor s, Tensor? noise, Tensor? b, int act, float alpha, float gain, "
    "float clamp) -> Tensor",
    _modulate,
    lambda x, *rest: torch.empty_like(x, memory_format=layout(x)),
)
define(
    "channel_dot(Tensor a, Tensor b) -> Tensor",
    _channel_dot,
    lambda a, b: a.new_empty(a.shape[:2]),
)
differentiate("modulate", _backward, _save)
differentiate("channel_dot", _dot_backward, _save_both)
