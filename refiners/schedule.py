"""When a run ticks, shows itself, and ends."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Any, Protocol

from refiners.optimiser import Skips
from refiners.settings import Settings


class Run(Protocol):
    """What is carried from step to step: a refinement (loop) or a distillation.

    Attributes:
        average: the result so far, a student.
        step: steps done, warm-up included.
        skips: counts those that were not finite.
        rate_scale: of the learning rates.
    """

    settings: Settings
    average: Any
    step: int
    skips: Skips
    rate_scale: float

    @property
    def num_warmup_steps(self) -> int:
        """Steps before the result moves."""
        ...

    @property
    def num_images(self) -> int:
        """Images that have moved the result so far."""
        ...

    def advance(self) -> dict[str, float]:
        """Do one step and return its losses; none if it was skipped."""
        ...

    def health(self) -> dict[str, float]:
        """Return figures for the end of a tick."""
        ...

    def views(self) -> tuple[Any, int] | None:
        """Return pictures [n, c, h, w] of what the networks see and how many to a row, or None."""
        ...

    def state_dict(self) -> dict[str, Any]:
        """Return everything that moves, as plain data and tensors."""
        ...

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from a state, or raise ValueError and change nothing."""
        ...


def ticks(settings: Settings) -> Iterator[int]:
    """Yield the student's image counts at which a tick ends; the last is the end of the run."""
    total = settings.num_steps * settings.batch
    per_tick = max(1, round(settings.tick * 1000 / settings.batch)) * settings.batch
    yield from range(per_tick, total, per_tick)
    yield total


def run(
    refinement: Run,
    *,
    on_tick: Callable[[dict[str, float]], None],
    on_snapshot: Callable[[Run], None],
    on_step: Callable[[Run, dict[str, float]], None],
    advance: Callable[[Run], dict[str, float]] = lambda refinement: refinement.advance(),
    stop: Callable[[], bool] = lambda: False,
) -> bool:
    """Carry a refinement to its end and return whether it got there.

    Args:
        refinement: new, or restored from a state.
        on_tick: called with the mean statistics of each tick.
        on_snapshot: called after the warm-up and every snap-th tick, and at the end.
        on_step: called after every step with its losses (a progress bar); a step that was skipped
            has none.
        advance: does a step of the run.
        stop: asked after every step; True ends the run there.
    """
    settings = refinement.settings
    start = ended = time.time()
    while refinement.step < refinement.num_warmup_steps:
        on_step(refinement, advance(refinement))
        if refinement.step == refinement.num_warmup_steps:
            passed = time.time() - start
            stats = {
                "Progress/tick": 0,
                "Progress/kimg": 0.0,
                "Progress/skipped_steps": refinement.skips.total,
                "Timing/total_sec": passed,
                "Timing/sec_per_tick": passed,
                "Timing/sec_per_kimg": 0.0,
                "Timing/maintenance_sec": 0.0,
            }
            ended = time.time()
            on_tick(stats | refinement.health())
            on_snapshot(refinement)
        if stop():
            return False
    for number, end in enumerate(ticks(settings), 1):
        if end <= refinement.num_images:
            continue
        began, first = time.time(), refinement.num_images
        seen: dict[str, list[float]] = {}
        while refinement.num_images < end:
            losses = advance(refinement)
            on_step(refinement, losses)
            for name, value in losses.items():
                seen.setdefault(name, []).append(value)
            if refinement.num_images < end and stop():
                return False
        passed = time.time() - began
        stats = {name: sum(values) / len(values) for name, values in seen.items()}
        stats |= {
            "Progress/tick": number,
            "Progress/kimg": refinement.num_images / 1000,
            "Progress/skipped_steps": refinement.skips.total,
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
