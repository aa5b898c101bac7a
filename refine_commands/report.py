"""`refine.py report`: measure two generators on the same latents."""

from __future__ import annotations

import time
from pathlib import Path

import click

from refine_commands.options import device_option, measuring_options, seed_option


@click.command()
@click.option("--before", metavar="PKL|URL", required=True, help="The original generator.")
@click.option("--after", metavar="PKL|URL", required=True, help="The refined generator.")
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
    after: str,
    reference: str,
    features: str | None,
    names: str | None,
    outdir: Path,
    num: int,
    seed: int,
    device: str,
) -> None:
    """Measure two generators on the same latents and write report.json, .md and .html.

    Under torchrun its processes share the images.
    """
    import metrics
    import students
    from checkpoints.web.cache import default_folder
    from refiners.runs.pictures import sample_grid
    from refiners.runs.progress import stage_bar
    from refiners.runs.provenance import provenance, sha256
    from refiners.runs.reporting import show_report
    from roles.device import pick_device
    from roles.processes import device_of_rank, join

    started = time.time()
    chosen = names and metrics.choose_metrics([name.strip() for name in names.split(",")])
    device = device_of_rank(pick_device(device))
    pair = {
        name: students.load(path, device=device)
        for name, path in (("before", before), ("after", after))
    }
    space = metrics.choose_features(features, device=device) if features else None
    processes = join(device)
    bar = stage_bar if processes.is_first else silent
    real = metrics.open_reference(
        reference,
        space,
        cache=default_folder() / "statistics",
        progress=bar("reference"),
        processes=processes,
    )
    outdir.mkdir(parents=True, exist_ok=True)
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

    def write() -> None:
        hashes = {"before_sha256": sha256(before), "after_sha256": sha256(after)}
        facts = {
            "title": f"{Path(before).name} and {Path(after).name}",
            "comparison": comparison.facts(),
            "settings": settings,
            "provenance": provenance(started) | hashes,
        }
        grids = {name: sample_grid(student, seed) for name, student in pair.items()}
        gallery = metrics.draw_gallery(pair["before"], pair["after"], comparison)
        show_report(outdir, facts, grids | gallery)

    processes.first_alone(write, "writing the report")
    processes.leave()


def silent(_: str) -> None:
    """No progress: another process shows it for all."""
