"""The figures of a step, and whether they are finite: known at once, or on a GPU a step later.

The host runs ahead of a GPU and tells it what to do next; where it reads a number it waits for all
of that, and then the GPU waits for the host. So on a GPU whether a step is finite stays there: the
optimisers look at it and move nothing where it is not, and the host reads the figures of a step
while the GPU is at the next.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence

import torch


class Figures:
    """What is known of a step so far; after the first that are not finite, no others count.

    Args:
        device: where the step is computed.
        start: figures by name that stand where the step does not come to them.

    Attributes:
        is_late: whether the host knows them later.
        bad: 1.0 [] on the device where a figure is not finite, else 0.0; None where it is known.
    """

    def __init__(self, device: torch.device, start: Mapping[str, float]):
        self.is_late = device.type != "cpu"
        self.device = device
        self.values: dict[str, float] = dict(start)
        self.later: dict[str, torch.Tensor] = {}
        self.bad: torch.Tensor | None = torch.zeros([], device=device) if self.is_late else None

    @property
    def are_bad(self) -> bool:
        """Whether the host knows that one is not finite."""
        return not all(map(math.isfinite, self.values.values()))

    @torch.no_grad()
    def add(self, figures: Mapping[str, torch.Tensor]) -> None:
        """Take scalars by name, in place of earlier ones."""
        values = torch.stack([value.detach().float() for value in figures.values()])
        if self.bad is None:
            self.values |= zip(figures, values.tolist(), strict=True)
            return
        for name, value in zip(figures, values, strict=True):
            before = self.later.get(name)
            self.later[name] = value if before is None else torch.where(self.bad > 0, before, value)
        self.bad = torch.maximum(self.bad, 1 - values.isfinite().all().float())

    @torch.no_grad()
    def undo(self, tensors: Iterable[torch.Tensor], before: Sequence[torch.Tensor]) -> None:
        """Put tensors back to what they were, on the device and where the step is bad."""
        if self.bad is not None:
            for tensor, old in zip(tensors, before, strict=True):
                tensor.copy_(torch.where(self.bad > 0, old, tensor))

    def leave(self) -> None:
        """Let the device bring its figures to the host when it comes to them."""
        if not self.later:
            return
        self.sent = torch.stack(list(self.later.values())).to("cpu", non_blocking=True)
        self.event = torch.get_device_module(self.device).Event()
        self.event.record()

    def read(self) -> dict[str, float]:
        """Return the figures, waiting for the device to come to them if it has not."""
        if self.later:
            self.event.synchronize()
            self.values |= zip(self.later, self.sent.tolist(), strict=True)
        return self.values
