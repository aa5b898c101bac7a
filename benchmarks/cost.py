"""What a step costs over its work: images/s and memory against batch, width and resolution.

    python -m benchmarks.cost [--batches 1,2,4] [--widths 0.5,1] [--resolutions 16,32] [--repeats 3]

Networks of the CIFAR-10 files' kind with random weights; batch, width and resolution vary in turn
while the others stay at 4 images, half the width and 32 pixels. A width of 1 is the published one:
a StyleGAN2 of 512 channels and a DDPM++ of 55.7 M parameters. Each point is a process of its own,
which times steps of the loop (`gan`'s settings, Diff-Instruct) and matrix products in turn; its
memory is what it held at most beyond what it held before the networks were made.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import click
import torch

from benchmarks import machine, networks
from refiners import Refinement, Settings
from refiners.diff_instruct import DiffInstruct


@dataclass(frozen=True)
class Point:
    """Where the cost is taken."""

    batch: int = 4
    width: float = 0.5
    resolution: int = 32


def cost_of(point: Point, repeats: int) -> dict[str, Any]:
    """Return seconds of a step, its GFLOP, its share of the matrix product's speed, and MB."""
    before = machine.peak_megabytes()
    torch.manual_seed(0)
    student = networks.cifar_student(channels=round(512 * point.width), resolution=point.resolution)
    teacher = networks.cifar_teacher(channels=round(128 * point.width), resolution=point.resolution)
    settings = Settings(kimg=1e9, batch=point.batch, warmup_kimg=0)
    refinement = Refinement(student, teacher, DiffInstruct(), settings)
    product = machine.matmul()
    product_flop = machine.count_flop(product)
    flop = machine.count_flop(refinement.advance)
    rounds = [
        (machine.seconds(refinement.advance), machine.seconds(product)) for _ in range(repeats)
    ]
    step, mm = (machine.spread(times) for times in zip(*rounds, strict=True))
    return {
        **asdict(point),
        "seconds": step,
        "images_per_second": point.batch / step["median"],
        "gflop_per_image": flop / 1e9 / point.batch,
        "share_of_matmul_speed": (flop / step["min"]) / (product_flop / mm["min"]),
        "megabytes": machine.peak_megabytes() - before,
    }


def table(results: list[dict[str, Any]]) -> str:
    """Return the points as a Markdown table."""
    lines = [
        "| batch | width | resolution | s a step | images/s | GFLOP an image | of mm | MB |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for row in results:
        lines.append(
            f"| {row['batch']} | {row['width']:g} | {row['resolution']} "
            f"| {row['seconds']['median']:.2f} | {row['images_per_second']:.2f} "
            f"| {row['gflop_per_image']:.1f} | {100 * row['share_of_matmul_speed']:.0f} % "
            f"| {row['megabytes']:.0f} |"
        )
    return "\n".join(lines)


def numbers(kind: type) -> Any:
    """Return a parser of comma-separated positive numbers; BadParameter names what is none."""

    def parse(ctx: Any, param: Any, text: str) -> list[Any]:
        try:
            found = [kind(part) for part in text.split(",")]
        except ValueError:
            found = []
        if not found or min(found) <= 0:
            raise click.BadParameter(f"{text!r}; give numbers above 0 with commas between them")
        return found

    return parse


@click.command()
@click.option("--batches", default="1,2,4,8,16,32", callback=numbers(int), show_default=True)
@click.option("--widths", default="0.25,0.5,1", callback=numbers(float), show_default=True)
@click.option("--resolutions", default="16,32,64", callback=numbers(int), show_default=True)
@click.option("--repeats", metavar="INT", type=click.IntRange(min=1), default=3, show_default=True)
@click.option("--threads", metavar="INT", type=click.IntRange(min=1), help="Default: torch's own.")
@click.option("--json", "json_file", metavar="FILE", type=click.Path(path_type=Path))
def main(
    batches: list[int],
    widths: list[float],
    resolutions: list[int],
    repeats: int,
    threads: int | None,
    json_file: Path | None,
) -> None:
    """Time steps at several batches, widths and resolutions, each in a process of its own."""
    if threads is not None:
        torch.set_num_threads(threads)
    base = Point()
    points = [replace(base, batch=batch) for batch in batches]
    points += [replace(base, width=width) for width in widths]
    points += [replace(base, resolution=resolution) for resolution in resolutions]
    results = [
        machine.in_own_process(cost_of, point, repeats, threads=torch.get_num_threads())
        for point in dict.fromkeys(points)
    ]
    click.echo(f"{machine.headline(machine.describe())}\n\n{table(results)}")
    if json_file is not None:
        machine.write_json(json_file, {"machine": machine.describe(), "points": results})


if __name__ == "__main__":
    main()
