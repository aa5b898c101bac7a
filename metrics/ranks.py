"""Several processes that measure as one: each takes a share, and sums make the whole.

Everything that a metric keeps of a stream of images is a sum or, as moments, becomes one
(`Moments.over`), so the numbers are those of one process to float64's rounding. The caller starts
the processes (torchrun) and their group (torch.distributed).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor


@dataclass(frozen=True)
class Ranks:
    """This process among `size` of them, numbered from 0; alone without arguments."""

    rank: int = 0
    size: int = 1

    def __post_init__(self) -> None:
        if not 0 <= self.rank < self.size:
            raise ValueError(f"rank {self.rank} of {self.size} processes; allowed: 0 to size - 1")

    def share(self, num: int) -> range:
        """This process's consecutive part of 0 to num - 1; ValueError where some would get none."""
        if num < self.size:
            raise ValueError(f"{self.size} processes cannot share {num} parts; start at most {num}")
        return range(num * self.rank // self.size, num * (self.rank + 1) // self.size)

    def sum(self, *tensors: Tensor) -> None:
        """Replace CPU tensors by their sums over the processes; all get the same bits."""
        if self.size == 1:
            return
        # NCCL adds on GPUs only.
        device = "cuda" if dist.get_backend() == "nccl" else "cpu"
        for tensor in tensors:
            total = tensor.to(device)
            dist.all_reduce(total)
            tensor.copy_(total)

    def all(self, found: bool) -> bool:
        """Whether it is so in every process."""
        count = torch.tensor(int(found))
        self.sum(count)
        return int(count) == self.size


ALONE = Ranks()
