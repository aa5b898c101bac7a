"""`refine.py distill`: make a one-step generator of a diffusion teacher."""

from __future__ import annotations

from typing import Any

import click

from refine_commands.options import (
    RunCommand,
    carry_out,
    image_options,
    outdir_option,
    parted,
    recipe_options,
    report_options,
    run_options,
    settings_options,
    teacher_set_option,
)


@click.command(cls=RunCommand)
@click.option("--teacher", metavar="PKL|URL", required=True, help="The EDM pickle to distil.")
@teacher_set_option
@outdir_option
@recipe_options("distill")
@click.option(
    "--init-sigma",
    metavar="SIGMA",
    type=float,
    help="Where G(z) = D(SIGMA z; SIGMA) begins.  [default: the method's, docs/methods.md]",
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
    "--report-steps",
    metavar="INT",
    type=click.IntRange(min=1),
    default=18,
    show_default=True,
    help="Steps of the teacher's sampler that the report compares with.",
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
    help="best hands back the snapshot that the judge finds best on images held back. [default: "
    "best; last for progressive and guided]",
)
@report_options
@run_options
def distill(dry_run: bool, **options: Any) -> None:
    """Make a one-step generator of a diffusion teacher.

    Writes a run folder in --outdir with the student as a pickle in EDM's layout, pictures,
    statistics and a report: the teacher's sampler against one step.

    Several processes share the batches with torchrun --nproc_per_node=N -- refine.py distill ...
    """
    from refiners.runs.distil import DistilJob

    job, settings = parted(options)
    carry_out(DistilJob(**job, settings=settings), dry_run=dry_run)
