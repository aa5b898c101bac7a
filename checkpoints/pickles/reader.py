"""Network files as plain data, with no code of the file run: pickles, and files of `torch.save`.

The table NAMES is the whole list of globals a file may refer to; each stands for a function or a
token of this package. The embedded source text of persistent objects stays text.
"""

from __future__ import annotations

import io
import os
import stat
from collections import OrderedDict
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import BinaryIO, TypeGuard, cast

import numpy as np
import torch

from checkpoints.pickles import arrays
from checkpoints.pickles.machine import Build, Machine
from checkpoints.pickles.names import PLAIN_CLASSES, Call, Names, New, Token
from checkpoints.pickles.settle import Settler
from checkpoints.pickles.storages import HEADER, Storage, parse_storage, view_storage
from checkpoints.pickles.torch_files import read_archive, read_old
from checkpoints.pickles.window import Budget, Window
from checkpoints.records import (
    DICTS,
    PERSISTENCE_VERSION,
    EasyDict,
    Record,
    UnsafeCheckpoint,
    Value,
)
from checkpoints.safetensors import read_safetensors
from checkpoints.web.places import local
from roles.budget import FREE
from roles.shown import shown

META_KEYS = {"type", "version", "module_src", "class_name", "state"}
SIZES = (tuple, torch.Size)
OLD = HEADER[:12]  # how files of torch.save began before it wrote zip archives


def read(path_or_url: str | Path) -> Value:
    """What a network file holds, as plain data; nothing in the file is run or imported.

    Returns dicts, lists, tuples, sets, text, bytes, numbers, `EasyDict`, NumPy numbers and arrays,
    torch tensors on the CPU (`torch.nn.Parameter` without gradient where the file has parameters),
    torch dtypes and `Record` nodes. Each tensor has memory of its own. Any pickle of plain data can
    be read, and any file of `torch.save`; whether there is a network in it is the caller's affair.

    Raises:
        UnsafeCheckpoint: the file refers to or asks for something outside of the allow-list; it is
            named.
        ValueError: the file is no pickle, is broken or is truncated, or the address cannot be used.
        OSError: the file cannot be opened, or the address cannot be reached.
    """
    return read_with_names(path_or_url)[0]


def read_with_names(path_or_url: str | Path) -> tuple[Value, list[str]]:
    """As `read`, and the sorted names of all globals that the file refers to, storages included."""
    path = local(path_or_url)
    if not stat.S_ISREG(path.stat().st_mode):
        raise ValueError(f"{path} is not a file; give the path of a network pickle")
    if path.suffix == ".safetensors":
        return read_safetensors(path), []
    with open(path, "rb") as file:
        size = os.fstat(file.fileno()).st_size
        budget = _budget(size)
        try:
            return read_stream(file, size, budget=budget), sorted(budget.names)
        except UnsafeCheckpoint as error:
            raise UnsafeCheckpoint(f"{path} {error}; nothing in it was run") from None
        except ValueError as error:
            raise ValueError(f"{path} {error}") from error


def _budget(size: int) -> Budget:
    """What a file of size bytes may take."""
    return Budget(2 * size + FREE)


def read_stream(file: BinaryIO, size: int, *, budget: Budget | None = None) -> Value:
    """As `read`, from an open binary file of size bytes that can be sought."""
    budget = budget or _budget(size)
    window = Window(file, 0, size, budget)
    names = {**NAMES, **protocol_2_names(budget)}
    return cast("Value", Settler().settle(_format(window)(window, names, build)))


def _format(window: Window) -> Callable[[Window, Names, Build], object]:
    """What reads this file, by its first bytes."""
    head = Window(window.file, 0, window.stop, window.budget).take(min(window.stop, len(OLD)))
    if not head:
        raise ValueError("is empty")
    if head.startswith(b"PK\x03\x04"):
        return read_archive
    if head == OLD:
        return read_old
    if head[:1] != b"\x80":
        raise ValueError(f"is not a network pickle: it begins with the bytes {head[:4].hex(' ')}")
    return _read_pickle


def _read_pickle(window: Window, names: Names, build: Build) -> object:
    """What the one pickle in the window holds."""
    value = Machine(window, names, build=build, takes_foreign=True).run()
    if window.position != window.stop:
        rest = window.stop - window.position
        raise ValueError(
            f"has {rest} bytes after the end of its pickle; it is not a network pickle"
        )
    return value


def protocol_2_names(budget: Budget) -> Names:
    """The two forms of bytes in protocol 2: text to be encoded as latin1, and none at all."""

    def encode(characters: str = "", codec: str = "latin1") -> Window:
        if codec != "latin1":
            raise UnsafeCheckpoint("encodes text with another codec than latin1")
        try:
            raw = characters.encode("latin1")
        except UnicodeEncodeError:
            raise ValueError("is a broken pickle: bytes with values above 255") from None
        return Window(io.BytesIO(raw), 0, len(raw), budget)

    return {
        ("_codecs", "encode"): Call(encode, (str, str)),
        ("builtins", "bytes"): Call(encode),
        ("__builtin__", "bytes"): Call(encode),
    }


def build(target: object, state: object) -> None:
    """BUILD: the state of a plain record, once, or of a NumPy type or array."""
    if type(target) is Record and target.steps:
        target.step(b"b", state)
        if type(state) is dict and not target.state:
            target.state = state
    elif type(target) is Record and target.module is not None and not target.state:
        if type(state) is not dict or target.foreign:
            raise UnsafeCheckpoint(f"gives {shown(target.class_name)} a state that is not a dict")
        target.state = state
    elif isinstance(target, np.dtype):
        arrays.check_dtype_state(state)
    elif type(target) is np.ndarray:
        arrays.fill_array(target, state)
    else:
        raise UnsafeCheckpoint(f"sets the state of a {type(target).__name__}")


def make_record(meta: dict[str, object]) -> Record:
    """A persistent object (formats of torch_utils.persistence, version 6) as a record."""
    if set(meta) != META_KEYS:
        raise UnsafeCheckpoint(
            "holds a persistent object with other fields than " + ", ".join(META_KEYS)
        )
    kind, version = meta["type"], meta["version"]
    if type(kind) is not str or kind != "class":
        raise UnsafeCheckpoint("holds a persistent object whose type is not 'class'")
    if type(version) is not int or version != PERSISTENCE_VERSION:
        raise UnsafeCheckpoint(
            f"holds a persistent object of version {shown(version)}; {PERSISTENCE_VERSION} can be "
            "read"
        )
    name, source, state = meta["class_name"], meta["module_src"], meta["state"]
    if not is_class_name(name) or type(source) is not str:
        raise UnsafeCheckpoint(
            "holds a persistent object without a proper class name and source text"
        )
    if type(state) is not dict:
        raise UnsafeCheckpoint(f"holds a {name} whose state is not a dict")
    return Record(name, None, None, state, source=source)


def is_class_name(name: object) -> TypeGuard[str]:
    """Whether this can be the name of a class, and is not absurdly long."""
    return type(name) is str and name.isidentifier() and len(name) <= 100


def start_record(module: str, name: str) -> Record:
    """A plain object whose attributes follow in a BUILD."""
    return Record(name, None, None, {}, module=module)


def make_tensor(
    storage: Storage,
    offset: int,
    size: tuple[int, ...],
    stride: tuple[int, ...],
    requires_grad: bool = False,
    hooks: Mapping[str, object] | None = None,
    metadata: Mapping[str, object] | None = None,
) -> torch.Tensor:
    """A tensor over a part of a storage, as a copy that does not require a gradient."""
    if hooks or metadata:
        raise UnsafeCheckpoint("holds a tensor with hooks or metadata")
    return view_storage(storage, offset, tuple(size), tuple(stride))


def make_parameter(
    data: torch.Tensor, requires_grad: bool, hooks: Mapping[str, object]
) -> torch.nn.Parameter:
    """A parameter that does not require a gradient."""
    if hooks:
        raise UnsafeCheckpoint("holds a parameter with hooks")
    return torch.nn.Parameter(data, requires_grad=False)


def make_size(sizes: tuple[int, ...]) -> torch.Size:
    """A `torch.Size`."""
    arrays.checked_count(sizes)
    return torch.Size(sizes)


def make_set(items: list[object]) -> set[str]:
    """A set of names, in the form of protocols 2 and 3."""
    names = {item for item in items if type(item) is str}
    if not all(type(item) is str for item in items):
        raise UnsafeCheckpoint("holds a set of something else than names")
    return names


NAMES: Names = {
    ("torch_utils.persistence", "_reconstruct_persistent_obj"): Call(make_record, (dict,)),
    ("dnnlib.util", "EasyDict"): New(EasyDict),
    ("collections", "OrderedDict"): Call(OrderedDict),
    ("builtins", "set"): Call(make_set, (list,)),
    ("__builtin__", "set"): Call(make_set, (list,)),
    # PyTorch.
    ("torch.storage", "_load_from_bytes"): Call(parse_storage, (Window,)),
    ("torch._utils", "_rebuild_tensor"): Call(make_tensor, (Storage, int, SIZES, SIZES)),
    ("torch._utils", "_rebuild_tensor_v2"): Call(
        make_tensor, (Storage, int, SIZES, SIZES, bool, DICTS, (*DICTS, type(None))), optional=1
    ),
    ("torch._utils", "_rebuild_parameter"): Call(make_parameter, (torch.Tensor, bool, DICTS)),
    ("torch", "Size"): Call(make_size, (tuple,)),
    **{
        ("torch", str(dtype).removeprefix("torch.")): dtype
        for dtype in (torch.float16, torch.bfloat16, torch.float32, torch.float64)
    },
    # NumPy.
    ("numpy", "dtype"): Call(arrays.make_dtype, (str, (bool, int), (bool, int))),
    ("numpy", "ndarray"): arrays.NDARRAY,
    ("dill._dill", "_create_array"): Call(
        arrays.make_dill_array, (Call, tuple, tuple, (*DICTS, type(None))), optional=1
    ),
    **{
        (f"numpy.{core}.{module}", name): call
        for core in ("core", "_core")  # before and since NumPy 2
        for module, name, call in (
            ("multiarray", "scalar", Call(arrays.make_scalar, (np.dtype, Window))),
            (
                "multiarray",
                "_reconstruct",
                Call(arrays.start_array, (Token, tuple, (Window, str))),
            ),
            (
                "numeric",
                "_frombuffer",
                Call(arrays.make_array, (Window, np.dtype, tuple, str, type(None)), optional=1),
            ),
        )
    },
    # Classes of which only the name and the attributes matter.
    **{(module, name): New(partial(start_record, module, name)) for module, name in PLAIN_CLASSES},
}
