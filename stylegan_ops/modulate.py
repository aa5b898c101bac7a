"""Around a modulated convolution: y = clamp(gain * f(x * s + noise + b)), s for each channel."""

from __future__ import annotations

import torch

from stylegan_ops.bias_act import ACTIVATIONS, bias_act, check_activation
from stylegan_ops.fma import fma
from stylegan_ops.kernels.choice import kernels_wanted


def modulate(
    x: torch.Tensor,
    s: torch.Tensor | None = None,
    noise: torch.Tensor | None = None,
    b: torch.Tensor | None = None,
    *,
    act: str = "linear",
    gain: float | None = None,
    clamp: float | None = None,
    is_fresh: bool = False,
    impl: str = "auto",
) -> torch.Tensor:
    """Scale every channel of every sample, add noise, then apply bias_act.

    Args:
        x: [n, c, h, w].
        s: [n, c] in the dtype of x; None scales nothing.
        noise: [n or 1, 1, h, w] or a shape that broadcasts to x, in the dtype of x; None adds none.
        b: [c] in the dtype of x; None adds nothing.
        act: as in bias_act.
        gain: as in bias_act.
        clamp: as in bias_act.
        is_fresh: nobody else has x, so that where no gradient is asked for it may be written over.
        impl: as in bias_act.

    Returns:
        The shape and dtype of x.

    Raises:
        ValueError: factors that do not fit x, and what bias_act refuses.
    """
    if s is not None and (list(s.shape) != list(x.shape[:2]) or s.dtype != x.dtype):
        raise ValueError(
            f"s is {list(s.shape)} {s.dtype}; it must be {list(x.shape[:2])} {x.dtype} as x is"
        )
    check_activation(x, b, 1, act, clamp)
    is_fitting = noise is None or _is_per_pixel(noise, x)
    if s is not None and is_fitting and kernels_wanted(impl, x, s, noise, b):
        from stylegan_ops.kernels import modulation

        if noise is not None:
            noise = noise.reshape(-1, 1, *x.shape[2:])
        alpha, own = ACTIVATIONS[act].alpha, ACTIVATIONS[act].gain
        gain = own if gain is None else gain
        needs_gradient = torch.is_grad_enabled() and any(
            tensor is not None and tensor.requires_grad for tensor in (x, s, noise, b)
        )
        # By "auto" alone, which takes no kernel where a graph is traced.
        in_place = is_fresh and impl == "auto" and not needs_gradient
        return modulation.modulate(
            x,
            s,
            noise,
            b,
            act=act,
            alpha=alpha,
            gain=gain,
            clamp=clamp,
            in_place=in_place,
        )
    if s is not None:
        s = s[:, :, None, None]
        x = x * s if noise is None else fma(x, s, noise)
    elif noise is not None:
        x = x + noise
    if b is None and act == "linear" and clamp is None and gain in (None, 1):
        return x
    return bias_act(x, b, act=act, gain=gain, clamp=clamp, impl=impl)


def _is_per_pixel(noise: torch.Tensor, x: torch.Tensor) -> bool:
    """Whether noise is [n or 1, 1, h, w] or [h, w], which the kernel adds."""
    shape = [1] * (4 - noise.ndim) + list(noise.shape)
    # Not len(x), which fixes the number of samples where this is exported.
    return shape[0] in (1, x.shape[0]) and shape[1:] == [1, *x.shape[2:]]
