"""How much memory this process has taken, and whether there was no more."""

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


def told_out_of_memory(error: Exception) -> str:
    """Return what an allocator that had no more memory said, in short; empty for other errors."""
    if isinstance(error, torch.OutOfMemoryError):
        return str(error).partition(". ")[0]
    _, is_allocators, said = str(error).partition("DefaultCPUAllocator: ")
    return said.partition(". ")[0] if is_allocators else ""


def peak_gpu_memory_gb() -> float | None:
    """Return the most that torch has held on this GPU in GiB; None where none was used."""
    if not torch.cuda.is_available() or not torch.cuda.is_initialized():
        return None
    return torch.cuda.max_memory_allocated() / 2**30
