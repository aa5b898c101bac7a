"""`refine.py generate`: images by seed."""

from __future__ import annotations

import re
from pathlib import Path

import click

from commands.device import pick_device


def parse_seeds(text: str) -> list[int]:
    """Turn "0-3,7" into [0, 1, 2, 3, 7]."""
    seeds: list[int] = []
    for part in text.split(","):
        match = re.fullmatch(r"\s*(\d{1,18})\s*(?:-\s*(\d{1,18})\s*)?", part)
        if match is None:
            raise ValueError(f"--seeds is {text!r}; allowed are numbers and ranges, as in 0-63,100")
        first, last = int(match[1]), int(match[2] or match[1])
        if last < first or last - first >= 1_000_000:
            raise ValueError(
                f"--seeds has the range {part!r}; it must rise, by less than a million"
            )
        seeds.extend(range(first, last + 1))
    return seeds


@click.command()
@click.option("--network", metavar="PKL|URL", required=True, help="The StyleGAN pickle.")
@click.option(
    "--seeds",
    metavar="RANGE",
    default="0-63",
    show_default=True,
    help="One image a seed, as 0-63,100.",
)
@click.option("--outdir", metavar="DIR", type=click.Path(path_type=Path), required=True)
@click.option(
    "--trunc",
    metavar="PSI",
    type=float,
    default=1.0,
    show_default=True,
    help="Truncation; 1 is none.",
)
@click.option(
    "--class",
    "label",
    metavar="INT",
    type=click.IntRange(min=0),
    help="Class of a conditional generator.",
)
@click.option(
    "--noise-mode",
    type=click.Choice(["const", "random", "none"]),
    default="const",
    show_default=True,
)
@click.option("--grid", is_flag=True, help="Also write grid.png with all images.")
@click.option(
    "--device", type=click.Choice(["auto", "cpu", "cuda"]), default="auto", show_default=True
)
def generate(
    network: str,
    seeds: str,
    outdir: Path,
    trunc: float,
    label: int | None,
    noise_mode: str,
    grid: bool,
    device: str,
) -> None:
    """Write seedNNNN.png for each seed; an image depends on its seed alone."""
    import numpy as np

    import datasets
    import students

    chosen = parse_seeds(seeds)
    student = students.load(network, device=pick_device(device))
    images = students.generate(
        student, chosen, truncation_psi=trunc, label=label, noise_mode=noise_mode
    )
    outdir.mkdir(parents=True, exist_ok=True)
    kept = []
    for seed, image in zip(chosen, images, strict=True):
        datasets.save_png(outdir / f"seed{seed:04d}.png", datasets.image_grid(image[None], 1))
        if grid:
            kept.append(image)
    if grid:
        columns = max(1, round(len(kept) ** 0.5))
        datasets.save_png(outdir / "grid.png", datasets.image_grid(np.stack(kept), columns))
    print(f"{len(chosen)} images in {outdir}")
