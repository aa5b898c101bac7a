"""The whole journey of a distillation: check, distil in a run folder, compare with the teacher.

A one-step student G(z) = D(sigma z; sigma) enters a pixel-gradient method as any generator does.
Methods that train on images end in a denoiser of one step from sigma_max, which is the same form.
`refiners.distil(teacher, ...)` and `refine.py distill` are its two doors.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Mapping, Sequence
from dataclasses import KW_ONLY, asdict, dataclass, fields, replace
from functools import cached_property
from pathlib import Path
from typing import cast

import torch

import metrics
import teachers
from refiners.base import Distance, Method, WithPairs
from refiners.guided import GuidedDenoiser
from refiners.progressive import SteppedStudent, recorded_sampler
from refiners.runs.endings import Outcome, failing_as_a_run
from refiners.runs.folder import RunFolder, read_state
from refiners.runs.interrupts import Interrupts, Stopped
from refiners.runs.judge import Judge, held_back, judge_of
from refiners.runs.made_of import MadeOf, made_of
from refiners.runs.measuring import curve_in, open_measured
from refiners.runs.pictures import save_grid
from refiners.runs.plan import AnyMethod, plan_run
from refiners.runs.progress import stage_bar
from refiners.runs.recipes import USUAL_METHOD, method_with, name_of_method
from refiners.runs.reporting import Grids, write_report
from refiners.runs.schedule import Run
from refiners.runs.session import Session
from refiners.runs.snapshots import RESULT_FILE
from refiners.runs.starting import (
    boards_in,
    check_counts,
    check_running,
    compares_images,
    device_for,
    door,
    facts_of,
    held,
    in_stage,
    measured,
    name_of_source,
    open_folder,
    place_of,
    settings_of,
    stand_in_images,
    state_in,
    take_weights,
    tell_stopped,
)
from refiners.runs.teacher_images import make_teacher_images, read_images
from refiners.runs.teacher_sampler import TeacherSampler
from refiners.training.distillation import Distillation, Distiller
from refiners.training.fit import check_role, check_teacher
from refiners.training.inputs import (
    ImageSet,
    Inputs,
    Pairs,
    PairSet,
    RealImages,
    name_of,
    pseudo_huber,
)
from refiners.training.precision import settled
from refiners.training.refinement import Refinement, check_training_noise
from refiners.training.settings import Settings
from roles import Denoiser, Processes, Student
from roles.processes import join
from students.adapters import one_step
from teachers.facts import parse as parse_facts

NUM_PAIRS = 10_000
# Not in training_options.json under these names: what is resolved there, and what no file can say.
UNSAID = ("teacher", "resume", "method", "knobs", "kimg", "batch", "settings", "progress")
# Options that move a run's numbers, beside its method, its settings and what its files hold.
FIXED = ("num", "keep", "init_sigma", "labels", "pairs", "report_steps")
FIXED += ("teacher_images", "teacher_steps")


@dataclass(frozen=True)
class DistilJob:
    """Make a one-step generator of a diffusion teacher and return it.

    Attributes:
        teacher: a denoiser's file, its address, or a module that is a Denoiser.
        teacher_set: what the teacher's file does not hold, by name or as KEY=VALUE, see
            teachers.load.
        method: a name in REFINERS or DISTILLERS, or one of its dataclasses.
        knobs: of a method that is named, by name or as KEY=VALUE.
        kimg: length of the run in thousands of the student's images.
        batch: images per step.
        settings: everything else; see refine().
        outdir: where to make a run folder; None writes nothing.
        init_sigma: where G(z) = D(sigma z; sigma) begins; None is the method's.
        labels: how often each class is drawn: "uniform", or "data" for as often as in the data.
        data: real images, a zip or folder, for the judge and for methods that train on them or
            compare with some; None lets the teacher make its own.
        teacher_images: how many it makes.
        teacher_steps: steps of the sampler that makes them.
        report_steps: of the sampler that the report compares with, a full one unless told.
        pairs: how many pairs of a latent and the teacher's image dmd regresses on; None is 10,000.
        distance: by which they are compared; None is pseudo-Huber.
        keep: "best" or "last", see refine(); None is best, and last for DISTILLERS.
        reference: what the report measures against: statistics with their features, or images.
        features: the feature space, where the reference brings none.
        num: images behind the report's numbers.
        device: as pick_device takes it.
        memory_gb: GiB that the plan and batch_gpu "auto" count on; None is what is free.
        resume: "latest", a run folder or a training-state-*.pt to continue.
        transfer: a network's file or a training-state-*.pt whose weights the run starts from.
        wandb: project to log to.
        desc: name of the run folder after its number.
        progress: show a progress bar; None shows it on a terminal.

    Raises:
        ValueError: what does not fit, before anything is written; see refine() for what is raised
            later.
    """

    teacher: str | Path | Denoiser
    _: KW_ONLY
    teacher_set: Sequence[str] | Mapping[str, object] = ()
    method: str | AnyMethod = USUAL_METHOD["distill"]
    knobs: Sequence[str] | Mapping[str, object] = ()
    kimg: float | None = None
    batch: int | None = None
    settings: Settings | Mapping[str, object] | None = None
    outdir: str | Path | None = None
    init_sigma: float | None = None
    labels: str = "uniform"
    data: str | None = None
    teacher_images: int = 5000
    teacher_steps: int = 18
    report_steps: int = 18
    pairs: int | None = None
    distance: str | None = None
    keep: str | None = None
    reference: str | None = None
    features: str | None = None
    num: int = 5000
    device: str = "auto"
    memory_gb: float | None = None
    resume: str | None = None
    transfer: str | None = None
    wandb: str | None = None
    desc: str = ""
    progress: bool | None = None

    def completed(self, method: AnyMethod) -> DistilJob:
        """Return the job with every option that depends on the method.

        Raises:
            ValueError: an option that the method would ignore.
        """
        of_images = not isinstance(method, Method)
        regresses, name = isinstance(method, WithPairs), name_of_method(method)
        for flag, given, ignored, hint in (
            ("--init-sigma", self.init_sigma is not None, of_images, "use --set sigma_max=SIGMA"),
            ("--labels data", self.labels == "data", of_images, "images bring their labels"),
            ("--keep best", self.keep == "best", of_images, "its result is the last student"),
            ("--transfer", self.transfer is not None, of_images, "it starts from the teacher"),
            ("--pairs", self.pairs is not None, not regresses, "leave it out"),
            ("--distance", self.distance is not None, not regresses, "leave it out"),
        ):
            if given and ignored:
                raise ValueError(f"{name} takes no {flag}; {hint}")
        if self.labels == "data" and not self.data:
            raise ValueError("--labels is data, but there is no --data; name the data set")
        if isinstance(self.teacher, (str, Path)) and Path(self.teacher).is_dir():
            raise ValueError(
                f"{self.teacher} is a folder; the student is written in the layout of the "
                "teacher's pickle, so give a pickle"
            )
        sigma: float = getattr(method, "init_sigma", 1.0)
        return replace(
            self,
            init_sigma=sigma if self.init_sigma is None else self.init_sigma,
            keep=self.keep or ("last" if of_images else "best"),
            pairs=self.pairs or (NUM_PAIRS if regresses else None),
            distance=self.distance or ("pseudo-huber" if regresses else None),
        )

    def check(self) -> CheckedDistilJob:
        """Load and check everything that the job names.

        Raises:
            ValueError: something does not fit; nothing has been written.
            OSError: a file cannot be read.
        """
        method = method_with(self.method, self.knobs, "distill")
        settings, auto = settings_of(
            self.settings,
            method,
            kimg=self.kimg,
            batch=self.batch,
            resume=self.resume,
            transfer=self.transfer,
            outdir=Path(self.outdir) if self.outdir is not None else None,
        )
        check_counts(self.num, self.teacher_images, self.keep, pairs=self.pairs)
        if self.labels not in ("uniform", "data"):
            raise ValueError(f"labels is {self.labels!r}; allowed are uniform and data")
        job = replace(self.completed(method), teacher_set=facts_of(self.teacher, self.teacher_set))
        device = device_for(job.device)
        if not isinstance(job.teacher, (str, Path)):
            check_role("teacher", job.teacher)
            device = str(next(job.teacher.parameters()).device)
        settings = settled(settings, torch.device(device))
        check_running(settings, method, device, wandb=job.wandb)
        teacher = job.teacher
        if isinstance(teacher, (str, Path)):
            teacher = teachers.load(teacher, device=device, facts=parse_facts(job.teacher_set))
            if type(teacher).__name__ not in teachers.FAMILIES:
                raise ValueError(
                    f"{job.teacher} is no pickle of EDM, but the student is written in the layout "
                    "of a pickle of EDM, that of the teacher; give such a teacher, or refine a GAN "
                    "by this one (refine.py gan)"
                )
        assert job.init_sigma is not None
        start = one_step.OneStep(copy.deepcopy(teacher), sigma_init=job.init_sigma)
        if isinstance(method, Method):
            check_training_noise(method, settings, teacher)
        else:
            method.new_student(teacher)  # says what the method asks of the teacher
        check_teacher(method, teacher)
        if job.transfer:
            take_weights(start.denoiser, job.transfer, teachers.load)
        real_images = read_images(job.data, teacher) if job.data else None
        if job.labels == "data":
            assert real_images is not None
            start.class_weights = class_frequencies(real_images, job.data)
        distance = metrics.choose_distance(job.distance) if job.distance else None
        run = CheckedDistilJob(
            job=job,
            method=method,
            settings=settings,
            device=device,
            teacher=teacher,
            start=start,
            reference=open_measured(job.reference, job.features),
            real_images=real_images,
            given_data=job.data,
            distance=distance and distance.to(device),
        )
        return replace(
            run,
            settings=measured(settings, auto, method, run.begin, device, memory_gb=job.memory_gb),
        )

    def run(self) -> Student:
        """Carry the job out and return the one-step student."""
        began = time.monotonic()
        return self.check().run(began=began)


@dataclass(frozen=True)
class CheckedDistilJob:
    """A job with everything that it names loaded and checked.

    Attributes:
        start: the one-step student before any training.
        given_data: the real images that were named; job.data may be the teacher's.
        distance: by which pairs are compared, or None for the refiners' own.
    """

    job: DistilJob
    method: AnyMethod
    settings: Settings
    device: str
    teacher: Denoiser
    start: one_step.OneStep
    reference: metrics.Reference | None
    real_images: ImageSet | None
    given_data: str | None
    distance: Distance | None

    @property
    def needs_images(self) -> bool:
        """Whether the method compares with images or trains on them."""
        return not isinstance(self.method, Method) or compares_images(self.method)

    def begin(self, method: AnyMethod, settings: Settings) -> Run:
        """Return a run in memory with noise for images, to see what a step takes."""
        images = stand_in_images(self.teacher)
        shown, labels = images.at(torch.arange(100))
        pairs = PairSet(torch.randn(100, self.start.z_dim), shown, labels)
        return self.in_memory(method, settings, images, pairs, None)

    def in_memory(
        self,
        method: AnyMethod,
        settings: Settings,
        images: RealImages | None,
        pairs: Pairs | None,
        processes: Processes | None,
    ) -> Run:
        """Return the run in memory; it is given what its method needs."""
        if not isinstance(method, Method):
            assert images is not None
            return Distillation(
                self.teacher,
                cast("Distiller", method),
                settings,
                real_images=images,
                processes=processes,
            )
        inputs = Inputs(
            images if self.needs_images else None,
            pairs if isinstance(method, WithPairs) else None,
            self.distance or pseudo_huber,
        )
        return Refinement(
            self.start, self.teacher, method, settings, inputs=inputs, processes=processes
        )

    def options(self) -> dict[str, object]:
        """Return every option of the run with its value."""
        job = self.job
        asked = {f.name: getattr(job, f.name) for f in fields(job) if f.name not in UNSAID}
        asked |= {"teacher": name_of_source(job.teacher), "outdir": str(job.outdir)}
        named = {"method": name_of_method(self.method), **asdict(self.method)}
        return {**named, **asdict(self.settings), **asked, "device": self.device}

    def plan(self) -> dict[str, object]:
        """Return every option with its value, and what the run will take, measured."""
        plan = plan_run(self.begin, self.method, self.settings, memory_gb=self.job.memory_gb)
        return {**self.options(), "plan": plan}

    @failing_as_a_run()
    def run(self, *, began: float | None = None) -> Student:
        """Distil the teacher in a new run folder, if there is a place for it, and report.

        Args:
            began: since when max_hours count, by the monotonic clock; None is now.
        """
        processes = join(self.device)
        with Interrupts(self.settings.max_hours, began=began) as interrupts:
            opened = processes.first_alone(self.open_folder, "opening the run folder")
            folder, resume = opened or (None, bool(self.job.resume))
            with held(folder):
                try:
                    student = self.in_stages(folder, resume, processes, interrupts)
                except Stopped as stage:
                    tell_stopped(folder, stage, interrupts, processes)
                    student = copy.deepcopy(self.start)  # at its last hour, and not moved yet
        processes.leave()
        return student

    def in_stages(
        self,
        folder: RunFolder | None,
        resume: Path | bool,
        processes: Processes,
        interrupts: Interrupts,
    ) -> Student:
        """Carry the job out stage by stage.

        Raises:
            Stopped: it is asked to end around the training, which ends by itself.
        """
        started, job = time.time(), self.job
        with place_of(folder, processes) as place:
            ready = self.with_images(place, processes, interrupts)
            judge = in_stage(ready.open_judge, "opening the judge", processes, interrupts)
            student, outcome = ready.distil(folder, place, judge, resume, processes, interrupts)
        interrupts.count_no_more()
        if job.outdir is not None:
            space = self.reference or (judge and judge.reports)
            in_stage(
                lambda: ready.report(folder, student, space, outcome.result, started),
                "the report",
                processes,
                interrupts,
            )
        outcome.leave()
        return student

    def open_folder(self) -> tuple[RunFolder, Path | bool] | None:
        """Open the run's folder and show the student there; return it and what to resume from."""
        job = self.job
        if job.outdir is None:
            return None
        steps = f"{end_steps_of(self.method)}step"
        parts = Path(name_of_source(job.teacher)).stem, name_of_method(self.method), steps
        options, has = self.options(), self.made_of
        folder, resume = open_folder(job.outdir, job.resume, job.desc, options, has, *parts)
        save_grid(folder.path / "fakes_init.png", self.start, self.settings.seed)
        return folder, resume

    @cached_property
    def made_of(self) -> MadeOf:
        """Return what another run has to be made of to continue this one."""
        job = self.job
        return made_of(
            {"teacher": self.teacher},
            {
                **{name: getattr(job, name) for name in FIXED},
                "teacher_set": job.teacher_set or None,
                "seed": self.settings.seed,
            },
            reference=self.reference,
            data=self.given_data,
            files={},
        )

    def with_images(
        self, place: Path, processes: Processes, interrupts: Interrupts
    ) -> CheckedDistilJob:
        """Let the teacher make the images that are needed and not given."""
        job = self.job
        if job.data or not (self.needs_images or job.keep == "best"):
            return self

        def make() -> str:
            return str(
                make_teacher_images(
                    place / "teacher-images.zip",
                    self.teacher,
                    job.teacher_images,
                    seed=self.settings.seed,
                    steps=job.teacher_steps,
                    progress=stage_bar("teacher's images"),
                )
            )

        path = in_stage(make, "the teacher's images", processes, interrupts)
        path = processes.from_first(path, "the teacher's images")
        assert path is not None
        images = read_images(path, self.teacher)
        return replace(self, real_images=images, job=replace(job, data=path))

    def open_judge(self) -> Judge | None:
        """Return what judges the students, or None."""
        images, job = self.real_images, self.job
        if images is None or job.keep != "best":
            return None
        return judge_of(images, num=job.num, seed=self.settings.seed, device=self.device)

    def distil(
        self,
        folder: RunFolder | None,
        place: Path,
        judge: Judge | None,
        resume: Path | bool,
        processes: Processes,
        interrupts: Interrupts,
    ) -> tuple[Student, Outcome]:
        """Distil; return the one-step student, which result.pkl holds, and what it is."""
        job, settings = self.job, self.settings
        regresses = isinstance(self.method, WithPairs)
        pairs = self.pairs_in(place, processes, interrupts) if regresses else None
        images = self.real_images
        if images is not None and job.keep == "best":
            images, _ = held_back(images, settings.seed)
        images = images if self.needs_images else None
        with interrupts.at_once("preparing"):
            run = self.in_memory(self.method, settings, images, pairs, processes)
        state = state_in(job.transfer)
        if state is not None and isinstance(run, Refinement):
            run.start_from(read_state(state))
        curve = None
        if self.reference is not None and folder is not None:
            curve = curve_in(folder, self.reference, settings, num=job.num)
        session = Session(
            run,
            folder,
            save=self.save if isinstance(job.teacher, (str, Path)) else None,
            measure=curve,
            progress=job.progress,
            judge=judge,
            remark=f"regression on pairs by {name_of(self.distance or pseudo_huber)}"
            if regresses
            else "",
            boards=boards_in(folder, job.wandb, self.options()),
            made_of=self.made_of if folder is not None else None,
            interrupts=interrupts,
        )
        student = session.run_from(resume)
        if isinstance(student, SteppedStudent):
            # A run may end in a stage of more steps than asked for.
            student = self.as_result(student)
            if folder is not None and isinstance(job.teacher, (str, Path)):
                self.save(student, folder.path / RESULT_FILE)
        return student, session.outcome

    def save(self, student: Student, path: Path) -> None:
        """Write a snapshot in the layout of the teacher's file."""
        assert isinstance(self.job.teacher, (str, Path))
        if isinstance(student, SteppedStudent) and student.num_steps > 1:
            # A denoiser for a sampler of that many steps.
            teachers.save(plain(student.denoiser), path, extra=recorded_sampler(student))
            return
        if isinstance(student, SteppedStudent):
            student = self.as_result(student)
        assert isinstance(student, one_step.OneStep)
        one_step.save(student, path, like=self.job.teacher)

    def as_result(self, student: SteppedStudent) -> SteppedStudent | one_step.OneStep:
        """Return what trained on images as a student of the steps that were asked for."""
        assert self.job.init_sigma is not None
        student.num_steps = end_steps_of(self.method)
        if student.num_steps > 1:
            return student
        return one_step.OneStep(plain(student.denoiser), sigma_init=self.job.init_sigma)

    def pairs_in(self, place: Path, processes: Processes, interrupts: Interrupts) -> Pairs:
        """Let the teacher make the pairs of the run, or the rest of them; return their source."""
        job = self.job

        def make() -> str:
            assert job.pairs is not None
            return str(
                teachers.make_pairs(
                    self.teacher,
                    place / "pairs",
                    num_pairs=job.pairs,
                    num_steps=job.teacher_steps,
                    device=self.device,
                    progress=stage_bar("pairs"),
                )
            )

        path = in_stage(make, "the pairs", processes, interrupts)
        path = processes.from_first(path, "the pairs")
        assert path is not None
        return teachers.PairFolder(Path(path))

    def report(
        self,
        folder: RunFolder | None,
        student: Student,
        space: metrics.Reference | None,
        found: str,
        started: float,
    ) -> None:
        """Compare the teacher's sampler with the student on the same latents, and report."""
        assert folder is not None
        job, seed = self.job, self.settings.seed
        teacher, guidance = self.teacher, getattr(self.method, "guidance", None)
        if guidance is not None:
            teacher = teachers.classifier_free(teacher, weight=1 + guidance)
        sampler = TeacherSampler(teacher, num_steps=job.report_steps)
        grids: Grids = {
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
        calls = student.num_steps if isinstance(student, SteppedStudent) else 1
        notes = [
            f"Before is the teacher's sampler, {sampler.num_evaluations} evaluations an image."
        ]
        if comparison:
            distance = comparison["frechet_distance"]
            ratio = distance.after / distance.before
            notes.append(
                f"After is {'one evaluation' if calls == 1 else f'{calls} evaluations'}: "
                f"{ratio:.3g} times the sampler's Frechet distance."
            )
            grids |= metrics.draw_gallery(sampler, student, comparison)
        for note in notes:
            folder.log(note)
        write_report(
            folder,
            f"{Path(name_of_source(job.teacher)).name} distilled by {name_of_method(self.method)}",
            comparison,
            grids,
            result=found,
            options=self.options(),
            sources={"teacher": job.teacher},
            started=started,
            notes=notes,
        )


def end_steps_of(method: AnyMethod) -> int:
    """Return how many evaluations an image of a method's result takes."""
    return 1 if isinstance(method, Method) else method.halving.end_steps


def plain(denoiser: Denoiser) -> Denoiser:
    """Return a denoiser without the input for its guidance weight, at the one it has."""
    if isinstance(denoiser, GuidedDenoiser):
        return denoiser.at(denoiser.guidance)
    return denoiser


def class_frequencies(real_images: ImageSet, source: str | None) -> torch.Tensor:
    """Return how many images of a source each class has, float [label_dim]."""
    if real_images.labels is None:
        raise ValueError(
            f"--labels is data, but {source} has no labels of the teacher's classes; use uniform"
        )
    return real_images.labels.sum(dim=0)


distil = door(DistilJob, "distil")
