"""What is seen of a run: bar, log, statistics, pictures, snapshots, states, the best student."""

from __future__ import annotations

import contextlib
import copy
import math
import signal
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from refiners.runs.best import Best, Judge
from refiners.runs.endings import Outcome, RunFailed
from refiners.runs.folder import RunFolder, read_state
from refiners.runs.interrupts import Interrupts, Stopped
from refiners.runs.log_line import as_stats, holds, tick_line
from refiners.runs.made_of import MadeOf, check_made_of
from refiners.runs.memory import peak_gpu_memory_gb, peak_memory_gb, told_out_of_memory
from refiners.runs.progress import Progress
from refiners.runs.schedule import Run, run
from refiners.runs.snapshots import Measure, Save, Snapshots
from refiners.training.health import Complaint, Watch
from refiners.training.settings import parse_condition
from refiners.training.state import State
from roles import Student
from roles.processes import LostProcess
from roles.shown import shown

LATE = 1  # asks all processes to end, as the number of a signal does; no signal has it here

# stats of a tick, thousands of images so far
Board = Callable[[Mapping[str, float], float], object]


class Session:
    """Everything of a run that is seen: bar, log, stats.jsonl, pictures, snapshots, states.

    Args:
        refinement: the run in memory.
        folder: where its files go, in process 0; None writes nothing.
        save: called as save(student, path) for each network-snapshot-NNNNNN.pkl and result.pkl;
            None writes neither.
        measure: called as measure(student, num_images) at each snapshot; its numbers are logged.
        progress: show a progress bar; None shows it on a terminal, and elsewhere a line a minute.
        judge: called on the original, at the first snapshot of each kimg and at the end, returns a
            number, lower is better, or None. The best student is then the result, which may be the
            original.
        remark: a first line of the log.
        boards: called with the statistics of each tick and the thousands of images so far.
        made_of: what a state has to be made of for this run to continue it.
        finish: called with the network that the run hands back, before it is written.
        interrupts: what asks the run to end, already heard; None lets the session hear it.
        what: what the bar calls its steps.
    """

    def __init__(
        self,
        refinement: Run,
        folder: RunFolder | None,
        *,
        save: Save | None = None,
        measure: Measure | None = None,
        progress: bool | None = None,
        judge: Judge | None = None,
        remark: str = "",
        boards: Sequence[Board] = (),
        made_of: MadeOf | None = None,
        finish: Callable[[Student], object] | None = None,
        interrupts: Interrupts | None = None,
        what: str = "refine",
    ):
        self.refinement = refinement
        self.folder = folder
        self.processes = refinement.processes
        settings, first = refinement.settings, self.processes.is_first
        self.interrupts = interrupts or Interrupts(settings.max_hours)
        self.hearing = contextlib.nullcontext() if interrupts else self.interrupts
        self.made_of = made_of or {}
        self.best = best = None
        if judge and first:
            self.best = best = Best(
                judge, refinement.average, lambda: self.interrupts.at_once("judging")
            )
        self.watch = Watch(settings)
        self.snapshots = Snapshots(
            refinement,
            folder,
            self.log,
            save=save,
            measure=measure and self.at_once(measure),
            best=best,
            made_of=self.made_of,
            watch=self.watch,
            finish=finish,
        )
        self.remark = remark
        self.boards = boards
        self.condition_met = ""
        self.complaint: Complaint | None = None
        total = (refinement.num_warmup_steps + settings.num_steps) * settings.batch
        self.what = what
        self.progress = Progress(what, total, shown=progress if first else False)

    def run_from(self, resume: Path | bool) -> Student:
        """Carry the run out, from a state or, with True, the newest whole one; return the result.

        Whether it was wrecked is in outcome.

        Raises:
            ValueError: the state is another run's.
            MemoryError: a GPU has too little memory; the states that were written are whole.
            OSError: a file cannot be written; likewise.
        """
        if resume:
            self.resume(None if resume is True else Path(resume))
        self.run()
        return self.result()

    def resume(self, source: Path | None = None) -> None:
        """Continue from a state of the folder, or from the newest whole one.

        Raises:
            ValueError: there is none, or it belongs to other settings.
        """
        read = self.processes.first_alone(lambda: self.read_state(source), "reading the state")
        state = self.processes.from_first(read, "reading the state")
        assert state is not None
        due = state.get("due", False)
        if not isinstance(due, bool):
            raise ValueError(f"the state's due is {type(due).__name__}, not bool; give another")
        norm = state.get("first_norm", 0.0)
        if not isinstance(norm, float) or not 0 <= norm < math.inf:
            raise ValueError(f"the state's first_norm is {shown(norm)}, no norm; give another")
        if self.best is not None:
            self.best.load_state_dict(state.get("best"))
        for remark in self.refinement.load_state_dict(state):
            self.log(remark)
        self.snapshots.due, self.watch.first_norm = due, norm
        if self.folder is not None:
            self.folder.sweep()
            self.folder.set_aside_after(state["num_images"])

    def read_state(self, source: Path | None) -> State:
        """Read what to continue from."""
        if self.folder is None:
            raise ValueError("there is no training state to resume from; give the folder of a run")
        state = self.folder.newest_state() if source is None else read_state(source)
        check_made_of(state.get("made_of"), self.made_of, f"the state in {self.folder.path}")
        return state

    def run(self) -> None:
        """Carry the run to its end, to a signal, or to its last hour."""
        if self.remark:
            self.log(self.remark)
        try:
            with self.hearing, contextlib.closing(self.progress):
                self.show_step()
                self.snapshots.due |= self.refinement.counts.step == 0
                while not self.whole_run():
                    self.roll_back()
                self.has_to_stop()  # a signal may have come since
                # What process 0 saw, all have to know.
                self.snapshots.wrecked = self.processes.from_first(
                    self.snapshots.wrecked, "how the run went"
                )
                if self.interrupts.received is None:
                    self.processes.first_alone(self.write_result, "writing the result")
        except RuntimeError as error:
            told = told_out_of_memory(error)
            if not told:
                raise
            raise MemoryError(self.out_of_memory(told)) from error
        except OSError as error:
            if self.folder is None or isinstance(error, LostProcess):
                raise
            raise RunFailed(f"{str(error) or type(error).__name__}; {self.stopped()}") from error
        self.interrupts.leave()

    def at_once(self, measure: Measure) -> Measure:
        """Return a measurement that can be left at once."""

        def measured(student: Student, num_images: int) -> Mapping[str, float]:
            with self.interrupts.at_once("measuring"):
                return measure(student, num_images)

        return measured

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

    def is_due(self) -> bool:
        """Whether a snapshot was begun and not ended; process 0, which takes them, knows."""
        due = self.processes.is_first and self.snapshots.due
        return self.processes.any(due, "looking for a snapshot that is due")

    def whole_run(self) -> bool:
        """Run to the end or to where it is stopped; False says that it has to be rolled back."""
        if self.is_due():
            self.on_snapshot(self.refinement)
        try:
            # A run that its patience ended, continued without more of it, ends where it was.
            stalled = self.processes.any(bool(self.stalled), "looking for what ends the run")
            done = not (stalled or self.is_due()) and run(
                self.refinement,
                on_tick=self.on_tick,
                on_snapshot=self.on_snapshot,
                on_step=self.on_step,
                stop=self.has_to_stop,
            )
        except FloatingPointError as error:
            states = self.folder is not None and bool(self.folder.states())
            states = self.processes.any(states, "looking for a state")
            self.log(str(error))
            if states and self.refinement.counts.rate_scale == 1:
                return False
            self.snapshots.wrecked = str(error)
            return True
        if not done or self.is_due():
            self.has_to_stop()  # by a signal that all know of
            self.processes.first_alone(self.end_early, "ending the run")
        return True

    @property
    def stalled(self) -> str:
        """That the judge has not found anything better for as long as was told; else empty."""
        patience = self.refinement.settings.patience_kimg
        if self.best is None or not patience or self.best.standing < 1000 * patience:
            return ""
        return f"the judge's number not having fallen for {self.best.standing / 1000:g} kimg"

    def has_to_stop(self) -> bool:
        """Whether any process has to end the run after this step; all then know of its signal."""
        late = self.interrupts.late or bool(self.condition_met or self.complaint or self.stalled)
        mine = self.interrupts.received or (LATE if late else 0)
        asked = self.processes.highest(int(mine), "the end of a step")
        if asked > LATE:
            self.interrupts.received = signal.Signals(asked)
        return asked > 0

    def end_early(self) -> None:
        """Write what the run can be continued from, and why it ended."""
        self.interrupts.count_no_more()
        if self.folder is None:
            return
        asked = f"stop_if {self.condition_met}" if self.condition_met else self.stalled
        if self.complaint:
            asked = "its health"
        # First, as what is judged here is no candidate of the run that continues.
        self.snapshots.write_state()
        # What is trained anew has no original to hand back, so that a snapshot left is taken now.
        anew = self.best is not None and getattr(self.best.judge, "trained_anew", False)
        if self.interrupts.received is None and (anew or not self.snapshots.due):
            with contextlib.suppress(Stopped):  # by a signal, which is told below
                self.snapshots.show(judged=True)
        why = asked if asked and self.interrupts.received is None else self.interrupts.why
        kimg = self.refinement.num_images / 1000
        ignores = self.refinement.settings.ignore_health
        past = ", --ignore-health past what stopped it" if self.complaint and not ignores else ""
        self.log(f"stopped at kimg {kimg:g} by {why}; resume continues from here{past}")

    def write_result(self) -> None:
        """Write the result; a signal leaves it at once, as the run can be continued to it."""
        self.interrupts.count_no_more()
        try:
            with self.interrupts.at_once("writing the result"):
                self.snapshots.write_result(self.complaint.text if self.complaint else "")
        except Stopped as stage:
            self.log(f"stopped in {stage} by {self.interrupts.why}; resume continues from here")

    def keep_original(self, why: str) -> Student:
        """End a run before its first step, with its original for a result; return that."""
        self.processes.first_alone(lambda: self.snapshots.keep_original(why), "writing the result")
        return self.result()

    def roll_back(self) -> None:
        """Go back to the last good state and halve the learning rates, once."""
        self.resume()
        self.refinement.counts.rate_scale /= 2
        self.refinement.counts.skipped_in_row = 0
        self.log(f"back at kimg {self.refinement.num_images / 1000:g}, with half the rates")

    def result(self) -> Student:
        """Return a copy of the refined student: the best where there is a judge."""
        found = copy.deepcopy(self.snapshots.chosen())
        if self.processes.size > 1:
            # gloo, which has the patience to wait for process 0, carries what lies on a CPU.
            held = {name: tensor.cpu() for name, tensor in found.state_dict().items()}
            found.load_state_dict(self.processes.from_first(held, "the result"))
        return found

    @property
    def outcome(self) -> Outcome:
        """How the run went, once it has ended."""
        return Outcome(self.snapshots.result, self.snapshots.wrecked)

    def log(self, text: str) -> None:
        """Write a line to the folder's log, if there is a folder."""
        if self.folder is not None:
            self.progress.clear()
            self.folder.log(text)

    def show_step(self) -> None:
        """Let the bar begin where the run is."""
        self.progress.begin(self.refinement.counts.step * self.refinement.settings.batch)

    def on_step(self, refinement: Run, losses: Mapping[str, float]) -> None:
        """Move the bar."""
        self.watch.note(losses)
        warm = refinement.counts.step <= refinement.num_warmup_steps
        done = refinement.counts.step * refinement.settings.batch
        self.progress.reach(done, what="warm-up" if warm else self.what)

    def on_tick(self, stats: Mapping[str, float]) -> None:
        """Write a line of statistics and one of log."""
        refinement, condition = self.refinement, self.refinement.settings.stop_if
        if condition and holds(condition, stats):
            self.condition_met = condition
        self.complaint = self.watch.see(stats)
        if self.complaint is not None:
            self.log(f"kimg {stats['Progress/kimg']:g}  {self.complaint.text}")
            self.snapshots.wrecked = self.complaint.text if self.complaint.is_wrecked else ""
        name = parse_condition(condition)[0] if condition else ""
        if name not in ("", *stats) and stats["Progress/tick"]:
            self.log(f"stop_if never holds: there is no {name} in stats.jsonl")
        added = {
            "Resources/peak_cpu_mem_gb": peak_memory_gb(),
            "Resources/peak_gpu_mem_gb": peak_gpu_memory_gb(),
        }
        stats = {**stats, **{name: value for name, value in added.items() if value is not None}}
        shown = f"tick {int(stats['Progress/tick'])}, kimg {stats['Progress/kimg']:.2f}"
        note = ", ".join(filter(None, [shown, self.snapshots.proxy]))
        self.progress.reach(self.progress.done, note=note)
        self.log(tick_line(stats))
        if self.folder is not None:
            self.folder.append("stats.jsonl", as_stats(stats))
            for board in self.boards:
                board(stats, refinement.num_images / 1000)

    def on_snapshot(self, refinement: Run) -> None:
        """Let process 0 show where the run is; what is left there is due."""

        def take() -> None:
            with contextlib.suppress(Stopped):
                self.snapshots.take()

        self.processes.first_alone(take, "a snapshot")
