"""Which implementation a call takes: the torch definition, or a kernel of the CPU or a GPU."""

from __future__ import annotations

import functools
import os
import sys

import torch

from stylegan_ops.kernels import gpu

IMPLEMENTATIONS = ("auto", "reference", "cpu")
DTYPES = (torch.float32, torch.float64)
# Below this many elements calling a kernel costs what it saves, and small uses of this library
# never meet a compiler.
LEAST_ELEMENTS = 1 << 20


def kernels_wanted(
    impl: str, x: torch.Tensor, *others: torch.Tensor | None, least: int = LEAST_ELEMENTS
) -> bool:
    """Whether to call a kernel: always for "cpu", where it pays for "auto".

    "auto" keeps to the definition where REFINE_OPS is "reference", elsewhere than on a CPU in
    float32 or on CUDA in at most so many bits, for few elements of x (`least` on a CPU), inside
    torch.compile, autocast and functional transforms, and where kernels cannot be built, which is
    said once.

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
    on_gpu = x.device.type == "cuda"
    if not (_suits_gpu(x) if on_gpu else _suits_cpu(x, least)):
        return False
    if os.environ.get("REFINE_OPS") == "reference" or x.numel() >= 2**31 or _is_transformed(x):
        return False
    if any(other is not None and other.device != x.device for other in others):
        return False
    return gpu.available() if on_gpu else available()


def _suits_cpu(x: torch.Tensor, least: int) -> bool:
    return x.device.type == "cpu" and x.dtype == torch.float32 and x.numel() >= least


def _suits_gpu(x: torch.Tensor) -> bool:
    return x.dtype in gpu.DTYPES and gpu.LEAST_ELEMENTS <= x.numel() < gpu.MOST_ELEMENTS


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


@functools.cache
def available() -> bool:
    """Whether the kernels can be built and loaded; if not, one line says why."""
    from stylegan_ops.kernels.build import BuildError, library

    try:
        library()
    except BuildError as error:
        print(f"Kernels for cpu are off, torch's own are used: {error}", file=sys.stderr)
        return False
    return True
