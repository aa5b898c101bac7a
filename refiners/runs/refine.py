"""The whole journey of a refinement: check, refine in a run folder, compare before and after.

`refiners.refine(student, teacher, ...)` and `refine.py gan` are its two doors: the same call gives
the same weights.
"""

from __future__ import annotations

import copy
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import KW_ONLY, asdict, dataclass, fields, replace
from functools import cached_property
from pathlib import Path
from typing import cast

import torch

import metrics
import students
import teachers
from refiners.base import Method
from refiners.runs.discriminator import own_discriminator
from refiners.runs.drift import Kept, drift, moved, renew_w_avg
from refiners.runs.endings import Outcome, failing_as_a_run
from refiners.runs.folder import RunFolder, read_state
from refiners.runs.interrupts import Interrupts, Stopped
from refiners.runs.judge import HALFWAY, TEACHERS, Judge, held_back, judge_by, judge_of
from refiners.runs.made_of import MadeOf, made_of
from refiners.runs.measuring import curve_in, open_measured
from refiners.runs.pairing import EVERYWHERE, Pair, bring_together, whole
from refiners.runs.pictures import sample_grid, save_grid
from refiners.runs.plan import AnyMethod, plan_run
from refiners.runs.progress import stage_bar
from refiners.runs.recipes import USUAL_METHOD, method_with, name_of_method, teacher_images_for
from refiners.runs.reporting import Grids, write_report
from refiners.runs.session import Session
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
    told_before,
)
from refiners.runs.teacher_images import doubt_of, make_teacher_images, read_images
from refiners.training.fit import check_pair, check_role, check_teacher
from refiners.training.inputs import ImageSet, Inputs
from refiners.training.precision import settled
from refiners.training.refinement import Refinement, check_training_noise
from refiners.training.settings import Settings
from roles import Denoiser, Discriminator, Processes, Student
from roles.processes import join
from teachers.facts import parse as parse_facts

# Not in training_options.json under these names: what is resolved there, and what no file can say.
UNSAID = ("student", "teacher", "outdir", "resume", "method", "knobs", "kimg", "batch", "settings")
UNSAID += ("save", "progress")
# Told where the teacher's images are all that there is to judge by.
UNCHECKED = (
    "; whether the teacher's images are better than the original's was not checked, which takes "
    "--data, or a --reference with features of single images"
)
# Options that move a run's numbers, beside its method, its settings and what its files hold.
FIXED = ("num", "keep", "adapt", "guidance", "guidance_interval")
FIXED += ("teacher_images", "teacher_steps")


@dataclass(frozen=True)
class RefineJob:
    """Refine a student by a teacher and return the refined student; the one given is not changed.

    SIGINT and SIGTERM let the step finish and the state be written, then end the process.

    Attributes:
        student: a generator's file, its address, or a module that is a Student.
        teacher: a denoiser's, likewise, of the same resolution and channels unless `adapt` is said.
        teacher_set: what the teacher's file does not hold, by name or as KEY=VALUE, see
            teachers.load.
        method: a name in REFINERS, with the knobs that refine a GAN, or one of its dataclasses.
        knobs: of a method that is named, by name or as KEY=VALUE.
        kimg: length of the run in thousands of the student's images.
        batch: images per step.
        settings: everything else; by name, what is left out goes by the defaults, and the warm-up
            is at most half of the run.
        outdir: where to make a run folder; None writes nothing.
        reference: what the report measures against: statistics with their features, or images.
        features: the feature space, where the reference brings none.
        num: images behind the report's numbers.
        data: real images, a zip or folder, for the judge and for methods that compare with some;
            None lets the teacher make its own.
        teacher_images: how many it makes; None is in proportion to the run.
        teacher_steps: steps of the sampler that makes them.
        keep: "best" returns the snapshot that the judge (refiners.runs.judge) finds best on images
            that the method does not see, or the original; "last" the last.
        force: refine even where real images say that the teacher's samples are not better.
        adapt: "area", "crop" or "tiles": how the teacher sees a student of another size.
        class_map: a file with a teacher's class for each of the student's, or "none".
        guidance: weight of the teacher's guidance; 1 is none.
        guide: what to guide away from; None is the teacher without its label.
        guidance_interval: "LOW,HIGH", the noise levels at which to guide.
        network: which network of the student's file.
        device: as pick_device takes it, for networks from files; modules are where they are.
        memory_gb: GiB that the plan and batch_gpu "auto" count on; None is what is free.
        resume: "latest", a run folder or a training-state-*.pt to continue, to the same numbers as
            an undisturbed run.
        transfer: a network's file or a training-state-*.pt whose weights the run starts from.
        wandb: project to log to.
        desc: name of the run folder after its number.
        save: called as save(student, path) for each snapshot; None writes a student from a file in
            that file's layout, and any other not at all.
        progress: show a progress bar; None shows it on a terminal.

    Raises:
        ValueError: a pair that does not fit, an unknown method, a setting out of range, a state of
            other settings.
        FloatingPointError: the run was wrecked: its images diverged, or step after step was not
            finite, after a new try at half the rates. Its files are written; result.pkl holds the
            original.
        MemoryError: a GPU has too little memory; the states that were written are whole.
        OSError: a file cannot be read or written; likewise.
    """

    student: str | Path | Student
    teacher: str | Path | Denoiser
    _: KW_ONLY
    teacher_set: Sequence[str] | Mapping[str, object] = ()
    method: str | Method = USUAL_METHOD["gan"]
    knobs: Sequence[str] | Mapping[str, object] = ()
    kimg: float | None = None
    batch: int | None = None
    settings: Settings | Mapping[str, object] | None = None
    outdir: str | Path | None = None
    reference: str | None = None
    features: str | None = None
    num: int = 5000
    data: str | None = None
    teacher_images: int | None = None
    teacher_steps: int = 6
    keep: str = "best"
    force: bool = False
    adapt: str | None = None
    class_map: str | None = None
    guidance: float = 1.0
    guide: str | None = None
    guidance_interval: str = EVERYWHERE
    network: str = "G_ema"
    device: str = "auto"
    memory_gb: float | None = None
    resume: str | None = None
    transfer: str | None = None
    wandb: str | None = None
    desc: str = ""
    save: Callable[[Student, Path], object] | None = None
    progress: bool | None = None

    def check(self) -> CheckedJob:
        """Read what the job names.

        Raises:
            ValueError: it cannot be done.
            OSError: a file cannot be read.
        """
        method = cast("Method", method_with(self.method, self.knobs, "gan"))
        settings, auto = settings_of(
            self.settings,
            method,
            kimg=self.kimg,
            batch=self.batch,
            resume=self.resume,
            transfer=self.transfer,
            outdir=Path(self.outdir) if self.outdir is not None else None,
        )
        check_counts(self.num, self.teacher_images, self.keep)
        job = replace(self, teacher_set=facts_of(self.teacher, self.teacher_set))
        if job.teacher_images is None:
            # Those of a run that is continued are there, whatever its length is now.
            before = told_before(job.resume, job.outdir, "teacher_images")
            count = before if isinstance(before, int) else teacher_images_for(settings.kimg)
            job = replace(job, teacher_images=count)
        device = device_for(job.device)
        if not isinstance(job.teacher, (str, Path)):
            check_role("teacher", job.teacher)
        if not isinstance(job.student, (str, Path)):
            check_role("student", job.student)
            device = str(next(job.student.parameters()).device)
        settings = settled(settings, torch.device(device))
        check_running(settings, method, device, wandb=job.wandb)
        pair = bring_together(
            job.load_student(job.student, device),
            job.load_teacher(device),
            adapt=job.adapt,
            class_map=job.class_map,
            guidance=job.guidance,
            guide=job.guide,
            guidance_interval=job.guidance_interval,
            device=device,
        )
        check_pair(pair.student, pair.teacher)
        check_teacher(method, pair.teacher)
        check_training_noise(method, settings, pair.teacher)
        if job.data:
            read_images(job.data, pair.teacher)
        start = pair.student
        if job.transfer is not None:
            start = copy.deepcopy(pair.student)
            take_weights(whole(start), job.transfer, lambda path: job.load_student(path, device))
        reference = open_measured(job.reference, job.features)
        discriminator, remark = own_discriminator(method, job.student, pair.student)
        remarks = tuple(filter(None, (pair.remark, remark)))
        run = CheckedJob(
            job, method, settings, device, pair, reference, start, discriminator, remarks
        )
        return replace(
            run,
            settings=measured(settings, auto, method, run.begin, device, memory_gb=job.memory_gb),
        )

    def load_student(self, student: str | Path | Student, device: str) -> Student:
        """Return a student from its file, or the one given."""
        if not isinstance(student, (str, Path)):
            return student
        loaded = students.load(student, network=self.network, device=device)
        if not isinstance(loaded, Student):
            raise ValueError(f"{self.network} of {student} makes no images; refine a generator")
        return loaded

    def load_teacher(self, device: str) -> Denoiser:
        """Return the teacher from its file, or the one given."""
        if not isinstance(self.teacher, (str, Path)):
            return self.teacher
        return teachers.load(self.teacher, device=device, facts=parse_facts(self.teacher_set))

    def run(self) -> Student:
        """Carry the job out and return the refined student."""
        began = time.monotonic()
        return self.check().run(began=began)


@dataclass(frozen=True)
class CheckedJob:
    """A job whose networks, options and files were read and fit each other.

    Attributes:
        start: the pair's student, or with the weights that were transferred.
        discriminator: that of the student's file, where the method starts from it.
        remarks: first lines of the log.
    """

    job: RefineJob
    method: Method
    settings: Settings
    device: str
    pair: Pair
    reference: metrics.Reference | None
    start: Student
    discriminator: Discriminator | None
    remarks: tuple[str, ...]

    def begin(self, method: AnyMethod, settings: Settings) -> Refinement:
        """Return a run in memory with noise for images, to see what a step takes."""
        assert isinstance(method, Method)
        images = stand_in_images(self.pair.teacher) if compares_images(method) else None
        return self.refinement(method, settings, Inputs(images), None)

    def refinement(
        self, method: Method, settings: Settings, inputs: Inputs, processes: Processes | None
    ) -> Refinement:
        """Return the run in memory."""
        return Refinement(
            self.start,
            self.pair.teacher,
            method,
            settings,
            inputs=inputs,
            auxiliary=self.pair.auxiliary,
            discriminator=self.discriminator,
            processes=processes,
        )

    def options(self) -> dict[str, object]:
        """Return every option with its value, for training_options.json and the report."""
        job = self.job
        asked = {f.name: getattr(job, f.name) for f in fields(job) if f.name not in UNSAID}
        networks = {name: name_of_source(getattr(job, name)) for name in ("student", "teacher")}
        chosen = {"method": name_of_method(self.method), **asdict(self.method)}
        return {**networks, **asked, **chosen, **asdict(self.settings), "device": self.device}

    def plan(self) -> dict[str, object]:
        """Return every option with its value, and what the run will take, measured."""
        plan = plan_run(self.begin, self.method, self.settings, memory_gb=self.job.memory_gb)
        return {**self.options(), "plan": plan}

    @failing_as_a_run()
    def run(self, *, began: float | None = None) -> Student:
        """Refine the student in a new run folder, if there is a place for it, and report.

        Args:
            began: since when max_hours count, by the monotonic clock; None is now.
        """
        processes = join(self.device)
        with Interrupts(self.settings.max_hours, began=began) as interrupts:
            opened = processes.first_alone(self.open_folder, "opening the run folder")
            folder, resume = opened or (None, bool(self.job.resume))
            with held(folder):
                try:
                    refined = self.in_stages(folder, resume, processes, interrupts)
                except Stopped as stage:
                    tell_stopped(folder, stage, interrupts, processes)
                    refined = copy.deepcopy(self.start)  # at its last hour, and not moved yet
        processes.leave()
        return whole(refined)

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
            path = in_stage(
                lambda: self.images_to_compare(place), "the teacher's images", processes, interrupts
            )
            path = processes.from_first(path, "the teacher's images")
            images = None if path is None else read_images(path, self.pair.teacher)
            in_stage(
                lambda: self.doubt(images, folder), "checking the teacher", processes, interrupts
            )
            judge = in_stage(
                lambda: self.open_judge(images), "opening the judge", processes, interrupts
            )
            why_not = in_stage(
                lambda: self.no_use(judge, place, folder),
                "measuring the teacher",
                processes,
                interrupts,
            )
            why_not = processes.from_first(why_not, "measuring the teacher")
            refined, outcome = self.refine(
                folder, images, judge, resume, processes, interrupts, why_not or ""
            )
        interrupts.count_no_more()
        if job.outdir is not None:
            in_stage(
                lambda: self.report(folder, refined, judge, outcome.result, started),
                "the report",
                processes,
                interrupts,
            )
        outcome.leave()
        return refined

    def open_folder(self) -> tuple[RunFolder, Path | bool] | None:
        """Open the run's folder and show the student there; return it and what to resume from."""
        job = self.job
        if job.outdir is None:
            return None
        parts = Path(name_of_source(job.student)).stem, name_of_method(self.method)
        options, has = self.options(), self.made_of
        folder, resume = open_folder(job.outdir, job.resume, job.desc, options, has, *parts)
        for remark in self.remarks:
            folder.log(remark)
        save_grid(folder.path / "fakes_init.png", whole(self.pair.student), self.settings.seed)
        return folder, resume

    @cached_property
    def made_of(self) -> MadeOf:
        """Return what another run has to be made of to continue this one."""
        job = self.job
        return made_of(
            {"student": whole(self.pair.student), "teacher": self.pair.teacher},
            {
                **{name: getattr(job, name) for name in FIXED},
                "teacher_set": job.teacher_set or None,
                "seed": self.settings.seed,
            },
            reference=self.reference,
            data=job.data,
            files={"class_map": job.class_map, "guide": job.guide},
        )

    def images_to_compare(self, place: Path) -> str | None:
        """Return the data set that the student's images are compared with, None where none is.

        Without data it is made of the teacher's own samples, once for a run folder.
        """
        job = self.job
        judged = job.keep == "best" and self.by_reference is None
        if job.data or not (compares_images(self.method) or judged):
            return job.data
        return str(self.make_images(place, job.teacher_images))

    def make_images(self, place: Path, count: int | None) -> Path:
        """Let the teacher make its images, where they are not there yet."""
        assert count is not None
        return make_teacher_images(
            place / "teacher-images.zip",
            self.pair.teacher,
            count,
            seed=self.settings.seed,
            steps=self.job.teacher_steps,
            progress=stage_bar("teacher's images"),
        )

    def doubt(self, images: ImageSet | None, folder: RunFolder | None) -> None:
        """Say it where the teacher denoises so badly that what was told of it may be wrong."""
        plain = self.pair.auxiliary or self.pair.teacher
        found = doubt_of(plain, images) if images is not None else ""
        if found and folder is not None:
            folder.log(f"warning: {found}")
        elif found:
            warnings.warn(found, stacklevel=2)

    @property
    def sees_real_images(self) -> bool:
        """Whether the judge compares with real images, and not with the teacher's."""
        return bool(self.job.data) or self.by_reference is not None

    @cached_property
    def by_reference(self) -> Judge | None:
        """The judge by the reference's own images, where it has some and can see the student's.

        Where the teacher sees the student through a bridge, the judge does.
        """
        if self.reference is None or whole(self.pair.student) is not self.pair.student:
            return None
        return judge_by(self.reference, num=self.job.num, seed=self.settings.seed)

    def open_judge(self, images: ImageSet | None) -> Judge | None:
        """Return what judges the students, or None."""
        job = self.job
        if job.keep != "best" or self.by_reference is not None or images is None:
            return self.by_reference if job.keep == "best" else None
        return judge_of(
            images,
            num=job.num,
            seed=self.settings.seed,
            device=self.device,
            reach=1.0 if job.data else HALFWAY,
        )

    def no_use(self, judge: Judge | None, place: Path, folder: RunFolder | None) -> str:
        """Return that the teacher's own samples are no better than the student's, where so.

        Real images tell, against which both are measured; without any, or where the run is to go
        on whatever they say, this is empty.
        """
        job = self.job
        if judge is None or not self.sees_real_images or job.force:
            return ""
        path = self.make_images(place, job.teacher_images if self.by_reference else TEACHERS)
        found = judge.lead(self.pair.student, read_images(path, self.pair.teacher))
        numbers = (
            f"{found.after:.4g} against the student's {found.before:.4g}, 95 % interval of the "
            f"difference {found.low:+.3g} to {found.high:+.3g}, {found.num_images} images"
        )
        if folder is not None:
            folder.log(f"the teacher's own samples stand at {numbers}")
        if found.high < 0:
            return ""
        return f"the teacher's own samples are not better ({numbers}); --force goes on"

    def refine(
        self,
        folder: RunFolder | None,
        images: ImageSet | None,
        judge: Judge | None,
        resume: Path | bool,
        processes: Processes,
        interrupts: Interrupts,
        why_not: str,
    ) -> tuple[Student, Outcome]:
        """Refine the student; return the result, which result.pkl holds, and what it is.

        With a reason not to, the result is the original.
        """
        job, settings = self.job, self.settings
        if images is not None and job.keep == "best" and self.by_reference is None:
            images, _ = held_back(images, settings.seed)
        real = images if compares_images(self.method) else None
        with interrupts.at_once("preparing"):
            refinement = self.refinement(self.method, settings, Inputs(real), processes)
        state = state_in(job.transfer)
        if state is not None:
            refinement.start_from(read_state(state))
        session = Session(
            refinement,
            folder,
            save=self.saver(),
            measure=self.measurer(folder),
            progress=job.progress,
            judge=judge,
            boards=boards_in(folder, job.wandb, self.options()),
            made_of=self.made_of if folder is not None else None,
            interrupts=interrupts,
            finish=lambda result: renew_w_avg(whole(self.pair.student), whole(result)),
        )
        refined = session.keep_original(why_not) if why_not else session.run_from(resume)
        return refined, session.outcome

    def saver(self) -> Callable[[Student, Path], object] | None:
        """Return what writes a student's snapshot."""
        job = self.job
        if job.save is not None or not isinstance(job.student, (str, Path)):
            return job.save
        like = job.student
        return lambda student, path: students.save(
            whole(student), path, like=like, network=job.network
        )

    def measurer(
        self, folder: RunFolder | None
    ) -> Callable[[Student, int], Mapping[str, float]] | None:
        """Return what measures a student for the curve."""
        if self.reference is None or folder is None:
            return None
        curve = curve_in(folder, self.reference, self.settings, num=self.job.num)
        return lambda student, num_images: curve(whole(student), num_images)

    def report(
        self,
        folder: RunFolder | None,
        refined: Student,
        judge: Judge | None,
        found: str,
        started: float,
    ) -> None:
        """Compare before and after, by the reference or else the judge's, and write the report."""
        assert folder is not None
        job, seed = self.job, self.settings.seed
        original = whole(self.pair.student)
        grids: Grids = {
            "before": sample_grid(original, seed),
            "after": save_grid(folder.path / "fakes_final.png", whole(refined), seed),
        }
        comparison, space, kept = None, self.reference, None
        if judge is not None and (space is None or judge.chooses.extractor is space.extractor):
            space = judge.reports
        if space is not None:
            # The judge's images have the teacher's size, so it sees what the teacher does.
            before, after = self.pair.student, refined
            if self.reference:
                before, after = original, whole(after)
            comparison = metrics.compare(
                before,
                after,
                space,
                num_images=job.num,
                seed=seed,
                progress=stage_bar("compare"),
            )
            grids |= metrics.draw_gallery(before, after, comparison)
            kept = Kept(
                drift(before, after, space.extractor, seed=seed),
                moved(original, whole(refined), "mapping"),
            )
        write_report(
            folder,
            f"{Path(name_of_source(job.student)).name} refined by {name_of_method(self.method)}",
            comparison,
            grids,
            result=found + (UNCHECKED if judge is not None and not self.sees_real_images else ""),
            options=self.options(),
            sources={"student": job.student, "teacher": job.teacher},
            started=started,
            kept=kept,
        )


refine = door(RefineJob, "refine")
