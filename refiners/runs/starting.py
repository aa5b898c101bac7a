"""How a run starts and continues, be it one that refines a GAN or one that distils a teacher."""

from __future__ import annotations

import contextlib
import functools
import re
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import ParamSpec, Protocol, TypeVar

import torch

import checkpoints
from refiners.base import WithDiscriminator, WithHead, WithMemory
from refiners.runs.boards import check_wandb, tensorboard, wandb_board
from refiners.runs.folder import OPTIONS_FILE, RunFolder, read_state
from refiners.runs.interrupts import Interrupts, Stopped
from refiners.runs.made_of import MadeOf, check_made_of
from refiners.runs.plan import AnyMethod, Start, measured_batch_gpu
from refiners.runs.provenance import software
from refiners.runs.recipes import warmup_for
from refiners.runs.session import Board
from refiners.training.inputs import ImageSet
from refiners.training.pieces import pieces_of
from refiners.training.precision import check_compiler, check_device
from refiners.training.settings import Settings
from refiners.training.shared_pass import check_shared_pass
from refiners.training.state import check_tensors
from roles import Denoiser, Network, Processes, Student
from roles.device import pick_device
from roles.processes import device_of_rank, num_processes
from teachers.facts import parse as parse_facts

AUTO = "auto"
LEAST = 100  # of which moments and intervals say something
Asked = ParamSpec("Asked")
Found = TypeVar("Found")


class Job(Protocol):
    """What was asked of a run; it is carried out by run()."""

    def run(self) -> Student:
        """Carry the job out and return the student."""
        ...


def door(job: Callable[Asked, Job], name: str) -> Callable[Asked, Student]:
    """Return the function of this name that takes what a job takes and carries it out."""

    @functools.wraps(job)
    def carry_out(*args: Asked.args, **kwargs: Asked.kwargs) -> Student:
        return job(*args, **kwargs).run()

    carry_out.__name__ = carry_out.__qualname__ = name
    return carry_out


def settings_of(
    given: Settings | Mapping[str, object] | None,
    method: AnyMethod,
    *,
    kimg: float | None,
    batch: int | None,
    resume: str | None,
    transfer: str | None,
    outdir: Path | None,
) -> tuple[Settings, bool]:
    """Return the settings of a run, and whether batch_gpu has to be measured.

    What is not told is the method's, or else the usual. A warm-up that was not told is that of the
    run that is continued, or goes by the length.

    Raises:
        ValueError: a setting is out of its range, there is nothing to continue, or transfer too.
    """
    if resume and transfer:
        raise ValueError(
            "--resume and --transfer are both given; one continues, one starts anew: choose one"
        )
    if resume and outdir is None:
        raise ValueError("--resume is given without --outdir; name the folder of the runs")
    if isinstance(given, Settings):
        return given.with_length(given.kimg if kimg is None else kimg, batch), False
    if given is not None and not isinstance(given, Mapping):
        raise ValueError(f"settings are {given!r}; give Settings, or a mapping of their names")
    told = {**(given or {})}
    unknown = told.keys() - {field.name for field in fields(Settings)}
    if unknown:
        names = ", ".join(field.name for field in fields(Settings))
        raise ValueError(f"there is no setting {min(unknown)!r}; there are {names}")
    told |= {k: v for k, v in (("kimg", kimg), ("batch", batch)) if v is not None}
    auto = told.get("batch_gpu") == AUTO
    if auto:
        told["batch_gpu"] = 0
    begins: Mapping[str, object] = getattr(method, "settings", {})
    settings = Settings(**{**begins, **told})  # pyright: ignore[reportArgumentType] -- it checks
    if "warmup_kimg" in told:
        return settings, auto
    warmup = told_before(resume, outdir, "warmup_kimg")
    if not isinstance(warmup, (int, float)):
        warmup = warmup_for(settings.kimg, settings.warmup_kimg)
    return replace(settings, warmup_kimg=warmup), auto


def told_before(resume: str | None, outdir: str | Path | None, name: str) -> object:
    """Return an option of the run that is continued, or None."""
    if not resume or outdir is None:
        return None
    folder, _ = RunFolder.to_continue(resume, Path(outdir))
    written = folder.path / OPTIONS_FILE
    return checkpoints.read_json(written).get(name) if written.is_file() else None


def check_counts(
    num: int, teacher_images: int | None, keep: str | None, *, pairs: int | None = None
) -> None:
    """Raise ValueError for numbers of images from which nothing could be measured, or for keep."""
    for name, count, least in (
        ("num", num, LEAST),
        ("teacher_images", teacher_images, LEAST),
        ("pairs", pairs, 1),
    ):
        if count is not None and count < least:
            raise ValueError(f"{name} is {count}; it must be at least {least}")
    if keep not in ("best", "last", None):
        raise ValueError(f"keep is {keep!r}; allowed are best and last")


def facts_of(
    teacher: str | Path | Denoiser, given: Sequence[str] | Mapping[str, object]
) -> dict[str, object]:
    """Return the facts that are given for a teacher's file by name.

    Raises:
        ValueError: they are none, or the teacher is no file.
    """
    found = parse_facts(given)
    if found and not isinstance(teacher, (str, Path)):
        raise ValueError(
            f"teacher_set gives {', '.join(found)}, but the teacher is a module, which says all of "
            "itself; leave it out"
        )
    return found


def device_for(name: str) -> str:
    """Return the device of this process; auto takes CUDA where there is one."""
    return device_of_rank(pick_device(name))


def check_running(settings: Settings, method: AnyMethod, device: str, *, wandb: str | None) -> None:
    """Raise ValueError where a run cannot be started as asked."""
    if wandb:
        check_wandb()
    check_device(settings, torch.device(device))
    check_shared_pass(method, settings)
    if settings.compile:
        check_compiler(torch.device(device))
    pieces_of(settings.batch, rank=0, size=num_processes(), largest=settings.batch_gpu)


def measured(
    settings: Settings,
    auto: bool,
    method: AnyMethod,
    start: Start,
    device: str,
    *,
    memory_gb: float | None,
) -> Settings:
    """Return the settings, with batch_gpu as it fits where that was left to us."""
    if not auto:
        return settings
    size = num_processes()
    found = measured_batch_gpu(
        start, method, settings, device=device, size=size, memory_gb=memory_gb
    )
    return replace(settings, batch_gpu=found)


def open_folder(
    outdir: str | Path,
    resume: str | None,
    desc: str,
    options: Mapping[str, object],
    made_of: MadeOf,
    *parts: str,
) -> tuple[RunFolder, Path | bool]:
    """Return a new run folder, or that to continue, locked, and what to resume from.

    A new one is called by desc or else, behind parts, by the run's length. One without a state was
    ended before its first step; what it has made by then serves.

    Raises:
        ValueError: the run that is to be continued is of other input, or goes on elsewhere.
    """
    outdir = Path(outdir)
    length = f"kimg{options['kimg']:g}-batch{options['batch']}"
    name = re.sub(r"[^A-Za-z0-9._-]+", "_", desc or "-".join((*parts, length)))
    if resume:
        folder, state = RunFolder.to_continue(resume, outdir)
    else:
        folder, state = RunFolder.create(outdir, name), None
    folder.lock()
    try:
        written = folder.path / OPTIONS_FILE
        if resume and written.is_file():
            before = checkpoints.read_json(written).get("made_of")
            if before is not None:
                check_made_of(before, made_of, str(folder.path))
        if not folder.states():
            folder.write_json(OPTIONS_FILE, {**options, **software(), "made_of": dict(made_of)})
        folder.sweep()
        folder.log(f"{'continuing' if resume else 'writing'} {folder.path}")
    except BaseException:
        folder.unlock()
        raise
    return folder, state or bool(resume and folder.states())


@contextlib.contextmanager
def held(folder: RunFolder | None) -> Iterator[None]:
    """Let others have a run's folder after the block."""
    try:
        yield
    finally:
        if folder is not None:
            folder.unlock()


@contextlib.contextmanager
def place_of(folder: RunFolder | None, processes: Processes) -> Iterator[Path]:
    """Give the folder that the teacher's images are kept in, or one that goes after the run."""
    if folder is not None:
        yield folder.path
        return
    if not processes.is_first:
        yield Path()
        return
    with tempfile.TemporaryDirectory() as made:
        yield Path(made)


def in_stage(
    work: Callable[[], Found], stage: str, processes: Processes, interrupts: Interrupts
) -> Found | None:
    """Do what process 0 does around a run's steps; it can be left at any moment, by all.

    Raises:
        Stopped: in all processes, where the run is asked to end.
    """
    stopped = False

    def attempt() -> Found | None:
        nonlocal stopped
        try:
            with interrupts.at_once(stage):
                return work()
        except Stopped:
            stopped = True
            return None

    found = processes.first_alone(attempt, stage)
    if processes.any(stopped, stage):
        raise Stopped(stage)
    return found


def tell_stopped(
    folder: RunFolder | None, stage: Stopped, interrupts: Interrupts, processes: Processes
) -> None:
    """Say in which stage a run was left and by what, and end the process if by a signal."""
    if folder is not None:
        folder.log(f"stopped in {stage} by {interrupts.why}; resume continues from here")
    elif processes.is_first:
        print(f"stopped in {stage} by {interrupts.why}", flush=True)
    interrupts.leave()


def take_weights(network: Network, path: str | Path, load: Callable[[str | Path], Network]) -> None:
    """Give a network the weights of another's file; those of a training state come later.

    Raises:
        ValueError: the file is neither, or does not fit.
        OSError: it cannot be read.
    """
    if state_in(path):
        read_state(Path(path))
        return
    weights = load(path).state_dict()
    check_tensors(f"the network in {path}", weights, network.state_dict())
    network.load_state_dict(weights)


def state_in(transfer: str | Path | None) -> Path | None:
    """Return what is transferred if that is a training state."""
    if transfer is None or not str(transfer).endswith(".pt"):
        return None
    return Path(transfer)


def boards_in(
    folder: RunFolder | None, wandb: str | None, options: Mapping[str, object]
) -> Sequence[Board]:
    """Return where the statistics go beside the folder's own files."""
    if folder is None:
        return ()
    boards = [tensorboard(folder.path)]
    if wandb:
        boards.append(wandb_board(wandb, folder.path, options))
    return [board for board in boards if board is not None]


def compares_images(method: AnyMethod) -> bool:
    """Whether a method of a pixel gradient needs real images, or the teacher's in their place."""
    return isinstance(method, (WithDiscriminator, WithHead, WithMemory))


def stand_in_images(teacher: Denoiser) -> ImageSet:
    """Return noise of the teacher's shape as a source of images: it costs what images do."""
    r, classes = teacher.img_resolution, teacher.label_dim
    labels = torch.eye(classes)[torch.arange(100) % classes] if classes else None
    return ImageSet(torch.randn([100, teacher.img_channels, r, r]).clamp(-1, 1), labels)


def name_of_source(source: object) -> str:
    """Return what options and titles call a network: its file, or the class of a module."""
    return str(source) if isinstance(source, (str, Path)) else type(source).__name__
