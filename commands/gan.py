"""`refine.py gan`: refine a StyleGAN pickle with a diffusion teacher."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click

from commands.journey import Job, run_job
from commands.recipes import METHODS, PRESETS, apply_preset


def setting(flag: str, name: str, kind: Any, metavar: str, help_text: str):
    """Return an option that sets a field of refiners.Settings, where the defaults are."""
    return click.option(flag, name, type=kind, metavar=metavar, default=None, help=help_text)


@click.command()
@click.option("--student", metavar="PKL|URL", required=True, help="The StyleGAN pickle to refine.")
@click.option("--teacher", metavar="PKL|URL", required=True, help="The EDM pickle to follow.")
@click.option(
    "--outdir",
    metavar="DIR",
    type=click.Path(path_type=Path),
    required=True,
    help="Where run folders go.",
)
@click.option(
    "--method",
    type=click.Choice(METHODS),
    default=METHODS[0],
    show_default=True,
    help="The refinement method.",
)
@click.option(
    "--set",
    "knobs",
    metavar="KEY=VALUE",
    multiple=True,
    help="A knob of the method, as student_sigma=lognormal:-1.2,1.2.",
)
@click.option(
    "--preset",
    type=click.Choice(tuple(PRESETS)),
    callback=apply_preset,
    is_eager=True,
    expose_value=False,
    help="A row of settings; flags beat it.",
)
@setting("--kimg", "kimg", float, "KIMG", "Length of the run.")
@setting("--batch", "batch", int, "INT", "Images per step.")
@setting(
    "--glr", "glr", float, "FLOAT", "Learning rate of the student; lower it if the curve rises."
)
@setting("--lr", "lr", float, "FLOAT", "Learning rate of the auxiliary network.")
@setting("--rampup", "rampup_kimg", float, "KIMG", "Over which the student's rate rises.")
@setting(
    "--ema", "ema_kimg", float, "KIMG", "Half-life of the student's average, which is the result."
)
@setting(
    "--warmup",
    "warmup_kimg",
    float,
    "KIMG",
    "Images on which the auxiliary first learns the student.",
)
@setting("--aux-steps", "auxiliary_steps", int, "INT", "Auxiliary updates per student update.")
@setting("--aux-ema", "auxiliary_ema", float, "UPDATES", "Half-life of the auxiliary's average.")
@setting("--train", "train", str, "PART", "What moves: all, synthesis or mapping.")
@setting("--seed", "seed", int, "INT", "Of every random draw.")
@setting("--tick", "tick", float, "KIMG", "Between log lines.")
@setting("--snap", "snap", int, "TICKS", "Between snapshots.")
@click.option(
    "--reference",
    metavar="NPZ|ZIP|DIR",
    help="What to measure against: statistics with their features.",
)
@click.option(
    "--data",
    metavar="ZIP|DIR",
    help="Real images for methods that compare with them; otherwise the teacher makes its own.",
)
@click.option(
    "--teacher-images",
    metavar="INT",
    type=click.IntRange(min=100),
    default=2000,
    show_default=True,
    help="How many samples of the teacher stand for real images.",
)
@click.option(
    "--teacher-steps",
    metavar="INT",
    type=click.IntRange(min=1),
    default=10,
    show_default=True,
    help="Steps of the sampler that makes them.",
)
@click.option(
    "--keep",
    type=click.Choice(["best", "last"]),
    default="best",
    show_default=True,
    help="best keeps the snapshot nearest to those images in the teacher's features, "
    "the original included.",
)
@click.option(
    "--num",
    metavar="INT",
    type=click.IntRange(min=100),
    default=5000,
    show_default=True,
    help="Images behind the report's numbers.",
)
@click.option(
    "--metrics",
    type=click.Choice(["auto", "none"]),
    default="auto",
    show_default=True,
    help="auto measures where there is a reference.",
)
@click.option(
    "--network",
    type=click.Choice(["G_ema", "G"]),
    default="G_ema",
    show_default=True,
    help="Which network of the pickle.",
)
@click.option(
    "--device", type=click.Choice(["auto", "cpu", "cuda"]), default="auto", show_default=True
)
@click.option(
    "--resume", type=click.Choice(["latest"]), help="Continue the newest run in --outdir."
)
@click.option("--desc", metavar="TEXT", default="", help="Name of the run folder after its number.")
@click.option("-n", "--dry-run", is_flag=True, help="Check the input, print the options, stop.")
def gan(
    student: str,
    teacher: str,
    outdir: Path,
    method: str,
    knobs: Sequence[str],
    reference: str | None,
    data: str | None,
    teacher_images: int,
    teacher_steps: int,
    keep: str,
    num: int,
    metrics: str,
    network: str,
    device: str,
    resume: str | None,
    desc: str,
    dry_run: bool,
    **options: Any,
) -> None:
    """Refine a StyleGAN pickle with a diffusion teacher.

    Writes a run folder in --outdir with the refined pickle, pictures, statistics and a report of
    before and after.
    """
    job = Job(
        student=student,
        teacher=teacher,
        outdir=outdir,
        reference=None if metrics == "none" else reference,
        num=num,
        network=network,
        device=device,
        resume=resume is not None,
        desc=desc,
        dry_run=dry_run,
        data=data,
        teacher_images=teacher_images,
        teacher_steps=teacher_steps,
        keep=keep,
    )
    given = {name: value for name, value in options.items() if value is not None}
    run_job(job, method, knobs, given)
