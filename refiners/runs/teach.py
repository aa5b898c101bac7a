"""The whole journey of a teacher: read the images, train in a run folder, watch, write.

What is watched is on images that the training does not see: the loss over the noise levels, by
which the result is chosen, and whether samples repeat training images.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Mapping, Sequence
from dataclasses import KW_ONLY, asdict, dataclass, fields, replace
from functools import cached_property
from pathlib import Path
from typing import cast

import safetensors.torch
import torch

import checkpoints
import image_sets
import teachers
from refiners.denoising import Denoising, Trainable
from refiners.runs.endings import failing_as_a_run
from refiners.runs.flops import TRAINING, flops_of_pass
from refiners.runs.folder import RunFolder
from refiners.runs.interrupts import Interrupts, Stopped
from refiners.runs.loss_picture import draw_losses
from refiners.runs.made_of import MadeOf, made_of
from refiners.runs.memorisation import SHOWN, Memory
from refiners.runs.pictures import save_grid, save_tiled
from refiners.runs.plan import AnyMethod, plan_run
from refiners.runs.recipes import (
    NOT_OF_TEACHERS,
    TEACHER_SIZES,
    TRAINED_ON,
    USUAL_SIZE,
    knobs_of,
)
from refiners.runs.schedule import label
from refiners.runs.session import Session
from refiners.runs.snapshots import RESULT_FILE
from refiners.runs.starting import (
    boards_in,
    check_running,
    device_for,
    held,
    in_stage,
    measured,
    open_folder,
    settings_of,
    tell_stopped,
)
from refiners.runs.teacher_sampler import TeacherSampler
from refiners.runs.training_images import TrainingImages, read_training_images
from refiners.runs.validation import FILE as VALIDATION_FILE
from refiners.runs.validation import Validation, mean_of
from refiners.training.augmentation import AUGMENT_DIM
from refiners.training.low_rank import changes_of, merged
from refiners.training.precision import settled
from refiners.training.settings import Settings
from refiners.training.teaching import Teaching
from roles import Denoiser, Processes, Student
from roles.processes import join
from roles.streams import random_stream
from teachers.sizes import LABEL_DROPOUT, new_teacher, parse_changes
from teachers.starting import started_from

LOW_RANK_FILE = "low-rank.safetensors"
STEPS = 12  # of the sampler that shows a teacher, as a snapshot draws 192 images
FINISHED_FILE = "finished.json"  # beside the runs of a teacher that another run needs
TERAFLOPS = 30  # a second that a GPU is taken to sustain, in estimates
FROM_SCRATCH = "a new network of size"
# What of a network that is trained on may be changed.
OF_STARTED = ("dropout", "label_dropout")


@dataclass(frozen=True)
class TeachJob:
    """Train a diffusion teacher on images and return it.

    Attributes:
        data: a folder or zip of images in the StyleGAN layout, or its address.
        outdir: where to make a run folder.
        size: a key of TEACHER_SIZES; None is small.
        start: a teacher's file or address to train on from, in place of a size.
        net: arguments of the network in place of the size's, as KEY=VALUE.
        knobs: of Denoising, by name or as KEY=VALUE.
        kimg: length of the run in thousands of images; None is the size's.
        batch: images of a step; None is the size's.
        settings: everything else, by name; what is left out is the size's.
        device: "auto", "cpu" or "cuda".
        resume: "latest", a run folder or a training-state-*.pt to continue.
        wandb: project to log to.
        desc: name of the run folder after its number.
        progress: show a progress bar; None shows it on a terminal.

    Raises:
        ValueError: what does not fit, before anything is written; see refine() for what is raised
            later.
    """

    data: str
    _: KW_ONLY
    outdir: str | Path
    size: str | None = None
    start: str | None = None
    net: Sequence[str] = ()
    knobs: Sequence[str] | Mapping[str, object] = ()
    kimg: float | None = None
    batch: int | None = None
    settings: Mapping[str, object] | None = None
    device: str = "auto"
    resume: str | None = None
    wandb: str | None = None
    desc: str = ""
    progress: bool | None = None

    def check(self) -> CheckedTeachJob:
        """Read the images and make the network.

        Raises:
            ValueError: the job cannot be done; nothing has been written.
            OSError: a file cannot be read.
        """
        if self.size is not None and self.start is not None:
            raise ValueError(
                f"--size is {self.size} and --from is {self.start}; a network that is trained on "
                "has its size: give one of them"
            )
        size = self.size or USUAL_SIZE
        if size not in TEACHER_SIZES:
            raise ValueError(f"--size is {size!r}; allowed are {', '.join(TEACHER_SIZES)}")
        changes = parse_changes(self.net)
        method = Denoising(**knobs_of(Denoising, "teach", self.knobs))  # pyright: ignore[reportArgumentType] -- it checks
        if method.rank and not self.start:
            raise ValueError(
                f"--set rank={method.rank} is given without --from; a new network has nothing to "
                "keep: leave it out"
            )
        row = TRAINED_ON if self.start else TEACHER_SIZES[size]
        told = {**row, **(self.settings or {})}
        settings, auto = settings_of(
            told,
            cast("AnyMethod", method),
            kimg=self.kimg,
            batch=self.batch,
            resume=self.resume,
            transfer=None,
            outdir=Path(self.outdir),
        )
        device = device_for(self.device)
        settings = settled(settings, torch.device(device))
        check_running(settings, cast("AnyMethod", method), device, wandb=self.wandb)
        images = read_training_images(self.data, seed=settings.seed)
        wants = AUGMENT_DIM if method.augment else 0
        sizes = {
            "img_resolution": images.img_resolution,
            "img_channels": images.img_channels,
            "label_dim": images.label_dim,
            "augment_dim": wants,
        }
        with random_stream(settings.seed, torch.device("cpu")):
            if self.start is None:
                network, remark = (
                    new_teacher(size, **sizes, sigma_data=method.sigma_data, changes=changes),
                    f"{FROM_SCRATCH} {size}",
                )
            else:
                if odd := changes.keys() - set(OF_STARTED):
                    raise ValueError(
                        f"--net {min(odd)} is given with --from, whose network has its own; "
                        f"allowed are {', '.join(OF_STARTED)}"
                    )
                dropout = changes.get("label_dropout", LABEL_DROPOUT), changes.get("dropout")
                network, remark = started_from(
                    teachers.load(self.start),
                    **sizes,
                    label_dropout=cast("float", dropout[0]),
                    dropout=cast("float | None", dropout[1]),
                )
                remark = f"from {self.start}" + (f": {remark}" if remark else "")
        spread = getattr(network, "sigma_data", method.sigma_data)
        run = CheckedTeachJob(
            job=self if self.start else replace(self, size=size),
            method=replace(method, sigma_data=float(spread)),
            settings=settings,
            device=device,
            images=images,
            network=cast("Trainable", network.to(device).eval()),
            remark=remark,
        )
        start = run.begin
        return replace(
            run,
            settings=measured(
                settings, auto, cast("AnyMethod", method), start, device, memory_gb=None
            ),
        )

    def run(self) -> Denoiser:
        """Carry the job out and return the teacher."""
        began = time.monotonic()
        return self.check().run(began=began)


@dataclass(frozen=True)
class CheckedTeachJob:
    """A job with its images read and its network made.

    Attributes:
        network: untrained, or as it was in the file that the job starts from.
        remark: what the network is, in words.
    """

    job: TeachJob
    method: Denoising
    settings: Settings
    device: str
    images: TrainingImages
    network: Trainable
    remark: str

    def begin(self, method: AnyMethod, settings: Settings) -> Teaching:
        """Return a run in memory, to see what a step takes."""
        return self.in_memory(settings, None)

    def in_memory(self, settings: Settings, processes: Processes | None) -> Teaching:
        """Return the run in memory."""
        return Teaching(
            self.network,
            self.method,
            settings,
            real_images=self.images.seen,
            sampler=lambda denoiser: TeacherSampler(denoiser, num_steps=STEPS),
            processes=processes,
        )

    def options(self) -> dict[str, object]:
        """Return every option of the run with its value."""
        job = self.job
        left_out = ("settings", "progress", "resume", "knobs", "kimg", "batch")
        asked = {f.name: getattr(job, f.name) for f in fields(job) if f.name not in left_out}
        asked |= {"outdir": str(job.outdir), "net": list(job.net)}
        used = {k: v for k, v in asdict(self.settings).items() if k not in NOT_OF_TEACHERS}
        return {**asked, **asdict(self.method), **used, "device": self.device}

    def plan(self) -> dict[str, object]:
        """Return every option with its value, and what the run will take, measured."""
        found = plan_run(self.begin, cast("AnyMethod", self.method), self.settings)
        flops = TRAINING * flops_of_pass(self.network)
        images = self.settings.num_steps * self.settings.batch
        weights = sum(p.numel() for p in self.network.parameters())
        return {
            **self.options(),
            "data_found": self.images.remark,
            "network": {"what": self.remark, "million_weights": round(weights / 1e6, 2)},
            "plan": found,
            "estimate_for_a_gpu": {
                "note": f"counted, not measured: at {TERAFLOPS} TFLOP/s sustained",
                "gflop_per_image": round(flops / 1e9, 2),
                "images_per_sec": round(TERAFLOPS * 1e12 / flops, 1),
                "hours": round(images * flops / (TERAFLOPS * 1e12) / 3600, 2),
            },
        }

    @failing_as_a_run()
    def run(self, *, began: float | None = None) -> Denoiser:
        """Train the teacher in a run folder.

        Args:
            began: since when max_hours count, by the monotonic clock; None is now.
        """
        processes = join(self.device)
        with Interrupts(self.settings.max_hours, began=began) as interrupts:
            opened = processes.first_alone(self.open_folder, "opening the run folder")
            folder, resume = opened or (None, bool(self.job.resume))
            with held(folder):
                try:
                    teacher = self.train(folder, resume, processes, interrupts)
                except Stopped as stage:
                    tell_stopped(folder, stage, interrupts, processes)
                    teacher = copy.deepcopy(self.network)  # at its last hour, and not moved yet
        processes.leave()
        return teacher

    def open_folder(self) -> tuple[RunFolder, Path | bool]:
        """Open the run's folder and show some of the images there."""
        job = self.job
        what = Path(job.start).stem if job.start else str(job.size)
        parts = Path(job.data).stem, "teacher", what
        folder, resume = open_folder(
            job.outdir, job.resume, job.desc, self.options(), self.made_of, *parts
        )
        shown, _ = self.images.seen.at(torch.arange(min(128, len(self.images.seen.images))))
        save_tiled(folder.path / "reals.png", shown, 16)
        return folder, resume

    @cached_property
    def made_of(self) -> MadeOf:
        """Return what another run has to be made of to continue this one."""
        return made_of(
            {"network": self.network},
            {"seed": self.settings.seed},
            reference=None,
            data=str(checkpoints.local_data(self.job.data)),
            files={},
        )

    def train(
        self,
        folder: RunFolder | None,
        resume: Path | bool,
        processes: Processes,
        interrupts: Interrupts,
    ) -> Denoiser:
        """Train; return the teacher, which result.pkl holds."""
        with interrupts.at_once("preparing"):
            run = self.in_memory(self.settings, processes)
        watcher = in_stage(
            lambda: Watcher(self, run, folder), "preparing what is watched", processes, interrupts
        )
        session = Session(
            run,
            folder,
            save=save,
            measure=watcher and watcher.measure,
            progress=self.job.progress,
            judge=watcher,
            remark=f"{self.remark}; {self.images.remark}",
            boards=boards_in(folder, self.job.wandb, self.options()),
            made_of=self.made_of,
            interrupts=interrupts,
            what="teach",
        )
        student = session.run_from(resume)
        if folder is not None:
            save_grid(folder.path / "fakes_final.png", student, self.settings.seed)
            changes = changes_of(of_sampler(student)) if self.method.rank else {}
            if changes:
                with checkpoints.replacing(folder.path / LOW_RANK_FILE) as file:
                    file.write(safetensors.torch.save(changes, {"from": str(self.job.start)}))
            folder.log(
                f"the teacher is {folder.path / RESULT_FILE}; next: refine.py gan --student "
                f"my-gan.pkl --teacher {folder.path / RESULT_FILE} --data {self.job.data} "
                f"--outdir {self.job.outdir}"
            )
        session.outcome.leave()
        return denoiser_of(student)


class Watcher:
    """Measures a teacher at snapshots, and chooses the one that denoises held-out images best."""

    trained_anew = True

    def __init__(self, job: CheckedTeachJob, run: Teaching, folder: RunFolder | None):
        self.run, self.folder = run, folder
        images, seed = job.images, job.settings.seed
        self.validation = Validation(images, job.method, seed=seed, device=run.device)
        self.memory = Memory(images.seen, images.held_out, xflip=job.method.xflip, seed=seed)
        self.last: tuple[int, float] | None = None

    def measure(self, student: Student, num_images: int) -> Mapping[str, float]:
        """Measure the run's average, write what was found to the folder and return it."""
        line = self.validation.line(denoiser_of(student), num_images / 1000)
        copies = self.memory.look(student)
        if self.folder is not None:
            self.folder.append(VALIDATION_FILE, line | copies.line())
            draw_losses(self.folder.path / VALIDATION_FILE, self.folder.path / "validation.png")
            name = f"nearest{label(self.run.settings, num_images)}.png"
            save_tiled(self.folder.path / name, copies.pictures, SHOWN)
        self.last = num_images, mean_of(line, "held_out")
        return {"held_out": self.last[1], "seen": mean_of(line, "seen")} | copies.line()

    def __call__(self, student: Student) -> float:
        """Return the held-out loss of a student, which is a teacher in its sampler."""
        if student is self.run.average and self.last and self.last[0] == self.run.num_images:
            return self.last[1]
        losses = self.validation.losses(denoiser_of(student), "held_out")
        return sum(losses) / len(losses)


def of_sampler(student: Student) -> Trainable:
    """Return the teacher in its sampler, as it is trained."""
    assert isinstance(student, TeacherSampler)
    return cast("Trainable", student.teacher)


def denoiser_of(student: Student) -> Denoiser:
    """Return the teacher in its sampler, as it is written."""
    return merged(of_sampler(student))


def save(student: Student, path: Path) -> None:
    """Write a snapshot: the teacher, in EDM's layout."""
    teachers.save(denoiser_of(student), path)


def taught(job: TeachJob) -> Path:
    """Return the teacher that a job makes, from its folder if it is there for these images.

    A run that was begun and not ended is continued.
    """
    place = Path(job.outdir)
    finished = place / FINISHED_FILE
    data_sha256 = image_sets.fingerprint(checkpoints.local_data(job.data))
    if finished.is_file():
        told = checkpoints.read_json(finished)
        path = place / str(told.get("teacher"))
        if told.get("data_sha256") == data_sha256 and path.is_file():
            print(f"the teacher of these images is there: {path}", flush=True)
            return path
    begun = [
        run
        for run in place.glob("[0-9]*-*")
        if RunFolder(run).states() and _data_of(run) == data_sha256
    ]
    replace(job, resume=str(max(begun)) if begun else None).run()
    newest = max(run for run in place.glob("[0-9]*-*") if (run / RESULT_FILE).is_file())
    facts = {"data_sha256": data_sha256, "teacher": f"{newest.name}/{RESULT_FILE}"}
    RunFolder(place).write_json(FINISHED_FILE, facts)
    return newest / RESULT_FILE


def _data_of(run: Path) -> object:
    """Return the SHA-256 of the images of a run, by its options."""
    options = run / "training_options.json"
    made = checkpoints.read_json(options).get("made_of") if options.is_file() else None
    return made.get("data_sha256") if isinstance(made, Mapping) else None
