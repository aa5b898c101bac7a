"""Bias, activation, gain and clamp in one pass, and its first and second derivative."""

from __future__ import annotations

import torch

from stylegan_ops.kernels.native import call, define, differentiate, empty, layout

# In the order of cpu.cpp.
ACTS = ("linear", "relu", "lrelu", "tanh", "sigmoid", "elu", "selu", "softplus", "swish")
PIECEWISE_LINEAR = (0, 1, 2)


def bias_act(
    x: torch.Tensor,
    b: torch.Tensor | None,
    *,
    dim: int,
    act: str,
    alpha: float,
    gain: float,
    clamp: float | None,
) -> torch.Tensor:
    """As stylegan_ops.bias_act, with every argument checked and given."""
    limit = -1.0 if clamp is None else float(clamp)
    numbers = (dim % max(1, x.ndim), ACTS.index(act), float(alpha), float(gain), limit)
    return torch.ops.stylegan_ops.bias_act(x, b, None, None, 0, *numbers)


def _run(x, b, g, h, order, dim, act, alpha, gain, clamp):
    form = layout(x)
    x = x.contiguous(memory_format=form)
    g, h = (None if v is None else v.contiguous(memory_format=form) for v in (g, h))
    y = empty(x.shape, x, form)
    if x.numel():
        # A dimension of size one may have any stride, zero included.
        step = max(1, x.stride(dim)) if x.ndim else 1
        channels = x.shape[dim] if x.ndim else 1
        if b is None:
            step, channels = x.numel(), 1
        b = None if b is None else b.contiguous()
        call(
            "bias_act",
            [x, b, g, h, y],
            [act, order, x.numel(), step, channels],
            [alpha, gain, clamp],
        )
    return y


def _save(ctx, inputs, output):
    ctx.save_for_backward(*inputs[:4])
    ctx.order, *ctx.numbers = inputs[4:]


def _backward(ctx, g_y):
    x, b, g, _ = ctx.saved_tensors
    if ctx.order == 2:
        raise NotImplementedError(
            "the bias_act kernel has two derivatives; use impl='reference' for a third"
        )
    need_x, need_b, need_g = ctx.needs_input_grad[:3]
    op, act = torch.ops.stylegan_ops.bias_act, ctx.numbers[1]
    g_x = g_g = None
    if ctx.order == 0 and (need_x or need_b):
        g_x = op(x, b, g_y, None, 1, *ctx.numbers)
    if ctx.order == 1:
        g_g = op(x, b, g_y, None, 1, *ctx.numbers) if need_g else None
        if (need_x or need_b) and act not in PIECEWISE_LINEAR:
            g_x = op(x, b, g, g_y, 2, *ctx.numbers)
    g_b = None
    if need_b and b is not None and g_x is not None:
        dim = ctx.numbers[0]
        g_b = g_x.sum(dim=[d for d in range(x.ndim) if d != dim]) if x.ndim > 1 else g_x
    return (g_x if need_x else None, g_b, g_g, None, None, None, None, None, None, None)


define(
    "bias_act(Tensor x, Tensor? b, Tensor? g, Tensor? h, int order, int dim, int act, "
    "float alpha, float gain, float clamp) -> Tensor",
    _run,
    lambda x, *rest: torch.empty_like(x, memory_format=layout(x)),
)
differentiate("bias_act", _backward, _save)
