"""When a run ticks, shows itself, and ends."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from typing import Protocol

import torch

from refiners.training.settings import Settings
from refiners.training.state import Counts, State
from roles import Processes, Student


class Run(Protocol):
    """What is carried from step to step: a refinement, or a distillation.

    Attributes:
        settings: of the run.
        average: the result so far, a student.
        counts: steps, and those that were not finite.
        processes: those that share the batches.
        device: where the networks are.
    """

    settings: Settings
    counts: Counts
    processes: Processes
    device: torch.device

    @property
    def average(self) -> Student:
        """The result so far."""
        ...

    @property
    def num_warmup_steps(self) -> int:
        """Steps before the result moves."""
        ...

    @property
    def num_images(self) -> int:
        """Images that have moved the result so far."""
        ...

    def advance(self) -> dict[str, float]:
        """Do one step and return its losses; none if it was skipped, or is not known yet."""
        ...

    def settle(self) -> dict[str, float]:
        """Return the losses of a step that advance has not returned yet, or none."""
        ...

    def health(self) -> dict[str, float]:
        """Return figures for the end of a tick."""
        ...

    def views(self) -> tuple[torch.Tensor, int] | None:
        """Return pictures [n, c, h, w] of what the networks see and how many to a row, or None."""
        ...

    def state_dict(self) -> State:
        """Return everything that moves, as plain data and tensors."""
        ...

    def load_state_dict(self, state: State) -> list[str]:
        """Continue from a state and return what to tell, or raise ValueError and change nothing."""
        ...


def ticks(settings: Settings) -> Iterator[int]:
    """Yield the student's image counts at which a tick ends; the last is the end of the run."""
    total, per_tick = settings.num_steps * settings.batch, images_per_tick(settings)
    yield from range(per_tick, total, per_tick)
    yield total


def images_per_tick(settings: Settings) -> int:
    """Return the images of a tick: the first whole step at or past its kimg, as in StyleGAN."""
    return math.ceil(round(settings.tick * 1000 / settings.batch, 6)) * settings.batch


def opens_kimg(settings: Settings, num_images: int) -> bool:
    """Whether no earlier snapshot of the schedule lies in this kimg.

    That after the warm-up, at 0, is a state alone, which a run's only snapshot, its last, replaces.
    """
    spacing = images_per_tick(settings) * settings.snap
    before = (num_images - 1) // spacing * spacing
    only = before == 0 and num_images == settings.num_steps * settings.batch
    return num_images == 0 or only or before // 1000 != num_images // 1000


def label(settings: Settings, num_images: int) -> str:
    """Return what a snapshot's files are called by: StyleGAN's six digits of kimg, as 000012.

    Another in the same kimg has its images behind, as 000012_064, which also sorts behind.
    """
    kimg = f"{num_images // 1000:06d}"
    return kimg if opens_kimg(settings, num_images) else f"{kimg}_{num_images % 1000:03d}"


def run(
    refinement: Run,
    *,
    on_tick: Callable[[dict[str, float]], None],
    on_snapshot: Callable[[Run], None],
    on_step: Callable[[Run, dict[str, float]], None],
    stop: Callable[[], bool] = lambda: False,
) -> bool:
    """Carry a refinement to its end and return whether it got there.

    Args:
        refinement: new, or restored from a state.
        on_tick: called with the mean statistics of each tick.
        on_snapshot: called after the warm-up and every snap-th tick, and at the end.
        on_step: called after every step with its losses (a progress bar), or those of the step
            before; a step that was skipped has none.
        stop: asked after every step; True ends the run there.
    """
    settings = refinement.settings
    start = ended = time.time()
    while refinement.counts.step < refinement.num_warmup_steps:
        on_step(refinement, refinement.advance())
        if refinement.counts.step == refinement.num_warmup_steps:
            refinement.settle()
            passed = time.time() - start
            stats = {
                "Progress/tick": 0,
                "Progress/kimg": 0.0,
                "Progress/skipped_steps": refinement.counts.skipped,
                "Timing/total_sec": passed,
                "Timing/sec_per_tick": passed,
                "Timing/sec_per_kimg": 0.0,
                "Timing/maintenance_sec": 0.0,
            }
            ended = time.time()
            on_tick(stats | refinement.health())
            on_snapshot(refinement)
        if stop():
            refinement.settle()
            return False
    for number, end in enumerate(ticks(settings), 1):
        if end <= refinement.num_images:
            continue
        began, first = time.time(), refinement.num_images
        seen: dict[str, list[float]] = {}
        while refinement.num_images < end:
            losses = refinement.advance()
            on_step(refinement, losses)
            is_last = refinement.num_images >= end
            stopped = not is_last and stop()
            for known in (losses, refinement.settle() if is_last or stopped else {}):
                for name, value in known.items():
                    seen.setdefault(name, []).append(value)
            if stopped:
                return False
        passed = time.time() - began
        stats = {name: sum(values) / len(values) for name, values in seen.items()}
        stats |= {
            "Progress/tick": number,
            "Progress/kimg": refinement.num_images / 1000,
            "Progress/skipped_steps": refinement.counts.skipped,
            "Timing/total_sec": time.time() - start,
            "Timing/sec_per_tick": passed,
            "Timing/sec_per_kimg": passed / (refinement.num_images - first) * 1000,
            "Timing/images_per_sec": (refinement.num_images - first) / max(passed, 1e-9),
            # What came between the ticks: figures, pictures, snapshots, states.
            "Timing/maintenance_sec": began - ended,
        }
        ended = time.time()
        on_tick(stats | refinement.health())
        last = end == settings.num_steps * settings.batch
        if number % settings.snap == 0 or last:
            on_snapshot(refinement)
        if not last and stop():
            return False
    return True
