"""The bytes of single pickle opcodes of protocol 4, as `writer` needs them."""

from __future__ import annotations

import struct

from checkpoints.pickles.machine import MAX_INTEGER_BYTES


def get(index: int) -> bytes:
    """BINGET or LONG_BINGET."""
    return b"h" + struct.pack("<B", index) if index < 256 else b"j" + struct.pack("<I", index)


def integer(value: int) -> bytes:
    """The shortest of BININT1, BININT2, BININT and LONG1."""
    if 0 <= value < 2**8:
        return b"K" + struct.pack("<B", value)
    if 0 <= value < 2**16:
        return b"M" + struct.pack("<H", value)
    if -(2**31) <= value < 2**31:
        return b"J" + struct.pack("<i", value)
    raw = value.to_bytes(value.bit_length() // 8 + 1, "little", signed=True)
    if len(raw) > MAX_INTEGER_BYTES:
        raise ValueError(
            f"an integer of {len(raw)} bytes cannot be written; {MAX_INTEGER_BYTES} are the most"
        )
    return b"\x8a" + struct.pack("<B", len(raw)) + raw


def floating(value: float) -> bytes:
    """BINFLOAT."""
    return b"G" + struct.pack(">d", value)


def text_header(size: int) -> bytes:
    """What comes before size bytes of UTF-8: SHORT_BINUNICODE, BINUNICODE or BINUNICODE8."""
    return _sized(size, b"\x8c", b"X", b"\x8d")


def bytes_header(size: int) -> bytes:
    """What comes before size bytes: SHORT_BINBYTES, BINBYTES or BINBYTES8."""
    return _sized(size, b"C", b"B", b"\x8e")


def _sized(size: int, short: bytes, middle: bytes, long: bytes) -> bytes:
    if size < 2**8:
        return short + struct.pack("<B", size)
    if size < 2**32:
        return middle + struct.pack("<I", size)
    return long + struct.pack("<Q", size)
