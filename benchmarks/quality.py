"""What each speed option costs in quality: the distance after the same number of images.

    python -m benchmarks.quality --outdir DIR [--seeds 1] [--kimg 4.5] [--options a,b]

Each row refines the demo's student with `gan`'s defaults (but for BASE), one option changed, judged
on the same latents by the same reference; "the least work" is how the demo's preset does it. A
finished run is taken as it is, one that was stopped is continued. Seconds include what the option
costs at the start, as compiling does.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click
import torch
from refine_commands.journey import Job

from benchmarks.methods import DEMO, SHORT, chosen, run_rows
from refiners.runs.recipes import USUAL_METHOD

BASE: dict[str, Any] = {**SHORT, "kimg": 4.5, "warmup_kimg": 2.0}
# What lets one pass serve both: one law, and the auxiliary itself followed, not its average. Row
# "one law" is that alone, to tell its effect from the pass's.
ONE_LAW: dict[str, Any] = {
    "auxiliary_ema": 0.0,
    "knobs": (*SHORT["knobs"], "auxiliary_sigma=lognormal:0.3,1.0"),
}
# Precision and compiling change rounding alone; the others are another, cheaper run.
OPTIONS: dict[str, dict[str, Any]] = {
    "fp32": {},
    "tf32": {"precision": "tf32"},
    "bf16": {"precision": "bf16"},
    "compile": {"compile": True},
    "one auxiliary step": {"auxiliary_steps": 1},
    "one law": ONE_LAW,
    "shared pass": {**ONE_LAW, "share_pass": True},
    "half the warm-up": {"warmup_kimg": 1.0},
    "batch 64": {"batch": 64},
    "the least work": {
        **ONE_LAW,
        "share_pass": True,
        "auxiliary_steps": 1,
        "warmup_kimg": 1.0,
    },
}
ON_CPU = tuple(name for name in OPTIONS if name != "tf32")


@click.command()
@click.option("--outdir", metavar="DIR", type=click.Path(path_type=Path), required=True)
@click.option("--options", metavar="LIST", default=",".join(ON_CPU), show_default=True)
@click.option("--seeds", metavar="INT", type=click.IntRange(min=1), default=1, show_default=True)
@click.option("--kimg", metavar="KIMG", type=float, help="[default: BASE's]")
@click.option("--num", metavar="INT", type=click.IntRange(min=100), default=5000, show_default=True)
@click.option("--device", type=click.Choice(["auto", "cpu", "cuda"]), default="auto")
@click.option("--threads", metavar="INT", type=click.IntRange(min=1), help="Default: torch's own.")
def main(
    outdir: Path,
    options: str,
    seeds: int,
    kimg: float | None,
    num: int,
    device: str,
    threads: int | None,
) -> None:
    """Refine the demo's student with each speed option and write a table of the results."""
    if threads is not None:
        torch.set_num_threads(threads)
    names = chosen(options, OPTIONS)
    settings = {**BASE}
    if kimg is not None:
        settings["kimg"] = kimg
    job = Job(
        student=str(DEMO / "student.pkl"),
        teacher=str(DEMO / "teacher.pkl"),
        outdir=outdir,
        reference=str(DEMO / "features.npz"),
        num=num,
        device=device,
        teacher_images=1000,
        teacher_steps=5,
        keep="last",
    )
    rows = {name: (USUAL_METHOD["gan"], {**settings, **OPTIONS[name]}) for name in names}
    run_rows(rows, job, settings, seeds)


if __name__ == "__main__":
    main()
