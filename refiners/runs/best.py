"""The best student of a run by a judge, whose first candidate is the original."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Mapping

from refiners.training.state import State, check_tensors
from roles import Student

# student -> a number, lower is better; None where it cannot tell.
Judge = Callable[[Student], float | None]


class Best:
    """What has been judged best so far; a run that only made things worse keeps the original.

    Attributes:
        network: the best student, a copy.
        score: its number; None as long as the judge has not told any.
        num_images: images that had moved it; 0 is the original.
    """

    def __init__(self, judge: Judge, original: Student):
        self.judge = judge
        self.network = copy.deepcopy(original).eval().requires_grad_(False)
        self.score: float | None = None
        self.num_images = 0

    def consider(self, student: Student, num_images: int) -> float | None:
        """Judge a student, keep it if it is the best, and return its number."""
        score = self.judge(student)
        if score is None or not math.isfinite(score):
            return None
        if self.score is None or score < self.score:
            self.score, self.num_images = float(score), num_images
            self.network.load_state_dict(student.state_dict())
        return float(score)

    def verdict(self) -> str:
        """Return what a log says at the end of the run."""
        if self.score is None:
            return "the judge could not tell; the last student is the result"
        if self.num_images == 0:
            return f"refinement did not help (best {self.score:.4g}); the original is kept"
        return f"the best student is that at kimg {self.num_images / 1000:g} ({self.score:.4g})"

    def state_dict(self) -> State:
        """Return what a training state holds of it."""
        return {
            "score": self.score,
            "num_images": self.num_images,
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
        check_tensors("the state's best network", state["network"], self.network.state_dict())
        self.network.load_state_dict(state["network"])
        self.score, self.num_images = state["score"], state["num_images"]
