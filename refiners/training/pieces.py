"""A batch in pieces, each with a random stream of its own, seeded by (seed, step, first row).

A piece is what a process works on at a time: its share of the batch, or less of it by gradient
accumulation. Whatever a network or a method draws, by whatever function, is then fresh in each
piece, and n processes of one piece draw what one process of n pieces does.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TypeVar

import torch

from roles import Network, Processes
from roles.streams import Stream

Found = TypeVar("Found")

# Steps before the first are the streams of what is drawn beside a run's steps.
HEALTH, HEAD, MEMORY, JUDGE = -1, -2, -3, -4
# Odd and near the golden ratio of 2^32: a CPU's stream is chosen by 32 bits of its seed, and so the
# rows of a step never share one, nor do those of steps that are near.
ROW = 2_654_435_761


def seed_of(seed: int, step: int, row: int = 0) -> int:
    """Return what torch's stream of a run's seed, a step and a row of its batch is seeded by."""
    return (seed * 1_000_003 + step + row * ROW) % 2**63


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


class Pieces:
    """Works on this process' pieces of a batch, one after the other, each in its stream.

    Args:
        batch: images of a step.
        largest: at a time; 0 is the process' whole share.
        seed: of the run.
        processes: that share the batch.
        device: whose streams the work draws from.

    Attributes:
        rows: of the batch, for each piece.
        share: images of the batch in this process.

    Raises:
        ValueError: the processes cannot share the batch.
    """

    def __init__(
        self, batch: int, largest: int, seed: int, processes: Processes, device: torch.device
    ):
        self.rows = pieces_of(batch, rank=processes.rank, size=processes.size, largest=largest)
        self.batch, self.share = batch, batch // processes.size
        self.seed, self.processes, self.device = seed, processes, device
        self.streams: list[Stream] = []
        self.whole: Stream | None = None

    @property
    def are_one(self) -> bool:
        """Whether the only piece is the batch."""
        return self.rows == [slice(0, self.batch)]

    def size(self, i: int) -> int:
        """Return how many images a piece has."""
        return self.rows[i].stop - self.rows[i].start

    def is_last(self, i: int) -> bool:
        """Whether a piece is the last of this process."""
        return i == len(self.rows) - 1

    def begin(self, step: int) -> None:
        """Begin the streams of a step; random_stream keeps the caller's around it."""
        self.streams = [self._stream(step, rows.start) for rows in self.rows]
        # Of what sees the whole batch: the same in all processes, and a row that no piece has.
        self.whole = None if self.are_one else self._stream(step, self.batch)

    def _stream(self, step: int, row: int) -> Stream:
        torch.manual_seed(seed_of(self.seed, step, row))
        return Stream(self.device)

    def each(self, work: Callable[[int], Found]) -> list[Found]:
        """Return work(i) for each piece, in its stream from where that is."""
        found = []
        for i, stream in enumerate(self.streams):
            stream.restore()
            found.append(work(i))
            self.streams[i] = Stream(self.device)
        return found

    def again(self, streams: Sequence[Stream], work: Callable[[int], object]) -> None:
        """Do work(i) for each piece as it was when its stream was there."""
        for i, stream in enumerate(streams):
            stream.restore()
            work(i)

    def of_batch(self, work: Callable[[], Found]) -> Found:
        """Return what is done on the whole batch, with the same draws in all processes."""
        if self.whole is None:
            return self.each(lambda _: work())[0]
        self.whole.restore()
        found = work()
        self.whole = Stream(self.device)
        return found

    def gather(self, parts: Sequence[torch.Tensor], phase: str) -> torch.Tensor:
        """Return the whole batch of the parts of all pieces."""
        return self.processes.gather(torch.cat(list(parts)), phase)

    def cut(self, whole: torch.Tensor) -> list[torch.Tensor]:
        """Return each piece's rows of a tensor of the whole batch."""
        return [whole[rows] for rows in self.rows]

    @contextmanager
    def one_mean(self, moving: Network, *, keep: bool = True) -> Iterator[Callable[[int], None]]:
        """Let a network's running means see the pieces inside as one batch.

        What is yielded is called after each piece, with its number. The means start each piece
        from where they were, and end as their mean over the pieces of all processes, or where they
        were unless they are to be kept.
        """
        buffers = [b for b in moving.buffers() if b.is_floating_point()]
        if self.are_one or not moving.training or not buffers:
            yield lambda i: None
            return
        start = [b.clone() for b in buffers]
        sums = [torch.zeros_like(b) for b in buffers]

        def note(i: int) -> None:
            for b, total, before in zip(buffers, sums, start, strict=True):
                total.add_(b, alpha=self.size(i) / self.share)
                # By data: a graph that is kept holds batch normalisation's means, not their values.
                b.data.copy_(before)

        yield note
        if keep:
            self.processes.mean(*sums, phase="the student's running means")
        for b, end in zip(buffers, sums if keep else start, strict=True):
            b.data.copy_(end)
