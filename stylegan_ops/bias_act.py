"""Bias, activation, gain and clamp in one step: y = clamp(gain * f(x + b))."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float

from stylegan_ops.kernels.choice import kernels_wanted


class Activation(NamedTuple):
    """An activation f(x, alpha) with StyleGAN's default slope and variance-preserving gain."""

    function: Callable[[torch.Tensor, float], torch.Tensor]
    alpha: float
    gain: float


ACTIVATIONS = {
    "linear": Activation(lambda x, alpha: x, 0.0, 1.0),
    "relu": Activation(lambda x, alpha: F.relu(x), 0.0, math.sqrt(2)),
    "lrelu": Activation(F.leaky_relu, 0.2, math.sqrt(2)),
    "tanh": Activation(lambda x, alpha: torch.tanh(x), 0.0, 1.0),
    "sigmoid": Activation(lambda x, alpha: torch.sigmoid(x), 0.0, 1.0),
    "elu": Activation(lambda x, alpha: F.elu(x), 0.0, 1.0),
    "selu": Activation(lambda x, alpha: F.selu(x), 0.0, 1.0),
    "softplus": Activation(lambda x, alpha: F.softplus(x), 0.0, 1.0),
    "swish": Activation(lambda x, alpha: torch.sigmoid(x) * x, 0.0, math.sqrt(2)),
}


def bias_act(
    x: Float[torch.Tensor, "*s"],
    b: Float[torch.Tensor, " c"] | None = None,
    *,
    dim: int = 1,
    act: str = "linear",
    alpha: float | None = None,
    gain: float | None = None,
    clamp: float | None = None,
    impl: str = "auto",
) -> Float[torch.Tensor, "*s"]:
    """Add a bias along one dimension, activate, scale, clamp.

    Args:
        x: any shape.
        b: [x.shape[dim]] in the dtype of x; None adds nothing.
        dim: the dimension that b belongs to.
        act: a name in ACTIVATIONS.
        alpha: slope of lrelu; None means the activation's own.
        gain: factor after the activation; None means the activation's own.
        clamp: limit to [-clamp, clamp], at least 0; None means no limit.
        impl: "auto", "reference" (this file) or "cpu" (a kernel, or an error).

    Returns:
        The shape and dtype of x.

    Raises:
        ValueError: an unknown activation, a bias of another size or dtype, a negative clamp,
            what kernels_wanted refuses.
    """
    check_activation(x, b, dim, act, clamp)
    activation = ACTIVATIONS[act]
    alpha = activation.alpha if alpha is None else alpha
    gain = activation.gain if gain is None else gain
    if kernels_wanted(impl, x, b):
        from stylegan_ops.kernels import bias_act as kernel

        return kernel.bias_act(x, b, dim=dim, act=act, alpha=alpha, gain=gain, clamp=clamp)
    if b is not None:
        shape = [1] * x.ndim
        shape[dim] = -1
        x = x + b.reshape(shape)
    x = activation.function(x, alpha)
    if gain != 1:
        x = x * gain
    return x if clamp is None else x.clamp(-clamp, clamp)


def check_activation(
    x: torch.Tensor, b: torch.Tensor | None, dim: int, act: str, clamp: float | None
) -> None:
    """Raise ValueError, naming the argument, unless bias_act is defined for these."""
    if act not in ACTIVATIONS:
        raise ValueError(f"act is {act!r}; allowed are {', '.join(ACTIVATIONS)}")
    if clamp is not None and not clamp >= 0:
        raise ValueError(f"clamp is {clamp}; it must be at least 0, or None for no clamp")
    if b is not None and (b.ndim != 1 or b.shape[0] != x.shape[dim] or b.dtype != x.dtype):
        raise ValueError(
            f"b is {list(b.shape)} {b.dtype}; it must be [{x.shape[dim]}] {x.dtype} "
            f"to match dimension {dim} of x"
        )
