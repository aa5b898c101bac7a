"""What runs reach: one student refined by every method, or with every speed option, over seeds.

    python -m benchmarks.quality methods --outdir DIR [--seeds 3] [--methods a,b]
    python -m benchmarks.quality options --outdir DIR [--seeds 1] [--kimg 4.5] [--options a,b]

Each run is `refine.py gan` with its own defaults but for SHORT, or with a preset's settings; a
method takes those knobs that it has. It is in OUTDIR/ROW-seedN; one that is finished is taken as it
is, one that was stopped is continued. All runs compare with the same images of the teacher.
OUTDIR/table.md and table.json are written after every run, so a part of the table is there at any
time. The result of a run is its last student unless --keep says best, since a kept original would
hide what a method does. Seconds include what an option costs at the start, as compiling does.

`options` changes one option a row from BASE, judged on the same latents by the same reference, so
that no speed is bought unseen; "the least work" is how the demo's preset does it.
"""

from __future__ import annotations

import json
import statistics
from collections.abc import Collection, Mapping, Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import click
from scipy.special import stdtrit

import teachers
from benchmarks import machine
from refiners.runs.progress import stage_bar
from refiners.runs.recipes import GAN_PRESETS, method_class, methods_of
from refiners.runs.refine import RefineJob
from refiners.runs.teacher_images import make_teacher_images

DEMO = machine.DEMO
# What is too slow for a few thousand images in `gan`'s defaults: its decay, average and warm-up.
SHORT: dict[str, Any] = {
    "kimg": 5.0,
    "decay_kimg": 0.0,
    "ema": 0.7,
    "warmup_kimg": 2.5,
    "snap": 3,
    "knobs": ("moments=1.0",),
}
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


def one_run(job: RefineJob, options: Mapping[str, Any]) -> dict[str, Any]:
    """Do a run, or what is left of it, and return its numbers; of one that diverged, why."""
    assert job.outdir is not None
    assert isinstance(job.method, str)
    outdir = Path(job.outdir)
    if not any(outdir.glob("*/report.json")):
        known = {field.name for field in fields(method_class(job.method))}
        knobs = [text for text in options.get("knobs", ()) if text.partition("=")[0] in known]
        settings = {name: value for name, value in options.items() if name != "knobs"}
        lengths = {name: settings.pop(name) for name in ("kimg", "batch") if name in settings}
        try:
            replace(job, knobs=knobs, settings=settings, **lengths).run()
        except FloatingPointError as error:
            return {"diverged": str(error)}
    (report,) = outdir.glob("*/report.json")
    return result_of(report.parent)


def mean_and_interval(values: Sequence[float]) -> tuple[float, float]:
    """Return the mean over seeds and half its 95 % interval, NaN for a single seed."""
    n = len(values)
    if n < 2:
        return values[0], float("nan")
    reach = float(stdtrit(n - 1, 0.975)) * statistics.stdev(values) / n**0.5
    return statistics.mean(values), reach


def row(name: str, runs: Sequence[Mapping[str, Any]]) -> str:
    """Return a row: means over the seeds that ended, and how far they lie apart."""
    ended = [run for run in runs if "diverged" not in run]
    label = name if len(ended) == len(runs) else f"{name} ({len(runs) - len(ended)} diverged)"
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
    """Return the Markdown of all rows that have a run."""
    named = ", ".join(f"{name} {value}" for name, value in settings.items())
    return "\n".join(
        [
            f"| row | seeds | {' | '.join(TITLES)} |",
            "|" + "---|" * (2 + len(TITLES)),
            *(row(name, of_row) for name, of_row in runs.items()),
            "",
            "Means over seeds, before → after. The interval is that of the mean change over seeds; "
            "of a single seed, that of its paired comparison.",
            f"{named}. {machine.headline(machine.describe())}.",
            "",
        ]
    )


def write(outdir: Path, runs: Mapping[str, Any], settings: Mapping[str, Any]) -> None:
    """Write table.md and table.json."""
    (outdir / "table.md").write_text(table(runs, settings), encoding="utf-8")
    facts = {"settings": settings, "machine": machine.describe(), "runs": runs}
    (outdir / "table.json").write_text(json.dumps(facts, indent=2) + "\n", encoding="utf-8")


def chosen(text: str, allowed: Collection[str]) -> tuple[str, ...]:
    """Return the names of a comma-separated list; BadParameter names one that is not allowed."""
    names = tuple(text.split(","))
    for name in names:
        if name not in allowed:
            raise click.BadParameter(f"{name!r} is unknown; allowed: {', '.join(allowed)}")
    return names


def run_rows(
    rows: Mapping[str, tuple[str, Mapping[str, Any]]],
    job: RefineJob,
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
    assert job.outdir is not None
    outdir = Path(job.outdir)
    outdir.mkdir(parents=True, exist_ok=True)
    job = replace(job, data=str(shared_images(job, outdir)))
    settings = {**settings, "num": job.num, "keep": job.keep}
    runs: dict[str, list[dict[str, Any]]] = {}
    # Seed by seed: a part of the table compares all rows.
    for seed in range(seeds):
        for label, (method, options) in rows.items():
            place = outdir / f"{label.replace(' ', '-')}-seed{seed}"
            resume = "latest" if any(place.glob("*/training-state-*.pt")) else None
            of_row = replace(job, outdir=place, resume=resume, desc=label, method=method)
            runs.setdefault(label, []).append(one_run(of_row, {**options, "seed": seed}))
            write(outdir, runs, settings)
    click.echo(table(runs, settings))


def shared_images(job: RefineJob, outdir: Path) -> Path:
    """Let the teacher make the images that all runs compare with; finished ones are kept."""
    assert isinstance(job.teacher, str)
    assert job.teacher_images is not None
    return make_teacher_images(
        outdir / "teacher-images.zip",
        teachers.load(job.teacher),
        job.teacher_images,
        seed=0,
        steps=job.teacher_steps,
        progress=stage_bar("teacher's images"),
    )


OF_ALL = (
    click.option("--outdir", metavar="DIR", type=click.Path(path_type=Path), required=True),
    click.option("--kimg", metavar="KIMG", type=float, help="[default: the settings']"),
    click.option("--warmup-kimg", metavar="KIMG", type=float, help="[default: likewise]"),
    click.option("--batch", metavar="INT", type=click.IntRange(min=1), help="[default: likewise]"),
    machine.number_option("--num", 5000, least=100),
    machine.number_option("--teacher-images", 1000, least=100),
    click.option("--keep", type=click.Choice(["last", "best"]), default="last", show_default=True),
    click.option("--student", metavar="PKL|URL", default=str(DEMO / "student.pkl")),
    click.option("--teacher", metavar="PKL|URL", default=str(DEMO / "teacher.pkl")),
    click.option("--reference", metavar="NPZ|ZIP|DIR", default=str(DEMO / "features.npz")),
    click.option("--device", type=click.Choice(["auto", "cpu", "cuda"]), default="auto"),
    machine.threads_option,
)


def of_all(command: Any) -> Any:
    """Add the options of both tables."""
    for option in reversed(OF_ALL):
        command = option(command)
    return command


def given(
    base: Mapping[str, Any], *, kimg: float | None, warmup_kimg: float | None, batch: int | None
) -> dict[str, Any]:
    """Return settings with those values that were asked for."""
    asked = {"kimg": kimg, "warmup_kimg": warmup_kimg, "batch": batch}
    return {**base, **{name: value for name, value in asked.items() if value is not None}}


@click.group()
def main() -> None:
    """Refine a student by every method or with every speed option, and write a table."""


@main.command()
@click.option("--methods", metavar="LIST", default=",".join(methods_of("gan")), show_default=True)
@machine.number_option("--seeds", 3)
@click.option("--preset", type=click.Choice(tuple(GAN_PRESETS)), help="[default: SHORT]")
@machine.number_option("--teacher-steps", 7)
@of_all
def methods(
    methods: str,
    seeds: int,
    preset: str | None,
    kimg: float | None,
    warmup_kimg: float | None,
    batch: int | None,
    **job: Any,
) -> None:
    """Refine a student by every method of gan."""
    names = chosen(methods, methods_of("gan"))
    base = SHORT if preset is None else {**GAN_PRESETS[preset]}
    base = {name: value for name, value in base.items() if name != "method"}
    settings = given(base, kimg=kimg, warmup_kimg=warmup_kimg, batch=batch)
    run_rows({name: (name, settings) for name in names}, RefineJob(**job), settings, seeds)


@main.command()
@click.option("--options", metavar="LIST", default=",".join(ON_CPU), show_default=True)
@machine.number_option("--seeds", 1)
@machine.number_option("--teacher-steps", 5)
@of_all
def options(
    options: str,
    seeds: int,
    kimg: float | None,
    warmup_kimg: float | None,
    batch: int | None,
    **job: Any,
) -> None:
    """Refine a student with each speed option."""
    names = chosen(options, OPTIONS)
    settings = given(BASE, kimg=kimg, warmup_kimg=warmup_kimg, batch=batch)
    rows = {name: (GAN_PRESETS["demo"]["method"], {**settings, **OPTIONS[name]}) for name in names}
    run_rows(rows, RefineJob(**job), settings, seeds)


if __name__ == "__main__":
    main()
