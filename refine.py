#!/usr/bin/env python3
"""Make a pretrained StyleGAN generator better: the command line. It parses, wires and calls."""

from __future__ import annotations

import json
import platform
import re
import shlex
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import click

# Heavy packages are imported inside the commands, so that --help answers at once.

DEMO = Path(__file__).parent / "demo"
METHODS = ("diff-instruct",)

# What `gan` sets where no flag and no preset says otherwise: the method's own defaults are the
# published ones, made for long runs on large networks; these were measured to help a GAN in a short
# one (docs/experiments.md).
GAN_KNOBS: dict[str, dict[str, Any]] = {
    "diff-instruct": {
        "student_sigma": "lognormal:0.3,1.0",
        "auxiliary_sigma": "lognormal:0.0,1.4",
    },
}
PRESETS: dict[str, dict[str, Any]] = {
    # The embedded example; what it reaches is in README.
    "demo": {"kimg": 6.0, "warmup_kimg": 3.0, "snap": 2},
    # The official one-step distillation's settings; not measured here on a GAN.
    "published": {
        "kimg": 1000.0,
        "batch": 128,
        "lr": 1e-5,
        "glr": 1e-5,
        "ema_kimg": 500.0,
        "rampup_kimg": 0.0,
        "auxiliary_steps": 1,
        "auxiliary_ema": 0.0,
        "knobs": (
            "student_sigma=lognormal:-1.2,1.2",
            "auxiliary_sigma=lognormal:-1.2,1.2",
            "hold_contrast=0",
        ),
    },
}


class OneLineErrors(click.Group):
    """Bad input ends with one line and exit code 2; nothing else is caught."""

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command."""
        try:
            return super().invoke(ctx)
        except (ValueError, OSError) as error:
            print(f"Error: {' '.join(str(error).split())}", file=sys.stderr)
            ctx.exit(2)


@click.group(cls=OneLineErrors, context_settings={"max_content_width": 110})
def main() -> None:
    """Make a pretrained StyleGAN generator better by following a diffusion model."""


def apply_preset(ctx: click.Context, param: click.Parameter, value: str | None) -> str | None:
    """Let a preset's row stand in for the defaults; a flag beats it, in any order."""
    if value is not None:
        ctx.default_map = {**(ctx.default_map or {}), **PRESETS[value]}
    return value


def parse_seeds(text: str) -> list[int]:
    """Turn "0-3,7" into [0, 1, 2, 3, 7]."""
    seeds: list[int] = []
    for part in text.split(","):
        match = re.fullmatch(r"\s*(\d{1,18})\s*(?:-\s*(\d{1,18})\s*)?", part)
        if match is None:
            raise ValueError(f"--seeds is {text!r}; allowed are numbers and ranges, as in 0-63,100")
        first, last = int(match[1]), int(match[2] or match[1])
        if last < first or last - first >= 1_000_000:
            raise ValueError(
                f"--seeds has the range {part!r}; it must rise, by less than a million"
            )
        seeds.extend(range(first, last + 1))
    return seeds


def pick_device(name: str) -> str:
    """Return the device to use; auto takes CUDA where there is one."""
    import torch

    if name == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    if name == "cuda" and not torch.cuda.is_available():
        raise ValueError("--device is cuda, but torch sees no CUDA device here; use --device cpu")
    return name


def method_with(name: str, assignments: Sequence[str]) -> Any:
    """Return a method's dataclass with its knobs set from KEY=VALUE texts."""
    from refiners import REFINERS

    known = {field.name: field for field in fields(REFINERS[name])}
    values = dict(GAN_KNOBS[name])
    for text in assignments:
        key, equals, value = text.partition("=")
        if not equals or key not in known:
            raise ValueError(f"--set is {text!r}; {name} has the knobs {', '.join(known)}")
        kind = type(known[key].default)
        try:
            values[key] = kind(value)
        except ValueError:
            raise ValueError(f"--set {key} is {value!r}; it must be a {kind.__name__}") from None
    return REFINERS[name](**values)


def stage_bar(description: str):
    """Return a callback (done, total) that shows a stage's progress on a terminal."""
    from tqdm import tqdm

    bar = tqdm(unit="img", dynamic_ncols=True, disable=None, file=sys.stderr, leave=False)
    bar.set_description(description)

    def update(done: int, total: int) -> None:
        bar.total = total
        bar.update(done - bar.n)
        if done >= total:
            bar.close()

    return update


def provenance(started: float) -> dict[str, Any]:
    """Return what a number depends on beside the options: command, versions, machine, time."""
    import numpy
    import torch

    return {
        "command": shlex.join(["refine.py", *sys.argv[1:]]),
        "date": time.strftime("%Y-%m-%d %H:%M:%S"),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "numpy": numpy.__version__,
        "threads": torch.get_num_threads(),
        "machine": platform.machine(),
        "seconds": round(time.time() - started, 1),
    }


def sha256(path: str | Path) -> str:
    """Return the hash of a local file, or of a cached download."""
    import hashlib

    import checkpoints

    local = checkpoints.fetch(str(path)) if "://" in str(path) else path
    with open(local, "rb") as file:
        return (
            hashlib.file_digest(file, "sha256").hexdigest()
            if sys.version_info >= (3, 11)
            else (hashlib.sha256(file.read()).hexdigest())
        )


@dataclass(frozen=True)
class Job:
    """What `gan` was asked to do."""

    student: str
    teacher: str
    outdir: Path
    reference: str | None
    num: int
    network: str
    device: str
    resume: bool
    desc: str
    dry_run: bool


def run_job(
    job: Job, method_name: str, knobs: Sequence[str], options: dict[str, Any]
) -> Path | None:
    """Refine a generator in a new run folder and write its report; return the folder."""
    import metrics
    import students
    import teachers
    from refiners import RunFolder, Settings, check_pair, refine
    from refiners.session import save_grid

    started = time.time()
    settings, method = Settings(**options), method_with(method_name, knobs)
    device = pick_device(job.device)
    student = students.load(job.student, network=job.network, device=device)
    teacher = teachers.load(job.teacher, device=device)
    check_pair(student, teacher)
    reference = metrics.open_reference(job.reference) if job.reference else None
    resolved = {
        "student": job.student,
        "teacher": job.teacher,
        "network": job.network,
        "method": method_name,
        **asdict(method),
        **asdict(settings),
        "reference": job.reference,
        "num": job.num,
        "device": device,
    }
    if job.dry_run:
        print(json.dumps(resolved, indent=2))
        return None
    desc = (
        job.desc
        or f"{Path(job.student).stem}-{method_name}-kimg{settings.kimg:g}-batch{settings.batch}"
    )
    if job.resume:
        folder = RunFolder.latest(job.outdir)
    else:
        folder = RunFolder.create(job.outdir, re.sub(r"[^A-Za-z0-9._-]+", "_", desc))
        folder.write_json("training_options.json", resolved)
    folder.log(f"{'continuing' if job.resume else 'writing'} {folder.path}")
    before = save_grid(folder.path / "fakes_init.png", student, settings.seed)
    curve: list[dict[str, Any]] = []

    def measure(network: Any, num_images: int) -> dict[str, float]:
        assert reference is not None
        found = metrics.measure(
            network,
            reference,
            num_images=min(job.num, CURVE_IMAGES),
            seed=settings.seed,
            progress=stage_bar("measure"),
        )
        line = {"kimg": num_images / 1000, **found.facts()}
        folder.append("metric-frechet_distance.jsonl", line)
        return {"frechet_distance": found.frechet_distance}

    refined = refine(
        student,
        teacher,
        method=method,
        kimg=settings.kimg,
        batch=settings.batch,
        settings=settings,
        folder=folder,
        save=lambda network, path: students.save(
            network, path, like=job.student, network=job.network
        ),
        measure=measure if reference else None,
        resume=job.resume,
    )
    comparison = None
    if reference is not None:
        comparison = metrics.compare(
            student,
            refined,
            reference,
            num_images=job.num,
            seed=settings.seed,
            progress=stage_bar("compare"),
        )
        curve = read_lines(folder.path / "metric-frechet_distance.jsonl")
    after = save_grid(folder.path / "fakes_final.png", refined, settings.seed)
    facts = {
        "title": f"{Path(job.student).name} refined by {method_name}",
        "comparison": comparison and comparison.facts(),
        "curve": curve,
        "health": last_health(folder.path / "stats.jsonl"),
        "settings": resolved,
        "provenance": provenance(started)
        | {"student_sha256": sha256(job.student), "teacher_sha256": sha256(job.teacher)},
    }
    show_report(folder.path, facts, {"before": before, "after": after})
    return folder.path


CURVE_IMAGES = 1000  # images behind each point of the curve; the report's own numbers use --num


def show_report(folder: Path, facts: dict[str, Any], grids: dict[str, Any]) -> None:
    """Write report.json, .md and .html, and print the headline and where they are."""
    from metrics import report

    report.write_report(folder, facts, grids=grids)
    print(report.headline(facts))
    print(f"report: {folder / 'report.html'}")


def read_lines(path: Path) -> list[dict[str, Any]]:
    """Return the objects of a .jsonl file, the last of each kimg, in order."""
    lines = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    return [line for _, line in sorted({line["kimg"]: line for line in lines}.items())]


def last_health(path: Path) -> list[dict[str, float]]:
    """Return the last tick's error shares by noise level from stats.jsonl."""
    prefix = "Health/error_share_"
    last = json.loads(path.read_text(encoding="utf-8").splitlines()[-1])
    shares = {
        float(k.removeprefix(prefix)): v["mean"] for k, v in last.items() if k.startswith(prefix)
    }
    return [{"sigma": sigma, "share": share} for sigma, share in sorted(shares.items())]


def setting(flag: str, name: str, kind: Any, metavar: str, help_text: str):
    """Return an option that sets a field of refiners.Settings, where the defaults are."""
    return click.option(flag, name, type=kind, metavar=metavar, default=None, help=help_text)


@main.command()
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
    default="diff-instruct",
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
    )
    given = {name: value for name, value in options.items() if value is not None}
    run_job(job, method, knobs, given)


@main.command()
@click.option("--before", metavar="PKL|URL", required=True, help="The original generator.")
@click.option("--after", metavar="PKL|URL", required=True, help="The refined generator.")
@click.option(
    "--reference",
    metavar="NPZ|ZIP|DIR",
    required=True,
    help="Statistics with their features, or images.",
)
@click.option(
    "--features", metavar="NPZ", help="The feature space, where the reference brings none."
)
@click.option("--outdir", metavar="DIR", type=click.Path(path_type=Path), required=True)
@click.option(
    "--num",
    metavar="INT",
    type=click.IntRange(min=100),
    default=50000,
    show_default=True,
    help="Images on each side.",
)
@click.option("--seed", metavar="INT", type=click.IntRange(min=0), default=0, show_default=True)
@click.option(
    "--device", type=click.Choice(["auto", "cpu", "cuda"]), default="auto", show_default=True
)
def report(
    before: str,
    after: str,
    reference: str,
    features: str | None,
    outdir: Path,
    num: int,
    seed: int,
    device: str,
) -> None:
    """Measure two generators on the same latents and write report.json, .md and .html."""
    import metrics
    import students
    from refiners.session import sample_grid

    started = time.time()
    device = pick_device(device)
    pair = {
        name: students.load(path, device=device)
        for name, path in (("before", before), ("after", after))
    }
    space = metrics.load_features(features) if features else None
    real = metrics.open_reference(reference, space)
    outdir.mkdir(parents=True, exist_ok=True)
    comparison = metrics.compare(
        pair["before"],
        pair["after"],
        real,
        num_images=num,
        seed=seed,
        progress=stage_bar("compare"),
    )
    facts = {
        "title": f"{Path(before).name} and {Path(after).name}",
        "comparison": comparison.facts(),
        "settings": {
            "before": before,
            "after": after,
            "reference": reference,
            "num": num,
            "seed": seed,
        },
        "provenance": provenance(started)
        | {"before_sha256": sha256(before), "after_sha256": sha256(after)},
    }
    show_report(outdir, facts, {name: sample_grid(student, seed) for name, student in pair.items()})


@main.command()
@click.option("--network", metavar="PKL|URL", required=True, help="The StyleGAN pickle.")
@click.option(
    "--seeds",
    metavar="RANGE",
    default="0-63",
    show_default=True,
    help="One image a seed, as 0-63,100.",
)
@click.option("--outdir", metavar="DIR", type=click.Path(path_type=Path), required=True)
@click.option(
    "--trunc",
    metavar="PSI",
    type=float,
    default=1.0,
    show_default=True,
    help="Truncation; 1 is none.",
)
@click.option(
    "--class",
    "label",
    metavar="INT",
    type=click.IntRange(min=0),
    help="Class of a conditional generator.",
)
@click.option(
    "--noise-mode",
    type=click.Choice(["const", "random", "none"]),
    default="const",
    show_default=True,
)
@click.option("--grid", is_flag=True, help="Also write grid.png with all images.")
@click.option(
    "--device", type=click.Choice(["auto", "cpu", "cuda"]), default="auto", show_default=True
)
def generate(
    network: str,
    seeds: str,
    outdir: Path,
    trunc: float,
    label: int | None,
    noise_mode: str,
    grid: bool,
    device: str,
) -> None:
    """Write seedNNNN.png for each seed; an image depends on its seed alone."""
    import numpy as np

    import datasets
    import students

    chosen = parse_seeds(seeds)
    student = students.load(network, device=pick_device(device))
    images = students.generate(
        student, chosen, truncation_psi=trunc, label=label, noise_mode=noise_mode
    )
    outdir.mkdir(parents=True, exist_ok=True)
    kept = []
    for seed, image in zip(chosen, images, strict=True):
        datasets.save_png(outdir / f"seed{seed:04d}.png", datasets.image_grid(image[None], 1))
        if grid:
            kept.append(image)
    if grid:
        columns = max(1, round(len(kept) ** 0.5))
        datasets.save_png(outdir / "grid.png", datasets.image_grid(np.stack(kept), columns))
    print(f"{len(chosen)} images in {outdir}")


@main.command()
@click.argument("source", metavar="PKL|URL")
@click.option("--json", "as_json", is_flag=True, help="Machine-readable output.")
def inspect(source: str, as_json: bool) -> None:
    """Show what a network file holds, without running anything in it."""
    import checkpoints

    data = checkpoints.read(source)
    networks = (
        {k: v for k, v in data.items() if isinstance(v, checkpoints.Record)}
        if isinstance(data, dict)
        else {}
    )
    if not networks:
        raise ValueError(f"{source} is a pickle without networks")
    described = {name: describe_network(record) for name, record in networks.items()}
    facts = {"file": source, "sha256": sha256(source), "keys": list(data), "networks": described}
    if as_json:
        print(json.dumps(facts, indent=2, default=str))
        return
    print(f"{source}\n  sha256 {facts['sha256']}\n  keys {', '.join(map(str, data))}")
    for name, network in described.items():
        print(
            f"{name}: {network['class']}, {network['parameters']:,} parameters "
            f"in {network['tensors']} tensors"
        )
        for key, value in network["init_kwargs"].items():
            print(f"  {key} = {value}")
        for tensor in network["nonfinite"]:
            print(f"  WARNING: {tensor} holds values that are not finite")


def describe_network(record: Any) -> dict[str, Any]:
    """Return a network's class, sizes and options as plain data."""
    import checkpoints

    parameters = checkpoints.parameters(record)
    return {
        "class": record.class_name,
        "parameters": sum(tensor.numel() for tensor in parameters.values()),
        "tensors": len(checkpoints.tensors(record)),
        "init_kwargs": dict(record.init_kwargs or {}),
        "nonfinite": list(checkpoints.nonfinite(record)),
    }


@main.command()
@click.option(
    "--outdir",
    metavar="DIR",
    type=click.Path(path_type=Path),
    default=Path("demo-runs"),
    show_default=True,
)
@click.option("--seed", metavar="INT", type=click.IntRange(min=0), default=0, show_default=True)
def demo(outdir: Path, seed: int) -> None:
    """Refine the embedded MNIST generator: the whole journey, offline, on a CPU."""
    job = Job(
        student=str(DEMO / "student.pkl"),
        teacher=str(DEMO / "teacher.pkl"),
        outdir=outdir,
        reference=str(DEMO / "features.npz"),
        num=5000,
        network="G_ema",
        device="cpu",
        resume=False,
        desc="demo",
        dry_run=False,
    )
    run_job(job, "diff-instruct", (), {**PRESETS["demo"], "seed": seed})


if __name__ == "__main__":
    main()
