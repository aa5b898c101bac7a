"""What a run costs beside its steps, what a second process brings, and what bfloat16 loses.

    python -m benchmarks.loop overhead  [--batch 32] [--repeats 3]
    python -m benchmarks.loop processes [--batch 32] [--repeats 3]
    python -m benchmarks.loop bf16      [--steps 60]

All on the demo's networks, by turns in one run. Shares are of least times.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import torch

import students
import teachers
from benchmarks import machine
from refiners import Refinement, RunFolder, Settings
from refiners.diff_instruct import DiffInstruct
from refiners.runs.log_line import as_stats, tick_line
from refiners.runs.pictures import save_grid, save_tiled
from refiners.sigma_laws import add_noise
from refiners.training.health import HEALTH_SIGMAS
from refiners.training.inputs import draw_inputs
from refiners.training.precision import in_bfloat16
from roles.processes import join

ROOT = Path(__file__).resolve().parent.parent
DEMO = ROOT / "refine_demo"
STUDENT, TEACHER = DEMO / "student.pkl", DEMO / "teacher.pkl"
ZERO_TICK = {
    "Progress/tick": 0,
    "Progress/kimg": 0,
    "Timing/total_sec": 0,
    "Timing/sec_per_tick": 0,
    "Timing/sec_per_kimg": 0,
    "Timing/maintenance_sec": 0,
}


def start(**settings: Any) -> Refinement:
    """Return a refinement of the demo's networks that moves the student at once."""
    given = Settings(**{"kimg": 1000.0, "warmup_kimg": 0.0, **settings})
    student, teacher = students.load(str(STUDENT)), teachers.load(str(TEACHER))
    return Refinement(student, teacher, DiffInstruct(), given, processes=join("cpu"))


def parts_of_a_run(job: Refinement, folder: RunFolder) -> dict[str, Callable[[], object]]:
    """Return what a run does beside its steps, named by when: at a tick, or at a snapshot."""

    def tick() -> None:
        stats = {**ZERO_TICK, **job.health()}
        folder.append("stats.jsonl", as_stats(stats))
        folder.append("log.txt", {"line": tick_line(stats)})

    return {
        "tick: figures and lines": tick,
        "snapshot: health picture": lambda: save_tiled(folder.path / "health.png", *job.views()),
        "snapshot: samples": lambda: save_grid(folder.path / "fakes.png", job.average, 0),
        "snapshot: network": lambda: students.save(
            job.average, folder.path / "network.pkl", like=str(STUDENT)
        ),
        "snapshot: state": lambda: folder.write_state("000000", job.state_dict()),
    }


def measure_overhead(*, batch: int, repeats: int) -> dict[str, Any]:
    """Return the seconds of a step and of what comes between, and their share of a run."""
    job = start(batch=batch)
    with tempfile.TemporaryDirectory() as name:
        parts = {"step": job.advance, **parts_of_a_run(job, RunFolder(Path(name)))}
        times: dict[str, list[float]] = {part: [] for part in parts}
        for part in parts.values():
            part()  # warms up
        for _ in range(repeats):
            for part, work in parts.items():
                times[part].append(machine.seconds(work))
    least = {part: min(found) for part, found in times.items()}
    settings = job.settings
    kimg = least.pop("step") * 1000 / batch
    tick = kimg * settings.tick
    shares = {
        part: seconds / (tick if part.startswith("tick") else tick * settings.snap)
        for part, seconds in least.items()
    }
    return {
        "batch": batch,
        "tick_kimg": settings.tick,
        "snap_ticks": settings.snap,
        "seconds_per_kimg": kimg,
        "seconds": least,
        "shares": shares,
        "share": sum(shares.values()),
    }


def images_per_second(*, batch: int, steps: int) -> float:
    """Return the rate of this process' run, after a step that warms up."""
    job = start(batch=batch)
    job.advance()
    began = time.perf_counter()
    for _ in range(steps):
        job.advance()
    return batch * steps / (time.perf_counter() - began)


def measure_processes(*, batch: int, repeats: int, steps: int = 6) -> dict[str, Any]:
    """Return images/s of one process with two threads and of two with one, by turns."""
    worker = [str(ROOT / "benchmarks" / "loop.py"), "worker", f"--batch={batch}"]
    worker += [f"--steps={steps}"]
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2", "--"]
    rates: dict[str, list[float]] = {"one": [], "two": []}
    for _ in range(repeats):
        for name, command, threads in (("one", worker, 2), ("two", [*launcher, *worker], 1)):
            ended = subprocess.run(
                [sys.executable, *command, f"--threads={threads}"],
                capture_output=True,
                text=True,
                check=True,
                env={**os.environ, "OMP_NUM_THREADS": str(threads), "PYTHONPATH": str(ROOT)},
            )
            rates[name].append(float(ended.stdout.split()[-1]))
    ratios = [two / one for one, two in zip(rates["one"], rates["two"], strict=True)]
    return {"batch": batch, "rates": rates, "ratio": statistics.median(ratios)}


@torch.no_grad()
def measure_bf16(*, steps: int, num_images: int = 16) -> dict[str, Any]:
    """Return the relative error of D_aux - D_teacher in bfloat16, at each noise level.

    The auxiliary has learned the student for so many steps of 32 images. The difference is taken in
    float32, of passes under autocast, as in a run.
    """
    with torch.enable_grad():
        job = start(batch=32, warmup_kimg=64.0)
        for _ in range(steps):
            job.advance()
    torch.manual_seed(0)
    z, labels = draw_inputs(job.average, num_images, job.device)
    x_0 = job.average(z, labels)
    rows = {}
    for sigma in HEALTH_SIGMAS:
        level = torch.full([num_images], sigma)
        x = add_noise(x_0, level)
        pair = [job.auxiliary_average, job.teacher]
        gaps, errors = [], []
        for low in (False, True):
            passes = [in_bfloat16(net.forward, "cpu") if low else net.forward for net in pair]
            d_auxiliary, d_teacher = (run(x, level) for run in passes)
            gaps.append(d_auxiliary - d_teacher)
            errors.append(d_teacher)
        signal, noise = gaps[0].norm(), (gaps[1] - gaps[0]).norm()
        rows[f"{sigma:g}"] = {
            "error_of_difference": (noise / signal).item(),
            "error_of_teacher": ((errors[1] - errors[0]).norm() / errors[0].norm()).item(),
            "cosine": torch.cosine_similarity(gaps[0].flatten(), gaps[1].flatten(), dim=0).item(),
        }
    return {"steps": steps, "levels": rows}


@click.group()
@click.option("--threads", metavar="INT", type=click.IntRange(min=1), default=1, show_default=True)
def main(threads: int) -> None:
    """Measure a run of the demo's networks on the CPU."""
    torch.set_num_threads(threads)


batch_option = click.option("--batch", type=click.IntRange(min=2), default=32, show_default=True)
repeats_option = click.option("--repeats", type=click.IntRange(min=1), default=3, show_default=True)


@main.command()
@batch_option
@repeats_option
def overhead(batch: int, repeats: int) -> None:
    """Time what a run does beside its steps."""
    result = measure_overhead(batch=batch, repeats=repeats)
    click.echo(machine.headline(machine.describe()))
    click.echo(f"a kimg of steps takes {result['seconds_per_kimg']:.1f} s at batch {batch}")
    for part, seconds in result["seconds"].items():
        click.echo(f"{part:28} {1000 * seconds:8.1f} ms {100 * result['shares'][part]:6.2f} %")
    click.echo(
        f"together {100 * result['share']:.2f} % of a run, with a tick every "
        f"{result['tick_kimg']:g} kimg and a snapshot every {result['snap_ticks']} ticks"
    )


@main.command()
@batch_option
@repeats_option
def processes(batch: int, repeats: int) -> None:
    """Time one process with two threads against two with one."""
    result = measure_processes(batch=batch, repeats=repeats)
    click.echo(machine.headline(machine.describe()))
    for name, rates in result["rates"].items():
        click.echo(f"{name}: {', '.join(f'{rate:.2f}' for rate in rates)} images/s")
    click.echo(f"two make {result['ratio']:.2f} times as many images as one (median of the pairs)")


@main.command()
@click.option("--steps", type=click.IntRange(min=1), default=60, show_default=True)
@click.option("--json", "json_file", metavar="FILE", type=click.Path(path_type=Path))
def bf16(steps: int, json_file: Path | None) -> None:
    """Compare D_aux - D_teacher in bfloat16 with float32."""
    result = measure_bf16(steps=steps)
    click.echo(f"the auxiliary has learned {32 * steps} images")
    click.echo(
        f"{'sigma':>6} {'error of D_aux - D_teacher':>28} {'of D_teacher':>14} {'cosine':>8}"
    )
    for sigma, row in result["levels"].items():
        click.echo(
            f"{sigma:>6} {row['error_of_difference']:28.4f} {row['error_of_teacher']:14.4f} "
            f"{row['cosine']:8.4f}"
        )
    if json_file is not None:
        json_file.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")


@main.command(hidden=True)
@batch_option
@click.option("--steps", type=int, required=True)
@click.option("--threads", type=int, required=True)
def worker(batch: int, steps: int, threads: int) -> None:
    """Print the rate of one process' run."""
    torch.set_num_threads(threads)
    rate = images_per_second(batch=batch, steps=steps)
    if os.environ.get("RANK", "0") == "0":
        click.echo(f"{rate}")


if __name__ == "__main__":
    main()
