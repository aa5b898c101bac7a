"""What a file may cost: its declared sizes are compared with its own before they are spent.

Weights, images and statistics are hardly smaller when packed. A file that unpacks to a hundred
times its size says little, and most of what it would cost is made up.
"""

from __future__ import annotations

import stat
from pathlib import Path

RATIO = 100  # of unpacked to packed bytes; photographs, digits and statistics stay below 20
FREE = 2**24  # bytes that a file of any size may unpack to
MAX_JSON = 2**30  # bytes of memory for the parsed text of a JSON file


def file_size(path: Path) -> int:
    """The bytes of a regular file; ValueError for a FIFO, a socket, a device or a folder.

    Opening a FIFO waits until somebody writes to it, which may be for ever.
    """
    found = path.stat()
    if not stat.S_ISREG(found.st_mode):
        raise ValueError(f"{path}: no regular file, so it is not opened")
    return found.st_size


def check_unpacked(unpacked: int, packed: int, what: str) -> None:
    """Raise ValueError, beginning with `what`, if so many packed bytes cannot hold so much."""
    if unpacked > FREE + RATIO * packed:
        raise ValueError(
            f"{what}: {packed} bytes that unpack to {unpacked}; at most {RATIO} times as many are "
            "read, which honest files stay far below"
        )


def check_json(text: bytes, what: str) -> None:
    """Raise ValueError, beginning with `what`, if the parsed text would take too much memory.

    An empty list of three characters takes 64 bytes in Python, a number in a list 32.
    """
    lists = text.count(b"[") + text.count(b"{")
    memory = 2 * len(text) + 72 * lists + 40 * text.count(b",")
    if memory > MAX_JSON:
        raise ValueError(
            f"{what}: parsing it takes about {memory >> 20} MiB; {MAX_JSON >> 20} are allowed"
        )
