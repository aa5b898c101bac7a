"""How networks compute: precision, layout, compilation; what they hold stays float32.

A refinement follows the small difference of two denoisers. So only passes are in low precision: a
denoiser's preconditioning ends in float32, and the difference is taken there. --precision decides
for every pass of a step, whatever a file says of half precision: fp32 and tf32 have none, and with
bf16 the denoisers and their heads compute in bfloat16 and a GAN in the halves that its file names.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any, cast

import torch

from refiners.training.settings import AUTO_PRECISION, Settings
from roles import Network

# What it computes: images, maps of features, or images with logits.
Found = torch.Tensor | list[torch.Tensor] | tuple[torch.Tensor, ...]
Pass = Callable[..., Found]

PASSES = ("forward", "features", "judge")
HALVES = ("use_fp16", "is_half")  # what modules of files call it


def settled(settings: Settings, device: torch.device) -> Settings:
    """Return the settings with the precision that "auto" stands for on this device."""
    if settings.precision != AUTO_PRECISION:
        return settings
    return replace(settings, precision="tf32" if device.type == "cuda" else "fp32")


@contextlib.contextmanager
def arithmetic(settings: Settings, device: torch.device) -> Iterator[None]:
    """Compute inside as the settings say; GPUs alone can do otherwise.

    TF32 is for "tf32" and "bf16". With deterministic torch refuses what has no fixed order, and
    cuDNN chooses without measuring; else torch.backends.cudnn.benchmark stays as it was.
    """
    if device.type != "cuda":
        yield
        return
    matmul: Any = torch.backends.cuda.matmul  # whose switches are no attributes to a type checker
    cudnn: Any = torch.backends.cudnn
    allowed = settings.precision != "fp32"
    before = matmul.allow_tf32, cudnn.allow_tf32, cudnn.benchmark, cudnn.deterministic
    orderly = torch.are_deterministic_algorithms_enabled()
    matmul.allow_tf32 = cudnn.allow_tf32 = allowed
    if settings.deterministic:
        cudnn.benchmark, cudnn.deterministic = False, True
        torch.use_deterministic_algorithms(True)
    try:
        yield
    finally:
        matmul.allow_tf32, cudnn.allow_tf32, cudnn.benchmark, cudnn.deterministic = before
        torch.use_deterministic_algorithms(orderly)


def check_device(settings: Settings, device: torch.device) -> None:
    """Raise ValueError for what the device does not have."""
    if settings.precision == "tf32" and device.type != "cuda":
        raise ValueError("precision is 'tf32', which CUDA GPUs alone have; choose fp32 or bf16")
    if settings.deterministic and device.type == "cuda":
        # cuBLAS reads it when its first product is computed, and has no other switch.
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")


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
    """Let a network compute as the settings say, with float32 results, and compile it where asked.

    Changes the methods of this instance and must come after the last copy of it, as a copy would
    share them. Of a denoiser's parameters channels_last changes the order in memory.
    """
    is_denoiser = hasattr(network, "label_dim")
    if settings.channels_last and is_denoiser:
        cast("Any", network).to(memory_format=torch.channels_last)  # which its types leave out
    # A one-step student is a denoiser within; a grown discriminator is heads on one's features.
    like_denoiser = is_denoiser or hasattr(network, "denoiser") or hasattr(network, "heads")
    if like_denoiser or settings.precision != "bf16":
        in_single(network)
    is_low = settings.precision == "bf16" and like_denoiser
    for name in PASSES:
        method = given = getattr(network, name, None)
        if not callable(given) or method is None:
            continue
        if settings.compile and name in ("forward", "judge"):
            method = torch.compile(method)
        if is_low:
            method = in_bfloat16(method, device.type)
        if method is not given:
            network.__dict__[name] = method


def in_single(network: Network) -> None:
    """Let no layer compute in half precision because its file says so; its record still says it."""
    for module in network.modules():
        vars(module).update({name: False for name in HALVES if name in vars(module)})


def in_bfloat16(method: Pass, device_type: str) -> Pass:
    """Return a function under autocast, whose results are float32 again."""

    def run(*args: object, **kwargs: object) -> Found:
        with torch.autocast(device_type, dtype=torch.bfloat16):
            found = method(*args, **kwargs)
        if isinstance(found, torch.Tensor):
            return found.float()
        return type(found)(part.float() for part in found)

    return run
