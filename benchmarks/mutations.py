"""Changes to network files, for fuzzing: bytes, opcodes, members, headers."""

from __future__ import annotations

import io
import pickletools
import random
from contextlib import suppress

from checkpoints.pickles.machine import OPCODES
from checkpoints.pickles.reader import NAMES

NUMBERS = (b"\x00", b"\x01", b"\x7f", b"\x80", b"\xff", b"\xff\xff\xff\xff", b"\xff\xff\xff\x7f")


def mutated(raw: bytes, other: bytes, rng: random.Random) -> bytes:
    """The bytes with a few random changes, or with opcodes of another file between its own."""
    if rng.random() < 0.2:
        return spliced(raw, other, rng)
    data = bytearray(raw)
    for _ in range(rng.choice((1, 1, 1, 2, 3, 8))):
        if not data:
            break
        change(data, other, rng)
    return bytes(data)


def change(data: bytearray, other: bytes, rng: random.Random) -> None:
    """One random change, in place."""
    at = rng.randrange(len(data) + 1)
    length = rng.choice((1, 1, 2, 4, 8, 40))
    kind = rng.randrange(8)
    if kind == 0 and at < len(data):
        data[at] ^= 1 << rng.randrange(8)
    elif kind == 1:
        data[at : at + 1] = rng.randbytes(1)
    elif kind == 2:
        data[at : at + length] = b""
    elif kind == 3:
        start = rng.randrange(len(other))
        data[at : at + rng.choice((0, length))] = other[start : start + length]
    elif kind == 4:
        data[at:at] = rng.choice(tuple(OPCODES))
    elif kind == 5:
        number = rng.choice(NUMBERS)
        data[at : at + len(number)] = number
    elif kind == 6:
        module, name = rng.choice(tuple(NAMES))
        data[at:at] = f"c{module}\n{name}\n".encode()
    elif rng.random() < 0.2:
        del data[at:]


def spliced(raw: bytes, other: bytes, rng: random.Random) -> bytes:
    """The file with whole opcodes of another put between its own, or in the place of some."""
    ours, theirs = opcodes(raw), opcodes(other)
    for _ in range(rng.choice((1, 1, 2, 4))):
        if len(ours) < 3 or len(theirs) < 3:  # one of them is no pickle (any more)
            break
        at, start = rng.randrange(1, len(ours)), rng.randrange(1, len(theirs))
        taken = theirs[start : start + rng.choice((1, 1, 2, 5, 20))]
        kind = rng.randrange(3)
        if kind == 0:
            ours[at:at] = taken
        elif kind == 1:
            ours[at : at + len(taken)] = taken
        else:
            del ours[at : at + rng.choice((1, 1, 2, 5))]
    return b"".join(ours)


def opcodes(raw: bytes) -> list[bytes]:
    """The opcodes of a pickle with their arguments; what follows its end is the last one.

    In a file that is no pickle, those of the first pickle inside of it that has a few.
    """
    start = max(0, raw.find(b"\x80\x02" if raw.startswith(b"PK") else b"\x80"))
    places: list[int] = []
    file = io.BytesIO(raw[start:])
    # A file that an earlier change broke: its opcodes until there.
    with suppress(ValueError, IndexError, OverflowError, AttributeError):
        for _, _, place in pickletools.genops(file):
            places.append(place or 0)
    ends = [*places[1:], file.tell()]
    parts = [raw[start + a : start + b] for a, b in zip(places, ends, strict=False)]
    return [raw[:start], *parts, raw[start + ends[-1] :]] if places else [raw]
