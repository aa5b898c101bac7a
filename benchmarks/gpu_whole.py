"""Part 3 of the first day on a GPU: whole runs, and a step's profile (benchmarks/gpu.py)."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile

from benchmarks import step
from benchmarks.gpu import Day, Finding

DEMO = Path(__file__).resolve().parent.parent / "refine_demo"
STEPS = 3


def change_in(folder: Path) -> str:
    """Return what the newest report below a folder says of the Frechet distance."""
    reports = sorted(folder.glob("*/report.json"))
    if not reports:
        raise RuntimeError(f"no report in {folder}")
    found: dict[str, Any] = json.loads(reports[-1].read_text(encoding="utf-8"))
    differences = {of["metric"]: of for of in found["comparison"]["differences"]}
    of = differences["frechet_distance"]
    return f"{of['before']:.1f} -> {of['after']:.1f}, change {of['low']:+.1f} to {of['high']:+.1f}"


def gan(day: Day, name: str, student: Path, teacher: Path, reference: Path, kimg: float) -> Finding:
    """Refine a student and return by how much it is better."""
    outdir = day.out / name
    least = ("--num", 100, "--teacher-images", 100, "--batch", 8, "--teacher-steps", 2)
    day.command(
        *("refine.py", "gan", "--student", student, "--teacher", teacher, "--outdir", outdir),
        *("--reference", reference, "--kimg", kimg, "--device", day.device),
        *(least if day.small else ()),
    )
    return change_in(outdir), None


def profiled(day: Day) -> Finding:
    """Return launches, how long the device was busy, and the dearest operations of three steps."""
    width, batch = (1 / 16, 2) if day.small else (1.0, 64)
    flags = {"precision": "auto", "compile": False}
    job = step.ours("stylegan2", width, batch, day.device, flags)
    for _ in range(2):
        job.advance()
    job.settle()
    kinds = [ProfilerActivity.CPU]
    on_cuda = day.device.startswith("cuda")
    if on_cuda:
        kinds.append(ProfilerActivity.CUDA)
    with profile(activities=kinds) as found:
        for _ in range(STEPS):
            job.advance()
        job.settle()
        if on_cuda:
            torch.cuda.synchronize()
    averages = found.key_averages()
    order = "self_device_time_total" if on_cuda else "self_cpu_time_total"
    (day.out / "profile.txt").write_text(
        averages.table(sort_by=order, row_limit=40), encoding="utf-8"
    )
    launches = sum(e.count for e in averages if "LaunchKernel" in e.key) / STEPS
    events = [e for e in found.events() or [] if e.time_range.elapsed_us() > 0]
    span = max(e.time_range.end for e in events) - min(e.time_range.start for e in events)
    busy = sum(getattr(e, order) for e in averages) / max(span, 1)
    return f"{launches:.0f} launches a step, busy {100 * busy:.0f} % of the time", None


def trained(day: Day, data: Path, what: str, kimg: float) -> Finding:
    """Train one of CIFAR-10's networks from the kit's images, or go on with it."""
    workdir = day.out / "cifar10"
    sizes: tuple[object, ...] = ("--size", "cifar10-gpu", "--device", day.device)
    length: tuple[object, ...] = () if what == "classifier" else ("--kimg", kimg)
    day.command(
        *("-m", "refine_demo.train", what, "--data", data, "--workdir", workdir), *sizes, *length
    )
    return f"{kimg:g} kimg", None


def distilled(day: Day, teacher: Path, kimg: float) -> Finding:
    """Distil a teacher into one step."""
    outdir = day.out / "distil"
    least = ("--num", 100, "--teacher-images", 100, "--batch", 8, "--teacher-steps", 2)
    most = ("--kimg", kimg, "--device", day.device, "--keep", "last")
    day.command(
        *("refine.py", "distill", "--teacher", teacher, "--outdir", outdir, *most),
        *((*least, "--report-steps", 2) if day.small else ()),
    )
    return f"{kimg:g} kimg", bool(list(outdir.glob("*/result.pkl")))


def rows(day: Day) -> None:
    """Carry out the part."""
    student, teacher, space = (DEMO / n for n in ("student.pkl", "teacher.pkl", "features.npz"))
    kimg = 0.016 if day.small else 6.0
    day.row("gan on the embedded pair", lambda: gan(day, "demo", student, teacher, space, kimg))
    day.row("profile of three steps", lambda: profiled(day))
    day.row("distill the embedded teacher", lambda: distilled(day, teacher, kimg))
    sets = sorted((day.kit / "data").glob("*")) if (day.kit / "data").is_dir() else []
    if not sets:
        day.row("CIFAR-10", lambda: ("left out: the kit has no data", None))
        return
    data = sets[0]
    work = day.out / "cifar10"
    day.row("train a classifier", lambda: trained(day, data, "classifier", 0))
    day.row("train a teacher", lambda: trained(day, data, "teacher", 400))
    day.row("train a student", lambda: trained(day, data, "student", 200))
    day.row(
        "gan on these",
        lambda: gan(
            day, "refined", work / "student.pkl", work / "teacher.pkl", work / "features.npz", 10
        ),
    )
