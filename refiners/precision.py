"""The precision in which networks compute, and their compilation; what they hold stays float32.

A refinement follows the small difference of two denoisers. So only the passes of the networks are
in low precision: their preconditioning ends in float32, and the difference is taken there.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import torch

from refiners.settings import Settings


@contextlib.contextmanager
def tensor_cores(precision: str, device: torch.device) -> Iterator[None]:
    """Allow TF32 inside for "tf32" and "bf16", and forbid it for "fp32"; GPUs alone have it."""
    if device.type != "cuda":
        yield
        return
    allowed, before = precision != "fp32", torch.backends.cuda.matmul.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = allowed
    try:
        with torch.backends.cudnn.flags(enabled=True, allow_tf32=allowed):
            yield
    finally:
        torch.backends.cuda.matmul.allow_tf32 = before


def prepare(network: Any, settings: Settings, device: torch.device) -> None:
    """Let a network compute in bfloat16 where asked, with float32 results, and compile it.

    Changes the methods of this instance, not its parameters, and must come after the last copy of
    it, as a copy would share them.
    """
    for name in ("forward", "features"):
        method = given = getattr(network, name, None)
        if not callable(given):
            continue
        if settings.compile and name == "forward":
            method = torch.compile(method)
        if settings.precision == "bf16":
            method = in_bfloat16(method, device.type)
        if method is not given:
            network.__dict__[name] = method


def in_bfloat16(method: Any, device_type: str) -> Any:
    """Return a function under autocast, whose results are float32 again."""

    def run(*args: Any, **kwargs: Any) -> Any:
        with torch.autocast(device_type, dtype=torch.bfloat16):
            found = method(*args, **kwargs)
        if isinstance(found, torch.Tensor):
            return found.float()
        return [part.float() for part in found]

    return run
