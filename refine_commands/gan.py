"""`refine.py gan`: refine a StyleGAN pickle with a diffusion teacher."""

from __future__ import annotations

from typing import Any

import click

from refine_commands.options import (
    RunCommand,
    carry_out,
    image_options,
    outdir_option,
    pairing_options,
    parted,
    recipe_options,
    report_options,
    run_options,
    settings_options,
    taught_teacher,
    teach_option,
    teacher_set_option,
)


@click.command(cls=RunCommand)
@click.option("--student", metavar="PKL|URL", required=True, help="The StyleGAN pickle to refine.")
@click.option(
    "--teacher",
    metavar="PKL|URL|NAME|ID",
    required=True,
    help="The diffusion model to follow; refine.py teachers names some.",
)
@teacher_set_option
@teach_option
@outdir_option
@recipe_options("gan")
@settings_options()
@image_options(
    num_images=None,
    steps=6,
    use="Real images for methods that compare with them; otherwise the teacher makes its own.",
)
@pairing_options
@click.option(
    "--keep",
    type=click.Choice(["best", "last"]),
    default="best",
    show_default=True,
    help="best hands back the snapshot that the judge finds best on images held back from the "
    "method, or the original.",
)
@click.option(
    "--force",
    is_flag=True,
    help="Refine even where real images (--data, or a --reference with features of single ones) "
    "say that the teacher's own samples are no better than the student's.",
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
def gan(dry_run: bool, **options: Any) -> None:
    """Refine a StyleGAN pickle with a diffusion teacher.

    Writes a run folder in --outdir with the refined pickle, pictures, statistics and a report of
    before and after.

    Several processes share the batches with torchrun --nproc_per_node=N -- refine.py gan ...
    """
    from refiners.runs.refine import RefineJob

    hours = options.pop("teach")
    if hours is not None:
        options["teacher"] = taught_teacher(options, hours, dry_run=dry_run)
    job, settings = parted(options)
    carry_out(RefineJob(**job, settings=settings), dry_run=dry_run)
