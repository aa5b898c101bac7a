"""Torch's random streams of the CPU and of a device: begun by a seed, and gone back to."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch


class Stream:
    """Where torch's random streams of the CPU and of a device are, to go back to."""

    def __init__(self, device: torch.device):
        self.device = device
        self.cpu = torch.get_rng_state()
        self.other = None
        if device.type != "cpu":
            module = torch.get_device_module(device)
            # Apple's has one stream and takes no device.
            self.other = module.get_rng_state(*self._which())

    def restore(self) -> None:
        """Go back there."""
        torch.set_rng_state(self.cpu)
        if self.other is not None:
            torch.get_device_module(self.device).set_rng_state(self.other, *self._which())

    def _which(self) -> tuple[torch.device, ...]:
        return () if self.device.type == "mps" else (self.device,)


@contextmanager
def random_stream(seed: int, device: torch.device) -> Iterator[None]:
    """Draw from torch's streams of this seed inside, and leave the caller's as they were."""
    before = Stream(device)
    try:
        torch.manual_seed(seed)
        yield
    finally:
        before.restore()
