"""`refine.py gan`: refine a StyleGAN pickle with a diffusion teacher."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click

from commands.journey import Job, run_job
from commands.options import (
    image_options,
    outdir_option,
    recipe_options,
    report_options,
    run_options,
    settings_options,
)
from commands.pairing import pairing_options
from commands.recipes import METHODS, PRESETS


@click.command()
@click.option("--student", metavar="PKL|URL", required=True, help="The StyleGAN pickle to refine.")
@click.option("--teacher", metavar="PKL|URL", required=True, help="The EDM pickle to follow.")
@outdir_option
@recipe_options(METHODS, PRESETS)
@settings_options("ema_rampup_ratio")
@image_options(
    num_images=2000,
    steps=10,
    use="Real images for methods that compare with them; otherwise the teacher makes its own.",
)
@pairing_options
@click.option(
    "--keep",
    type=click.Choice(["best", "last"]),
    default="best",
    show_default=True,
    help="best keeps the snapshot nearest to those images in the teacher's features, "
    "the original included.",
)
@report_options
@click.option(
    "--network",
    type=click.Choice(["G_ema", "G"]),
    default="G_ema",
    show_default=True,
    help="Which network of the pickle.",
)
@run_options
def gan(
    student: str,
    teacher: str,
    outdir: Path,
    method: str,
    knobs: Sequence[str],
    adapt: str | None,
    class_map: str | None,
    guidance: float,
    guide: str | None,
    guidance_interval: str,
    reference: str | None,
    features: str | None,
    data: str | None,
    teacher_images: int,
    teacher_steps: int,
    keep: str,
    num: int,
    metrics: str,
    network: str,
    device: str,
    resume: str | None,
    transfer: str | None,
    wandb: str | None,
    desc: str,
    dry_run: bool,
    **options: Any,
) -> None:
    """Refine a StyleGAN pickle with a diffusion teacher.

    Writes a run folder in --outdir with the refined pickle, pictures, statistics and a report of
    before and after.

    Several processes share the batches with torchrun --nproc_per_node=N -- refine.py gan ...
    """
    job = Job(
        student=student,
        teacher=teacher,
        outdir=outdir,
        reference=None if metrics == "none" else reference,
        num=num,
        network=network,
        device=device,
        resume=resume,
        transfer=transfer,
        wandb=wandb,
        desc=desc,
        dry_run=dry_run,
        features=features,
        data=data,
        teacher_images=teacher_images,
        teacher_steps=teacher_steps,
        keep=keep,
        adapt=adapt,
        class_map=class_map,
        guidance=guidance,
        guide=guide,
        guidance_interval=guidance_interval,
    )
    given = {name: value for name, value in options.items() if value is not None}
    run_job(job, method, knobs, given)
