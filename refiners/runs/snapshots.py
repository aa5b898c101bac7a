"""What a run shows of itself at a snapshot: numbers, pictures, networks, and last its state."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from pathlib import Path

from refiners.runs.best import Best
from refiners.runs.folder import RunFolder
from refiners.runs.made_of import MadeOf
from refiners.runs.pictures import save_grid, save_tiled
from refiners.runs.schedule import Run, label, opens_kimg
from refiners.training.health import Watch
from roles import Student

RESULT_FILE = "result.pkl"
JUDGE_FILE = "metric-judge.jsonl"

Save = Callable[[Student, Path], object]
Measure = Callable[[Student, int], Mapping[str, float]]


class Snapshots:
    """What process 0 measures, judges and writes as a run goes.

    Attributes:
        proxy: what was measured last, as a live line shows it.
        result: which network the run hands back and why, once it is settled.
        due: whether a snapshot, or the original's judgement, was begun and not ended.
    """

    def __init__(
        self,
        refinement: Run,
        folder: RunFolder | None,
        log: Callable[[str], None],
        *,
        save: Save | None,
        measure: Measure | None,
        best: Best | None,
        made_of: MadeOf,
        watch: Watch,
        finish: Callable[[Student], object] | None,
    ):
        self.refinement = refinement
        self.folder = folder
        self.log = log
        self.save = save
        self.measure = measure
        self.best = best
        self.made_of = made_of
        self.watch = watch
        self.finish = finish
        self.proxy = ""
        self.result = ""
        self.wrecked = ""  # why the last student cannot be used
        self.original = None  # what a wrecked run hands back, where nothing was judged
        if refinement.processes.is_first:
            self.original = best.original if best else copy.deepcopy(refinement.average)
        self.due = False

    def take(self) -> None:
        """Show where the run is, and last write the state, whose other files then exist.

        Before the first step the original is judged, and there is no state yet.
        """
        settings, num_images = self.refinement.settings, self.refinement.num_images
        self.due = True
        if not self.refinement.counts.step:
            self.judge()
            self.due = False
            return
        at_end = num_images == settings.num_steps * settings.batch
        # Once a kimg, as the judge looks at thousands of images.
        self.show(judged=at_end or opens_kimg(settings, num_images))
        self.due = False
        if self.folder is not None:
            self.write_state()

    def show(self, *, judged: bool) -> None:
        """Measure, judge if asked, and write what is seen."""
        refinement = self.refinement
        numbers: Mapping[str, float] = {}
        # Of wrecked images, which may be of any size, nothing can be measured.
        if self.measure and not self.wrecked:
            numbers = self.measure(refinement.average, refinement.num_images)
        if numbers:
            self.proxy = "  ".join(f"{name} {value:.4g}" for name, value in numbers.items())
            self.log(f"kimg {refinement.num_images / 1000:g}  {self.proxy}")
        if judged and refinement.num_images and not self.wrecked:
            self.judge()
        if self.folder is None:
            return
        views = refinement.views()
        if views is not None:
            save_tiled(self.folder.path / f"health-{self.label}.png", *views)
        if refinement.num_images:
            name = f"fakes{self.label}.png"
            save_grid(self.folder.path / name, refinement.average, refinement.settings.seed)
            if self.save is not None:
                self.save(
                    refinement.average, self.folder.path / f"network-snapshot-{self.label}.pkl"
                )

    @property
    def label(self) -> str:
        """What the files of a snapshot are called by."""
        return label(self.refinement.settings, self.refinement.num_images)

    def write_state(self) -> None:
        """Write the training state and drop all but the last ones."""
        assert self.folder is not None
        state = {**self.refinement.state_dict(), "due": self.due, "made_of": dict(self.made_of)}
        state["first_norm"] = self.watch.first_norm
        if self.best is not None:
            state["best"] = self.best.state_dict()
        self.folder.write_state(self.label, state)
        self.folder.drop_states()

    def judge(self) -> None:
        """Let the judge see the average, unless it just has, and keep the best in result.pkl."""
        if self.best is None or 0 < self.refinement.num_images == self.best.last:
            return
        refinement, before = self.refinement, self.best.score
        score = self.best.consider(refinement.average, refinement.num_images)
        kimg = refinement.num_images / 1000
        if score is not None:
            self.proxy = f"judge {score:.4g}"
            self.log(f"kimg {kimg:g}  {self.proxy}")
            if self.folder is not None:
                self.folder.append(JUDGE_FILE, {"kimg": kimg, "judge": score})
        if self.best.score != before:
            self.write(self.best.network)

    def chosen(self) -> Student:
        """Return what the run hands back as it stands.

        The original of a run that is wrecked, else the best where a judge told it, else the last.
        """
        if self.wrecked and self.original is not None:
            return self.original
        if self.best is not None and self.best.score is not None:
            return self.best.network
        return self.refinement.average

    def write_result(self, why: str = "") -> None:
        """Write result.pkl, and say in the log what it is, and why the run was stopped."""
        kimg = f"{self.refinement.num_images / 1000:g}"
        found = f"the last network, at kimg {kimg}"
        if self.wrecked:
            found = "the original"
        elif self.best is not None:
            found = self.best.settle()
        elif not self.refinement.num_images:
            found = "the original: no step moved it"
        if self.wrecked:
            found = f"{found}; the run was wrecked at kimg {kimg}: {self.wrecked}"
        elif why:
            found = f"{found}; the run was stopped at kimg {kimg}: {why}"
        if self.finish is not None:
            self.finish(self.chosen())
        self.write(self.chosen())
        self.result = found
        self.log(f"the result is {found}")

    def keep_original(self, why: str) -> None:
        """Write the original for a result before any step, and say why."""
        self.write(self.refinement.average)
        self.result = f"the original: {why}"
        self.log(f"the result is {self.result}")

    def write(self, network: Student) -> None:
        """Write result.pkl, the network that the run hands back as it stands."""
        if self.folder is not None and self.save is not None:
            self.save(network, self.folder.path / RESULT_FILE)
