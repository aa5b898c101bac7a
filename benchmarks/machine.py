"""What every benchmark needs: its options, times taken in turn, and the machine behind a figure."""

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

import click
import torch
from torch.utils.flop_counter import FlopCounterMode

DEMO = Path(__file__).parent.parent / "refine_demo"
FILE = click.Path(exists=True, dir_okay=False, path_type=Path)
# Large enough that the device reaches its speed, small enough for every repeat.
MATRIX_SIZE = {"cpu": 1024, "cuda": 8192}


def set_threads(context: click.Context, parameter: click.Parameter, number: int | None) -> None:
    """Let torch use so many threads."""
    if number is not None:
        torch.set_num_threads(number)


threads_option = click.option(
    "--threads",
    metavar="INT",
    type=click.IntRange(min=1),
    callback=set_threads,
    expose_value=False,
    help="Default: torch's own.",
)
json_option = click.option(
    "--json", "json_file", metavar="FILE", type=click.Path(path_type=Path), help="Write it too."
)


def number_option(name: str, default: int, *, least: int = 1) -> Callable[..., Any]:
    """Return an option that takes a whole number."""
    kind = click.IntRange(min=least)
    return click.option(name, metavar="INT", type=kind, default=default, show_default=True)


def official_option(name: str = "--official", *, of: str, required: bool = False) -> Any:
    """Return an option that takes a checkout of an original program."""
    kind = click.Path(exists=True, file_okay=False, path_type=Path)
    text = f"A checkout of {of}."
    return click.option(name, metavar="DIR", type=kind, required=required, help=text)


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


def in_turn(
    ways: Mapping[str, Callable[[], object]], repeats: int, *, warm_up: bool = True
) -> dict[str, list[float]]:
    """Return the seconds of each way, taken in turn: a machine that slows down slows all."""
    times: dict[str, list[float]] = {name: [] for name in ways}
    for repeat in range(-int(warm_up), repeats):
        for name, way in ways.items():
            taken = seconds(way)
            if repeat >= 0:
                times[name].append(taken)
    return times


def count_flop(function: Callable[[], object]) -> int:
    """Call once and return the operations of its matrix products and convolutions.

    A multiplication and an addition count as two; minimal filtering as the convolution that it
    replaces (stylegan_ops.kernels.winograd).
    """
    with FlopCounterMode(display=False) as counter:
        function()
    return counter.get_total_flops()


def matmul(device: str = "cpu", dtype: torch.dtype = torch.float32) -> Callable[[], object]:
    """Return a product of two square matrices, 2 MATRIX_SIZE^3 operations, to be timed."""
    a = torch.ones([MATRIX_SIZE[device]] * 2, device=device, dtype=dtype)
    return lambda: torch.mm(a, a)


def spread(times: Sequence[float]) -> dict[str, float]:
    """Return median, least and greatest of some times."""
    return {"median": statistics.median(times), "min": min(times), "max": max(times)}


def shown(times: Sequence[float], unit: str = "s") -> str:
    """Return the median of some seconds or ratios with their least and greatest, as text."""
    of = spread(times)
    return f"{of['median']:8.3f} {unit} ({of['min']:.3f} to {of['max']:.3f})"


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


def report(text: str, result: Mapping[str, Any], json_file: Path | None) -> None:
    """Show a result under the machine's description, and write both if there is a file for them."""
    about = describe()
    click.echo(f"{headline(about)}\n{text}")
    if json_file is not None:
        facts = {"machine": about, **result}
        json_file.write_text(json.dumps(facts, indent=2) + "\n", encoding="utf-8")
