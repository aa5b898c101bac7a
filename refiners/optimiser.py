"""One guarded step of an optimiser, what of a student moves, and the random stream of a step."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch


def trainable(student: Any, train: str) -> list[torch.nn.Parameter]:
    """Switch on the gradients of the part of the student that moves and return its parameters."""
    prefix = "" if train == "all" else f"{train}."
    chosen = [p for name, p in student.named_parameters() if name.startswith(prefix)]
    if not chosen:
        raise ValueError(f"the student has no part named {train!r}; use train='all'")
    for parameter in chosen:
        parameter.requires_grad_(True)
    return chosen


def step_if_finite(
    optimiser: torch.optim.Optimizer, loss: torch.Tensor, rate: float
) -> tuple[float, float]:
    """Step at this rate if the loss and all gradients are finite; return loss and gradient's norm.

    This is the only place where the host waits for the device.
    """
    grads = [p.grad for group in optimiser.param_groups for p in group["params"]]
    norm = torch.nn.utils.get_total_norm([g for g in grads if g is not None])
    value, size = torch.stack([loss.float(), norm.float()]).tolist()
    if not (math.isfinite(value) and math.isfinite(size)):
        return value, size
    for group in optimiser.param_groups:
        group["lr"] = rate
    optimiser.step()
    return value, size


@contextmanager
def random_stream(seed: int, device: torch.device) -> Iterator[None]:
    """Draw from torch's stream of this seed inside, and leave the caller's as it was."""
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(seed)
        yield


class Skips:
    """Counts the steps that were not finite: one is bad luck, three in a row a run gone wrong."""

    limit = 3

    def __init__(self) -> None:
        self.total = 0
        self.in_row = 0

    def note(self, losses: dict[str, float], *, step: int, seed: int) -> bool:
        """Return whether a step was finite.

        Raises:
            FloatingPointError: it was the third in a row that was not, with the reason.
        """
        if all(map(math.isfinite, losses.values())):
            self.in_row = 0
            return True
        self.total += 1
        self.in_row += 1
        if self.in_row >= self.limit:
            found = ", ".join(f"{name} {value}" for name, value in losses.items())
            raise FloatingPointError(
                f"{self.in_row} steps in a row, the last of them step {step}, are not finite "
                f"({found}, seed {seed}); lower glr and lr, or start from the last snapshot"
            )
        return False
