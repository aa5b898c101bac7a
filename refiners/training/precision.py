"""How networks compute: precision, layout, compilation; what they hold stays float32.

A refinement follows the small difference of two denoisers. So only the passes of denoisers are in
low precision: their preconditioning ends in float32, and the difference is taken there. A GAN's
file says itself which of its layers are in half precision, and they stay so.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any, cast

import torch

from refiners.training.settings import Settings
from roles import Network

# Images, or maps of features, of a network.
Pass = Callable[..., torch.Tensor | list[torch.Tensor]]


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


def check_device(settings: Settings, device: torch.device) -> None:
    """Raise ValueError for what the device does not have."""
    if settings.precision == "tf32" and device.type != "cuda":
        raise ValueError("precision is 'tf32', which GPUs alone have; choose fp32 or bf16")


def check_compiler(device: torch.device) -> None:
    """Raise ValueError where torch.compile does not work, with the first line of its reason."""
    try:
        torch.compile(torch.neg)(torch.ones(2, device=device))
    except Exception as error:  # a missing compiler shows in many types
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise ValueError(f"torch.compile does not work here ({reason}); leave --compile out") from (
            error
        )


def prepare(network: Network, settings: Settings, device: torch.device) -> None:
    """Let a denoiser compute in bfloat16 where asked, with float32 results; compile any network.

    Changes the methods of this instance and must come after the last copy of it, as a copy would
    share them. Of its parameters channels_last changes the order in memory, those of no other.
    """
    is_denoiser = hasattr(network, "label_dim")
    if settings.channels_last and is_denoiser:
        cast("Any", network).to(memory_format=torch.channels_last)  # which its types leave out
    # A one-step student is a denoiser within.
    is_low = settings.precision == "bf16" and (is_denoiser or hasattr(network, "denoiser"))
    for name in ("forward", "features"):
        method = given = getattr(network, name, None)
        if not callable(given) or method is None:
            continue
        if settings.compile and name == "forward":
            method = torch.compile(method)
        if is_low:
            method = in_bfloat16(method, device.type)
        if method is not given:
            network.__dict__[name] = method


def in_bfloat16(method: Pass, device_type: str) -> Pass:
    """Return a function under autocast, whose results are float32 again."""

    def run(*args: object, **kwargs: object) -> torch.Tensor | list[torch.Tensor]:
        with torch.autocast(device_type, dtype=torch.bfloat16):
            found = method(*args, **kwargs)
        if isinstance(found, torch.Tensor):
            return found.float()
        return [part.float() for part in found]

    return run
