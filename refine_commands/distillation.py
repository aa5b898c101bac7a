"""The whole journey of `distill`: check, distil in a run folder, compare with the teacher, report.

A one-step student G(z) = D(sigma z; sigma) enters a pixel-gradient method as any generator does.
Methods that train on images end in a denoiser of one step from sigma_max, which is the same form.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from refine_commands.distill_job import DistillJob, Plan, prepare
from refine_commands.measuring import CURVE_FILE, curve_in, judge_by, last_health, read_curve
from refine_commands.progress import stage_bar
from refine_commands.provenance import provenance, sha256
from refine_commands.real_images import make_teacher_images, read_images
from refine_commands.recipes import IMAGE_METHODS
from refine_commands.report import show_report
from refine_commands.running import boards_in, open_folder, show_plan, state_in


def run_distillation(
    job: DistillJob, method_name: str, knobs: Sequence[str], options: dict[str, Any]
) -> Path | None:
    """Distil a teacher in a new run folder and write its report; return the folder."""
    from refiners.training.processes import join

    started = time.time()
    plan = prepare(job, method_name, knobs, options)
    if job.dry_run:
        show_plan(plan.options, plan.begin, plan.method, plan.settings)
        return None
    processes = join(plan.device)
    opened = processes.first_alone(lambda: begin(plan), "opening the run folder")
    folder, resume = opened or (None, bool(job.resume))
    plan = with_images(plan, folder, processes)
    judged = processes.first_alone(lambda: open_judge(plan), "opening the judge")
    student = train(plan, folder, judged, resume, processes)
    processes.first_alone(
        lambda: write_report(plan, folder, student, plan.reference or judged, started), "the report"
    )
    processes.leave()
    return folder and folder.path


def begin(plan: Plan) -> tuple[Any, Any]:
    """Open the run's folder, show the student there, and return it and what to resume from."""
    from refiners.runs.pictures import save_grid

    folder, resume = open_folder(plan.job, plan.folder_name(), plan.options)
    save_grid(folder.path / "fakes_init.png", plan.start, plan.settings.seed)
    return folder, resume


def with_images(plan: Plan, folder: Any, processes: Any) -> Plan:
    """Let the teacher make the images that are needed and not given."""
    job = plan.job
    if job.data or not (plan.needs_images or plan.space):
        return plan

    def make() -> str:
        return str(
            make_teacher_images(
                folder.path / "teacher-images.zip",
                plan.teacher,
                job.teacher_images,
                seed=plan.settings.seed,
                steps=job.teacher_steps,
                progress=stage_bar("teacher's images"),
            )
        )

    path = processes.first_alone(make, "the teacher's images")
    path = processes.from_first(path, "the teacher's images")
    images = read_images(path, plan.teacher)
    return replace(plan, real_images=images, job=replace(job, data=path))


def open_judge(plan: Plan) -> Any:
    """Return what judges the students, or None."""
    import metrics

    return metrics.open_reference(plan.job.data or "", plan.space) if plan.space else None


def train(plan: Plan, folder: Any, judged: Any, resume: Any, processes: Any) -> Any:
    """Distil, and return the one-step student."""
    from refiners import refine
    from refiners.base import WithPairs
    from students.adapters import one_step

    job, settings = plan.job, plan.settings
    shared: dict[str, Any] = {
        "method": plan.method,
        "kimg": settings.kimg,
        "settings": settings,
        "folder": folder,
        "resume": resume,
        "processes": processes,
        "boards": boards_in(folder, job, plan.options) if folder else (),
        "measure": plan.reference and curve_in(folder, plan.reference, settings, num=job.num),
    }
    if plan.method_name in IMAGE_METHODS:
        return train_on_images(plan, shared)
    return refine(
        plan.start,
        plan.teacher,
        save=lambda network, path: one_step.save(network, path, like=job.teacher),
        real_images=plan.real_images if plan.needs_images else None,
        pairs=pairs_in(plan, folder, processes) if isinstance(plan.method, WithPairs) else None,
        judge=judge_by(judged, num=job.num, seed=settings.seed) if judged else None,
        distance=plan.distance.to(plan.device) if plan.distance is not None else None,
        transfer=state_in(job.transfer),
        **shared,
    )


def train_on_images(plan: Plan, shared: dict[str, Any]) -> Any:
    """Halve the steps down to one, and return the one-step student."""
    import teachers
    from refiners import distil
    from refiners.guided import GuidedDenoiser
    from students.adapters import one_step

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

    student = as_student(distil(plan.teacher, real_images=plan.real_images, save=save, **shared))
    if shared["folder"] is not None:
        # A short run may end in a stage of more steps, whose last snapshot this one replaces.
        snapshots = sorted(shared["folder"].path.glob("network-snapshot-*.pkl"))
        one_step.save(student, snapshots[-1], like=plan.job.teacher)
    return student


def pairs_in(plan: Plan, folder: Any, processes: Any) -> Any:
    """Let the teacher make the pairs of the run, or the rest of them, and return their source."""
    import teachers

    def make() -> str:
        assert plan.job.pairs is not None
        return str(
            teachers.make_pairs(
                plan.teacher,
                folder.path / "pairs",
                num_pairs=plan.job.pairs,
                num_steps=plan.job.teacher_steps,
                device=plan.device,
                progress=stage_bar("pairs"),
            )
        )

    path = processes.from_first(processes.first_alone(make, "the pairs"), "the pairs")
    return teachers.PairFolder(Path(path))


def write_report(plan: Plan, folder: Any, student: Any, space: Any, started: float) -> None:
    """Compare the teacher's sampler with the student on the same latents, and write the report."""
    import metrics
    import teachers
    from refine_commands.teacher_sampler import TeacherSampler
    from refiners.runs.pictures import save_grid

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
        sampler,
        student,
        space,
        num_images=job.num,
        seed=seed,
        null=False,
        progress=stage_bar("compare"),
    )
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
