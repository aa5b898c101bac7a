"""`refine.py demo`: the embedded example."""

from __future__ import annotations

from pathlib import Path

import click

from refine_commands.options import seed_option
from refiners.runs.recipes import GAN_PRESETS

DEMO = Path(__file__).resolve().parent.parent / "refine_demo"


@click.command()
@click.option(
    "--outdir",
    metavar="DIR",
    type=click.Path(path_type=Path),
    default=Path("demo-runs"),
    show_default=True,
)
@seed_option
def demo(outdir: Path, seed: int) -> None:
    """Refine the embedded MNIST generator: the whole journey, offline, on a CPU."""
    from refiners.runs.refine import RefineJob

    settings = {**GAN_PRESETS["demo"], "seed": seed}
    method, knobs = settings.pop("method"), settings.pop("knobs")
    job = RefineJob(
        student=str(DEMO / "student.pkl"),
        teacher=str(DEMO / "teacher.pkl"),
        outdir=outdir,
        reference=str(DEMO / "features.npz"),
        device="cpu",
        desc="demo",
        teacher_images=1000,
        teacher_steps=5,
        method=method,
        knobs=knobs,
        settings=settings,
    )
    job.run()
