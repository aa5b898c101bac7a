"""Bounded reading: a declared length meets the bytes that are there before memory is taken."""

from __future__ import annotations

from typing import BinaryIO

import numpy as np

from checkpoints.records import UnsafeCheckpoint


class Budget:
    """Bytes that one file may make us allocate, so that naming a blob many times gains nothing.

    It goes wherever a part of the file goes, so it also keeps the names that the file refers to.
    """

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.left = limit
        self.names: set[str] = set()

    def spend(self, num_bytes: int) -> None:
        """Take from the budget; UnsafeCheckpoint when it is used up."""
        self.left -= num_bytes
        if self.left < 0:
            raise UnsafeCheckpoint(
                f"unpacks to more than {self.limit} bytes, which no honest file of its size does"
            )


class Window:
    """The bytes [start, stop) of a file, read forward by `take` or all at once by `content`.

    A bytes object inside a pickle stays a Window until somebody needs the bytes, so weights go from
    the file into their tensor without a copy on the way.
    """

    def __init__(self, file: BinaryIO, start: int, stop: int, budget: Budget) -> None:
        self.file = file
        self.position = self.start = start
        self.stop = stop
        self.budget = budget

    def __len__(self) -> int:
        return self.stop - self.start

    def take(self, count: int) -> bytes:
        """The next count bytes."""
        position = self.position
        if not 0 <= count <= self.stop - position:
            raise self._too_early(count)
        self.position += count
        self.file.seek(position)
        data = self.file.read(count)
        if len(data) != count:
            raise ValueError(f"became shorter while it was read, at byte {position}")
        return data

    def skip(self, count: int) -> Window:
        """The next count bytes as a window of their own, not read."""
        if not 0 <= count <= self.stop - self.position:
            raise self._too_early(count)
        self.position += count
        return Window(self.file, self.position - count, self.position, self.budget)

    def line(self, limit: int = 256) -> bytes:
        """The next bytes up to a line feed, which is left out."""
        self.file.seek(self.position)
        data, feed, _ = self.file.read(min(limit, self.stop - self.position)).partition(b"\n")
        if not feed:
            raise ValueError(f"has no end of line within {limit} bytes of byte {self.position}")
        self.position += len(data) + 1
        return data

    def content(self) -> bytes:
        """All bytes of the window."""
        self.budget.spend(len(self))
        return Window(self.file, self.start, self.stop, self.budget).take(len(self))

    def fill(self, memory: np.ndarray, offset: int) -> None:
        """Read into a writable buffer, from offset bytes after the start of the window."""
        num_bytes = memory.nbytes
        if offset < 0 or offset + num_bytes > len(self):
            raise ValueError(f"has no {num_bytes} bytes at byte {self.start + offset}")
        self.budget.spend(num_bytes)
        self.file.seek(self.start + offset)
        if num_bytes and self.file.readinto(memory) != num_bytes:  # type: ignore[attr-defined] -- IO does not say it, binary files have it
            raise ValueError(f"became shorter while it was read, at byte {self.start + offset}")

    def _too_early(self, count: int) -> ValueError:
        return ValueError(
            f"ends too early: {count} bytes wanted at byte {self.position}, "
            f"{self.stop - self.position} are left; it may be truncated"
        )
