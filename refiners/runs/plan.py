"""What a run will take, before it begins: memory by part, and the measured cost of one step.

Steps of a few images are done, and what their tensors hold at the peak is measured; more images
hold more in proportion, so no GPU is needed for the plan of one. What fits into a memory follows.
A GPU takes about as long for a few as for many, so there the time is that of as many as the run has
at a time, or as fit.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, fields, replace
from typing import TypeAlias, TypeVar

import torch

from refiners.base import Method
from refiners.runs.held import Holdings, holdings
from refiners.runs.memory import free_memory
from refiners.runs.schedule import Run
from refiners.training.distillation import Distiller
from refiners.training.settings import Settings

AnyMethod: TypeAlias = Method | Distiller
Found = TypeVar("Found")

MEASURED_IMAGES = 4
NETWORKS = ("network", "ema", "student", "average", "teacher", "auxiliary", "auxiliary_average")
NETWORKS += ("discriminator", "original", "memory")
OPTIMISERS = ("network_adam", "student_adam", "auxiliary_adam", "discriminator_adam")
# A method's memory looks at thousands of images once; for the cost of a step few will do.
FEW: dict[str, int] = {"num_reference": 100, "memory": 1, "num_features": 32}
# For what a step holds they need not even cost the same.
FEWEST: dict[str, int] = {"num_reference": 4, "memory": 1, "num_features": 2}
# Seconds of a step of one image: from SLOW on no more is measured than is needed, from PATIENCE on
# not even another time without what happens once.
SLOW, PATIENCE = 2.0, 60.0
SHARE = 0.9  # of the memory that a run may take: what an operation takes inside is not seen
OWNERS = {
    "student": ("student", "average"),
    "teacher": ("teacher", "network", "ema"),
    "auxiliary": ("auxiliary", "auxiliary_average"),
    "discriminator": ("discriminator",),
}


# (method, settings) -> a new refinement or distillation with noise for images.
Start = Callable[[AnyMethod, Settings], Run]


def plan_run(
    start: Start, method: AnyMethod, settings: Settings, *, memory_gb: float | None = None
) -> dict[str, object]:
    """Return a run's memory by part in MiB and the cost of a step, measured on a few images.

    Args:
        start: begins a run like this one.
        method: the run's.
        settings: the run's.
        memory_gb: what there is, in GiB; None is what is free here.
    """
    found = measure(start, method, settings)
    at_a_time = settings.batch_gpu or settings.batch
    fixed = {name: round(size / 2**20, 1) for name, size in found.fixed.items()}
    activations = {
        owner: round(size / 2**20, 1) for owner, size in found.activations(at_a_time).items()
    }
    warms_up = "auxiliary" in found.fixed or "discriminator" in found.fixed
    steps = settings.num_steps + (settings.num_warmup_steps if warms_up else 0)
    seconds = found.seconds * settings.batch
    room = room_for(found, memory_gb)
    return {
        "memory_mib": {
            **fixed,
            "activations": round(sum(activations.values()), 1),
            "total": round(found.total(at_a_time) / 2**20, 1),
        },
        "activations_mib": activations,
        "activations_mib_per_image": {
            owner: round(size / 2**20, 1) for owner, size in found.each.items()
        },
        "room": {
            "memory_mib": None if room is None else round(room / 2**20),
            "batch_gpu": None if room is None else found.fitting(room),
        },
        "step": {
            "measured_images": found.measured_images,
            "device": found.device,
            "seconds": round(seconds, 4),
            "images_per_sec": round(settings.batch / seconds, 2),
        },
        "run": {"steps": steps, "hours": round(steps * seconds / 3600, 2)},
    }


@dataclass(frozen=True)
class Measured:
    """What steps took, and so what others will.

    Attributes:
        batch: images of a step, in this process.
        fixed: bytes of what stays, whatever the images at a time.
        whole: owner -> (bytes whatever the images, bytes of each) at the peak of a step whose
            batch is one piece.
        pieces: the same of a step in several pieces, whose passes come one after the other.
        each: owner -> the most bytes that it holds for an image, at whatever moment.
        seconds: of a step's work on an image.
        measured_images: at a time, for the seconds.
        device: where that was.
    """

    batch: int
    fixed: dict[str, int]
    whole: dict[str, tuple[float, float]]
    pieces: dict[str, tuple[float, float]]
    each: dict[str, float]
    seconds: float
    measured_images: int
    device: str

    def activations(self, at_a_time: int) -> dict[str, float]:
        """Return the bytes by owner at the peak of a step with so many images at a time."""
        share = self.whole if at_a_time >= self.batch else self.pieces
        return {
            owner: max(0.0, constant + each * at_a_time)
            for owner, (constant, each) in share.items()
        }

    def total(self, at_a_time: int) -> float:
        """Return all bytes of a step with so many images at a time."""
        return sum(self.fixed.values()) + sum(self.activations(at_a_time).values())

    def fitting(self, room: float) -> int | None:
        """Return the largest batch_gpu, 0 for the whole batch, whose step takes at most `room`.

        None where not even one image at a time does. Shares as even as the batch allows are taken:
        three pieces of 11, 11 and 10 rather than of 15, 15 and 2.
        """
        if self.total(self.batch) <= room:
            return 0
        most = max((n for n in range(1, self.batch) if self.total(n) <= room), default=None)
        return most and -(-self.batch // -(-self.batch // most))


def measure(start: Start, method: AnyMethod, settings: Settings) -> Measured:
    """Do a few steps of a run like this one, and see what they hold and how long they take.

    Large networks take minutes for an image on a CPU, so no more is done there than is needed.
    """
    alone, least = replace(alone_in(settings), compile=False), few(method, FEWEST)

    def in_steps_of(batch: int, batch_gpu: int) -> Run:
        return start(least, replace(alone, batch=batch, batch_gpu=batch_gpu))

    def usual_of(n: int) -> Run:
        return start(few(method, FEW), replace(alone_in(settings), batch=n, batch_gpu=0))

    job = in_steps_of(1, 0)
    seconds, held = timed(lambda: held_by(job))
    if seconds < PATIENCE:  # kernels are compiled on the way
        seconds, _ = timed(lambda: step_of(job))
    num_images, fixed = 1, bytes_of_parts(job)
    whole, most = {1: held.peak()}, {1: held.most()}
    pieces = {1: held_by(in_steps_of(2, 1)).peak()}
    if seconds < SLOW:
        held = held_by(in_steps_of(2, 0))
        whole[2], most[2] = held.peak(), held.most()
        pieces[2] = held_by(in_steps_of(4, 2)).peak()
        num_images = min(MEASURED_IMAGES, settings.batch)
        if job.device.type != "cpu":
            most_images = settings.batch_gpu or settings.batch
            num_images = fitting_batch_gpu(lambda n: step_of(usual_of(n)), most_images)
            num_images = num_images or most_images
        usual = usual_of(num_images)
        step_of(usual)  # warms up, too
        seconds, _ = timed(lambda: step_of(usual))
        fixed = bytes_of_parts(usual)
    return Measured(
        batch=settings.batch,
        fixed=fixed,
        whole=in_proportion(whole),
        pieces=in_proportion(pieces),
        each={owner: each for owner, (_, each) in in_proportion(most).items()},
        seconds=seconds / num_images,
        measured_images=num_images,
        device=str(job.device),
    )


def timed(work: Callable[[], Found]) -> tuple[float, Found]:
    """Return the seconds that work took, and what it returned."""
    began = time.perf_counter()
    found = work()
    return time.perf_counter() - began, found


def step_of(job: Run) -> None:
    """Do a step, all of it: a GPU has done it when this returns."""
    job.advance()
    job.settle()


def held_by(job: Run) -> Holdings:
    """Do a step and return what its tensors held."""
    networks = {
        owner: [
            network
            for name in names
            if isinstance(network := getattr(job, name, None), torch.nn.Module)
        ]
        for owner, names in OWNERS.items()
    }
    with holdings(networks, optimisers_of(job)) as held:
        step_of(job)
    return held


def in_proportion(held: Mapping[int, Mapping[str, int]]) -> dict[str, tuple[float, float]]:
    """Return for each owner (constant, each) such that constant + each n is what n images hold.

    Of a single measurement all is taken for the images'.
    """
    owners = dict.fromkeys(owner for found in held.values() for owner in found)
    if len(held) == 1:
        ((n, found),) = held.items()
        return {owner: (0.0, found[owner] / n) for owner in owners}
    (n, few_held), (m, more_held) = sorted(held.items())
    lines = {}
    for owner in owners:
        a, b = few_held.get(owner, 0), more_held.get(owner, 0)
        each = max(0.0, (b - a) / (m - n))
        lines[owner] = (b - m * each, each)
    return lines


def room_for(found: Measured, memory_gb: float | None) -> float | None:
    """Return the bytes that a run may take of what there is; None where nobody knows that.

    Args:
        found: of the run.
        memory_gb: what there is, in GiB; None is what is free on its device.
    """
    there = memory_gb * 2**30 if memory_gb is not None else free_memory(found.device)
    return None if there is None else SHARE * there


def fitting_batch_gpu(trial: Callable[[int], object], share: int) -> int:
    """Return how many images at a time fit into a GPU, by halving its share; 0 is all of it.

    Args:
        trial: does a step with so many at a time.
        share: of the batch, in this process.

    Raises:
        ValueError: not even one image fits.
    """
    n = share
    while not fits(trial, n):
        if n == 1:
            raise ValueError(
                "not even one image at a time fits into the GPU's memory; use --precision bf16, or "
                "smaller networks"
            )
        n = -(-n // 2)
    return 0 if n == share else n


def fits(trial: Callable[[int], object], n: int) -> bool:
    """Return whether a trial with n images at a time runs."""
    try:
        trial(n)
    except torch.OutOfMemoryError:
        return False
    finally:
        if torch.cuda.is_initialized():
            torch.cuda.empty_cache()
    return True


def measured_batch_gpu(
    start: Start,
    method: AnyMethod,
    settings: Settings,
    *,
    device: str,
    size: int,
    memory_gb: float | None = None,
) -> int:
    """Return batch_gpu as a step of this very run allows it.

    A GPU is tried; on a CPU, whose system would end the process, and for a memory that is given,
    the plan tells.

    Args:
        start: see plan_run.
        method: the run's.
        settings: the run's.
        device: where it computes.
        size: how many processes share the batch.
        memory_gb: of each of them, in GiB; None is what is free.

    Raises:
        ValueError: not even one image fits.
    """
    share = settings.batch // size
    if device.startswith("cuda") and memory_gb is None:

        def trial(n: int) -> None:
            step_of(start(few(method), replace(alone_in(settings), batch_gpu=n)))

        return fitting_batch_gpu(trial, share)
    found = measure(start, method, replace(alone_in(settings), batch=share, batch_gpu=0))
    room = room_for(found, memory_gb)
    if room is None:
        return 0
    room = room / size if memory_gb is None else room
    fits = found.fitting(room)
    if fits is None:
        raise ValueError(
            f"one image at a time takes {found.total(1) / 2**30:.1f} GiB, of which "
            f"{room / 2**30:.1f} may be taken; use smaller networks or a method without an "
            "auxiliary network"
        )
    return fits


def alone_in(settings: Settings) -> Settings:
    """Return the settings of a trial of steps that move the student, in one process."""
    return replace(settings, warmup_kimg=0.0)


def few(method: AnyMethod, least: Mapping[str, int] = FEW) -> AnyMethod:
    """Return a method that begins quickly, with steps that cost the same."""
    known = {field.name for field in fields(method)}
    return replace(method, **{k: v for k, v in least.items() if k in known and v < vars(method)[k]})


def bytes_of_parts(job: Run) -> dict[str, int]:
    """Return the bytes of each network, of gradients and of optimisers; a shared tensor is one."""
    seen: set[int] = set()
    parts: dict[str, int] = {}
    for name in NETWORKS:
        network = getattr(job, name, None)
        if isinstance(network, torch.nn.Module):
            size = bytes_of([*network.parameters(), *network.buffers()], seen)
            if size:
                parts[name] = size
    groups = [group for adam in optimisers_of(job) for group in adam.param_groups]
    trained = sum(p.numel() * p.element_size() for group in groups for p in group["params"])
    return parts | {"gradients": trained, "optimisers": 2 * trained}  # Adam's two moments


def optimisers_of(job: Run) -> list[torch.optim.Optimizer]:
    """Return the optimisers of a run."""
    optimisers = [getattr(job, name, None) for name in OPTIMISERS]
    return [adam for adam in optimisers if adam is not None]


def bytes_of(tensors: Iterable[torch.Tensor], seen: set[int]) -> int:
    """Return the bytes of the storages that were not seen before."""
    total = 0
    for tensor in tensors:
        storage = tensor.untyped_storage()
        if storage._cdata not in seen:  # which tensors without data have, too
            seen.add(storage._cdata)
            total += storage.nbytes()
    return total
