"""The members of a zip archive of `torch.save`, found without unpacking anything.

Only what torch writes is taken: members that are not compressed, so that an archive never holds
more than its own size, each named once, inside of the file. The layout is that of PKWARE's
APPNOTE.TXT 6.3.10, sections 4.3.7 (local header), 4.3.12 (directory), 4.3.14 to 4.3.16 (its end).
"""

from __future__ import annotations

import struct
from collections.abc import Iterator

from checkpoints.pickles.window import Window
from checkpoints.records import UnsafeCheckpoint
from roles.shown import shown

LOCAL = struct.Struct("<4s5H3L2H")
ENTRY = struct.Struct("<4s6H3L5H2L")
END = struct.Struct("<4s4H2LH")
LOCATOR = struct.Struct("<4sLQL")
END_64 = struct.Struct("<4sQ2H2L4Q")
MAX_COMMENT = 2**16
MAX_MEMBERS = 2**16  # the largest StyleGAN with its optimizers has about a thousand
MAX_DIRECTORY = 2**24
FULL = 0xFFFFFFFF  # in place of a number that the entry's extra field has in 64 bits


class Members:
    """Names and places of an archive's members."""

    def __init__(self, window: Window) -> None:
        self.window = window
        directory, count = _directory(window)
        window.budget.spend(len(directory))
        self.places: dict[str, tuple[int, int]] = {}  # name -> (offset of its header, size)
        for _ in range(count):
            name, offset, size = _entry(directory)
            if name in self.places:
                raise UnsafeCheckpoint(f"holds two members {shown(name, quoted=False)}")
            self.places[name] = offset, size
        if directory.position != directory.stop:
            raise ValueError("is a broken zip archive: its directory is longer than its members")

    def __iter__(self) -> Iterator[str]:
        return iter(self.places)

    def __contains__(self, name: str) -> bool:
        return name in self.places

    def open(self, name: str) -> Window:
        """The bytes of a member."""
        if name not in self.places:
            raise ValueError(f"is a zip archive without the member {shown(name, quoted=False)}")
        offset, size = self.places[name]
        rest = _part(self.window, offset, self.window.stop)
        fields = LOCAL.unpack(rest.take(LOCAL.size))
        if fields[0] != b"PK\x03\x04" or rest.take(fields[9]) != name.encode():
            raise ValueError(
                f"is a broken zip archive: {shown(name, quoted=False)} is not where it should be"
            )
        rest.skip(fields[10])
        return rest.skip(size)


def _part(window: Window, start: int, stop: int) -> Window:
    if not 0 <= start <= stop <= window.stop:
        raise ValueError("is a broken zip archive: it refers to places outside of itself")
    return Window(window.file, start, stop, window.budget)


def _directory(window: Window) -> tuple[Window, int]:
    """The directory's bytes and the number of its entries."""
    start = max(0, window.stop - END.size - MAX_COMMENT)
    tail = _part(window, start, window.stop).take(window.stop - start)
    place = tail.rfind(b"PK\x05\x06")
    if place < 0 or len(tail) - place < END.size:
        raise ValueError("is a zip archive without an end; it may be truncated")
    count, size, offset = END.unpack_from(tail, place)[4:7]
    locator = start + place - LOCATOR.size
    if locator >= 0:
        signature, _, where, _ = LOCATOR.unpack(
            _part(window, locator, start + place).take(LOCATOR.size)
        )
        if signature == b"PK\x06\x07":
            end = _part(window, where, window.stop).take(END_64.size)
            if end[:4] != b"PK\x06\x06":
                raise ValueError(
                    "is a broken zip archive: its 64-bit end is not where it should be"
                )
            count, size, offset = END_64.unpack(end)[7:10]
    if count > MAX_MEMBERS or size > MAX_DIRECTORY:
        raise UnsafeCheckpoint(f"is a zip archive of {count} members; {MAX_MEMBERS} are the most")
    return _part(window, offset, offset + size), count


def _entry(directory: Window) -> tuple[str, int, int]:
    """Name, offset of the header, and size of the directory's next member."""
    fields = ENTRY.unpack(directory.take(ENTRY.size))
    signature, flags, method = fields[0], fields[3], fields[4]
    packed, size, name_size, extra_size, comment_size = fields[8:13]
    raw, extra = directory.take(name_size), directory.take(extra_size)
    directory.skip(comment_size)
    if signature != b"PK\x01\x02":
        raise ValueError("is a broken zip archive: its directory has an entry that is none")
    try:
        name = raw.decode()
    except UnicodeDecodeError:
        raise ValueError("is a broken zip archive: the name of a member is not UTF-8") from None
    size, packed, offset = _wide(extra, [size, packed, fields[16]])
    if method or flags & 1 or packed != size:
        raise UnsafeCheckpoint(
            f"holds {shown(name)} compressed or encrypted, which torch.save never does"
        )
    return name, offset, size


def _wide(extra: bytes, numbers: list[int]) -> list[int]:
    """The numbers, those that are FULL taken from the 64-bit field (number 1) of the extra data."""
    place = 0
    while place + 4 <= len(extra):
        kind, length = struct.unpack_from("<2H", extra, place)
        field = extra[place + 4 : place + 4 + length]
        place += 4 + length
        if kind == 1:
            wide = [n for (n,) in struct.iter_unpack("<Q", field[: len(field) // 8 * 8])]
            return [wide.pop(0) if number == FULL and wide else number for number in numbers]
    return numbers
