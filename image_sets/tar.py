"""Tar archives in one pass, with bounded reads."""

from __future__ import annotations

import gzip
import lzma
import tarfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, cast

from image_sets.pictures import FORMATS
from image_sets.stylegan import MAX_FILE_BYTES, MAX_IMAGES, is_image_name
from roles.budget import check_unpacked, file_size
from roles.shown import shown

MAX_ARCHIVE_BYTES = 2**32  # All images of a tar are held in memory, still encoded.
BROKEN = (
    *(tarfile.TarError, gzip.BadGzipFile, lzma.LZMAError, zlib.error),
    *(EOFError, RecursionError, UnicodeError),
)


class TarFiles:
    """The encoded images of a tar, read in one pass: going back means decompressing again."""

    def __init__(self, path: Path) -> None:
        self._data: dict[str, bytes] = {}
        total, packed = 0, file_size(path)
        for name, data in tar_members(path, is_image_name):
            total += len(data)
            check_unpacked(total, packed, str(path))
            if total > MAX_ARCHIVE_BYTES or len(self._data) >= MAX_IMAGES:
                raise ValueError(f"{path}: too large to hold in memory; unpack it into a folder")
            self._data[name] = data
        self.names = sorted(self._data)
        if not self.names:
            raise ValueError(f"{path}: no images ({', '.join(FORMATS)})")

    def read(self, name: str) -> bytes:
        """The bytes of one image."""
        return self._data[name]


class _BoundedReads:
    """A stream that refuses one huge read: a tar header may declare a name of many gigabytes."""

    def __init__(self, stream: IO[bytes]) -> None:
        self._stream = stream
        self.seek, self.tell = stream.seek, stream.tell

    def read(self, size: int) -> bytes:
        if not 0 <= size <= MAX_FILE_BYTES:
            raise tarfile.ReadError(f"{size} bytes at once, at most {MAX_FILE_BYTES} allowed")
        return self._stream.read(size)


def tar_members(path: Path, wanted: Callable[[str], bool]) -> Iterator[tuple[str, bytes]]:
    """Name and content of the regular files whose name is wanted, in archive order."""
    packed = file_size(path)
    openers = {".xz": lzma.open, ".gz": gzip.open, ".tgz": gzip.open}
    try:
        with (
            openers.get(path.suffix.lower(), open)(path, "rb") as stream,
            tarfile.open(fileobj=cast(IO[bytes], _BoundedReads(stream)), mode="r:") as tar,
        ):
            for member in tar:
                if member.isreg() and wanted(member.name):
                    if member.size > MAX_FILE_BYTES:
                        raise tarfile.ReadError(f"{shown(member.name)} has {member.size} bytes")
                    check_unpacked(member.size, packed, f"{path}: {shown(member.name)}")
                    file = tar.extractfile(member)
                    yield member.name, file.read() if file else b""
    except BROKEN as error:
        reason = str(error).partition("\n")[0]
        raise ValueError(f"{path}: not a zip or tar, or a damaged one: {reason}") from error
