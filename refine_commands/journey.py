"""The whole journey of `gan`: check, refine in a run folder, compare before and after, report."""

from __future__ import annotations

import copy
import re
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from refine_commands.device import pick_device
from refine_commands.measuring import (
    CURVE_FILE,
    curve_in,
    judge_by,
    last_health,
    open_measured,
    read_curve,
)
from refine_commands.pairing import EVERYWHERE, Pair, bring_together, whole
from refine_commands.progress import stage_bar
from refine_commands.provenance import provenance, sha256
from refine_commands.real_images import make_teacher_images, read_images
from refine_commands.recipes import method_with, teacher_images_for
from refine_commands.report import show_report
from refine_commands.running import (
    boards_in,
    check_running,
    open_folder,
    settings_of,
    show_plan,
    stand_in_images,
    state_in,
    take_weights,
    with_batch_gpu,
)


@dataclass(frozen=True)
class Job:
    """What `gan` was asked to do."""

    student: str
    teacher: str
    outdir: Path
    reference: str | None = None
    num: int = 5000
    network: str = "G_ema"
    device: str = "auto"
    resume: str | None = None
    desc: str = ""
    dry_run: bool = False
    data: str | None = None
    teacher_images: int | None = None  # None: in proportion to the run
    teacher_steps: int = 6
    keep: str = "best"
    features: str | None = None
    adapt: str | None = None
    class_map: str | None = None
    guidance: float = 1.0
    guide: str | None = None
    guidance_interval: str = EVERYWHERE
    transfer: str | None = None
    wandb: str | None = None


@dataclass(frozen=True)
class Checked:
    """A job whose networks, options and files were read and fit each other."""

    job: Job
    method_name: str
    method: Any
    settings: Any
    device: str
    pair: Pair
    reference: Any
    start: Any  # the pair's student, or with the weights of --transfer

    @property
    def student(self) -> Any:
        """The student as the file has it; the pair's may be a bridge around it."""
        return whole(self.pair.student)

    @property
    def teacher(self) -> Any:
        """The teacher, guided where asked."""
        return self.pair.teacher

    @property
    def compares_images(self) -> bool:
        """Whether the method needs real images, or samples of the teacher in their place."""
        from refiners.base import WithHead, WithMemory

        return isinstance(self.method, (WithHead, WithMemory))

    def begin(self, method: Any, settings: Any) -> Any:
        """Return a run in memory with noise for images, to see what a step takes."""
        from refiners import Inputs, Refinement

        images = stand_in_images(self.teacher) if self.compares_images else None
        start, teacher, auxiliary = self.start, self.teacher, self.pair.auxiliary
        inputs = Inputs(images)
        return Refinement(start, teacher, method, settings, inputs=inputs, auxiliary=auxiliary)

    def options(self) -> dict[str, Any]:
        """Return every option with its value, for training_options.json and the report."""
        job = {
            k: v for k, v in asdict(self.job).items() if k not in ("outdir", "resume", "dry_run")
        }
        chosen = {"method": self.method_name, **asdict(self.method), **asdict(self.settings)}
        return {**job, **chosen, "device": self.device}

    def folder_name(self) -> str:
        """Return the run folder's name after its number."""
        stem, settings = Path(self.job.student).stem, self.settings
        name = f"{stem}-{self.method_name}-kimg{settings.kimg:g}-batch{settings.batch}"
        return re.sub(r"[^A-Za-z0-9._-]+", "_", self.job.desc or name)


def run_job(
    job: Job, method_name: str, knobs: Sequence[str], options: dict[str, Any]
) -> Path | None:
    """Refine a generator in a new run folder and write its report; return the folder."""
    from refiners.training.processes import join

    started = time.time()
    run = check(job, method_name, knobs, options)
    if job.dry_run:
        show_plan(run.options(), run.begin, run.method, run.settings)
        return None
    processes = join(run.device)
    opened = processes.first_alone(lambda: begin(run), "opening the run folder")
    folder, resume = opened or (None, bool(job.resume))
    images = processes.first_alone(lambda: images_to_compare(run, folder), "the teacher's images")
    images = processes.from_first(images, "the teacher's images")
    judged = processes.first_alone(lambda: open_judge(run, images), "opening the judge")
    refined = refine_in(folder, run, images, judged, resume, processes)
    processes.first_alone(lambda: report_in(folder, run, refined, judged, started), "the report")
    processes.leave()
    return folder and folder.path


def begin(run: Checked) -> tuple[Any, Any]:
    """Open the run's folder, show the student there, and return it and what to resume from."""
    from refiners.runs.pictures import save_grid

    folder, resume = open_folder(run.job, run.folder_name(), run.options())
    if run.pair.remark:
        folder.log(run.pair.remark)
    save_grid(folder.path / "fakes_init.png", run.student, run.settings.seed)
    return folder, resume


def check(job: Job, method_name: str, knobs: Sequence[str], options: dict[str, Any]) -> Checked:
    """Read what the job names, and raise ValueError or OSError where it cannot be done."""
    import students
    import teachers
    from refiners import check_pair
    from refiners.training.processes import device_of_rank

    settings, method = settings_of(options, job), method_with(method_name, knobs)
    if job.teacher_images is None:
        job = replace(job, teacher_images=teacher_images_for(settings.kimg))
    device = device_of_rank(pick_device(job.device))
    check_running(job, settings, method, device)
    student = students.load(job.student, network=job.network, device=device)
    teacher = teachers.load(job.teacher, device=device)
    pair = bring_together(
        student,
        teacher,
        adapt=job.adapt,
        class_map=job.class_map,
        guidance=job.guidance,
        guide=job.guide,
        guidance_interval=job.guidance_interval,
        device=device,
    )
    teacher = pair.teacher
    check_pair(pair.student, teacher)
    if job.keep == "best":
        teachers.EncoderFeatures(teacher)
    reference = open_measured(job.reference, job.features)
    if job.data:
        read_images(job.data, teacher)
    run = Checked(
        job, method_name, method, settings, device, pair, reference, start_of(job, pair, device)
    )
    return replace(run, settings=with_batch_gpu(options, settings, method, run.begin, device))


def start_of(job: Job, pair: Pair, device: str) -> Any:
    """Return the student to start from: with another's weights where --transfer names them."""
    import students

    if job.transfer is None:
        return pair.student
    start = copy.deepcopy(pair.student)
    take_weights(
        whole(start),
        job.transfer,
        lambda path: students.load(path, network=job.network, device=device),
    )
    return start


def open_judge(run: Checked, images: str | None) -> Any:
    """Return what judges the students, or None."""
    import metrics
    import teachers

    if images is None or run.job.keep != "best":
        return None
    return metrics.open_reference(images, teachers.EncoderFeatures(run.teacher))


def images_to_compare(run: Checked, folder: Any) -> str | None:
    """Return the data set that the student's images are compared with, None where none is needed.

    Without data it is made of the teacher's own samples, once for a run folder.
    """
    if run.job.data or not (run.compares_images or run.job.keep == "best"):
        return run.job.data
    assert run.job.teacher_images is not None
    path = make_teacher_images(
        folder.path / "teacher-images.zip",
        run.teacher,
        run.job.teacher_images,
        seed=run.settings.seed,
        steps=run.job.teacher_steps,
        progress=stage_bar("teacher's images"),
    )
    return str(path)


def refine_in(
    folder: Any, run: Checked, images: str | None, judged: Any, resume: Any, processes: Any
) -> Any:
    """Refine the student and return the result, which the last network snapshot holds too."""
    import students
    from refiners import refine

    def save(network: Any, path: Path) -> None:
        students.save(whole(network), path, like=run.job.student, network=run.job.network)

    def measure(network: Any, num_images: int) -> dict[str, float]:
        return curve(whole(network), num_images)

    settings, num, seed = run.settings, run.job.num, run.settings.seed
    reference = run.reference
    curve = curve_in(folder, reference, settings, num=num)
    return refine(
        run.start,
        run.pair.teacher,
        method=run.method,
        kimg=settings.kimg,
        batch=settings.batch,
        settings=settings,
        folder=folder,
        save=save,
        measure=measure if reference else None,
        resume=resume,
        real_images=read_images(images, run.teacher) if images and run.compares_images else None,
        judge=judge_by(judged, num=num, seed=seed) if judged else None,
        auxiliary=run.pair.auxiliary,
        transfer=state_in(run.job.transfer),
        processes=processes,
        boards=boards_in(folder, run.job, run.options()) if folder else (),
    )


def report_in(folder: Any, run: Checked, refined: Any, judged: Any, started: float) -> None:
    """Compare before and after, by the reference or else the judge's, and write the report."""
    import metrics
    from refiners.runs.pictures import sample_grid, save_grid

    seed = run.settings.seed
    grids = {
        "before": sample_grid(run.student, seed),
        "after": save_grid(folder.path / "fakes_final.png", whole(refined), seed),
    }
    comparison, space = None, run.reference or judged
    if space is not None:
        # The judge's images have the teacher's size, so it sees the student as the teacher does.
        before, after = run.pair.student, refined
        if run.reference:
            before, after = whole(before), whole(after)
        comparison = metrics.compare(
            before,
            after,
            space,
            num_images=run.job.num,
            seed=run.settings.seed,
            progress=stage_bar("compare"),
        )
        grids |= metrics.draw_gallery(before, after, comparison)
    hashes = {
        "student_sha256": sha256(run.job.student),
        "teacher_sha256": sha256(run.job.teacher),
    }
    facts = {
        "title": f"{Path(run.job.student).name} refined by {run.method_name}",
        "comparison": comparison and comparison.facts(),
        "curve": read_curve(folder.path / CURVE_FILE) if run.reference else [],
        "health": last_health(folder.path / "stats.jsonl"),
        "settings": run.options(),
        "provenance": provenance(started) | hashes,
    }
    show_report(folder.path, facts, grids)
