"""What is seen of a run: bar, log, statistics, pictures, snapshots, states, the best student."""

from __future__ import annotations

import copy
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from refiners.best import Best
from refiners.distributed import Processes
from refiners.grid import GRID_COLUMNS, GRID_ROWS, sample_grid, save_grid
from refiners.interrupts import Interrupts
from refiners.memory import peak_memory_gb
from refiners.run_folder import RunFolder
from refiners.schedule import Run, run
from refiners.settings import parse_condition

__all__ = ["GRID_COLUMNS", "GRID_ROWS", "Session", "run_folder_of", "sample_grid", "save_grid"]


def run_folder_of(
    folder: RunFolder | None, outdir: str | Path | None, desc: str
) -> RunFolder | None:
    """Return the folder given, or a new one in outdir, or None where neither is given."""
    if folder is None and outdir is not None:
        return RunFolder.create(Path(outdir), desc)
    return folder


class Session:
    """Everything of a run that is seen: bar, log, stats.jsonl, pictures, snapshots, states."""

    def __init__(
        self,
        refinement: Run,
        folder: RunFolder | None,
        *,
        save: Callable[[torch.nn.Module, Path], object] | None = None,
        measure: Callable[[torch.nn.Module, int], Mapping[str, Any]] | None = None,
        progress: bool | None = None,
        best: Best | None = None,
        remark: str = "",
    ):
        self.refinement = refinement
        self.folder = folder
        self.save = save
        self.measure = measure
        self.best = best
        self.remark = remark
        self.processes = getattr(refinement, "processes", None) or Processes()
        self.condition_met = ""
        self.ends = float("inf")  # seconds of the monotonic clock
        settings = refinement.settings
        shown = progress if self.processes.is_first else False
        self.bar = tqdm(
            total=(refinement.num_warmup_steps + settings.num_steps) * settings.batch,
            unit="img",
            unit_scale=True,
            dynamic_ncols=True,
            disable=None if shown is None else not shown,
            file=sys.stderr,
        )

    def resume(self) -> None:
        """Continue from the newest whole state of the folder.

        Raises:
            ValueError: there is none, or it belongs to other settings.
        """
        state: Any = None

        def read() -> None:
            nonlocal state
            if self.folder is None:
                raise ValueError(
                    "there is no training state to resume from; give the folder of a run"
                )
            state = self.folder.newest_state()

        self.processes.first_alone(read, "reading the state")
        state = self.processes.from_first(state, "reading the state")
        if self.best is not None:
            self.best.load_state_dict(state.get("best"))
        self.refinement.load_state_dict(state)

    def run(self) -> None:
        """Carry the run to its end, to a signal, or to its last hour."""
        hours = self.refinement.settings.max_hours
        if hours:
            self.ends = time.monotonic() + hours * 3600
        if self.remark:
            self.log(self.remark)
        if self.refinement.step == 0:
            self.first_alone(self.judge, "judging the original")
        with self.bar, Interrupts() as interrupts:
            self.show_step()
            while not self.whole_run(interrupts):
                self.roll_back()
        if self.best is not None and interrupts.received is None:
            self.log(self.best.verdict())
        interrupts.leave()

    def whole_run(self, interrupts: Interrupts) -> bool:
        """Run to the end or to where it is stopped; False says that it has to be rolled back."""
        try:
            done = run(
                self.refinement,
                on_tick=self.on_tick,
                on_snapshot=self.on_snapshot,
                on_step=self.on_step,
                stop=lambda: self.has_to_stop(interrupts),
            )
        except FloatingPointError as error:
            states = self.folder is not None and bool(self.folder.states())
            if not self.processes.any(states, "looking for a state"):
                raise
            if self.refinement.rate_scale < 1:
                raise
            self.log(str(error))
            return False
        if not done:
            self.processes.first_alone(lambda: self.end_early(interrupts), "ending the run")
        return True

    def has_to_stop(self, interrupts: Interrupts) -> bool:
        """Whether any process has to end the run after this step."""
        late = time.monotonic() >= self.ends or bool(self.condition_met)
        return self.processes.any(interrupts.received is not None or late, "the end of a step")

    def end_early(self, interrupts: Interrupts) -> None:
        """Write what the run can be continued from, and why it ended."""
        if self.folder is not None:
            if interrupts.received is None:
                self.show_snapshot()
            else:
                self.write_state()
            why = interrupts.received.name if interrupts.received else "max_hours"
            if interrupts.received is None and self.condition_met:
                why = f"stop_if {self.condition_met}"
            kimg = self.refinement.num_images / 1000
            self.log(f"stopped at kimg {kimg:g} by {why}; resume continues from here")

    def first_alone(self, work: Callable[[], None], phase: str) -> None:
        """Do some work in process 0, for which the others wait."""
        self.processes.first_alone(work, phase)

    def roll_back(self) -> None:
        """Go back to the last good state and halve the learning rates, once."""
        self.resume()
        self.refinement.rate_scale /= 2
        self.refinement.skips.in_row = 0
        self.log(f"back at kimg {self.refinement.num_images / 1000:g}, with half the rates")

    def result(self) -> Any:
        """Return a copy of the refined student: the best where there is a judge."""
        best, network = self.best, self.refinement.average
        if best is not None and best.score is not None:
            network = best.network
        found = copy.deepcopy(network)
        if self.processes.size > 1:
            found.load_state_dict(self.processes.from_first(found.state_dict(), "the result"))
        return found

    def log(self, text: str) -> None:
        """Write a line to the folder's log, if there is a folder."""
        if self.folder is not None:
            self.bar.clear()
            self.folder.log(text)

    def judge(self) -> None:
        """Let the judge see the average, and keep the best in best.pkl."""
        if self.best is None:
            return
        before = self.best.score
        score = self.best.consider(self.refinement.average, self.refinement.num_images)
        if score is not None:
            self.log(f"kimg {self.refinement.num_images / 1000:g}  judge {score:.4g}")
        if self.best.score != before and self.folder is not None and self.save is not None:
            self.save(self.best.network, self.folder.path / "best.pkl")

    def show_step(self) -> None:
        """Set the bar to where the run is."""
        self.bar.n = self.refinement.step * self.refinement.settings.batch
        self.bar.refresh()

    def on_step(self, refinement: Run, losses: Mapping[str, float]) -> None:
        """Move the bar."""
        warm = refinement.step <= refinement.num_warmup_steps
        self.bar.set_description("warm-up" if warm else "refine", refresh=False)
        self.bar.update(refinement.settings.batch)

    def on_tick(self, stats: Mapping[str, float]) -> None:
        """Write a line of statistics and one of log."""
        condition = self.refinement.settings.stop_if
        if condition and holds(condition, stats):
            self.condition_met = condition
        share = [stats[name] for name in sorted(stats) if name.startswith("Health/error_share")]
        line = (
            f"tick {int(stats.get('Progress/tick', 0)):<4d} kimg {stats['Progress/kimg']:<8.2f} "
            f"time {stats['Timing/total_sec']:<7.0f} "
            f"sec/kimg {stats.get('Timing/sec_per_kimg', 0):<7.2f} "
        )
        memory = peak_memory_gb()
        if memory is not None:
            line += f"cpumem {memory:<5.2f} "
            stats = {**stats, "Resources/peak_cpu_mem_gb": memory}
        if share:
            line += f"auxiliary/teacher error {min(share):.2f} to {max(share):.2f}"
        if stats.get("Progress/skipped_steps"):
            line += f" skipped {int(stats['Progress/skipped_steps'])}"
        self.log(line.rstrip())
        if self.folder is not None:
            self.folder.append("stats.jsonl", as_stats(stats))

    def on_snapshot(self, refinement: Run) -> None:
        """Let process 0 show where the run is."""
        self.first_alone(self.show_snapshot, "a snapshot")

    def show_snapshot(self) -> None:
        """Measure, write pictures and network, and last the state, whose other files then exist."""
        refinement = self.refinement
        kimg = refinement.num_images // 1000
        numbers = self.measure(refinement.average, refinement.num_images) if self.measure else {}
        if numbers:
            shown = "  ".join(f"{name} {value:.4g}" for name, value in numbers.items())
            self.log(f"kimg {refinement.num_images / 1000:g}  {shown}")
        if refinement.num_images:
            self.judge()
        if self.folder is None:
            return
        if refinement.num_images:
            name = f"fakes{kimg:06d}.png"
            save_grid(self.folder.path / name, refinement.average, refinement.settings.seed)
            if self.save is not None:
                self.save(refinement.average, self.folder.path / f"network-snapshot-{kimg:06d}.pkl")
        self.write_state()

    def write_state(self) -> None:
        """Write the training state and drop all but the last two."""
        assert self.folder is not None
        state = self.refinement.state_dict()
        if self.best is not None:
            state["best"] = self.best.state_dict()
        self.folder.write_state(self.refinement.num_images, state)
        self.folder.drop_states(keep=2)


def holds(condition: str, stats: Mapping[str, float]) -> bool:
    """Whether a condition of settings holds; a statistic that is not there does not meet it."""
    name, sign, bound = parse_condition(condition)
    if name not in stats:
        return False
    return stats[name] > bound if sign == ">" else stats[name] < bound


def as_stats(numbers: Mapping[str, float]) -> dict[str, Any]:
    """Return StyleGAN's form of a statistics line: name -> {num, mean, std}, and the time."""
    line: dict[str, Any] = {
        name: {"num": 1, "mean": value, "std": 0.0} for name, value in numbers.items()
    }
    return line | {"timestamp": time.time()}
