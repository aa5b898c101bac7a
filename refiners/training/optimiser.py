"""One guarded step of an optimiser, what of a student moves, and the random stream of a step."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch

from refiners.training.processes import Processes
from refiners.training.settings import Settings


def trainable(student: Any, train: str) -> list[torch.nn.Parameter]:
    """Switch on the gradients of the part of the student that moves and return its parameters."""
    prefix = "" if train == "all" else f"{train}."
    chosen = [p for name, p in student.named_parameters() if name.startswith(prefix)]
    if not chosen:
        raise ValueError(f"the student has no part named {train!r}; use train='all'")
    for parameter in chosen:
        parameter.requires_grad_(True)
    return chosen


def new_adam(
    parameters: Iterable[torch.nn.Parameter], rate: float, settings: Settings, processes: Processes
) -> torch.optim.Optimizer:
    """Return Adam; fused, as torch's own choice on a CPU goes over the weights one by one.

    Raises:
        ValueError: settings.zero with one process.
    """
    betas = (float(settings.beta1), float(settings.beta2))
    if not settings.zero:
        return torch.optim.Adam(parameters, lr=rate, betas=betas, fused=True)
    check_zero(settings, processes.size)
    # Only here, as it takes its time and warns of what it imports.
    from torch.distributed.optim import ZeroRedundancyOptimizer

    return ZeroRedundancyOptimizer(
        list(parameters), optimizer_class=torch.optim.Adam, lr=rate, betas=betas, fused=True
    )


def check_zero(settings: Settings, size: int) -> None:
    """Raise ValueError where there are no processes to share Adam's moments."""
    if settings.zero and size == 1:
        raise ValueError(
            "zero shares Adam's moments among processes, and there is one; start several with "
            "torchrun, or leave it out"
        )


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
