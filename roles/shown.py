"""What a file says, in words for people: short, on one line, and harmless to a terminal."""

from __future__ import annotations

from collections.abc import Mapping
from numbers import Real

MOST = 80  # characters


def shown(value: object, *, quoted: bool = True) -> str:
    """A value of a file in at most 80 printable ASCII characters, however large or deep it is.

    Text has its escapes made visible and is cut; numbers are as they are; of all else, which may
    share its parts a million times, the kind and the number of items are said.

    Args:
        value: whatever a file holds, or a name in it.
        quoted: put text between quotes, as a value of an option; a name has none.
    """
    if isinstance(value, str):
        room = MOST - 2 * quoted
        text = ascii(value[: MOST + 1])[1:-1]
        text = text if len(text) <= room else f"{text[: room - 3]}..."
        return f"'{text}'" if quoted else text
    if isinstance(value, int) and abs(value) >= 1 << 64:
        return f"a whole number of {value.bit_length()} bits"
    if value is None or isinstance(value, Real):
        return str(value)[:MOST]
    size = f" of {len(value)} items" if isinstance(value, (list, tuple, set, Mapping)) else ""
    return f"a {shown(type(value).__name__[:40], quoted=False)}{size}"
