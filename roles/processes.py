"""Several processes as one: torchrun starts them, torch.distributed carries what they share.

Each takes an equal share of every batch and all hold the same networks, whose gradients torch's
DistributedDataParallel averages. One process needs no process group. Only process 0 writes.
"""

from __future__ import annotations

import datetime
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import torch
import torch.distributed as dist

Value = TypeVar("Value")

BACKENDS = {"cpu": "gloo", "cuda": "nccl"}
STEP_MINUTES = 10  # the longest that a process waits for the others within a step
ALONE_HOURS = 24  # the longest that they wait for process 0, which measures and writes
ROLL_SECONDS = 5  # how long the survivors of a lost process wait for each other


class LostProcess(ConnectionError):
    """A process did not take part where the others waited for it."""


class Processes:
    """The processes of a program; without arguments this one alone, which shares nothing.

    Args:
        device: of this process; gloo connects CPUs, nccl GPUs. None is one process.
        wait: how long to wait for the others within a step.

    Attributes:
        rank: number of this process, from 0.
        size: how many there are.

    Raises:
        ValueError: the environment is not that of torchrun, or a device that cannot be shared.
    """

    def __init__(
        self,
        device: str | torch.device | None = None,
        *,
        wait: datetime.timedelta = datetime.timedelta(minutes=STEP_MINUTES),
    ):
        self.rank, self.size = 0, 1
        self._patient: Any = None  # a group of processes that waits for hours
        if device is None:
            return
        kind = torch.device(device).type
        if kind not in BACKENDS:
            raise ValueError(
                f"several processes share CPUs or CUDA devices, not {kind}; start one, or "
                "--device cpu"
            )
        if kind == "cuda":
            torch.cuda.set_device(device)
            # NCCL's watchdog would end this process where another is lost, with nobody to say who.
            # It gives up what waits for that one (2) instead, and what follows fails and is named.
            os.environ.setdefault("TORCH_NCCL_ASYNC_ERROR_HANDLING", "2")
        dist.init_process_group(BACKENDS[kind], timeout=wait)
        self.rank, self.size = dist.get_rank(), dist.get_world_size()
        hours = datetime.timedelta(hours=ALONE_HOURS)
        self._patient = dist.new_group(backend="gloo", timeout=hours)

    @property
    def is_first(self) -> bool:
        """Whether this process writes."""
        return self.rank == 0

    def share(self, num: int) -> range:
        """Return this process's consecutive part of 0 to num - 1.

        Raises:
            ValueError: some would get none.
        """
        if num < self.size:
            raise ValueError(f"{self.size} processes cannot share {num} parts; start at most {num}")
        return range(num * self.rank // self.size, num * (self.rank + 1) // self.size)

    def sum(self, *tensors: torch.Tensor, phase: str = "a sum") -> None:
        """Replace CPU tensors by their sums over the processes, which all get the same bits.

        It waits as long as it takes, as some may have more to measure than others.
        """
        for tensor in tensors if self.size > 1 else ():
            with self.together(phase):
                dist.all_reduce(tensor, group=self._patient)

    def mean(self, *tensors: torch.Tensor, phase: str = "a mean") -> None:
        """Replace tensors on the device by their means, within a step: nobody may be late."""
        for tensor in tensors if self.size > 1 else ():
            with self.together(phase):
                dist.all_reduce(tensor)
            tensor.div_(self.size)

    def highest(self, number: int, phase: str) -> int:
        """Return the highest of the processes' numbers."""
        found = torch.tensor(number)
        if self.size > 1:
            with self.together(phase):
                dist.all_reduce(found, op=dist.ReduceOp.MAX, group=self._patient)
        return int(found)

    def any(self, flag: bool, phase: str) -> bool:
        """Return whether it is so in any process."""
        return bool(self.highest(int(flag), phase))

    def gather(self, rows: torch.Tensor, phase: str) -> torch.Tensor:
        """Return the rows of all processes, in the order of their ranks; each brings as many."""
        if self.size == 1:
            return rows
        found = [torch.empty_like(rows) for _ in range(self.size)]
        with self.together(phase):
            dist.all_gather(found, rows.contiguous())
        return torch.cat(found)

    def from_first(self, value: Value, phase: str) -> Value:
        """Return process 0's value, plain data or CPU tensors, in all; they wait for it."""
        if self.size == 1:
            return value
        box = [value if self.is_first else None]
        with self.together(phase):
            dist.broadcast_object_list(box, src=0, group=self._patient)
        return box[0]  # pyright: ignore[reportReturnType]

    def first_alone(self, work: Callable[[], Value], phase: str) -> Value | None:
        """Do some work in process 0; the others wait for it, end if it fails, and get None."""
        found, error = None, None
        if self.is_first:
            try:
                found = work()
            except Exception as raised:  # told to the others below, and raised again
                error = raised
        failed = self.from_first(None if error is None else str(error), phase)
        if error is not None:
            raise error
        if failed is not None:
            raise LostProcess(f"rank 0 failed in {phase}: {failed}")
        return found

    def leave(self) -> None:
        """Part, at the end of a program."""
        if self.size > 1:
            dist.destroy_process_group()

    @contextmanager
    def together(self, phase: str) -> Iterator[None]:
        """Say who is missing where what all do inside does not come through."""
        try:
            yield
        except RuntimeError as error:
            if self.size == 1 or not is_of_messages(error):
                raise
            raise LostProcess(self._lost(phase, error)) from error

    def _lost(self, phase: str, error: RuntimeError) -> str:
        """Return who is missing; torch's barrier calls the roll."""
        missing = "the others"
        try:
            wait = datetime.timedelta(seconds=ROLL_SECONDS)
            dist.monitored_barrier(self._patient, timeout=wait, wait_all_ranks=True)
        except RuntimeError as roll:
            missing = str(roll).splitlines()[0]
        return (
            f"rank {self.rank} of {self.size} waited in {phase} in vain: {missing}; the run can be "
            f"resumed from its last state ({str(error).splitlines()[0]})"
        )


def is_of_messages(error: RuntimeError) -> bool:
    """Whether an error is one of messages between processes, and not of the work in this one."""
    text = str(error).lower()
    known = ("gloo", "nccl", "connection")
    return isinstance(error, dist.DistError) or any(name in text for name in known)


def num_processes() -> int:
    """Return how many processes torchrun has started; 1 without it."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def rank_here() -> int:
    """Return the number of this process among them."""
    return int(os.environ.get("RANK", "0"))


def join(device: str | torch.device) -> Processes:
    """Return the processes that torchrun started, or this one alone; once in a program."""
    return Processes(device) if num_processes() > 1 else Processes()


def device_of_rank(device: str) -> str:
    """Return the device of this process: each on a machine takes a GPU of its own.

    Raises:
        ValueError: several processes were given one GPU.
    """
    rank = os.environ.get("LOCAL_RANK")
    if rank is None or device == "cpu":
        return device
    if device.startswith("cuda:") and num_processes() > 1:
        raise ValueError(
            f"--device is {device} in each of {num_processes()} processes; give --device cuda, of "
            "which each takes its own"
        )
    return f"cuda:{int(rank)}" if device == "cuda" else device
