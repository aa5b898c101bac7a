"""How fast a run is beside what its machine can do: the work of a step over a matrix product's."""

from __future__ import annotations

import time
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

from refiners.training.precision import tensor_cores

# Large enough that the device reaches its speed, small enough to take no time.
MATRIX_SIZE = {"cpu": 512, "cuda": 8192}
REPEATS = 3


class CountFlop(TorchDispatchMode):
    """Inside, the operations of matrix products and convolutions are counted; nothing changes.

    Attributes:
        total: so far; a multiplication and an addition count as two.
    """

    def __init__(self) -> None:
        super().__init__()
        self.total = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Call the operation and add its work."""
        kwargs = kwargs or {}
        out = func(*args, **kwargs)
        work = flop_registry.get(func._overloadpacket)
        if work is not None:
            self.total += work(*args, **kwargs, out_val=out)
        return out


class Pace:
    """Counts the work of the first step that moves the student; later ones pass through.

    Compiled networks are not counted, as they could not be compiled meanwhile.
    """

    def __init__(self) -> None:
        self.flop: int | None = None
        self.peak: float | None = None

    def advance(self, refinement: Any) -> dict[str, float]:
        """Do a step of the run."""
        moves = refinement.step >= refinement.num_warmup_steps
        if self.flop is not None or not moves or refinement.settings.compile:
            return refinement.advance()
        with CountFlop() as counter:
            losses = refinement.advance()
        if losses:  # A step that was skipped has not done all of its work.
            self.flop = counter.total
        return losses

    def share_of_peak(self, refinement: Any, images_per_sec: float) -> float | None:
        """Return this process' speed as a share of a matrix product's, None where unknown."""
        if not self.flop:
            return None
        if self.peak is None:
            self.peak = matmul_peak(refinement.device, refinement.settings.precision)
        return self.flop * images_per_sec / refinement.settings.batch / self.peak


def matmul_peak(device: torch.device, precision: str) -> float:
    """Return the FLOP/s of a large product of square matrices in the precision of a run."""
    size = MATRIX_SIZE.get(device.type, 512)
    dtype = torch.bfloat16 if precision == "bf16" else torch.float32
    a = torch.ones([size, size], dtype=dtype, device=device)
    times = []
    with tensor_cores(precision, device):
        for _ in range(1 + REPEATS):  # the first warms up
            _wait(device)
            start = time.perf_counter()
            torch.mm(a, a)
            _wait(device)
            times.append(time.perf_counter() - start)
    return 2 * size**3 / min(times[1:])


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
