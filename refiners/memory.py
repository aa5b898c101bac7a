"""How much memory this process has taken."""

from __future__ import annotations

import sys

import torch

try:
    import resource
except ImportError:  # Windows has no such module.
    resource = None


def peak_memory_gb() -> float | None:
    """Return the largest resident size so far in GiB, or None where the system does not say."""
    if resource is None:
        return None
    # Linux counts in KiB, macOS in bytes.
    unit = 2**30 if sys.platform == "darwin" else 2**20
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit


def peak_gpu_memory_gb() -> float | None:
    """Return the most that torch has held on this GPU in GiB; None where none was used."""
    if not torch.cuda.is_available() or not torch.cuda.is_initialized():
        return None
    return torch.cuda.max_memory_allocated() / 2**30
