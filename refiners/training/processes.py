"""Several processes as one: torchrun starts them, torch.distributed carries what they share.

Each process takes an equal share of every batch and all hold the same networks: gradients are
summed over the processes, so each makes the same step. One process needs no process group.
Only process 0 writes.
"""

from __future__ import annotations

import datetime
import os
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
import torch.distributed as dist
from torch.distributed.distributed_c10d import PrefixStore
from torch.distributed.rendezvous import rendezvous

from refiners.training.memory import told_out_of_memory

STEP_SECONDS = 600.0  # the longest that a process waits for the others within a step
ALONE_HOURS = 24  # the longest that they wait for process 0, which measures and writes
ROLL_SECONDS = 5.0  # how long the survivors of a lost process wait for each other


class LostProcess(ConnectionError):
    """A process did not take part where the others waited for it."""


class Processes:
    """The processes of a run; this plain one is alone, and shares nothing.

    Attributes:
        rank: number of this process, from 0.
        size: how many there are.
    """

    rank = 0
    size = 1

    @property
    def is_first(self) -> bool:
        """Whether this process writes."""
        return self.rank == 0

    def add(self, tensors: Iterable[torch.Tensor], phase: str) -> None:
        """Replace tensors by their sums over the processes, which all get the same bits."""

    def gather(self, rows: torch.Tensor, phase: str) -> torch.Tensor:
        """Return the rows of all processes, in the order of their ranks."""
        return rows

    def from_first(self, value: Any, phase: str) -> Any:
        """Return process 0's value, plain data or tensors, in all of them."""
        return value

    def gather_optimisers(self, parts: Iterable[Any], phase: str) -> None:
        """Give process 0 the whole state of those parts that the processes share (ZeRO)."""

    def highest(self, number: int, phase: str) -> int:
        """Return the highest of the processes' numbers."""
        return number

    def any(self, flag: bool, phase: str) -> bool:
        """Return whether it is so in any process."""
        return bool(self.highest(int(flag), phase))

    def first_alone(self, work: Callable[[], Any], phase: str) -> Any:
        """Do some work in process 0; the others wait for it, end if it fails, and get None."""
        return work()

    @contextmanager
    def waiting(self, phase: str) -> Iterator[None]:
        """Say who is missing, and where, if what the processes do together inside does not end."""
        yield

    def leave(self) -> None:
        """Part, at the end of a program."""


class Group(Processes):
    """Processes that torchrun has started.

    Args:
        device: gloo connects CPUs, nccl GPUs.
        step_seconds: how long to wait for the others within a step.

    Raises:
        ValueError: the environment is not that of torchrun.
    """

    def __init__(self, device: str | torch.device, *, step_seconds: float = STEP_SECONDS):
        wait = datetime.timedelta(seconds=step_seconds)
        store, self.rank, self.size = next(rendezvous("env://", timeout=wait))
        self.store = PrefixStore("refine", store)
        cuda = torch.device(device).type == "cuda"
        if cuda:
            torch.cuda.set_device(device)
        backend = "nccl" if cuda else "gloo"
        dist.init_process_group(
            backend, store=store, rank=self.rank, world_size=self.size, timeout=wait
        )
        self.patient: Any = dist.new_group(
            backend="gloo", timeout=datetime.timedelta(hours=ALONE_HOURS)
        )

    def add(self, tensors: Iterable[torch.Tensor], phase: str) -> None:
        """Sum tensors over the processes, as one message for each kind."""
        kinds: dict[tuple[torch.dtype, torch.device], list[torch.Tensor]] = {}
        for tensor in tensors:
            kinds.setdefault((tensor.dtype, tensor.device), []).append(tensor)
        for found in kinds.values():
            flat = torch.cat([tensor.reshape(-1) for tensor in found])
            with self.waiting(phase):
                dist.all_reduce(flat)
            parts = flat.split([tensor.numel() for tensor in found])
            for tensor, part in zip(found, parts, strict=True):
                tensor.copy_(part.view_as(tensor))

    def gather(self, rows: torch.Tensor, phase: str) -> torch.Tensor:
        """Return the rows of all processes; each brings as many."""
        found = [torch.empty_like(rows) for _ in range(self.size)]
        with self.waiting(phase):
            dist.all_gather(found, rows.contiguous())
        return torch.cat(found)

    def gather_optimisers(self, parts: Iterable[Any], phase: str) -> None:
        """Give process 0 the whole state of those parts that are ZeroRedundancyOptimizers."""
        for part in parts:
            if hasattr(part, "consolidate_state_dict"):
                with self.waiting(phase):
                    part.consolidate_state_dict(to=0)

    def from_first(self, value: Any, phase: str) -> Any:
        """Return process 0's value; the others wait as long as it takes."""
        box = [value if self.is_first else None]
        with self.waiting(phase):
            dist.broadcast_object_list(box, src=0, group=self.patient)
        return box[0]

    def highest(self, number: int, phase: str) -> int:
        """Return the highest of the processes' numbers."""
        found = torch.tensor(number)
        with self.waiting(phase):
            dist.all_reduce(found, op=dist.ReduceOp.MAX, group=self.patient)
        return int(found)

    def first_alone(self, work: Callable[[], Any], phase: str) -> Any:
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
        """Leave the group."""
        dist.destroy_process_group()

    @contextmanager
    def waiting(self, phase: str) -> Iterator[None]:
        """Say who is missing, and where, if a message does not come through."""
        try:
            yield
        except RuntimeError as error:
            if told_out_of_memory(error):  # of this process, not of the messages
                raise
            missing = ", ".join(f"rank {rank}" for rank in self.missing())
            raise LostProcess(
                f"rank {self.rank} of {self.size} waited in {phase} for "
                f"{missing or 'the others'}, which did not answer; the run can be resumed from "
                f"its last state ({str(error).splitlines()[0]})"
            ) from error

    def missing(self) -> list[int]:
        """Call the roll: who has not answered within a few seconds is gone."""
        present = {self.rank}
        try:
            self.store.set(f"present/{self.rank}", "yes")
            until = time.monotonic() + ROLL_SECONDS
            while time.monotonic() < until and len(present) < self.size:
                for rank in set(range(self.size)) - present:
                    if self.store.check([f"present/{rank}"]):
                        present.add(rank)
                time.sleep(0.1)
        except RuntimeError:  # The store lived in process 0, which is gone.
            return [0]
        return sorted(set(range(self.size)) - present)


def num_processes() -> int:
    """Return how many processes torchrun has started; 1 without it."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def rank_here() -> int:
    """Return the number of this process among them."""
    return int(os.environ.get("RANK", "0"))


def join(device: str | torch.device) -> Processes:
    """Return the processes that torchrun started, or this one alone; once in a program."""
    return Group(device) if num_processes() > 1 else Processes()


def device_of_rank(device: str) -> str:
    """Return the device of this process: each on a machine takes a GPU of its own."""
    rank = os.environ.get("LOCAL_RANK")
    return f"cuda:{int(rank)}" if device == "cuda" and rank is not None else device


def couples_samples(method: object) -> bool:
    """Whether a method's gradient of one sample depends on the others of the batch."""
    knobs: Mapping[str, Any] = vars(method)
    return bool(knobs.get("hold_contrast")) or knobs.get("bins", 1) > 1
