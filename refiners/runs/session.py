"""What is seen of a run: bar, log, statistics, pictures, snapshots, states, the best student."""

from __future__ import annotations

import copy
import signal
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from tqdm import tqdm

from refiners.runs.best import Best
from refiners.runs.folder import RunFolder, read_state
from refiners.runs.interrupts import Interrupts
from refiners.runs.log_line import as_stats, holds, tick_line
from refiners.runs.pictures import GRID_COLUMNS, GRID_ROWS, sample_grid, save_grid
from refiners.runs.schedule import Run, run
from refiners.runs.snapshots import Measure, Save, Snapshots
from refiners.runs.speed import Pace
from refiners.training.memory import peak_gpu_memory_gb, peak_memory_gb, told_out_of_memory
from refiners.training.processes import LostProcess, Processes
from refiners.training.settings import parse_condition

__all__ = ["GRID_COLUMNS", "GRID_ROWS", "Session", "run_folder_of", "sample_grid", "save_grid"]

LATE = 1  # asks all processes to end, as the number of a signal does; no signal has it here

# stats of a tick, thousands of images so far
Board = Callable[[Mapping[str, float], float], object]


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
        save: Save | None = None,
        measure: Measure | None = None,
        progress: bool | None = None,
        best: Best | None = None,
        remark: str = "",
        boards: Sequence[Board] = (),
    ):
        self.refinement = refinement
        self.folder = folder
        self.best = best
        self.snapshots = Snapshots(
            refinement, folder, self.log, save=save, measure=measure, best=best
        )
        self.remark = remark
        self.boards = boards
        self.pace = Pace()
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

    def resume(self, source: Path | None = None) -> None:
        """Continue from a state of the folder, or from the newest whole one.

        Raises:
            ValueError: there is none, or it belongs to other settings.
        """
        state = self.processes.first_alone(lambda: self.read_state(source), "reading the state")
        state = self.processes.from_first(state, "reading the state")
        if self.best is not None:
            self.best.load_state_dict(state.get("best"))
        self.refinement.load_state_dict(state)
        if self.folder is not None:
            self.folder.sweep()
            self.folder.set_aside_after(state["num_images"])

    def read_state(self, source: Path | None) -> dict[str, Any]:
        """Read what to continue from."""
        if self.folder is None:
            raise ValueError("there is no training state to resume from; give the folder of a run")
        return self.folder.newest_state() if source is None else read_state(source)

    def run(self) -> None:
        """Carry the run to its end, to a signal, or to its last hour."""
        hours = self.refinement.settings.max_hours
        if hours:
            self.ends = time.monotonic() + hours * 3600
        if self.remark:
            self.log(self.remark)
        try:
            if self.refinement.step == 0:
                self.processes.first_alone(self.snapshots.judge, "judging the original")
            with self.bar, Interrupts() as interrupts:
                self.bar.initial = self.refinement.step * self.refinement.settings.batch
                self.show_step()
                while not self.whole_run(interrupts):
                    self.roll_back()
                self.has_to_stop(interrupts)  # a signal may have come since
            if interrupts.received is None:
                self.processes.first_alone(self.snapshots.write_result, "writing the result")
        except RuntimeError as error:
            told = told_out_of_memory(error)
            if not told:
                raise
            raise MemoryError(self.out_of_memory(told)) from error
        except OSError as error:
            if self.folder is None or isinstance(error, LostProcess):
                raise
            raise OSError(f"{error}; {self.stopped()}") from error
        interrupts.leave()

    def out_of_memory(self, told: str) -> str:
        """Return what to do where memory did not suffice."""
        settings, size = self.refinement.settings, self.processes.size
        smaller = max(1, (settings.batch_gpu or settings.batch // size) // 2)
        rank = f"rank {self.processes.rank}: " if size > 1 else ""
        return (
            f"{rank}{told}; {self.stopped()}; --batch-gpu {smaller} reaches the same in less memory"
        )

    def stopped(self) -> str:
        """Return where a run that failed stands, and what it can be continued from."""
        stands = f"the run stopped at kimg {self.refinement.num_images / 1000:g}"
        states = self.folder.states() if self.folder is not None else []
        return f"{stands}, and resume continues from {states[-1].name}" if states else stands

    def whole_run(self, interrupts: Interrupts) -> bool:
        """Run to the end or to where it is stopped; False says that it has to be rolled back."""
        try:
            done = run(
                self.refinement,
                on_tick=self.on_tick,
                on_snapshot=self.on_snapshot,
                on_step=self.on_step,
                advance=self.pace.advance,
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
            self.refinement.gather()
            self.processes.first_alone(lambda: self.end_early(interrupts), "ending the run")
        return True

    def has_to_stop(self, interrupts: Interrupts) -> bool:
        """Whether any process has to end the run after this step; all then know of its signal."""
        late = time.monotonic() >= self.ends or bool(self.condition_met)
        mine = interrupts.received or (LATE if late else 0)
        asked = self.processes.highest(int(mine), "the end of a step")
        if asked > LATE:
            interrupts.received = signal.Signals(asked)
        return asked > 0

    def end_early(self, interrupts: Interrupts) -> None:
        """Write what the run can be continued from, and why it ended."""
        if self.folder is not None:
            # First, as what is judged here is no candidate of the run that continues.
            self.snapshots.write_state()
            if interrupts.received is None:
                self.snapshots.show(judged=True)
            why = interrupts.received.name if interrupts.received else "max_hours"
            if interrupts.received is None and self.condition_met:
                why = f"stop_if {self.condition_met}"
            kimg = self.refinement.num_images / 1000
            self.log(f"stopped at kimg {kimg:g} by {why}; resume continues from here")

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
        refinement, condition = self.refinement, self.refinement.settings.stop_if
        if condition and holds(condition, stats):
            self.condition_met = condition
        name = parse_condition(condition)[0] if condition else ""
        if name not in ("", *stats) and stats["Progress/tick"]:
            self.log(f"stop_if never holds: there is no {name} in stats.jsonl")
        rate = stats.get("Timing/images_per_sec")
        added = {
            "Timing/share_of_matmul_peak": rate and self.pace.share_of_peak(refinement, rate),
            "Resources/peak_cpu_mem_gb": peak_memory_gb(),
            "Resources/peak_gpu_mem_gb": peak_gpu_memory_gb(),
        }
        stats = {**stats, **{name: value for name, value in added.items() if value is not None}}
        shown = f"tick {int(stats['Progress/tick'])}, kimg {stats['Progress/kimg']:.2f}"
        self.bar.set_postfix_str(", ".join(filter(None, [shown, self.snapshots.proxy])))
        self.log(tick_line(stats))
        if self.folder is not None:
            self.folder.append("stats.jsonl", as_stats(stats))
            for board in self.boards:
                board(stats, refinement.num_images / 1000)

    def on_snapshot(self, refinement: Run) -> None:
        """Let process 0 show where the run is."""
        refinement.gather()
        self.processes.first_alone(self.snapshots.take, "a snapshot")
