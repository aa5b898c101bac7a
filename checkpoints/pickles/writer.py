"""Plain data as a network pickle that the original tools load.

Protocol 4, written opcode by opcode: globals are names, so nothing that the file refers to has to
exist here. Tensors are written for the CPU, without gradient, each with a storage of its own.
NumPy's globals are spelled `numpy.core`, which every version of NumPy reads.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import torch

from checkpoints.atomic import replacing
from checkpoints.pickles import opcodes
from checkpoints.pickles.arrays import DTYPES as ARRAY_DTYPES
from checkpoints.pickles.machine import checked_key
from checkpoints.pickles.names import PLAIN_CLASSES
from checkpoints.pickles.settle import MAX_DEPTH
from checkpoints.pickles.storages import flat_bytes, storage_header
from checkpoints.records import PERSISTENCE_VERSION, EasyDict, Key, Record

PROTOCOL_4 = b"\x80\x04"
STOP = b"."
MULTIARRAY = "numpy.core.multiarray"


def write(data: object, path: str | Path) -> None:
    """Write what `checkpoints.read` gave, or data of the same kinds, as a network pickle.

    Key order, class names, embedded source text and unknown entries stay as they are; the same data
    give the same bytes. An existing file is replaced at once, when the new one is complete.

    Raises:
        ValueError: the data hold a kind of value that a network file cannot.
        OSError: the file cannot be written; an existing one is left as it was.
    """
    with replacing(path) as file:
        file.write(PROTOCOL_4)
        Emitter(file).emit(data)
        file.write(STOP)


class Emitter:
    """Writes the opcodes of values to a file; equal text and shared objects once."""

    def __init__(self, file: BinaryIO) -> None:
        self.put = file.write
        self.memo: dict[object, int] = {}
        self.kept: list[object] = []  # alive, so that no id is used twice
        self.open: list[int] = []
        self.num_storages = 0

    def emit(self, value: object) -> None:
        """Write the opcodes that leave this value on the stack."""
        kind = type(value)
        if kind in ATOMS:
            ATOMS[kind](self, value)
        elif id(value) in self.open or len(self.open) >= MAX_DEPTH:
            raise ValueError(
                f"data that hold themselves, or are nested deeper than {MAX_DEPTH} levels, cannot "
                "be written"
            )
        elif not self._recall(id(value)):
            self.open.append(id(value))
            self._emit_shared(value)
            self.open.pop()

    def _emit_shared(self, value: object) -> None:
        if isinstance(value, torch.Tensor):
            self._tensor(value)
        elif isinstance(value, np.ndarray | np.generic):
            self._numpy(value)
        elif type(value) in SHARED:
            SHARED[type(value)](self, value)
        else:
            raise ValueError(
                f"a {type(value).__module__}.{type(value).__qualname__} cannot be written to a "
                "network file; plain values, tensors, NumPy numbers and arrays, and records can"
            )

    def _recall(self, key: object) -> bool:
        if key not in self.memo:
            return False
        self.put(opcodes.get(self.memo[key]))
        return True

    def _memoize(self, key: object, value: object = None) -> None:
        self.memo[key] = len(self.memo)
        self.kept.append(value)
        self.put(b"\x94")

    # Atoms.

    def _constant(self, value: bool | None) -> None:
        self.put({None: b"N", True: b"\x88", False: b"\x89"}[value])

    def _int(self, value: int) -> None:
        self.put(opcodes.integer(value))

    def _float(self, value: float) -> None:
        self.put(opcodes.floating(value))

    def _text(self, value: str) -> None:
        if self._recall(("text", value)):
            return
        raw = value.encode("utf-8", "surrogatepass")
        self.put(opcodes.text_header(len(raw)) + raw)
        self._memoize(("text", value))

    def _bytes(self, value: bytes) -> None:
        self.put(opcodes.bytes_header(len(value)) + value)

    def _bytes_once(self, value: bytes) -> None:
        self._bytes(value)
        self._memoize(id(value), value)

    def _dtype(self, value: torch.dtype) -> None:
        self._global("torch", str(value).removeprefix("torch."))

    # Containers.

    def _tuple(self, value: tuple[object, ...]) -> None:
        if not value:
            self.put(b")")
            return
        self._tuple_of(value)
        self._memoize(id(value), value)

    def _tuple_of(self, items: Sequence[object]) -> None:
        """A tuple that nothing else refers to."""
        if len(items) > 3:
            self.put(b"(")
        for item in items:
            self.emit(item)
        self.put({0: b")", 1: b"\x85", 2: b"\x86", 3: b"\x87"}.get(len(items), b"t"))

    def _list(self, value: list[object]) -> None:
        self.put(b"]")
        self._memoize(id(value), value)
        self._items(value, b"e")

    def _set(self, value: set[object]) -> None:
        self.put(b"\x8f")
        self._memoize(id(value), value)
        members = sorted(map(checked_key, value), key=lambda item: (type(item).__name__, item))
        self._items(members, b"\x90")

    def _items(self, items: Sequence[object], close: bytes) -> None:
        if items:
            self.put(b"(")
            for item in items:
                self.emit(item)
            self.put(close)

    def _dict(self, value: dict[Key, object]) -> None:
        kind = type(value)
        if kind is EasyDict:
            self._global("dnnlib.util", "EasyDict")
            self.put(b")\x81")
        elif kind is OrderedDict:
            self._global("collections", "OrderedDict")
            self.put(b")R")
        else:
            self.put(b"}")
        self._memoize(id(value), value)
        self._items([part for key in value for part in (checked_key(key), value[key])], b"u")

    def _size(self, value: torch.Size) -> None:
        self._global("torch", "Size")
        self._tuple_of((tuple(value),))
        self.put(b"R")
        self._memoize(id(value), value)

    # Objects.

    def _global(self, module: str, name: str) -> None:
        if not self._recall(("global", module, name)):
            self._text(module)
            self._text(name)
            self.put(b"\x93")
            self._memoize(("global", module, name))

    def _record(self, record: Record) -> None:
        if record.module is None:
            self._persistent(record)
        elif record.foreign and (record.module, record.class_name) not in PLAIN_CLASSES:
            self._foreign(record)
        else:
            self._plain(record)

    def _persistent(self, record: Record) -> None:
        self._global("torch_utils.persistence", "_reconstruct_persistent_obj")
        meta = {
            "type": "class",
            "version": PERSISTENCE_VERSION,
            "module_src": record.source,
            "class_name": record.class_name,
            "state": record.state,
        }
        self._tuple_of([meta])
        self.put(b"R")
        self._memoize(id(record), record)

    def _foreign(self, record: Record) -> None:
        """What the file said, said again: nothing of it was done."""
        self._global(str(record.module), record.class_name)
        opens = {b"e", b"u", b"\x90"}
        made = [n for n, (opcode, _) in enumerate(record.steps) if opcode in (b"R", b"\x81")]
        for n, (opcode, argument) in enumerate(record.steps):
            if opcode in opens and isinstance(argument, list):
                self._items(argument, opcode)
            else:
                self.emit(argument)
                self.put(opcode)
            if made and n == made[-1]:  # what follows may hold the object
                self._memoize(id(record), record)

    def _plain(self, record: Record) -> None:
        if (record.module, record.class_name) not in PLAIN_CLASSES:
            raise ValueError(
                f"a plain {record.module}.{record.class_name} cannot be written, for it could not "
                "be read; see checkpoints/pickles/names.py"
            )
        self._global(str(record.module), record.class_name)
        self.put(b")\x81")
        self._memoize(id(record), record)
        if record.state:
            self.emit(record.state)
            self.put(b"b")

    def _tensor(self, value: torch.Tensor) -> None:
        is_parameter = isinstance(value, torch.nn.Parameter)
        if is_parameter:
            self._global("torch._utils", "_rebuild_parameter")
        self._global("torch._utils", "_rebuild_tensor_v2")
        size, stride, raw = flat_bytes(value)
        self.put(b"(")
        self._global("torch.storage", "_load_from_bytes")
        header = storage_header(value.dtype, len(raw) // value.dtype.itemsize, self.num_storages)
        self.num_storages += 1
        self.put(opcodes.bytes_header(len(header) + len(raw)) + header)
        self.put(raw)
        self.put(b"\x85R")
        for item in (0, size, stride, False, OrderedDict()):
            self.emit(item)
        self.put(b"tR")
        if is_parameter:
            self.emit(False)
            self.emit(OrderedDict())
            self.put(b"\x87R")
        self._memoize(id(value), value)

    def _numpy(self, value: np.ndarray | np.generic) -> None:
        code = value.dtype.str[1:]
        if code not in ARRAY_DTYPES or value.dtype.str[0] == ">":
            raise ValueError(
                f"NumPy data of type {value.dtype} cannot be written to a network file"
            )
        if isinstance(value, np.generic):
            self._global(MULTIARRAY, "scalar")
            self._array_dtype(value.dtype)
            self._bytes(value.tobytes())
            self.put(b"\x86R")
        else:
            self._global(MULTIARRAY, "_reconstruct")
            self._global("numpy", "ndarray")
            self._tuple_of((0,))
            self._bytes(b"b")
            self.put(b"\x87R")
            self._array_state(value)
        self._memoize(id(value), value)

    def _array_state(self, value: np.ndarray) -> None:
        is_fortran = value.flags.f_contiguous and not value.flags.c_contiguous
        self.put(b"(")
        self.emit(1)
        self._tuple_of(value.shape)
        self._array_dtype(value.dtype)
        self.emit(is_fortran)
        self._bytes(value.tobytes("F" if is_fortran else "C"))
        self.put(b"tb")

    def _array_dtype(self, dtype: np.dtype) -> None:
        if self._recall(("dtype", dtype.str)):
            return
        self._global("numpy", "dtype")
        self._tuple_of((dtype.str[1:], False, True))
        self.put(b"R")
        self._memoize(("dtype", dtype.str))
        self._tuple_of((3, dtype.str[0], None, None, None, -1, -1, 0))
        self.put(b"b")


ATOMS: dict[type, Callable[[Emitter, Any], None]] = {
    type(None): Emitter._constant,
    bool: Emitter._constant,
    int: Emitter._int,
    float: Emitter._float,
    str: Emitter._text,
    torch.dtype: Emitter._dtype,
}
SHARED: dict[type, Callable[[Emitter, Any], None]] = {
    bytes: Emitter._bytes_once,
    tuple: Emitter._tuple,
    list: Emitter._list,
    set: Emitter._set,
    dict: Emitter._dict,
    EasyDict: Emitter._dict,
    OrderedDict: Emitter._dict,
    torch.Size: Emitter._size,
    Record: Emitter._record,
}
