"""`refine.py distill`: make a one-step generator of a diffusion teacher."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click

from commands.distill_job import DistillJob
from commands.distillation import run_distillation
from commands.options import (
    image_options,
    outdir_option,
    recipe_options,
    report_options,
    run_options,
    settings_options,
)
from commands.recipes import DISTILL_METHODS, DISTILL_PRESETS


@click.command()
@click.option("--teacher", metavar="PKL|URL", required=True, help="The EDM pickle to distil.")
@outdir_option
@recipe_options(DISTILL_METHODS, DISTILL_PRESETS)
@click.option(
    "--init-sigma",
    metavar="SIGMA",
    type=float,
    help="Where G(z) = D(SIGMA z; SIGMA) begins. [default: as published, 1 for diff-instruct, 2.5 "
    "for sid, 80 for dmd]",
)
@click.option(
    "--labels",
    type=click.Choice(["uniform", "data"]),
    default="uniform",
    show_default=True,
    help="How often each class is drawn; data: as often as in --data.",
)
@settings_options("train")
@image_options(
    num_images=5000,
    steps=18,
    use="Real images, for methods that train on them or compare with them; otherwise the teacher "
    "makes its own.",
)
@click.option(
    "--pairs",
    metavar="INT",
    type=click.IntRange(min=1),
    help="How many pairs of a latent and the teacher's image dmd regresses on. [default: 10000]",
)
@click.option(
    "--distance",
    metavar="NAME",
    help="By which dmd's pairs are compared: pseudo-huber, efficientnet-lite0, or "
    "lpips=VGG16.pth,LINEAR.pth. [default: pseudo-huber]",
)
@click.option(
    "--keep",
    type=click.Choice(["best", "last"]),
    help="best keeps the snapshot nearest to those images in the teacher's features. [default: "
    "best; last for progressive and guided]",
)
@report_options
@run_options
def distill(
    teacher: str,
    outdir: Path,
    method: str,
    knobs: Sequence[str],
    init_sigma: float | None,
    labels: str,
    data: str | None,
    teacher_images: int,
    teacher_steps: int,
    pairs: int | None,
    distance: str | None,
    keep: str | None,
    reference: str | None,
    features: str | None,
    num: int,
    metrics: str,
    device: str,
    resume: str | None,
    transfer: str | None,
    wandb: str | None,
    desc: str,
    dry_run: bool,
    **options: Any,
) -> None:
    """Make a one-step generator of a diffusion teacher.

    Writes a run folder in --outdir with the student as a pickle in EDM's layout, pictures,
    statistics and a report: the teacher's sampler against one step.

    Several processes share the batches with torchrun --nproc_per_node=N -- refine.py distill ...
    """
    job = DistillJob(
        teacher=teacher,
        outdir=outdir,
        init_sigma=init_sigma,
        labels=labels,
        data=data,
        teacher_images=teacher_images,
        teacher_steps=teacher_steps,
        pairs=pairs,
        distance=distance,
        keep=keep,
        reference=None if metrics == "none" else reference,
        features=features,
        num=num,
        device=device,
        resume=resume,
        transfer=transfer,
        wandb=wandb,
        desc=desc,
        dry_run=dry_run,
    )
    given = {name: value for name, value in options.items() if value is not None}
    run_distillation(job, method, knobs, given)
