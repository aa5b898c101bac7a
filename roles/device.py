"""Where to compute, and what differs there: double precision, copies."""

from __future__ import annotations

import re

import torch

DEVICES = "auto, cpu, cuda, cuda:N, mps, xpu and xpu:N"

# Apple's GPUs have no float64, nor have many of Intel's.
SINGLE_PRECISION = ("mps", "xpu")


def pick_device(name: str) -> str:
    """Return the device to use; auto takes CUDA (or ROCm, which torch calls so) where it is.

    The others have to be asked for.

    Raises:
        ValueError: torch has no device of this name here.
    """
    if name == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    found = re.fullmatch(r"(?:(cpu|mps)|(cuda|xpu)(?::(\d{1,4}))?)", name)
    if found is None:
        raise ValueError(f"--device is {name!r}; allowed are {DEVICES}")
    kind = found[1] or found[2]
    if kind == "cpu":
        return name
    module = torch.get_device_module(kind)
    is_there = torch.backends.mps.is_available() if kind == "mps" else module.is_available()
    if not is_there:
        what = {"cuda": "CUDA", "mps": "Apple"}.get(kind, "Intel")
        raise ValueError(f"--device is {name}, but torch sees no {what} device; use --device cpu")
    count = module.device_count()
    if int(found[3] or 0) >= count:
        raise ValueError(
            f"--device is {name}; there are {count} here, {kind}:0 to {kind}:{count - 1}"
        )
    return name


def widest(device: torch.device) -> torch.dtype:
    """Return the widest type of real numbers that a device computes with."""
    return torch.float32 if device.type in SINGLE_PRECISION else torch.float64


def sent(tensor: torch.Tensor, device: torch.device) -> torch.Tensor:
    """Return a tensor on a device, where the host need not wait for CUDA to take it."""
    if device.type == "cuda" and tensor.device.type == "cpu":
        return tensor.pin_memory().to(device, non_blocking=True)
    return tensor.to(device)
