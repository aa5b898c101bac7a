"""Time and peak memory of reading a network file, as ratios to reading its bytes.

    python -m benchmarks.load [FILE ...] [--repeats 3]
    python -m benchmarks.load --size cifar [--official DIR]

Each measurement is a fresh process, so that none finds memory that another has warmed.
"""

from __future__ import annotations

import multiprocessing
import tempfile
from collections.abc import Callable, Mapping
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import click
import torch

import checkpoints
import students
import teachers
from benchmarks import machine, networks
from benchmarks.originals import load_officially
from students import files

DEMO = Path(__file__).parent.parent / "refine_demo"
STATUS, CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")

OFFICIAL = "official"

ACTIONS: dict[str, Callable[[Path], object]] = {
    "bytes": Path.read_bytes,
    "plain data": checkpoints.read,
    "student": students.load,
    "teacher": teachers.load,
}


def memory(field: str) -> int:
    """Return VmRSS (resident now) or VmHWM (at its peak) of this process in bytes, on Linux."""
    for line in STATUS.read_text(encoding="utf-8").splitlines():
        if line.startswith(f"{field}:"):
            return int(line.split()[1]) * 1024
    raise OSError(f"{STATUS} has no {field}")


def measure_here(
    path: Path, action: str, threads: int, checkout: Path | None
) -> tuple[float, int | None]:
    """Return the seconds, and the bytes by which the peak exceeds what was resident before.

    The memory is None where the system does not tell it (elsewhere than on Linux).
    """
    torch.set_num_threads(threads)
    read = ACTIONS[action] if checkout is None else partial(load_officially, checkout)
    if not CLEAR.exists():
        return machine.seconds(lambda: read(path)), None
    CLEAR.write_text("5", encoding="ascii")  # forget the peak so far, which importing torch made
    before = memory("VmRSS")
    # The result lives until the peak is read.
    kept: list[object] = []
    taken = machine.seconds(lambda: kept.append(read(path)))
    return taken, memory("VmHWM") - before


def measure(path: Path, *, repeats: int, checkout: Path | None = None) -> dict[str, Any]:
    """Return times in seconds and peak memory in bytes of each way to read a file.

    Of a student's file also those of the original loader, where there is a checkout of it.
    """
    network = "student" if "G_ema" in files.networks(checkpoints.read(path)) else "teacher"
    actions = ["bytes", "plain data", network]
    if checkout is not None and network == "student":
        actions.append(OFFICIAL)
    found: dict[str, list[tuple[float, int | None]]] = {action: [] for action in actions}
    spawn = multiprocessing.get_context("spawn")
    for _ in range(repeats):
        for action in actions:
            with ProcessPoolExecutor(1, mp_context=spawn) as process:
                where = checkout if action == OFFICIAL else None
                one = process.submit(measure_here, path, action, torch.get_num_threads(), where)
                found[action].append(one.result())
    ways = {}
    for action, pairs in found.items():
        peaks = [peak for _, peak in pairs if peak is not None]
        ways[action] = {
            "seconds": machine.spread([taken for taken, _ in pairs]),
            "peak_bytes": max(peaks) if peaks else None,
        }
    return {"file": path.name, "bytes": path.stat().st_size, "ways": ways}


def table(results: list[dict[str, Any]], about: Mapping[str, Any]) -> str:
    """Return the results as text: times, ratio of least times to the bytes', memory to size."""
    lines = [machine.headline(about), ""]
    lines.append(
        f"{'file':20} {'MB':>7} {'way':12} {'s':>8} {'min':>8} {'max':>8} {'to bytes':>9} "
        f"{'peak MB':>8} {'to size':>8}"
    )
    for result in results:
        least = result["ways"]["bytes"]["seconds"]["min"]
        for action, way in result["ways"].items():
            times = way["seconds"]
            peak = way["peak_bytes"]
            space = "" if peak is None else f"{peak / 1e6:8.1f} {peak / result['bytes']:7.2f}x"
            lines.append(
                f"{result['file']:20} {result['bytes'] / 1e6:7.1f} {action:12} "
                f"{times['median']:8.3f} {times['min']:8.3f} {times['max']:8.3f} "
                f"{times['min'] / least:8.1f}x {space}".rstrip()
            )
    return "\n".join(lines)


@click.command()
@click.argument("files", nargs=-1, type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option(
    "--size",
    type=click.Choice(["files", "cifar"]),
    default="files",
    show_default=True,
    help="cifar: files of the published CIFAR-10 sizes with random weights, written for this.",
)
@click.option("--repeats", metavar="INT", type=click.IntRange(min=1), default=3, show_default=True)
@click.option("--threads", metavar="INT", type=click.IntRange(min=1), help="Default: torch's own.")
@click.option(
    "--official",
    metavar="DIR",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    help="A checkout of stylegan2-ada-pytorch, whose loader is timed too.",
)
@click.option("--json", "json_file", metavar="FILE", type=click.Path(path_type=Path))
def main(
    files: tuple[Path, ...],
    size: str,
    repeats: int,
    threads: int | None,
    official: Path | None,
    json_file: Path | None,
) -> None:
    """Time the reading of network FILEs (the demo's, if none are named)."""
    if threads is not None:
        torch.set_num_threads(threads)
    with tempfile.TemporaryDirectory() as folder:
        if size == "cifar":
            chosen = networks.write_cifar_files(Path(folder))
        else:
            chosen = list(files) or [DEMO / "student.pkl", DEMO / "teacher.pkl"]
        try:
            results = [measure(path, repeats=repeats, checkout=official) for path in chosen]
        except (OSError, ValueError) as error:
            raise click.UsageError(str(error)) from error
    about = machine.describe()
    click.echo(table(results, about))
    if json_file is not None:
        machine.write_json(json_file, {"machine": about, "repeats": repeats, "files": results})


if __name__ == "__main__":
    main()
