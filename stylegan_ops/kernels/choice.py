"""Which implementation a call takes: the torch definition, or a kernel for the tensor's device."""

from __future__ import annotations

import functools
import os
import sys

import torch

IMPLEMENTATIONS = ("auto", "reference", "cpu", "cuda")
DTYPES = (torch.float32, torch.float64, torch.float16, torch.bfloat16)
# Below this many elements on a CPU, calling a kernel costs what it saves, and small uses of this
# library never meet a compiler.
LEAST_ELEMENTS = 1 << 20


def kernels_wanted(
    impl: str, x: torch.Tensor, *others: torch.Tensor | None, least: int = LEAST_ELEMENTS
) -> bool:
    """Whether to call a kernel: always for "cpu" and "cuda", by what is at hand for "auto".

    "auto" keeps to the definition where REFINE_OPS is "reference", on a GPU unless it is "cuda", in
    double precision, below `least` elements of x on a CPU, inside torch.compile, autocast and
    functional transforms, and where kernels cannot be built, which is said once.

    Raises:
        ValueError: an unknown impl, one for another device than x's, a dtype without kernels,
            more than 2^31 - 1 elements.
    """
    if impl not in IMPLEMENTATIONS:
        raise ValueError(f"impl is {impl!r}; allowed are {', '.join(IMPLEMENTATIONS)}")
    if impl == "reference":
        return False
    if impl != "auto":
        _check(impl, x)
        return True
    if torch.compiler.is_compiling():  # a graph to export must hold for any number of samples
        return False
    if x.device.type == "cpu":
        if x.numel() < least or x.dtype != torch.float32:
            return False
    elif os.environ.get("REFINE_OPS") != "cuda" or x.dtype not in DTYPES[:1] + DTYPES[2:]:
        # Off unless asked for: on a GPU these kernels have been compiled, not yet run.
        return False
    if os.environ.get("REFINE_OPS") == "reference" or x.numel() >= 2**31 or _is_transformed(x):
        return False
    if any(other is not None and other.device != x.device for other in others):
        return False
    return available(x.device)


def _check(impl: str, x: torch.Tensor) -> None:
    if x.device.type not in (impl, "meta"):
        raise ValueError(f"impl is {impl!r}, but x is on {x.device}; move x, or use impl='auto'")
    if x.dtype not in DTYPES:
        raise ValueError(f"x is {x.dtype}; kernels take {', '.join(map(str, DTYPES))}")
    if x.numel() >= 2**31:
        raise ValueError(f"x has {x.numel()} elements; kernels take at most {2**31 - 1}")


def _is_transformed(x: torch.Tensor) -> bool:
    return (
        type(x) not in (torch.Tensor, torch.nn.Parameter)
        or torch._C._are_functorch_transforms_active()
        or torch.autograd.forward_ad._current_level >= 0
        or torch.is_autocast_enabled(x.device.type)
    )


def target(device: torch.device) -> str:
    """What the kernels for a device are compiled for: "cpu", or "sm_90" and the like."""
    if device.type == "cpu":
        return "cpu"
    major, minor = torch.cuda.get_device_capability(device)
    return f"sm_{major}{minor}"


def available(device: torch.device) -> bool:
    """Whether the kernels for a device can be built and loaded; if not, one line says why."""
    return _is_built(target(device))


@functools.cache
def _is_built(name: str) -> bool:
    from stylegan_ops.kernels.build import BuildError, library

    try:
        library(name)
    except BuildError as error:
        print(f"Kernels for {name} are off, torch's own are used: {error}", file=sys.stderr)
        return False
    return True
