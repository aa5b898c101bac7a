"""Options of constructor calls in files: each is listed with its allowed values, and checked.

Files are not trusted, so nothing is built from an option before its reader has seen it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TypeAlias, TypeGuard, cast

import numpy as np

from roles.shown import shown

WHOLE = (int, np.integer)
REAL = (*WHOLE, float, np.floating)
MAX_WIDTH = 2**16  # of latents, labels and hidden layers; published networks have at most 1024
MAX_RESOLUTION = 2**14
MAX_LAYERS = 100
MAX_TAPS = 64

Option: TypeAlias = "bool | int | float | str | Sequence[Option] | Mapping[str, Option] | None"
Options: TypeAlias = "dict[str, Option]"
# An option's reader returns its value as a plain one, or raises ValueError with what is allowed.
Reader = Callable[[object], Option]


def whole(least: int, most: int, *, optional: bool = False) -> Reader:
    """Read a whole number of [least, most]; optional ones may be None."""

    def read(value: object) -> int | None:
        if value is None and optional:
            return None
        if isinstance(value, WHOLE) and type(value) is not bool and least <= value <= most:
            return int(value)
        raise ValueError(f"a whole number from {least} to {most}{' or None' if optional else ''}")

    return read


def number(least: float, most: float, *, optional: bool = False) -> Reader:
    """Read a number of [least, most]; optional ones may be None."""

    def read(value: object) -> float | None:
        if value is None and optional:
            return None
        if isinstance(value, REAL) and type(value) is not bool and least <= value <= most:
            return int(value) if isinstance(value, WHOLE) else float(value)
        raise ValueError(f"a number from {least:g} to {most:g}{' or None' if optional else ''}")

    return read


def one_of(*allowed: bool | str) -> Reader:
    """Read one of a few values."""

    def read(value: object) -> Option:
        if isinstance(value, (str, bool, np.bool_)) and value in allowed:
            return bool(value) if isinstance(value, np.bool_) else value
        raise ValueError(", ".join(str(choice) for choice in allowed))

    return read


def taps(value: object) -> list[Option] | None:
    """Read a filter's coefficients, a list or a list of rows; None is the single tap 1."""
    if value is None:
        return None
    if _is_list(value):
        found = [row for row in value if _is_list(row)]
        nested = len(found) == len(value)
        rows = found if nested else [value]
        flat = [tap for row in rows for tap in row if isinstance(tap, REAL) and abs(tap) <= 1e6]
        plain = {len(row) * len(rows) for row in rows} == {len(flat)}
        # A filter is scaled to unit sum, in float32.
        if plain and float(np.asarray(flat, dtype=np.float32).sum()):
            return cast("list[Option]", [list(row) for row in rows] if nested else list(value))
    raise ValueError(f"up to {MAX_TAPS} numbers, or rows of them, whose sum is not 0")


def _is_list(value: object) -> TypeGuard[Sequence[object]]:
    return isinstance(value, (list, tuple)) and 1 <= len(value) <= MAX_TAPS


def options(value: object) -> Mapping[str, Option]:
    """Read a nested dict of options; its own table checks what is in it."""
    if isinstance(value, Mapping):
        return value
    raise ValueError("a dict of options")


FLAG = one_of(True, False)
WIDTH = whole(1, MAX_WIDTH)
OPTIONAL_WIDTH = whole(1, MAX_WIDTH, optional=True)
CLAMP = number(0, 1e9, optional=True)


def read_options(given: object, table: Mapping[str, Reader], where: str) -> Options:
    """Return the given options as plain values.

    Args:
        given: the options of a file.
        table: every option that there is, and its reader.
        where: the name of the dict that holds them, for messages; "" is the call itself.

    Raises:
        ValueError: an option that is not in the table, or a value that is not allowed.
    """
    if not isinstance(given, Mapping):
        raise ValueError(f"{where} is {shown(given)}; it must be a dict of options")
    unknown = [shown(name) for name in given if not isinstance(name, str) or name not in table]
    if unknown:
        raise ValueError(
            f"{where or 'its constructor call'} has unknown options: {', '.join(unknown[:5])}"
        )
    values = {}
    for name, value in given.items():
        try:
            values[name] = table[name](value)
        except ValueError as allowed:
            prefix = f"{where}: " if where else ""
            raise ValueError(f"{prefix}{name} is {shown(value)}; allowed: {allowed}") from None
    return values
