"""A whole run from Python: refine(), with folder, progress, statistics, snapshots and states."""

from __future__ import annotations

import copy
import dataclasses
import resource
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

import datasets
from refiners.base import Method
from refiners.loop import Refinement, draw_inputs, run
from refiners.methods import REFINERS
from refiners.run_folder import RunFolder, read_state
from refiners.settings import Settings

GRID_COLUMNS = 16
GRID_ROWS = 8


def refine(
    student: Any,
    teacher: Any,
    *,
    method: str | Method = "diff-instruct",
    kimg: float,
    batch: int | None = None,
    settings: Settings | None = None,
    outdir: str | Path | None = None,
    folder: RunFolder | None = None,
    save: Callable[[Any, Path], object] | None = None,
    measure: Callable[[Any, int], Mapping[str, Any]] | None = None,
    resume: bool = False,
    progress: bool | None = None,
) -> Any:
    """Refine a student by a teacher and return the refined student; the one given is not changed.

    Args:
        student: a module that is a Student (see base), on the teacher's device.
        teacher: a module that is a Denoiser of the same resolution and channels; stays as it is.
        method: a name in REFINERS, with its default knobs, or one of its dataclasses.
        kimg: length of the run in thousands of the student's images; above 0.
        batch: images per step; None takes that of the settings.
        settings: everything else, see Settings; kimg and batch above take precedence.
        outdir: where to make a run folder; None writes nothing.
        folder: an existing run folder instead of outdir.
        save: called as save(student, path) for each network-snapshot-NNNNNN.pkl; None writes no
            snapshots.
        measure: called as measure(student, num_images) at each snapshot; its numbers go to the
            statistics.
        resume: continue from the newest state in `folder`, to the same numbers as an undisturbed
            run.
        progress: show a progress bar; None shows it on a terminal.

    Raises:
        ValueError: a pair that does not fit, an unknown method, a setting out of range, a state of
        other settings.
        FloatingPointError: a step that is not finite.
    """
    if isinstance(method, str):
        if method not in REFINERS:
            raise ValueError(f"method is {method!r}; allowed are {', '.join(REFINERS)}")
        chosen: Method = REFINERS[method]()
    else:
        chosen = method
    settings = dataclasses.replace(settings or Settings(), kimg=kimg)
    if batch is not None:
        settings = dataclasses.replace(settings, batch=batch)
    refinement = Refinement(student, teacher, chosen, settings)
    if folder is None and outdir is not None:
        folder = RunFolder.create(Path(outdir), "refine")
    if resume:
        if folder is None or not folder.states():
            raise ValueError("there is no training state to resume from; give the folder of a run")
        refinement.load_state_dict(read_state(folder.states()[-1]))
    Session(refinement, folder, save=save, measure=measure, progress=progress).run()
    return copy.deepcopy(refinement.average)


class Session:
    """Everything of a run that is seen: bar, log, stats.jsonl, pictures, snapshots, states."""

    def __init__(
        self,
        refinement: Refinement,
        folder: RunFolder | None,
        *,
        save: Callable[[torch.nn.Module, Path], object] | None,
        measure: Callable[[torch.nn.Module, int], Mapping[str, Any]] | None,
        progress: bool | None,
    ):
        self.refinement = refinement
        self.folder = folder
        self.save = save
        self.measure = measure
        settings = refinement.settings
        steps = settings.num_warmup_steps + settings.num_steps
        self.bar = tqdm(
            total=steps * settings.batch,
            initial=refinement.step * settings.batch,
            unit="img",
            unit_scale=True,
            dynamic_ncols=True,
            disable=None if progress is None else not progress,
            file=sys.stderr,
        )

    def run(self) -> None:
        """Carry the run to its end."""
        with self.bar:
            run(
                self.refinement,
                on_tick=self.on_tick,
                on_snapshot=self.on_snapshot,
                on_step=self.on_step,
            )

    def on_step(self, refinement: Refinement, losses: Mapping[str, float]) -> None:
        """Move the bar."""
        warm = refinement.step <= refinement.settings.num_warmup_steps
        self.bar.set_description("warm-up" if warm else "refine", refresh=False)
        self.bar.update(refinement.settings.batch)

    def on_tick(self, stats: Mapping[str, float]) -> None:
        """Write a line of statistics and one of log."""
        share = [stats[name] for name in sorted(stats) if name.startswith("Health/error_share")]
        memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
        line = (
            f"tick {int(stats.get('Progress/tick', 0)):<4d} kimg {stats['Progress/kimg']:<8.2f} "
            f"time {stats['Timing/total_sec']:<7.0f} "
            f"sec/kimg {stats.get('Timing/sec_per_kimg', 0):<7.2f} "
            f"cpumem {memory:<5.2f} auxiliary/teacher error {min(share):.2f} to {max(share):.2f}"
        )
        if self.folder is None:
            return
        self.bar.clear()
        self.folder.log(line)
        self.folder.append("stats.jsonl", as_stats({**stats, "Resources/peak_cpu_mem_gb": memory}))

    def on_snapshot(self, refinement: Refinement) -> None:
        """Measure, write pictures and network, and last the state, whose other files then exist."""
        kimg = refinement.num_images // 1000
        numbers = self.measure(refinement.average, refinement.num_images) if self.measure else {}
        if self.folder is None:
            return
        if numbers:
            self.bar.clear()
            shown = "  ".join(f"{name} {value:.4g}" for name, value in numbers.items())
            self.folder.log(f"kimg {refinement.num_images / 1000:g}  {shown}")
        if refinement.num_images:
            name = f"fakes{kimg:06d}.png"
            save_grid(self.folder.path / name, refinement.average, refinement.settings.seed)
            if self.save is not None:
                self.save(refinement.average, self.folder.path / f"network-snapshot-{kimg:06d}.pkl")
        self.folder.write_state(refinement.num_images, refinement.state_dict())
        self.folder.drop_states(keep=2)


def as_stats(numbers: Mapping[str, float]) -> dict[str, Any]:
    """Return StyleGAN's form of a statistics line: name -> {num, mean, std}, and the time."""
    line: dict[str, Any] = {
        name: {"num": 1, "mean": value, "std": 0.0} for name, value in numbers.items()
    }
    return line | {"timestamp": time.time()}


@torch.no_grad()
def sample_grid(student: Any, seed: int) -> np.ndarray:
    """Return samples as uint8 [h, w] or [h, w, 3]; latents and labels depend on the seed alone."""
    device = next(student.parameters()).device
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        z, labels = draw_inputs(student, GRID_COLUMNS * GRID_ROWS, device)
        images = [
            student(
                z[i : i + 16], None if labels is None else labels[i : i + 16], noise_mode="const"
            )
            for i in range(0, len(z), 16)
        ]
    pixels = (torch.cat(images).float().cpu() * 127.5 + 128).clamp(0, 255).to(torch.uint8)
    return datasets.image_grid(pixels.numpy(), GRID_COLUMNS)


def save_grid(path: Path, student: Any, seed: int) -> np.ndarray:
    """Write a grid of the student's samples as PNG and return its pixels."""
    grid = sample_grid(student, seed)
    datasets.save_png(path, grid)
    return grid
