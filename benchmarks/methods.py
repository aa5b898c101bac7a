"""Refine one student by every method of `gan`, over seeds, and write a table of what each did.

    python -m benchmarks.methods --outdir runs/methods [--seeds 3] [--methods a,b]

Each run is `refine.py gan` with its own defaults but for SHORT, or with a preset's settings; a
method takes those knobs that it has. It is in OUTDIR/METHOD-seedN; one that is finished is taken as
it is, one that was stopped is continued. All runs compare with the same images of the teacher.
OUTDIR/methods.md and methods.json are written after every run, so a part of the table is there at
any time. The result of a run is its last student unless --keep says best, since a kept original
would hide what a method does.
"""

from __future__ import annotations

import json
import statistics
from collections.abc import Collection, Mapping, Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import click
import torch
from refine_commands.journey import Job, run_job
from scipy.special import stdtrit

from benchmarks import machine
from refiners.runs.progress import stage_bar
from refiners.runs.recipes import GAN_PRESETS, method_class, methods_of
from refiners.runs.teacher_images import make_teacher_images

DEMO = Path(__file__).parent.parent / "refine_demo"
# What is too slow for a few thousand images in `gan`'s defaults: its decay, average and warm-up.
SHORT: dict[str, Any] = {
    "kimg": 5.0,
    "decay_kimg": 0.0,
    "ema": 0.7,
    "warmup_kimg": 2.5,
    "snap": 3,
    "knobs": ("moments=1.0",),
}
METRICS = ("frechet_distance", "inception_score", "precision", "recall")
TITLES = ("Fréchet distance", "change, 95 %", "Inception Score", "precision", "recall", "seconds")


def result_of(folder: Path) -> dict[str, Any]:
    """Return a finished run's numbers: {metric: {before, after, low, high}} and seconds."""
    facts = json.loads((folder / "report.json").read_text(encoding="utf-8"))
    last = (folder / "stats.jsonl").read_text(encoding="utf-8").splitlines()[-1]
    found = {
        d["metric"]: {name: d[name] for name in ("before", "after", "low", "high")}
        for d in facts["comparison"]["differences"]
        if d["metric"] in METRICS
    }
    seconds = json.loads(last)["Timing/total_sec"]["mean"]
    return {**found, "seconds": seconds, "space": facts["comparison"]["space"]["name"]}


def one_run(job: Job, method: str, options: Mapping[str, Any]) -> dict[str, Any]:
    """Do a run, or what is left of it, and return its numbers; of one that diverged, why."""
    for report in job.outdir.glob("*/report.json"):
        return result_of(report.parent)
    known = {field.name for field in fields(method_class(method))}
    knobs = [text for text in options.get("knobs", ()) if text.partition("=")[0] in known]
    of_run = {k: v for k, v in options.items() if k not in ("knobs", "method")}
    try:
        folder = run_job(job, method, knobs, of_run)
    except FloatingPointError as error:
        return {"diverged": str(error)}
    assert folder is not None
    return result_of(folder)


def mean_and_interval(values: Sequence[float]) -> tuple[float, float]:
    """Return the mean over seeds and half its 95 % interval, NaN for a single seed."""
    n = len(values)
    if n < 2:
        return values[0], float("nan")
    reach = float(stdtrit(n - 1, 0.975)) * statistics.stdev(values) / n**0.5
    return statistics.mean(values), reach


def row(method: str, runs: Sequence[Mapping[str, Any]]) -> str:
    """Return a method's row: means over the seeds that ended, and how far they lie apart."""
    ended = [run for run in runs if "diverged" not in run]
    label = method if len(ended) == len(runs) else f"{method} ({len(runs) - len(ended)} diverged)"
    if not ended:
        return f"| {label} |" + " |" * (1 + len(TITLES))
    distances = [run["frechet_distance"] for run in ended]
    before, after = (statistics.mean(d[side] for d in distances) for side in ("before", "after"))
    change, reach = mean_and_interval([d["after"] - d["before"] for d in distances])
    if len(ended) > 1:
        interval = f"{change - reach:+.1f} to {change + reach:+.1f}"
    else:
        interval = f"{distances[0]['low']:+.1f} to {distances[0]['high']:+.1f} (one seed)"
    cells = [label, str(len(ended)), f"{before:.1f} → {after:.1f}", interval]
    for metric, digits in (("inception_score", 2), ("precision", 3), ("recall", 3)):
        pairs = [run[metric] for run in ended if metric in run]
        means = [statistics.mean(p[side] for p in pairs) for side in ("before", "after") if pairs]
        cells.append(" → ".join(f"{mean:.{digits}f}" for mean in means))
    cells.append(f"{statistics.mean(run['seconds'] for run in ended):.0f}")
    return f"| {' | '.join(cells)} |"


def table(runs: Mapping[str, Sequence[Mapping[str, Any]]], settings: Mapping[str, Any]) -> str:
    """Return the Markdown of all methods that have a run."""
    named = ", ".join(f"{name} {value}" for name, value in settings.items())
    return "\n".join(
        [
            f"| method | seeds | {' | '.join(TITLES)} |",
            "|" + "---|" * (2 + len(TITLES)),
            *(row(method, of_method) for method, of_method in runs.items()),
            "",
            "Means over seeds, before → after. The interval is that of the mean change over seeds; "
            "of a single seed, that of its paired comparison.",
            f"{named}. {machine.headline(machine.describe())}.",
            "",
        ]
    )


def write(outdir: Path, runs: Mapping[str, Any], settings: Mapping[str, Any]) -> None:
    """Write methods.md and methods.json."""
    (outdir / "methods.md").write_text(table(runs, settings), encoding="utf-8")
    facts = {"settings": settings, "machine": machine.describe(), "runs": runs}
    machine.write_json(outdir / "methods.json", facts)


def chosen(text: str, allowed: Collection[str]) -> tuple[str, ...]:
    """Return the names of a comma-separated list; BadParameter names one that is not allowed."""
    names = tuple(text.split(","))
    for name in names:
        if name not in allowed:
            raise click.BadParameter(f"{name!r} is unknown; allowed: {', '.join(allowed)}")
    return names


@click.command()
@click.option("--outdir", metavar="DIR", type=click.Path(path_type=Path), required=True)
@click.option("--methods", metavar="LIST", default=",".join(methods_of("gan")), show_default=True)
@click.option("--seeds", metavar="INT", type=click.IntRange(min=1), default=3, show_default=True)
@click.option("--preset", type=click.Choice(tuple(GAN_PRESETS)), help="[default: SHORT]")
@click.option("--kimg", metavar="KIMG", type=float, help="[default: SHORT's or the preset's]")
@click.option("--warmup", metavar="KIMG", type=float, help="[default: likewise]")
@click.option("--batch", metavar="INT", type=click.IntRange(min=1), help="[default: likewise]")
@click.option("--num", metavar="INT", type=click.IntRange(min=100), default=5000, show_default=True)
@click.option("--teacher-images", type=click.IntRange(min=100), default=1000, show_default=True)
@click.option("--teacher-steps", type=click.IntRange(min=1), default=7, show_default=True)
@click.option("--keep", type=click.Choice(["last", "best"]), default="last", show_default=True)
@click.option("--student", metavar="PKL|URL", default=str(DEMO / "student.pkl"))
@click.option("--teacher", metavar="PKL|URL", default=str(DEMO / "teacher.pkl"))
@click.option("--reference", metavar="NPZ|ZIP|DIR", default=str(DEMO / "features.npz"))
@click.option("--device", type=click.Choice(["auto", "cpu", "cuda"]), default="auto")
@click.option("--threads", metavar="INT", type=click.IntRange(min=1), help="Default: torch's own.")
def main(
    outdir: Path,
    methods: str,
    seeds: int,
    preset: str | None,
    kimg: float | None,
    warmup: float | None,
    batch: int | None,
    num: int,
    teacher_images: int,
    teacher_steps: int,
    keep: str,
    student: str,
    teacher: str,
    reference: str,
    device: str,
    threads: int | None,
) -> None:
    """Refine a student by every method of gan, over seeds, and write a table of the results."""
    if threads is not None:
        torch.set_num_threads(threads)
    names = chosen(methods, methods_of("gan"))
    settings = {**(SHORT if preset is None else GAN_PRESETS[preset])}
    given = {"kimg": kimg, "warmup_kimg": warmup, "batch": batch}
    settings |= {name: value for name, value in given.items() if value is not None}
    job = Job(
        student=student,
        teacher=teacher,
        outdir=outdir,
        reference=reference,
        num=num,
        device=device,
        teacher_images=teacher_images,
        teacher_steps=teacher_steps,
        keep=keep,
    )
    run_rows({name: (name, settings) for name in names}, job, settings, seeds)


def run_rows(
    rows: Mapping[str, tuple[str, Mapping[str, Any]]],
    job: Job,
    settings: Mapping[str, Any],
    seeds: int,
) -> None:
    """Do the runs of each row, {label: (method, options)}, and write and show the table.

    Args:
        rows: what is compared.
        job: of every run; each gets a folder of its own in this one's.
        settings: what the runs share, for the table's last line.
        seeds: how many of each.
    """
    job.outdir.mkdir(parents=True, exist_ok=True)
    job = replace(job, data=str(shared_images(job)))
    settings = {**settings, "num": job.num, "keep": job.keep}
    runs: dict[str, list[dict[str, Any]]] = {}
    # Seed by seed: a part of the table compares all rows.
    for seed in range(seeds):
        for label, (method, options) in rows.items():
            place = job.outdir / f"{label.replace(' ', '-')}-seed{seed}"
            resume = "latest" if any(place.glob("*/training-state-*.pt")) else None
            of_row = replace(job, outdir=place, resume=resume, desc=label)
            runs.setdefault(label, []).append(one_run(of_row, method, {**options, "seed": seed}))
            write(job.outdir, runs, settings)
    click.echo(table(runs, settings))


def shared_images(job: Job) -> Path:
    """Let the teacher make the images that all runs compare with; finished ones are kept."""
    import teachers

    assert job.teacher_images is not None
    return make_teacher_images(
        job.outdir / "teacher-images.zip",
        teachers.load(job.teacher),
        job.teacher_images,
        seed=0,
        steps=job.teacher_steps,
        progress=stage_bar("teacher's images"),
    )


if __name__ == "__main__":
    main()
