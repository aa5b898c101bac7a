"""The machine behind a figure: what it is, and how fast it multiplies matrices right now."""

from __future__ import annotations

import json
import math
import multiprocessing
import os
import platform
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from refiners.runs.speed import CountFlop

MATRIX_SIZE = 1024  # large enough that a core reaches its speed, small enough for every repeat


def describe() -> dict[str, Any]:
    """Return processor, cores, threads, versions and how busy the machine is."""
    return {
        "processor": processor(),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_initialized() else None,
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "load_average": round(os.getloadavg()[0], 1) if hasattr(os, "getloadavg") else None,
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "torch": torch.__version__,
        "date": time.strftime("%Y-%m-%d"),
    }


def processor() -> str:
    """Return the processor's name, as Linux or Python knows it."""
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        for line in cpuinfo.read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def headline(machine: Mapping[str, Any]) -> str:
    """Return the description in one line; a load above the threads used means a busy machine."""
    load = "" if machine["load_average"] is None else f", load average {machine['load_average']}"
    gpu = "" if machine["gpu"] is None else f"{machine['gpu']}, "
    return (
        f"{gpu}{machine['processor']}, {machine['cores']} cores, {machine['threads']} threads used"
        f"{load}"
        f", {machine['system']}, Python {machine['python']}, torch {machine['torch']}"
        f", {machine['date']}"
    )


def seconds(function: Callable[[], object]) -> float:
    """Call once and return how long it took, with what it left a GPU to do."""
    _wait()
    start = time.perf_counter()
    function()
    _wait()
    return time.perf_counter() - start


def _wait() -> None:
    if torch.cuda.is_initialized():
        torch.cuda.synchronize()


def count_flop(function: Callable[[], object]) -> int:
    """Call once and return the operations of its matrix products and convolutions."""
    with CountFlop() as counter:
        function()
    return counter.total


def matmul() -> Callable[[], object]:
    """Return a float32 product of two square matrices, to be timed."""
    a, b = torch.randn(2, MATRIX_SIZE, MATRIX_SIZE)
    return lambda: torch.mm(a, b)


def spread(times: Sequence[float]) -> dict[str, float]:
    """Return median, least and greatest of some times."""
    return {"median": statistics.median(times), "min": min(times), "max": max(times)}


def shown(values: Sequence[float]) -> str:
    """Return the median of some seconds or ratios with their least and greatest, as text."""
    of = spread(values)
    return f"{of['median']:8.2f} ({of['min']:.2f} to {of['max']:.2f})"


def peak_megabytes() -> float:
    """Return what this process held at most so far, in MB: of a GPU, or else of memory.

    NaN but on Linux. A child's ru_maxrss begins at what its parent held, VmHWM with the program.
    """
    if torch.cuda.is_initialized():
        return torch.cuda.max_memory_allocated() / 1e6
    status = Path("/proc/self/status")
    for line in status.read_text(encoding="utf-8").splitlines() if status.exists() else ():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) / 1000
    return math.nan


def in_own_process(function: Callable[..., Any], *arguments: Any, threads: int) -> Any:
    """Return what a function returns in a process of its own with that many threads."""
    with multiprocessing.get_context("spawn").Pool(1, torch.set_num_threads, (threads,)) as pool:
        return pool.apply(function, arguments)


def write_json(path: Path, result: Mapping[str, Any]) -> None:
    """Write a benchmark's result."""
    path.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
