"""What a run shows of itself at a snapshot: numbers, pictures, networks, and last its state."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

from refiners.runs.best import Best
from refiners.runs.folder import RunFolder
from refiners.runs.pictures import save_grid, save_tiled
from refiners.runs.schedule import Run, label, opens_kimg
from roles import Student

Save = Callable[[Student, Path], object]
Measure = Callable[[Student, int], Mapping[str, float]]


class Snapshots:
    """What process 0 measures, judges and writes as a run goes.

    Attributes:
        proxy: what was measured last, as a live line shows it.
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
    ):
        self.refinement = refinement
        self.folder = folder
        self.log = log
        self.save = save
        self.measure = measure
        self.best = best
        self.proxy = ""

    def take(self) -> None:
        """Show where the run is, and last write the state, whose other files then exist."""
        settings, num_images = self.refinement.settings, self.refinement.num_images
        at_end = num_images == settings.num_steps * settings.batch
        # Once a kimg, as the judge looks at thousands of images.
        self.show(judged=at_end or opens_kimg(settings, num_images))
        if self.folder is not None:
            self.write_state()

    def show(self, *, judged: bool) -> None:
        """Measure, judge if asked, and write what is seen."""
        refinement = self.refinement
        numbers = self.measure(refinement.average, refinement.num_images) if self.measure else {}
        if numbers:
            self.proxy = "  ".join(f"{name} {value:.4g}" for name, value in numbers.items())
            self.log(f"kimg {refinement.num_images / 1000:g}  {self.proxy}")
        if judged and refinement.num_images:
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
        state = self.refinement.state_dict()
        if self.best is not None:
            state["best"] = self.best.state_dict()
        self.folder.write_state(self.label, state)
        self.folder.drop_states()

    def judge(self) -> None:
        """Let the judge see the average, and keep the best in best.pkl."""
        if self.best is None:
            return
        before = self.best.score
        score = self.best.consider(self.refinement.average, self.refinement.num_images)
        if score is not None:
            self.proxy = f"judge {score:.4g}"
            self.log(f"kimg {self.refinement.num_images / 1000:g}  {self.proxy}")
        if self.best.score != before and self.folder is not None and self.save is not None:
            self.save(self.best.network, self.folder.path / "best.pkl")

    def write_result(self) -> None:
        """Say which student is the result; best.pkl and the last snapshot hold it."""
        best = self.best
        if best is None:
            return
        self.log(best.verdict())
        refinement = self.refinement
        last = best.score is None or best.num_images == refinement.num_images
        if not last and self.folder is not None and self.save is not None:
            # An earlier process may have ended between two snapshots, with a candidate of its own.
            for name in ("best.pkl", f"network-snapshot-{self.label}.pkl"):
                self.save(best.network, self.folder.path / name)
