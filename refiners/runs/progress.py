"""How far a stage of a run is: a bar on a terminal, elsewhere a line a minute."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable

from tqdm import tqdm

SECONDS = 60.0  # between lines


class Progress:
    """Shows how far a stage is on standard error.

    Args:
        what: the stage.
        total: what it counts up to; may be told later.
        shown: True shows a bar, None a bar on a terminal and a line a minute elsewhere (in the log
            of a batch system), False nothing.
        clock: seconds.
    """

    def __init__(
        self,
        what: str,
        total: int | None = None,
        *,
        shown: bool | None = None,
        clock: Callable[[], float] = time.monotonic,
    ):
        self.what, self.total, self.done = what, total, 0
        self.bar = tqdm(
            desc=what,
            total=total,
            unit="img",
            unit_scale=True,
            dynamic_ncols=True,
            disable=None if shown is None else not shown,
            file=sys.stderr,
            leave=False,
        )
        self.says_lines = shown is None and self.bar.disable
        self.clock = clock
        self.begin(0)

    def begin(self, done: int) -> None:
        """Count rates from here: what was done before took no time of ours."""
        self.done = self.bar.initial = self.bar.n = self._first = done
        self._began = self._said = self.clock()

    def reach(self, done: int, *, what: str = "", note: str = "") -> None:
        """Show that so much is done.

        Args:
            done: of the total.
            what: the stage, where it is another than before.
            note: what a bar shows beside.
        """
        self.done = done
        if what and what != self.what:
            self.what = what
            self.bar.set_description(what, refresh=False)
        if note:
            self.bar.set_postfix_str(note, refresh=False)
        self.bar.update(done - self.bar.n)
        if self.says_lines and self.clock() >= self._said + SECONDS:
            self._said = self.clock()
            print(self.line(), file=sys.stderr, flush=True)

    def line(self) -> str:
        """Return what, how far, and how long it will still take at the rate so far."""
        share = (
            f" of {self.total} ({100 * self.done // max(self.total, 1)} %)" if self.total else ""
        )
        left = ""
        if self.total and self.done > self._first:
            rate = (self.done - self._first) / max(self.clock() - self._began, 1e-9)
            left = f", {in_words((self.total - self.done) / rate)} left"
        return f"{self.what}: {self.done}{share}{left}"

    def clear(self) -> None:
        """Make room for a line of something else."""
        self.bar.clear()

    def close(self) -> None:
        """Take the bar away."""
        self.bar.close()


def stage_bar(what: str) -> Callable[[int, int], None]:
    """Return a callback (done, total) that shows how far a stage is; see Progress."""
    progress = Progress(what)

    def update(done: int, total: int) -> None:
        progress.total = progress.bar.total = total
        progress.reach(done)
        if done >= total:
            progress.close()

    return update


def in_words(seconds: float) -> str:
    """Return a time in its two largest units: 3 h 20 min, 12 min, 40 s."""
    minutes = round(seconds / 60)
    if minutes >= 60:
        return f"{minutes // 60} h {minutes % 60} min"
    return f"{minutes} min" if minutes >= 2 else f"{round(seconds)} s"
