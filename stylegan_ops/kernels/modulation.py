"""y = x * s[n, c] + noise, and its derivative: the scaling of a modulated convolution."""

from __future__ import annotations

import torch

from stylegan_ops.kernels.native import call, define, differentiate, layout


def modulate(x: torch.Tensor, s: torch.Tensor, noise: torch.Tensor | None = None) -> torch.Tensor:
    """Scale x [n, c, h, w] by s [n, c], add noise [1 or n, 1, h, w]; one dtype and device."""
    return torch.ops.stylegan_ops.modulate(x, s, noise)


def _modulate(x, s, noise):
    form = layout(x)
    x, (c, h, w) = x.contiguous(memory_format=form), x.shape[1:]
    y = torch.empty_like(x)
    noises = 0 if noise is None else noise.shape[0]
    if x.numel():
        call(
            "modulate",
            [x, s.contiguous(), None if noise is None else noise.contiguous(), y],
            [x.numel(), h * w, c, int(form == torch.channels_last), noises],
        )
    return y


def _channel_dot(a, b):
    a, b = a.contiguous(), b.contiguous()
    y = a.new_zeros(a.shape[:2])
    if a.numel():
        call("channel_dot", [a, b, y], [a.shape[0] * a.shape[1], a.shape[2] * a.shape[3]])
    return y


def _save(ctx, inputs, output):
    x, s, noise = inputs
    ctx.save_for_backward(x, s)
    ctx.noises = 0 if noise is None else noise.shape[0]


def _backward(ctx, g):
    x, s = ctx.saved_tensors
    need_x, need_s, need_noise = ctx.needs_input_grad
    g_noise = None
    if need_noise and ctx.noises:
        g_noise = g.sum(dim=1, keepdim=True)
        g_noise = g_noise.sum(dim=0, keepdim=True) if ctx.noises == 1 else g_noise
    g_x = modulate(g, s) if need_x else None
    return g_x, torch.ops.stylegan_ops.channel_dot(g, x) if need_s else None, g_noise


def _save_both(ctx, inputs, output):
    ctx.save_for_backward(*inputs)


def _dot_backward(ctx, g):
    a, b = ctx.saved_tensors
    need_a, need_b = ctx.needs_input_grad
    return modulate(b, g) if need_a else None, modulate(a, g) if need_b else None


define(
    "modulate(Tensor x, Tensor s, Tensor? noise) -> Tensor",
    _modulate,
    lambda x, s, noise: torch.empty_like(x, memory_format=layout(x)),
)
define(
    "channel_dot(Tensor a, Tensor b) -> Tensor",
    _channel_dot,
    lambda a, b: a.new_empty(a.shape[:2]),
)
differentiate("modulate", _backward, _save)
differentiate("channel_dot", _dot_backward, _save_both)
