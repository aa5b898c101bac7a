"""Time the parts of one Diff-Instruct step, beside the machine's matrix-multiply speed.

    python -m benchmarks.parts --student PKL --teacher PKL [--batch 64] [--repeats 5]
    python -m benchmarks.parts --size cifar --batch 2

Every repeat times each part, a whole step of the loop and a matrix product, in turn, so that a
machine that slows down slows all of them. Rates and shares are of the least times.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import torch

import students
import teachers
from benchmarks import machine, networks
from refiners import Refinement, Settings
from refiners.diff_instruct import DiffInstruct
from refiners.sigma_laws import add_noise, draw_sigma
from refiners.training.inputs import draw_inputs
from refiners.training.optimiser import follow

DEMO = Path(__file__).parent.parent / "refine_demo"


class StepParts:
    """The work of Refinement.advance() cut into parts that can be timed alone, in their order."""

    def __init__(self, refinement: Any):
        self.job = refinement
        self.batch = refinement.settings.batch
        self.z, self.labels = draw_inputs(refinement.student, self.batch, refinement.device)
        self.seen = self.labels if refinement.teacher.label_dim else None
        with torch.no_grad():
            self.x_0 = refinement.student(self.z, self.labels)
        self.sigma = draw_sigma(refinement.method.student_sigma, self.batch)
        self.x = add_noise(self.x_0, self.sigma)
        self.g = torch.randn_like(self.x_0)
        self.images = self.x_0

    def student_forward(self) -> None:
        """Make the images, with the graph that the backward pass needs."""
        self.images = self.job.student(self.z, self.labels)

    def auxiliary_forward_backward(self) -> None:
        """Take the denoising loss on the images, and its gradient."""
        loss = self.job.method.auxiliary_loss(self.x_0, self.seen, auxiliary=self.job.auxiliary)
        self.job.auxiliary_adam.zero_grad()
        loss.backward()

    def auxiliary_optimiser(self) -> None:
        """Let Adam move the auxiliary."""
        self.job.auxiliary_adam.step()

    @torch.no_grad()
    def auxiliary_forward(self) -> None:
        """Denoise with the auxiliary's average, for the pixel gradient."""
        self.job.auxiliary_average(self.x, self.sigma, self.seen)

    @torch.no_grad()
    def teacher_forward(self) -> None:
        """Denoise with the teacher, for the pixel gradient."""
        self.job.teacher(self.x, self.sigma, self.seen)

    def student_backward(self) -> None:
        """Send a pixel gradient through the student."""
        self.job.student_adam.zero_grad()
        self.images.backward(self.g / self.batch)

    def student_optimiser(self) -> None:
        """Let Adam move the student."""
        self.job.student_adam.step()

    def auxiliary_ema(self) -> None:
        """Move the auxiliary's average."""
        follow(self.job.auxiliary_average, self.job.auxiliary, 1, 100)

    def student_ema(self) -> None:
        """Move the student's average."""
        follow(self.job.average, self.job.student, 1, 100)

    def named(self) -> dict[str, tuple[int, Callable[[], object]]]:
        """Return name -> how often a step does it, and the part."""
        updates = self.job.settings.auxiliary_steps
        return {
            "student forward": (1, self.student_forward),
            "auxiliary forward and backward": (updates, self.auxiliary_forward_backward),
            "auxiliary optimiser": (updates, self.auxiliary_optimiser),
            "auxiliary EMA": (updates, self.auxiliary_ema),
            "auxiliary forward, for the gradient": (1, self.auxiliary_forward),
            "teacher forward": (1, self.teacher_forward),
            "student backward": (1, self.student_backward),
            "student optimiser": (1, self.student_optimiser),
            "student EMA": (1, self.student_ema),
        }


def measure(student: Any, teacher: Any, *, batch: int, repeats: int) -> dict[str, Any]:
    """Return times in seconds and work in FLOP of a step, its parts and a matrix product."""
    settings = Settings(kimg=1e9, batch=batch, warmup_kimg=0)
    refinement = Refinement(student, teacher, DiffInstruct(), settings)
    parts = StepParts(refinement).named()
    extra = {"whole step": (1, refinement.advance), "matrix product": (1, machine.matmul())}
    timed = {**parts, **extra}
    # The first calls, which also warm up, are for counting.
    flop = {name: machine.count_flop(function) for name, (_, function) in timed.items()}
    times: dict[str, list[float]] = {name: [] for name in timed}
    for _ in range(repeats):
        for name, (_, function) in timed.items():
            times[name].append(machine.seconds(function))
    rows: dict[str, dict[str, Any]] = {
        name: {
            "calls": calls,
            "seconds": machine.spread(times[name]),
            "gflop": flop[name] / 1e9,
            "gflop_per_second": flop[name] / 1e9 / min(times[name]),
        }
        for name, (calls, _) in timed.items()
    }
    product, whole = rows.pop("matrix product"), rows.pop("whole step")
    # Rates and shares are of the least times: what others do on the machine only ever adds.
    step = whole["seconds"]
    for row in (whole, *rows.values()):
        row["share_of_step"] = row["calls"] * row["seconds"]["min"] / step["min"]
        row["share_of_matmul_speed"] = row["gflop_per_second"] / product["gflop_per_second"]
    return {
        "machine": machine.describe(),
        "batch": batch,
        "repeats": repeats,
        "parameters": {
            "student": count_parameters(refinement.student),
            "teacher": count_parameters(refinement.teacher),
        },
        "matmul": product,
        "images_per_second": {name: batch / step[name] for name in ("median", "min")},
        "whole_step": whole,
        "parts": rows,
    }


def count_parameters(network: torch.nn.Module) -> int:
    """Return the number of a network's parameters."""
    return sum(parameter.numel() for parameter in network.parameters())


def line(name: str, row: dict[str, Any]) -> str:
    """Return one line of the table."""
    times = " ".join(f"{1000 * row['seconds'][key]:9.2f}" for key in ("median", "min", "max"))
    text = f"{name:36} {times} {row['calls']:5d} {100 * row['share_of_step']:5.0f}%"
    if not row["gflop"]:
        return text
    speed = f"{row['gflop_per_second']:8.1f} {100 * row['share_of_matmul_speed']:5.0f}%"
    return f"{text} {row['gflop']:9.3f} {speed}"


def table(result: dict[str, Any]) -> str:
    """Return the result as text, one line a part."""
    sizes, whole = result["parameters"], result["whole_step"]
    rates = result["images_per_second"]
    total = sum(row["share_of_step"] for row in result["parts"].values())
    return "\n".join(
        [
            machine.headline(result["machine"]),
            f"student {sizes['student'] / 1e6:.2f} M parameters, teacher and auxiliary "
            f"{sizes['teacher'] / 1e6:.2f} M, batch {result['batch']}, "
            f"{result['repeats']} repeats",
            "",
            f"{'part':36} {'ms':>9} {'min':>9} {'max':>9} {'calls':>5} {'step':>6} "
            f"{'GFLOP':>9} {'GFLOP/s':>8} {'of mm':>6}",
            *(line(name, row) for name, row in result["parts"].items()),
            line("whole step", whole),
            "",
            f"The parts sum to {100 * total:.0f} % of the whole step.",
            f"{rates['median']:.2f} images/s by the median, {rates['min']:.2f} by the least time.",
            f"The step runs at {100 * whole['share_of_matmul_speed']:.0f} % of this machine's "
            f"float32 matrix product ({result['matmul']['gflop_per_second']:.1f} GFLOP/s at "
            f"{machine.MATRIX_SIZE} x {machine.MATRIX_SIZE}, same run).",
        ]
    )


@click.command()
@click.option("--student", metavar="PKL|URL", default=str(DEMO / "student.pkl"))
@click.option("--teacher", metavar="PKL|URL", default=str(DEMO / "teacher.pkl"))
@click.option(
    "--size",
    type=click.Choice(["files", "cifar"]),
    default="files",
    show_default=True,
    help="cifar: networks of the published CIFAR-10 sizes with random weights, no files.",
)
@click.option("--batch", metavar="INT", type=click.IntRange(min=1), default=64, show_default=True)
@click.option("--repeats", metavar="INT", type=click.IntRange(min=1), default=5, show_default=True)
@click.option("--threads", metavar="INT", type=click.IntRange(min=1), help="Default: torch's own.")
@click.option("--json", "json_file", metavar="FILE", type=click.Path(path_type=Path))
def main(
    student: str,
    teacher: str,
    size: str,
    batch: int,
    repeats: int,
    threads: int | None,
    json_file: Path | None,
) -> None:
    """Time one Diff-Instruct step and its parts on the CPU."""
    if threads is not None:
        torch.set_num_threads(threads)
    if size == "cifar":
        pair: tuple[Any, Any] = networks.cifar_student(), networks.cifar_teacher()
    else:
        try:
            pair = students.load(student), teachers.load(teacher)
        except (OSError, ValueError) as error:
            raise click.UsageError(str(error)) from error
    result = measure(*pair, batch=batch, repeats=repeats)
    click.echo(table(result))
    if json_file is not None:
        machine.write_json(json_file, result)


if __name__ == "__main__":
    main()
