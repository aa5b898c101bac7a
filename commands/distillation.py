"""The whole journey of `distill`: check, distil in a run folder, compare with the teacher, report.

A one-step student G(z) = D(sigma z; sigma) enters a pixel-gradient method as any generator does.
Methods that train on images end in a denoiser of one step from sigma_max, which is the same form.
"""

from __future__ import annotations

import copy
import json
import re
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from commands.device import pick_device
from commands.measuring import (
    CURVE_FILE,
    curve_in,
    judge_by,
    last_health,
    open_measured,
    read_curve,
)
from commands.progress import stage_bar
from commands.provenance import provenance, sha256
from commands.real_images import make_teacher_images, read_images
from commands.recipes import IMAGE_METHODS, INIT_SIGMA, method_with
from commands.report import show_report

NUM_PAIRS = 10_000


@dataclass(frozen=True)
class DistillJob:
    """What `distill` was asked to do; None is what the method takes unless it is told."""

    teacher: str
    outdir: Path
    init_sigma: float | None
    labels: str
    data: str | None
    teacher_images: int
    teacher_steps: int
    pairs: int | None
    keep: str | None
    reference: str | None
    features: str | None
    num: int
    device: str
    resume: bool
    desc: str
    dry_run: bool

    def completed(self, method_name: str, method: Any) -> DistillJob:
        """Return the job with every option that depends on the method.

        Raises:
            ValueError: an option that the method would ignore.
        """
        from refiners.base import WithPairs

        of_images = method_name in IMAGE_METHODS
        regresses = isinstance(method, WithPairs)
        for flag, given, ignored, hint in (
            ("--init-sigma", self.init_sigma is not None, of_images, "use --set sigma_max=SIGMA"),
            ("--labels data", self.labels == "data", of_images, "images bring their labels"),
            ("--keep best", self.keep == "best", of_images, "its result is the last student"),
            ("--pairs", self.pairs is not None, not regresses, "leave it out"),
        ):
            if given and ignored:
                raise ValueError(f"{method_name} takes no {flag}; {hint}")
        if self.labels == "data" and not self.data:
            raise ValueError("--labels is data, but there is no --data; name the data set")
        if Path(self.teacher).is_dir():
            raise ValueError(
                f"{self.teacher} is a folder; the student is written in the layout of the "
                "teacher's pickle, so give a pickle"
            )
        sigma = method.sigma_max if of_images else INIT_SIGMA[method_name]
        return replace(
            self,
            init_sigma=sigma if self.init_sigma is None else self.init_sigma,
            keep=self.keep or ("last" if of_images else "best"),
            pairs=self.pairs or (NUM_PAIRS if regresses else None),
        )


@dataclass(frozen=True)
class Plan:
    """A job with everything that it names loaded and checked."""

    job: DistillJob
    method_name: str
    method: Any
    settings: Any
    teacher: Any
    start: Any  # the one-step student before any training
    reference: Any
    real_images: Any
    space: Any  # features by which the best is chosen, or None
    device: str

    @property
    def needs_images(self) -> bool:
        """Whether the method compares with images or trains on them."""
        from refiners.base import WithHead, WithMemory

        return self.method_name in IMAGE_METHODS or isinstance(self.method, (WithHead, WithMemory))

    @property
    def options(self) -> dict[str, Any]:
        """Every option of the run with its value."""
        paths = {"outdir": str(self.job.outdir), "device": self.device}
        asked = {k: v for k, v in asdict(self.job).items() if k not in ("resume", "dry_run")}
        named = {"method": self.method_name, **asdict(self.method), **asdict(self.settings)}
        return {**named, **asked, **paths}


def run_distillation(
    job: DistillJob, method_name: str, knobs: Sequence[str], options: dict[str, Any]
) -> Path | None:
    """Distil a teacher in a new run folder and write its report; return the folder."""
    from refiners import RunFolder
    from refiners.grid import save_grid
    from students import one_step

    started = time.time()
    plan = prepare(job, method_name, knobs, options)
    job, settings = plan.job, plan.settings
    if job.dry_run:
        print(json.dumps(plan.options, indent=2))
        return None
    if job.resume:
        folder = RunFolder.latest(job.outdir)
    else:
        folder = RunFolder.create(job.outdir, folder_name(plan))
        folder.write_json("training_options.json", plan.options)
    folder.log(f"{'continuing' if job.resume else 'writing'} {folder.path}")
    save_grid(folder.path / "fakes_init.png", plan.start, settings.seed)
    plan, judged = with_images(plan, folder)
    student = train(plan, folder, judged)
    kimg = settings.num_steps * settings.batch // 1000
    one_step.save(student, folder.path / f"network-snapshot-{kimg:06d}.pkl", like=job.teacher)
    write_report(plan, folder, student, plan.reference or judged, started)
    return folder.path


def prepare(
    job: DistillJob, method_name: str, knobs: Sequence[str], options: dict[str, Any]
) -> Plan:
    """Load and check everything that a job names.

    Raises:
        ValueError: something does not fit; nothing has been written.
        OSError: a file cannot be read.
    """
    import teachers
    from refiners import Settings
    from students.one_step import OneStep

    settings, method = Settings(**options), method_with(method_name, knobs, {})
    job = job.completed(method_name, method)
    device = pick_device(job.device)
    teacher = teachers.load(job.teacher, device=device)
    assert job.init_sigma is not None
    start: Any = OneStep(copy.deepcopy(teacher), sigma_init=job.init_sigma)
    if method_name in IMAGE_METHODS:
        method.new_student(teacher)  # says what the method asks of the teacher
    real_images = read_images(job.data, teacher) if job.data else None
    if job.labels == "data":
        start.class_weights = class_frequencies(real_images, job.data)
    return Plan(
        job=job,
        method_name=method_name,
        method=method,
        settings=settings,
        teacher=teacher,
        start=start,
        reference=open_measured(job.reference, job.features),
        real_images=real_images,
        space=teachers.EncoderFeatures(teacher) if job.keep == "best" else None,
        device=device,
    )


def class_frequencies(real_images: Any, source: str | None) -> Any:
    """Return how many images of a source each class has, float [label_dim]."""
    if real_images.labels is None:
        raise ValueError(
            f"--labels is data, but {source} has no labels of the teacher's classes; use uniform"
        )
    return real_images.labels.sum(dim=0)


def with_images(plan: Plan, folder: Any) -> tuple[Plan, Any]:
    """Let the teacher make the images that are needed and not given; return the judge's too."""
    import metrics

    job = plan.job
    if not job.data and (plan.needs_images or plan.space):
        path = make_teacher_images(
            folder.path / "teacher-images.zip",
            plan.teacher,
            job.teacher_images,
            seed=plan.settings.seed,
            steps=job.teacher_steps,
            progress=stage_bar("teacher's images"),
        )
        plan = replace(plan, real_images=read_images(path, plan.teacher))
        job = replace(job, data=str(path))
    judged = metrics.open_reference(job.data or "", plan.space) if plan.space else None
    return plan, judged


def train(plan: Plan, folder: Any, judged: Any) -> Any:
    """Distil, and return the one-step student."""
    from refiners import refine
    from refiners.base import WithPairs
    from students import one_step

    job, settings = plan.job, plan.settings
    shared: dict[str, Any] = {
        "method": plan.method,
        "kimg": settings.kimg,
        "settings": settings,
        "folder": folder,
        "resume": job.resume,
        "measure": plan.reference
        and curve_in(folder, plan.reference, num=job.num, seed=settings.seed),
    }
    if plan.method_name in IMAGE_METHODS:
        return train_on_images(plan, shared)
    return refine(
        plan.start,
        plan.teacher,
        save=lambda network, path: one_step.save(network, path, like=job.teacher),
        real_images=plan.real_images if plan.needs_images else None,
        pairs=pairs_in(plan, folder) if isinstance(plan.method, WithPairs) else None,
        judge=judge_by(judged, num=job.num, seed=settings.seed) if judged else None,
        **shared,
    )


def train_on_images(plan: Plan, shared: dict[str, Any]) -> Any:
    """Halve the steps down to one, and return the one-step student."""
    import teachers
    from refiners import distil
    from refiners.guided import GuidedDenoiser
    from students import one_step

    def plain(network: Any) -> Any:
        if isinstance(network, GuidedDenoiser):
            return network.at(network.guidance)
        return network

    def save(network: Any, path: Path) -> None:
        if network.num_steps > 1:
            # Not yet a one-step student: a denoiser for a sampler of that many steps.
            teachers.save(plain(network.denoiser), path, extra={"num_steps": network.num_steps})
            return
        one_step.save(as_student(network), path, like=plan.job.teacher)

    def as_student(network: Any) -> Any:
        assert plan.job.init_sigma is not None
        return one_step.OneStep(plain(network.denoiser), sigma_init=plan.job.init_sigma)

    return as_student(distil(plan.teacher, real_images=plan.real_images, save=save, **shared))


def pairs_in(plan: Plan, folder: Any) -> Any:
    """Let the teacher make the pairs of the run, or the rest of them, and return their source."""
    import teachers

    assert plan.job.pairs is not None
    return teachers.PairFolder(
        teachers.make_pairs(
            plan.teacher,
            folder.path / "pairs",
            num_pairs=plan.job.pairs,
            num_steps=plan.job.teacher_steps,
            device=plan.device,
            progress=stage_bar("pairs"),
        )
    )


def write_report(plan: Plan, folder: Any, student: Any, space: Any, started: float) -> None:
    """Compare the teacher's sampler with the student on the same latents, and write the report."""
    import metrics
    import teachers
    from commands.teacher_sampler import TeacherSampler
    from refiners.grid import save_grid

    job, seed = plan.job, plan.settings.seed
    teacher, guidance = plan.teacher, getattr(plan.method, "guidance", None)
    if guidance is not None:
        teacher = teachers.classifier_free(teacher, weight=1 + guidance)
    sampler = TeacherSampler(teacher, num_steps=job.teacher_steps)
    grids = {
        "before": save_grid(folder.path / "fakes_teacher.png", sampler, seed),
        "after": save_grid(folder.path / "fakes_final.png", student, seed),
    }
    # The third set, of "before" on other latents, would cost as much again as the sampler's.
    comparison = space and metrics.compare(
        sampler, student, space, num_images=job.num, seed=seed, null=False,
        progress=stage_bar("compare"),
    )  # fmt: skip
    notes = [f"Before is the teacher's sampler, {sampler.num_evaluations} evaluations an image."]
    if comparison:
        distance = comparison["frechet_distance"]
        ratio = distance.after / distance.before
        notes.append(f"After is one evaluation: {ratio:.3g} times the sampler's Frechet distance.")
        grids |= metrics.draw_gallery(sampler, student, comparison)
    for note in notes:
        folder.log(note)
    curve = folder.path / CURVE_FILE
    facts = {
        "title": f"{Path(job.teacher).name} distilled by {plan.method_name}",
        "comparison": comparison and comparison.facts(),
        "curve": read_curve(curve) if curve.exists() else [],
        "health": last_health(folder.path / "stats.jsonl"),
        "settings": plan.options,
        "notes": notes,
        "provenance": provenance(started) | {"teacher_sha256": sha256(job.teacher)},
    }
    show_report(folder.path, facts, grids)


def folder_name(plan: Plan) -> str:
    """Return the run folder's name after its number."""
    job, settings = plan.job, plan.settings
    length = f"kimg{settings.kimg:g}-batch{settings.batch}"
    desc = job.desc or f"{Path(job.teacher).stem}-{plan.method_name}-1step-{length}"
    return re.sub(r"[^A-Za-z0-9._-]+", "_", desc)
