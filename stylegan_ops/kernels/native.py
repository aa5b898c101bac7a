"""Call a compiled kernel: dtype, tensors, integers, reals, and the number of threads."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence

import torch

from stylegan_ops.kernels.build import library
from stylegan_ops.kernels.choice import DTYPES

# From here on the first touch of small pages is a cost worth avoiding.
LARGE_BYTES = 1 << 22

# Definitions of the operations; each file below registers its own.
LIBRARY = torch.library.Library("stylegan_ops", "DEF")


def call(
    name: str,
    tensors: Sequence[torch.Tensor | None],
    integers: Sequence[int] = (),
    reals: Sequence[float] = (),
) -> None:
    """Run a kernel on tensors of a CPU; the first decides the dtype."""
    x = tensors[0]
    assert x is not None
    pointers = (ctypes.c_void_p * len(tensors))(
        *(None if tensor is None else tensor.data_ptr() for tensor in tensors)
    )
    ints = (ctypes.c_int64 * max(1, len(integers)))(*integers)
    doubles = (ctypes.c_double * max(1, len(reals)))(*reals)
    function = getattr(library(), f"{name}_kernel")
    threads = ctypes.c_int64(torch.get_num_threads())
    code = function(DTYPES.index(x.dtype), pointers, ints, doubles, threads)
    assert code == 0, f"the kernel {name} has no {x.dtype}"


def empty(
    shape: Sequence[int], like: torch.Tensor, form: torch.memory_format = torch.contiguous_format
) -> torch.Tensor:
    """Return memory for a result, of the dtype and device of another tensor."""
    y = torch.empty(shape, dtype=like.dtype, device=like.device, memory_format=form)
    if y.nbytes >= LARGE_BYTES:
        library().prefer_large_pages(ctypes.c_void_p(y.data_ptr()), ctypes.c_int64(y.nbytes))
    return y


def layout(x: torch.Tensor) -> torch.memory_format:
    """channels_last where x is dense in it and not in the ordinary layout, else contiguous."""
    if x.ndim != 4 or x.is_contiguous():
        return torch.contiguous_format
    is_last = x.is_contiguous(memory_format=torch.channels_last)
    return torch.channels_last if is_last else torch.contiguous_format


def define(schema: str, function, fake) -> None:
    """Register an operation with its shape rule."""
    name = schema.partition("(")[0]
    LIBRARY.define(schema)
    LIBRARY.impl(name, function, "CPU")
    torch.library.register_fake(f"stylegan_ops::{name}", fake, lib=LIBRARY)


def differentiate(name: str, backward, save) -> None:
    """Register an operation's derivative."""
    torch.library.register_autograd(
        f"stylegan_ops::{name}", backward, setup_context=save, lib=LIBRARY
    )
