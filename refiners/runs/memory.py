"""How much memory this process has taken, and whether there was no more."""

from __future__ import annotations

import os
import re
import sys
from pathlib import Path

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


def free_memory(device: str) -> int | None:
    """Return the bytes that this process may hold on a device, with those that it holds already.

    None where the system does not say. In a container its limit counts.
    """
    if device.startswith("cuda"):
        free, _ = torch.cuda.mem_get_info(device)
        return free + torch.cuda.memory_reserved(device)
    free = [size for size in (_free_in_system(), _free_in_container()) if size is not None]
    return min(free) + _resident() if free else None


def _free_in_system() -> int | None:
    """Return what Linux, or another system that counts pages, can give away."""
    text = _read("/proc/meminfo")
    found = re.search(r"^MemAvailable:\s+(\d+) kB$", text, flags=re.MULTILINE)
    if found is not None:
        return int(found[1]) * 1024
    try:
        return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, ValueError, OSError):  # Windows, macOS
        return None


def _free_in_container() -> int | None:
    """Return what is left of a limit by control groups (version 2); None where there is none."""
    limit, used = (_read(f"/sys/fs/cgroup/memory.{name}").strip() for name in ("max", "current"))
    return max(0, int(limit) - int(used)) if limit.isdecimal() and used.isdecimal() else None


def _resident() -> int:
    """Return the bytes of memory that this process has now; 0 where Linux does not tell."""
    pages = _read("/proc/self/statm").split()
    return int(pages[1]) * os.sysconf("SC_PAGE_SIZE") if len(pages) > 1 else 0


def _read(path: str) -> str:
    try:
        return Path(path).read_text(encoding="ascii")
    except OSError:
        return ""
