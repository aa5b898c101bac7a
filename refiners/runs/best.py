"""The best student of a run by a judge, whose first candidate is the original."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Protocol, runtime_checkable

import metrics
from refiners.training.blend import blend
from refiners.training.state import State, check_tensors
from roles import Student

# Of the way from the original to the best, at the end of a run. Not beyond: there the judge's
# number fell where two other classifiers saw it rise by a fifth (docs/experiments.md).
BACK = (0.75, 0.5, 0.25)
# Of what a training state holds.
KINDS = {"score": (float, type(None)), "start": float, "num_images": int, "last": int}


class Judge(Protocol):
    """Ranks students.

    One that has trained_anew = True is of networks whose original is nothing: it is not asked for
    those between two students, and always sees the last.
    """

    def __call__(self, student: Student) -> float | None:
        """Return a number, lower is better; None where it cannot tell."""
        ...


@runtime_checkable
class Confirming(Judge, Protocol):
    """A judge that also tells, by other images than those that it ranks by, what a change is."""

    @property
    def name(self) -> str:
        """What a report calls it."""
        ...

    @property
    def reach(self) -> float:
        """How much of the way to what it likes best its word is enough for."""
        ...

    def change(self, before: Student, after: Student) -> metrics.Difference:
        """Return the change of its number with the interval."""
        ...


class Best:
    """What has been judged best so far; a run that only made things worse keeps the original.

    Attributes:
        original: the first candidate, a copy.
        network: the best student, a copy.
        score: its number; None as long as the judge has not told any.
        start: the original's.
        num_images: images that had moved it; 0 is the original.
        last: images that had moved the student that was judged last.
        alpha: where it lies on the line from the original to the student that the run had then.
    """

    def __init__(
        self,
        judge: Judge,
        original: Student,
        while_judging: Callable[[], AbstractContextManager[object]] = nullcontext,
    ):
        self.judge = judge
        self.while_judging = while_judging
        self.original = copy.deepcopy(original).eval().requires_grad_(False)
        self.network = copy.deepcopy(self.original)
        self.score: float | None = None
        self.start = math.nan
        self.num_images = self.last = 0
        self.alpha = 1.0

    @property
    def standing(self) -> int:
        """Images since the judge's number last fell, as far as it has looked."""
        return self.last - self.num_images

    def consider(self, student: Student, num_images: int) -> float | None:
        """Judge a student, keep it if it is the best, and return its number."""
        with self.while_judging():
            score = self.judge(student)
        self.last = num_images
        if score is None or not math.isfinite(score):
            return None
        if num_images == 0:
            self.start = score
        if self.score is None or score < self.score:
            self.score, self.num_images = float(score), num_images
            self.network.load_state_dict(student.state_dict())
        return float(score)

    def settle(self) -> str:
        """Find the best point between original and best, confirm it, and say what the result is.

        The line through two solutions is often better between them than at its ends (Wortsman et
        al. 2022, arXiv:2109.01903). What is not better than the original beyond chance, on images
        and latents that chose nothing, is not handed back.
        """
        if self.score is None:
            return "the last network, as the judge could not tell"
        if self.num_images == 0:
            return f"the original: nothing was nearer to the judge's images ({self.score:.4g})"
        if not getattr(self.judge, "trained_anew", False):
            self._search()
        kimg = f"kimg {self.num_images / 1000:g}"
        where = f"the network at {kimg}"
        if self.alpha != 1:
            why = (
                " (no farther, as no real images tell whether the teacher's are nearer to them)"
                if isinstance(self.judge, Confirming) and self.judge.reach < 1
                else ""
            )
            where = (
                f"a network {self.alpha:g} times the way from the original to that at {kimg}{why}"
            )
        if not isinstance(self.judge, Confirming):
            return f"{where}, chosen by the judge ({self.start:.4g} → {self.score:.4g})"
        change = self.judge.change(self.original, self.network)
        numbers = f"{change.change:+.3g}, 95 % interval {change.low:+.3g} to {change.high:+.3g}"
        if change.high < 0:
            return (
                f"{where}, chosen by the judge ({self.start:.4g} → {self.score:.4g}; "
                f"{self.judge.name}) and confirmed on other images and latents ({numbers})"
            )
        self.network.load_state_dict(self.original.state_dict())
        self.num_images, self.score, self.alpha = 0, self.start, 1.0
        return (
            f"the original: {where} was the judge's choice, but is not better on other images and "
            f"latents beyond chance ({numbers})"
        )

    def _search(self) -> None:
        """Go back along the line, to the judge's reach and on as long as its number falls."""
        end = copy.deepcopy(self.network)
        if isinstance(self.judge, Confirming) and self.judge.reach < 1:
            self.alpha = self.judge.reach
            score = self.judge(blend(self.original, end, self.alpha))
            self.score = self.score if score is None else float(score)
        for alpha in BACK:
            if alpha >= self.alpha:
                continue
            score = self.judge(blend(self.original, end, alpha))
            if score is None or self.score is None or not score < self.score:
                break
            self.score, self.alpha = float(score), alpha
        if self.alpha != 1:
            self.network.load_state_dict(blend(self.original, end, self.alpha).state_dict())

    def state_dict(self) -> State:
        """Return what a training state holds of it."""
        return {
            "score": self.score,
            "start": self.start,
            "num_images": self.num_images,
            "last": self.last,
            "network": self.network.state_dict(),
        }

    def load_state_dict(self, state: object) -> None:
        """Continue from a training state's entry.

        Raises:
            ValueError: the state was made without a judge, or is another student's.
        """
        if not isinstance(state, Mapping) or not {"score", "num_images", "network"} <= state.keys():
            raise ValueError("the state was made without a judge; continue it without one")
        if not isinstance(state["network"], Mapping):
            raise ValueError("the state's best network is no network")
        for name, kinds in KINDS.items():
            found = state.get(name)
            if not isinstance(found, kinds) or isinstance(found, bool):
                raise ValueError(f"the state's best {name} is no number; give a state of this run")
            # The original's is NaN as long as it was not judged.
            if name != "start" and found is not None and not math.isfinite(found):
                raise ValueError(f"the state's best {name} is {found}; give a state of this run")
        check_tensors("the state's best network", state["network"], self.network.state_dict())
        self.network.load_state_dict(state["network"])
        self.score, self.num_images = state["score"], state["num_images"]
        self.start, self.last = state["start"], state["last"]
