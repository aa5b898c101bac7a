"""`refine.py report`: measure two generators on the same latents, or images that are there."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import click

from refine_commands.options import device_option, measuring_options, seed_option

if TYPE_CHECKING:
    import numpy as np

    import metrics
    from roles import Student

MEASURED = "measured.json"
GRID = 128  # images of a side that the page shows
COLUMNS = 16


@click.command()
@click.option(
    "--before",
    metavar="PKL|URL|ZIP|DIR|NPZ",
    required=True,
    help="The original generator, or images.",
)
@click.option(
    "--after",
    metavar="PKL|URL|ZIP|DIR|NPZ",
    help="The refined generator, or images; without it, the other alone is measured.",
)
@measuring_options(num=50000, required=True)
@click.option(
    "--outdir", metavar="DIR", type=click.Path(path_type=Path, file_okay=False), required=True
)
@click.option(
    "--metrics",
    "names",
    metavar="LIST",
    help="Names with commas between, or all; an unknown one lists them.  [default: the usual]",
)
@seed_option
@device_option
def report(
    before: str,
    after: str | None,
    reference: str,
    features: str | None,
    names: str | None,
    outdir: Path,
    num: int,
    seed: int,
    device: str,
) -> None:
    """Measure two generators on the same latents and write report.json, .md and .html.

    A side may also be a folder or zip of images, or guided-diffusion's .npz: as many are measured
    as the smaller side has, pairs where their names are the same. Without --after the one side's
    numbers go to measured.json: --before FAKES --reference REALS --features inception is the FID of
    two folders. Under torchrun its processes share the images.
    """
    import metrics
    from checkpoints.web.cache import default_folder
    from refiners.runs.progress import stage_bar
    from refiners.runs.provenance import provenance, sha256
    from refiners.runs.reporting import show_report
    from roles.device import pick_device
    from roles.processes import device_of_rank, join

    started = time.time()
    chosen = names and metrics.choose_metrics([name.strip() for name in names.split(",")])
    if after is None and names:
        raise ValueError("--metrics chooses what two sides are compared by; give --after as well")
    device = device_of_rank(pick_device(device))
    paths = {"before": before, "after": after}
    pair = {name: open_side(path, device) for name, path in paths.items() if path is not None}
    space = metrics.choose_features(features, device=device) if features else None
    processes = join(device)
    bar = stage_bar if processes.is_first else silent
    num = as_many_as_there_are(pair, num, quiet=not processes.is_first)
    real = metrics.open_reference(
        reference,
        space,
        cache=default_folder() / "statistics",
        progress=bar("reference"),
        processes=processes,
    )
    outdir.mkdir(parents=True, exist_ok=True)
    settings = {
        "before": before,
        "after": after,
        "reference": reference,
        "features": features,
        "metrics": names,
        "num": num,
        "seed": seed,
        "processes": processes.size,
    }
    if after is None:
        measured = metrics.measure(
            pair["before"],
            real,
            num_images=num,
            seed=seed,
            progress=bar("measure"),
            processes=processes,
        )

        def write_one() -> None:
            hashes = {"before_sha256": sha256(before)}
            facts = {"settings": settings, "provenance": provenance(started) | hashes}
            show_measured(outdir / MEASURED, measured, facts)

        processes.first_alone(write_one, "writing the numbers")
        processes.leave()
        return
    comparison = metrics.compare(
        pair["before"],
        pair["after"],
        real,
        num_images=num,
        seed=seed,
        metrics=chosen or None,
        progress=bar("compare"),
        processes=processes,
    )

    def write() -> None:
        hashes = {f"{name}_sha256": sha256(path) for name, path in paths.items() if path}
        facts = {
            "title": f"{Path(before).name} and {Path(after).name}",
            "comparison": comparison.facts(),
            "settings": settings,
            "provenance": provenance(started) | hashes,
        }
        grids = {name: first_images(side, seed) for name, side in pair.items()}
        gallery = metrics.draw_gallery(pair["before"], pair["after"], comparison)
        show_report(outdir, facts, grids | gallery)

    processes.first_alone(write, "writing the report")
    processes.leave()


def open_side(source: str, device: str) -> Student | metrics.FoundImages:
    """The images of a folder, zip or .npz; of anything else, the generator."""
    import metrics
    import students

    if metrics.are_images(source):
        return metrics.open_images(source)
    return students.load(source, device=device)


def as_many_as_there_are(
    pair: Mapping[str, Student | metrics.FoundImages], num: int, *, quiet: bool
) -> int:
    """How many images of each side are measured, and a line where that is fewer than asked for."""
    import metrics

    found = {
        name: len(side) for name, side in pair.items() if isinstance(side, metrics.FoundImages)
    }
    least = min(found.values(), default=num)
    if least < num and not quiet:
        counts = ", ".join(f"{name} has {count:,}" for name, count in found.items())
        each = " of each side" if len(pair) > 1 else ""
        print(f"{least:,} images{each} are measured, as {counts}")
    return min(least, num)


def first_images(side: Student | metrics.FoundImages, seed: int) -> np.ndarray:
    """A picture of the first images of a side."""
    import image_sets
    import metrics
    from refiners.runs.pictures import sample_grid

    if not isinstance(side, metrics.FoundImages):
        return sample_grid(side, seed)
    return image_sets.image_grid(side.some(range(min(GRID, len(side)))).numpy(), COLUMNS)


def show_measured(path: Path, measured: metrics.Measurement, facts: Mapping[str, object]) -> None:
    """Write one side's numbers as JSON, and print them."""
    from checkpoints import replacing
    from metrics import METRICS

    content = {"measured": measured.facts(), **facts}
    with replacing(path) as stream:
        stream.write((json.dumps(content, indent=2, allow_nan=False) + "\n").encode())
    print(f"{measured.num_images:,} images in the feature space {measured.space}")
    for name, value in measured.values.items():
        if value is not None:
            print(f"  {METRICS[name].title}: {value:.6g}")
    if not measured.is_inception:
        print("This is not FID, which is measured by the 2015 Inception network.")
    print(f"numbers: {path}")


def silent(_: str) -> None:
    """No progress: another process shows it for all."""
