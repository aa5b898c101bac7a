"""The whole journey of `gan`: check, refine in a run folder, compare before and after, report."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from commands.device import pick_device
from commands.progress import stage_bar
from commands.provenance import provenance, sha256
from commands.recipes import method_with
from commands.report import show_report

CURVE_IMAGES = 1000  # images behind each point of the curve; the report's own numbers use --num


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
