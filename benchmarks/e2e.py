"""Time whole commands: the start of each, and a refinement from the command to the pickle.

    python -m benchmarks.e2e start [--repeats 5]
    python -m benchmarks.e2e refine [--official DIR --official-gan DIR] [--kimg 0.5] [--repeats 3]

`refine` takes the demo's networks and the published settings, and the same number of images on both
sides, each in a process of its own, in turn: `refine.py gan` against the official loop's body with
what a script around it has to do: read both pickles, refine, write the average. Without
--official-gan the other side has our networks, see step.

Evaluation from the zip to the number is in `benchmarks.metrics`.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from functools import partial
from pathlib import Path
from typing import Any

import click
import torch

import students
import teachers
from benchmarks import machine
from benchmarks.published import (
    PublishedLoop,
    official_loss,
    official_network,
    without_cuda_streams,
)

ROOT = Path(__file__).resolve().parent.parent
STUDENT, TEACHER = str(machine.DEMO / "student.pkl"), str(machine.DEMO / "teacher.pkl")
BATCH = 32
GAN = ("refine.py", "gan", f"--teacher={TEACHER}", f"--outdir={tempfile.gettempdir()}")
COMMANDS = [
    "gan",
    "distill",
    "report",
    "dataset",
    "export",
    "generate",
    "inspect",
    "doctor",
    "demo",
]
# From the least that a command can do to what has to load a network.
STARTS = (
    ("python -c pass", ["-c", "pass"]),
    ("python -c 'import torch'", ["-c", "import torch"]),
    ("refine.py --help", ["refine.py", "--help"]),
    *((f"refine.py {name} --help", ["refine.py", name, "--help"]) for name in COMMANDS),
    ("refine.py gan with a wrong path", [*GAN, "--student=no.pkl"]),
    ("refine.py inspect", ["refine.py", "inspect", STUDENT]),
    ("refine.py gan --dry-run", [*GAN, f"--student={STUDENT}", "--dry-run"]),
)


def run(command: list[str], *, may_fail: bool = False) -> None:
    """Run Python with a command line in the project's folder, and wait for its end."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    options: dict[str, Any] = {"cwd": ROOT, "env": environment, "capture_output": True}
    ended = subprocess.run([sys.executable, *command], check=False, text=True, **options)
    if ended.returncode and not may_fail:
        raise click.ClickException(f"{' '.join(command)} failed: {ended.stderr.strip()[-500:]}")


def ours(folder: Path, kimg: float) -> list[str]:
    """Return the command of a refinement with the published settings."""
    return [
        *("refine.py", "gan", f"--student={STUDENT}", f"--teacher={TEACHER}", "--preset=published"),
        *(f"--outdir={folder}", f"--kimg={kimg}", f"--batch={BATCH}", "--warmup-kimg=0"),
        *("--keep=last", "--device=cpu", f"--tick={kimg}", "--snap=1"),
    ]


def refine_as_published(
    out: Path, kimg: float, official: Path | None, official_gan: Path | None
) -> None:
    """Do the other side's refinement and write its average."""
    student: Any = students.load(STUDENT)
    teacher: Any = teachers.load(TEACHER)
    if official is not None:
        teacher = official_network(official, teacher)
    if official_gan is not None:
        student = official_network(official_gan, student)
    width = student.z_dim
    loop = PublishedLoop(
        student,
        lambda network, batch: network(torch.randn([batch, width]), None),
        teacher,
        official_loss(official),
        batch=BATCH,
    )
    with without_cuda_streams():
        for _ in range(round(kimg * 1000 / BATCH)):
            loop.advance()
    like = students.load(STUDENT)
    like.load_state_dict(loop.average.state_dict())
    students.save(like, out, like=STUDENT)


@click.group()
def main() -> None:
    """Time whole commands."""


@main.command()
@machine.number_option("--repeats", 5)
@click.option("--commands", metavar="LIST", help="Names that the timed ones contain; all else.")
@machine.json_option
def start(repeats: int, commands: str | None, json_file: Path | None) -> None:
    """Time the start of commands."""
    wanted = [""] if commands is None else commands.split(",")
    ways = {
        name: partial(run, command, may_fail="wrong" in name)
        for name, command in STARTS
        if any(part in name for part in wanted)
    }
    times = machine.in_turn(ways, repeats)  # The first round fills the file cache.
    lines = [f"{name:34} {machine.shown(found)}" for name, found in times.items()]
    machine.report("\n".join(lines), times, json_file)


@main.command()
@machine.official_option(of="the official Diff-Instruct repository")
@machine.official_option("--official-gan", of="stylegan2-ada-pytorch")
@click.option("--kimg", metavar="KIMG", type=float, default=0.5, show_default=True)
@machine.number_option("--repeats", 3)
@machine.json_option
@click.option("--published-into", type=click.Path(path_type=Path), hidden=True)
def refine(
    official: Path | None,
    official_gan: Path | None,
    kimg: float,
    repeats: int,
    json_file: Path | None,
    published_into: Path | None,
) -> None:
    """Time a refinement from the command to the pickle."""
    if published_into is not None:
        refine_as_published(published_into, kimg, official, official_gan)
        return
    places = (("--official", official), ("--official-gan", official_gan))
    named = [f"{flag}={place.resolve()}" for flag, place in places if place is not None]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        theirs = ["-m", "benchmarks.e2e", "refine", f"--kimg={kimg}", *named]
        theirs.append(f"--published-into={folder / 'published.pkl'}")
        ways = {"published": partial(run, theirs), "ours": partial(run, ours(folder, kimg))}
        times = machine.in_turn(ways, repeats, warm_up=False)
    lines = [f"{side:10} {machine.shown(found)}" for side, found in times.items()]
    ratios = [a / b for a, b in zip(times["published"], times["ours"], strict=True)]
    lines.append(f"Ours is {machine.shown(ratios, 'times as fast').strip()}.")
    told = f"{kimg:g} kimg of {BATCH} images a step, {repeats} repeats in turn"
    machine.report("\n".join([told, *lines]), times, json_file)


if __name__ == "__main__":
    main()
