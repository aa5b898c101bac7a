"""A batch in pieces whose random numbers are those of the whole batch.

A step draws its noise from one stream, for all samples. A piece of the batch, in another process or
in a later pass of gradient accumulation, sees the same stream and takes its own rows of every draw,
so the result depends on the pieces by rounding alone.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch.overrides import TorchFunctionMode

from refiners.training.processes import Processes
from refiners.training.settings import Settings

LIKE = (torch.randn_like, torch.rand_like)
SIZED = (torch.randn, torch.rand)


class RowsOfBatch(TorchFunctionMode):
    """Inside, a draw of as many rows as the piece has is these rows of a draw for the batch.

    A draw from a generator of its own is left alone, as is one of another number of rows.

    Args:
        rows: of the batch.
        batch: rows of the whole batch.
    """

    def __init__(self, rows: slice, batch: int):
        super().__init__()
        self.rows = rows
        self.num_rows = rows.stop - rows.start
        self.batch = batch

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        """Draw for the batch and return the rows; all else is as it was."""
        kwargs = kwargs or {}
        if func in LIKE and args[0].ndim and len(args[0]) == self.num_rows:
            x = args[0]
            last = torch.channels_last
            dense = x.ndim == 4 and not x.is_contiguous() and x.is_contiguous(memory_format=last)
            whole = torch.empty(
                [self.batch, *x.shape[1:]],
                dtype=x.dtype,
                device=x.device,
                memory_format=last if dense else torch.contiguous_format,
            )
            return func(whole, *args[1:], **kwargs)[self.rows]
        if func is torch.randint and kwargs.get("generator") is None:
            *bounds, size = args if "size" not in kwargs else (*args, kwargs["size"])
            if len(size) and size[0] == self.num_rows:
                rest = {**kwargs, "size": [self.batch, *size[1:]]}
                return func(*bounds, **rest)[self.rows]
        if func in SIZED and kwargs.get("generator") is None:
            given = kwargs.get("size", args)
            size = list(given[0] if len(given) == 1 and not isinstance(given[0], int) else given)
            if size and size[0] == self.num_rows:
                rest = {name: value for name, value in kwargs.items() if name != "size"}
                return func([self.batch, *size[1:]], **rest)[self.rows]
        return func(*args, **kwargs)


def pieces_of(batch: int, *, rank: int, size: int, largest: int) -> list[slice]:
    """Return the rows of the batch that a process takes, at most `largest` at a time; 0 is all.

    Raises:
        ValueError: the batch is not the same share for each process.
    """
    if batch % size:
        raise ValueError(
            f"batch is {batch}, which {size} processes cannot share; give a multiple of {size}"
        )
    share = batch // size
    first, last = rank * share, (rank + 1) * share
    step = largest or share
    return [slice(at, min(at + step, last)) for at in range(first, last, step)]


class Stream:
    """Where torch's random streams of a device are, to go back to."""

    def __init__(self, device: torch.device):
        self.device = device
        self.cpu = torch.get_rng_state()
        self.cuda = torch.cuda.get_rng_state(device) if device.type == "cuda" else None

    def restore(self) -> None:
        """Go back there."""
        torch.set_rng_state(self.cpu)
        if self.cuda is not None:
            torch.cuda.set_rng_state(self.cuda, self.device)


class Pieces:
    """Work on this process' pieces of a batch, one after the other.

    Args:
        settings: batch, and batch_gpu: how many at a time.
        processes: that share the batch.
        device: whose streams the work draws from.

    Raises:
        ValueError: the processes cannot share the batch.
    """

    def __init__(self, settings: Settings, processes: Processes, device: torch.device):
        self.batch = settings.batch
        self.rows = pieces_of(
            settings.batch, rank=processes.rank, size=processes.size, largest=settings.batch_gpu
        )
        self.processes = processes
        self.device = device

    @property
    def are_one(self) -> bool:
        """Whether the only piece is the batch."""
        return self.rows == [slice(0, self.batch)]

    def share(self, i: int) -> float:
        """Return a piece's part of the batch."""
        return (self.rows[i].stop - self.rows[i].start) / self.batch

    def cut(self, whole: torch.Tensor | None, i: int) -> Any:
        """Return a piece's rows of a tensor of the whole batch."""
        return whole if whole is None or self.are_one else whole[self.rows[i]]

    def each(self, work: Callable[[int], Any]) -> list[Any]:
        """Return work(i) for each piece; all see the stream from here on, each its rows of it."""
        if self.are_one:
            return [work(0)]
        start, found = Stream(self.device), []
        for i, rows in enumerate(self.rows):
            start.restore()
            with RowsOfBatch(rows, self.batch):
                found.append(work(i))
        return found

    def each_of(
        self, moving: torch.nn.Module, work: Callable[[int], Any], *, keep: bool = True
    ) -> list[Any]:
        """Return work(i), which calls a network in training, for each piece, as if they were one.

        The network's running means start each piece from where they were, and end as the mean over
        the pieces of all processes, or where they were unless they are to be kept.
        """
        buffers = [b for b in moving.buffers() if b.is_floating_point()]
        if self.are_one or not moving.training or not buffers:
            return self.each(work)
        start = [b.clone() for b in buffers]
        sums = [torch.zeros_like(b) for b in buffers]

        def one(i: int) -> Any:
            for b, before in zip(buffers, start, strict=True):
                b.copy_(before)
            found = work(i)
            for total, b in zip(sums, buffers, strict=True):
                total.add_(b, alpha=self.share(i))
            return found

        found = self.each(one)
        if keep:
            self.processes.add(sums, "the student's running means")
        for b, end in zip(buffers, sums if keep else start, strict=True):
            # By data: a graph that is kept holds batch normalisation's means, but not their values.
            b.data.copy_(end)
        return found
