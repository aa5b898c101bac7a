"""Where to compute."""

from __future__ import annotations


def pick_device(name: str) -> str:
    """Return the device to use; auto takes CUDA where there is one."""
    import torch

    if name not in ("auto", "cpu", "cuda"):
        raise ValueError(f"--device is {name!r}; allowed are auto, cpu and cuda")
    if name == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    if name == "cuda" and not torch.cuda.is_available():
        raise ValueError("--device is cuda, but torch sees no CUDA device here; use --device cpu")
    return name
