"""Time one Diff-Instruct step and its parts, beside the machine's matrix-multiply speed.

    python -m benchmarks.step --student PKL --teacher PKL [--batch 64] [--repeats 5]
    python -m benchmarks.step --size cifar --batch 2

Every repeat times each part, a whole step of the loop and a matrix product, in turn, so that a
machine that slows down slows all of them.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import torch
from torch.utils.flop_counter import FlopCounterMode

import students
import teachers
from benchmarks import machine, networks
from refiners import Refinement, Settings
from refiners.diff_instruct import DiffInstruct
from refiners.loop import draw_inputs, follow
from refiners.noise import add_noise, draw_sigma

DEMO = Path(__file__).parent.parent / "demo"


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

    def averages(self) -> None:
        """Move both exponential averages."""
        follow(self.job.auxiliary_average, self.job.auxiliary, self.batch, 1e4)
        follow(self.job.average, self.job.student, self.batch, 1e4)

    def named(self) -> dict[str, Callable[[], object]]:
        """Return the parts by the names of the table."""
        return {
            "student forward": self.student_forward,
            "auxiliary forward and backward": self.auxiliary_forward_backward,
            "auxiliary optimiser": self.auxiliary_optimiser,
            "auxiliary forward, for the gradient": self.auxiliary_forward,
            "teacher forward": self.teacher_forward,
            "student backward": self.student_backward,
            "student optimiser": self.student_optimiser,
            "averages of both": self.averages,
        }


def count_flop(function: Callable[[], object]) -> int:
    """Call once and return the operations of its matrix products and convolutions."""
    with FlopCounterMode(display=False) as counter:
        function()
    return counter.get_total_flops()


def measure(student: Any, teacher: Any, *, batch: int, repeats: int) -> dict[str, Any]:
    """Return times in seconds and work in FLOP of a step, its parts and a matrix product."""
    settings = Settings(kimg=1e9, batch=batch, warmup_kimg=0)
    refinement = Refinement(student, teacher, DiffInstruct(), settings)
    parts = StepParts(refinement).named()
    timed = {**parts, "whole step": refinement.advance, "matrix product": machine.matmul()}
    # The first calls, which also warm up, are for counting.
    flop = {name: count_flop(function) for name, function in timed.items()}
    times: dict[str, list[float]] = {name: [] for name in timed}
    for _ in range(repeats):
        for name, function in timed.items():
            times[name].append(machine.seconds(function))
    rows = {
        name: {"seconds": machine.spread(times[name]), "gflop": flop[name] / 1e9} for name in timed
    }
    product, whole = rows.pop("matrix product"), rows.pop("whole step")
    product_speed = product["gflop"] / product["seconds"]["median"]
    for row in (whole, *rows.values()):
        row["gflop_per_second"] = row["gflop"] / row["seconds"]["median"]
        row["share_of_matmul_speed"] = row["gflop_per_second"] / product_speed
    return {
        "machine": machine.describe(),
        "batch": batch,
        "repeats": repeats,
        "parameters": {
            "student": sum(p.numel() for p in student.parameters()),
            "teacher": sum(p.numel() for p in teacher.parameters()),
        },
        "matmul_gflop_per_second": product_speed,
        "images_per_second": batch / whole["seconds"]["median"],
        "whole_step": whole,
        "parts": rows,
    }


def table(result: dict[str, Any]) -> str:
    """Return the result as text, one line a part."""
    sizes = result["parameters"]
    lines = [
        machine.headline(result["machine"]),
        f"student {sizes['student'] / 1e6:.2f} M parameters, teacher and auxiliary "
        f"{sizes['teacher'] / 1e6:.2f} M, batch {result['batch']}, median of {result['repeats']}",
        "",
        f"{'part':36} {'ms':>9} {'min':>9} {'max':>9} {'step':>6} {'GFLOP':>9} "
        f"{'GFLOP/s':>8} {'of mm':>6}",
    ]
    step = result["whole_step"]["seconds"]["median"]
    for name, row in {**result["parts"], "whole step": result["whole_step"]}.items():
        times = [1000 * row["seconds"][key] for key in ("median", "min", "max")]
        work = f"{row['gflop']:9.3f} {row['gflop_per_second']:8.1f} "
        work += f"{100 * row['share_of_matmul_speed']:5.0f}%"
        lines.append(
            f"{name:36} {times[0]:9.2f} {times[1]:9.2f} {times[2]:9.2f} "
            f"{100 * times[0] / 1000 / step:5.0f}% {work if row['gflop'] else '':>24}".rstrip()
        )
    total = sum(row["seconds"]["median"] for row in result["parts"].values())
    lines += [
        "",
        f"The parts' medians sum to {100 * total / step:.0f} % of the whole step.",
        f"{result['images_per_second']:.2f} images/s; the step runs at "
        f"{100 * result['whole_step']['share_of_matmul_speed']:.0f} % of this machine's float32 "
        f"matrix product ({result['matmul_gflop_per_second']:.1f} GFLOP/s at "
        f"{machine.MATRIX_SIZE} x {machine.MATRIX_SIZE}, same run).",
    ]
    return "\n".join(lines)


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
