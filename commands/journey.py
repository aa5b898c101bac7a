"""The whole journey of `gan`: check, refine in a run folder, compare before and after, report."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from commands.device import pick_device
from commands.progress import stage_bar
from commands.provenance import provenance, sha256
from commands.real_images import make_teacher_images, read_images
from commands.recipes import method_with
from commands.report import show_report

CURVE_IMAGES = 1000  # images behind each point of the curve; the report's own numbers use --num
JUDGE_IMAGES = 2000


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
    data: str | None = None
    teacher_images: int = 2000
    teacher_steps: int = 10
    keep: str = "best"


def run_job(
    job: Job, method_name: str, knobs: Sequence[str], options: dict[str, Any]
) -> Path | None:
    """Refine a generator in a new run folder and write its report; return the folder."""
    import metrics
    import students
    import teachers
    from refiners import RunFolder, Settings, check_pair, refine
    from refiners.grid import save_grid

    started = time.time()
    settings, method = Settings(**options), method_with(method_name, knobs)
    device = pick_device(job.device)
    student = students.load(job.student, network=job.network, device=device)
    teacher = teachers.load(job.teacher, device=device)
    check_pair(student, teacher)
    reference = metrics.open_reference(job.reference) if job.reference else None
    real_images = read_images(job.data, teacher) if job.data else None
    resolved = resolved_options(job, method_name, method, settings, device)
    if job.dry_run:
        print(json.dumps(resolved, indent=2))
        return None
    if job.resume:
        folder = RunFolder.latest(job.outdir)
    else:
        folder = RunFolder.create(job.outdir, folder_name(job, method_name, settings))
        folder.write_json("training_options.json", resolved)
    folder.log(f"{'continuing' if job.resume else 'writing'} {folder.path}")
    before = save_grid(folder.path / "fakes_init.png", student, settings.seed)
    judged = None
    if job.data is None and (compares_images(method) or job.keep == "best"):
        job = replace(job, data=str(folder.path / "teacher-images.zip"))
        make_teacher_images(
            Path(job.data or ""),
            teacher,
            job.teacher_images,
            seed=settings.seed,
            steps=job.teacher_steps,
            progress=stage_bar("teacher's images"),
        )
        real_images = read_images(job.data or "", teacher)
    if job.keep == "best":
        judged = metrics.open_reference(job.data or "", teachers.EncoderFeatures(teacher))

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

    def judge(network: Any) -> float:
        assert judged is not None
        found = metrics.measure(network, judged, num_images=JUDGE_IMAGES, seed=settings.seed)
        return found.frechet_distance

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
        real_images=real_images if compares_images(method) else None,
        judge=judge if judged else None,
    )
    # The last snapshot is the result: where an earlier student was judged better, that one.
    kimg = settings.num_steps * settings.batch // 1000
    last = folder.path / f"network-snapshot-{kimg:06d}.pkl"
    students.save(refined, last, like=job.student, network=job.network)
    space = reference or judged
    comparison = space and metrics.compare(
        student,
        refined,
        space,
        num_images=job.num,
        seed=settings.seed,
        progress=stage_bar("compare"),
    )
    after = save_grid(folder.path / "fakes_final.png", refined, settings.seed)
    facts = {
        "title": f"{Path(job.student).name} refined by {method_name}",
        "comparison": comparison and comparison.facts(),
        "curve": read_lines(folder.path / "metric-frechet_distance.jsonl") if reference else [],
        "health": last_health(folder.path / "stats.jsonl"),
        "settings": resolved,
        "provenance": provenance(started)
        | {"student_sha256": sha256(job.student), "teacher_sha256": sha256(job.teacher)},
    }
    show_report(folder.path, facts, {"before": before, "after": after})
    return folder.path


def compares_images(method: Any) -> bool:
    """Whether a method needs real images, or samples of the teacher in their place."""
    from refiners.base import WithHead, WithMemory

    return isinstance(method, (WithHead, WithMemory))


def resolved_options(
    job: Job, method_name: str, method: Any, settings: Any, device: str
) -> dict[str, Any]:
    """Return every option of a run with its value, for training_options.json and the report."""
    named = {
        "student": job.student,
        "teacher": job.teacher,
        "network": job.network,
        "method": method_name,
    }
    measured = {
        "data": job.data,
        "teacher_images": job.teacher_images,
        "teacher_steps": job.teacher_steps,
        "keep": job.keep,
        "reference": job.reference,
        "num": job.num,
        "device": device,
    }
    return {**named, **asdict(method), **asdict(settings), **measured}


def folder_name(job: Job, method_name: str, settings: Any) -> str:
    """Return the run folder's name after its number."""
    stem = Path(job.student).stem
    desc = job.desc or f"{stem}-{method_name}-kimg{settings.kimg:g}-batch{settings.batch}"
    return re.sub(r"[^A-Za-z0-9._-]+", "_", desc)


def read_lines(path: Path) -> list[dict[str, Any]]:
    """Return the objects of a .jsonl file, the last of each kimg, in order."""
    lines = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    return [line for _, line in sorted({line["kimg"]: line for line in lines}.items())]


def last_health(path: Path) -> list[dict[str, float]]:
    """Return the last tick's error shares by noise level from stats.jsonl."""
    prefix = "Health/error_share_"
    if not path.exists():
        return []
    last = json.loads(path.read_text(encoding="utf-8").splitlines()[-1])
    shares = {
        float(k.removeprefix(prefix)): v["mean"] for k, v in last.items() if k.startswith(prefix)
    }
    return [{"sigma": sigma, "share": share} for sigma, share in sorted(shares.items())]
