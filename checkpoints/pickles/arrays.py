"""NumPy scalars and arrays of a network file, rebuilt from a fixed list of number types."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from checkpoints.pickles.names import Call, Token
from checkpoints.pickles.storages import MAX_DIMENSIONS, MAX_EXTENT
from checkpoints.pickles.window import Window
from checkpoints.records import UnsafeCheckpoint
from roles.shown import shown

DTYPES = {
    code: np.dtype(code)
    for code in ("b1", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", "f2", "f4", "f8")
}
NDARRAY = Token("numpy.ndarray")


def make_dtype(code: str, align: bool | int, copy: bool | int) -> np.dtype:
    """Give `numpy.dtype(code)` for a number type; refuse the rest, objects above all."""
    if code not in DTYPES:
        raise UnsafeCheckpoint(
            f"holds NumPy data of type {shown(code, quoted=False)}; allowed: {', '.join(DTYPES)}"
        )
    return DTYPES[code]


def check_dtype_state(state: object) -> None:
    """Take the state that NumPy pickles with a little-endian number type, and no other."""
    if type(state) is not tuple or len(state) != 8 or type(state[1]) is not str:
        raise UnsafeCheckpoint("holds NumPy data of a structured or unknown type")
    order = state[1]
    for got, expected in zip(state, (3, order, None, None, None, -1, -1, 0), strict=True):
        if type(got) is not type(expected) or got != expected:
            raise UnsafeCheckpoint("holds NumPy data of a structured or unknown type")
    if order not in ("<", "|", "="):
        raise ValueError("holds NumPy data that is not little endian")


def make_scalar(dtype: np.dtype, data: Window) -> np.generic:
    """The NumPy number with these bytes."""
    if len(data) != dtype.itemsize:
        raise ValueError(f"holds a NumPy {dtype} scalar of {len(data)} bytes")
    return _values(dtype, 1, data)[0]


def start_array(kind: Token, shape: object, typecode: object) -> np.ndarray:
    """The empty array whose content follows in a BUILD."""
    if kind is not NDARRAY:
        raise UnsafeCheckpoint(f"rebuilds an array of type {kind.name}")
    return np.empty(0, dtype=np.int8)


def fill_array(array: np.ndarray, state: object) -> None:
    """Give an array from `start_array` its (1, shape, dtype, is_fortran, bytes), in place."""
    if type(state) is not tuple or len(state) != 5:
        raise UnsafeCheckpoint("holds a NumPy array with a malformed state")
    version, shape, dtype, is_fortran, data = state
    typed = isinstance(dtype, np.dtype) and type(data) is Window and type(is_fortran) is bool
    if type(version) is not int or version != 1 or not typed:
        raise UnsafeCheckpoint("holds a NumPy array with a malformed state")
    count = checked_count(shape)
    values = _values(dtype, count, data)
    restore: Any = array.__setstate__  # numpy's stubs want a numpy.bool, its code a bool
    restore((1, shape, dtype, is_fortran, values.tobytes()))


def make_array(
    data: Window, dtype: np.dtype, shape: tuple[int, ...], order: str, axis_order: None = None
) -> np.ndarray:
    """`numpy.core.numeric._frombuffer`, the form of protocol 5."""
    if order not in ("C", "F"):
        raise UnsafeCheckpoint("holds a NumPy array whose order is neither C nor F")
    return _values(dtype, checked_count(shape), data).reshape(shape, order=order).copy(order="K")


def make_dill_array(
    function: Call,
    args: tuple[object, ...],
    state: tuple[object, ...],
    attributes: Mapping[object, object] | None = None,
) -> np.ndarray:
    """`dill._dill._create_array`: the parts of an array's own reduce value, and its attributes."""
    if function.function is not start_array or len(args) != 3:
        raise UnsafeCheckpoint("holds a dill array that is not made by numpy's _reconstruct")
    if attributes:
        raise UnsafeCheckpoint("holds a dill array with attributes of its own")
    kind, shape, typecode = args
    if type(kind) is not Token:
        raise UnsafeCheckpoint("holds a dill array that is no numpy.ndarray")
    array = start_array(kind, shape, typecode)
    fill_array(array, state)
    return array


def checked_count(shape: object) -> int:
    """Number of elements of an array shape; UnsafeCheckpoint if it is none."""
    if type(shape) is not tuple or len(shape) > MAX_DIMENSIONS:
        raise UnsafeCheckpoint("holds a NumPy array whose shape is no short tuple")
    if not all(type(n) is int and 0 <= n <= MAX_EXTENT for n in shape):
        raise UnsafeCheckpoint("holds a NumPy array whose shape is not made of sizes")
    if math.prod(max(n, 1) for n in shape) > MAX_EXTENT:
        raise UnsafeCheckpoint(f"holds a NumPy array of unreasonable shape {shape}")
    return math.prod(shape)


def _values(dtype: np.dtype, count: int, data: Window) -> np.ndarray:
    if len(data) != count * dtype.itemsize:
        raise ValueError(f"holds {count} NumPy {dtype} values in {len(data)} bytes")
    raw = np.frombuffer(data.content(), dtype=np.uint8)
    if dtype == np.bool_ and count and raw.max() > 1:
        raise ValueError("holds a NumPy bool that is neither 0 nor 1")
    return raw.view(dtype)
