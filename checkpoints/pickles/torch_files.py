"""Whole files of `torch.save`, as plain data: today's zip archives, and the format before them.

An archive is a zip of uncompressed members: NAME/data.pkl, a pickle that names each storage by a
persistent identifier, and NAME/data/KEY, the raw little-endian elements of the storage KEY. The
older format is a row of pickles (magic number, version, machine, the data, list of keys) and then,
for each key, the number of elements and the elements (torch/serialization.py). `torch.load` with
weights_only refuses what such files hold beside weights (an `argparse.Namespace`); here a name is
only a name, so they are read.
"""

from __future__ import annotations

import argparse
import struct
from collections import OrderedDict
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path

import torch

from checkpoints.atomic import replacing
from checkpoints.pickles.machine import Build, Machine
from checkpoints.pickles.names import Call, Names, Token
from checkpoints.pickles.settle import MAX_DEPTH
from checkpoints.pickles.storages import DTYPES, MAX_EXTENT, STORAGE_NAMES, Storage, check_head
from checkpoints.pickles.window import Window
from checkpoints.pickles.zips import Members
from checkpoints.records import DICTS, Record, UnsafeCheckpoint
from roles.shown import shown

MAX_STORAGES = 2**16
REBUILDERS = tuple(("torch._utils", f"_rebuild_tensor{version}") for version in ("", "_v2"))
LEAVES = (type(None), bool, int, float, str, bytes, torch.dtype, torch.Size)


def read_archive(window: Window, names: Names, build: Build) -> object:
    """What the zip archive in the window holds; its storages become tensors one by one."""
    members = Members(window)
    roots = [name.removesuffix("data.pkl") for name in members if name.endswith("/data.pkl")]
    if not roots and any(name.endswith(".npy") for name in members):
        raise ValueError("is an .npz of NumPy arrays, no network")
    if len(roots) != 1:
        raise ValueError("is a zip archive without the one data.pkl that torch.save writes")
    root = roots[0]
    if f"{root}constants.pkl" in members:
        raise ValueError("is a TorchScript program, not a file of weights")
    if f"{root}byteorder" in members and members.open(f"{root}byteorder").content() != b"little":
        raise ValueError("is a torch file that is not little endian")

    def find(key: str, dtype: torch.dtype, numel: int) -> Storage:
        data = members.open(f"{root}data/{key}")
        if len(data) != numel * dtype.itemsize:
            raise ValueError(
                f"holds a storage of {numel} elements in {len(data)} bytes; "
                f"{numel * dtype.itemsize} are needed"
            )
        return Storage(data, dtype, numel)

    pickle = members.open(f"{root}data.pkl")
    value = Machine(
        pickle,
        {**names, **STORAGE_NAMES},
        build=partial(_build, build),
        persistent=_Finder(find),
        takes_foreign=True,
    ).run()
    if pickle.position != pickle.stop:
        raise ValueError("has bytes after the end of its data.pkl")
    return value


def read_old(window: Window, names: Names, build: Build) -> object:
    """What a file of the older format holds.

    Where a storage lies is known only at the end of the pickle that refers to it, so that pickle is
    run twice: first for the sizes of its storages, then with them.
    """
    check_head(window)
    start, stop = window.position, window.stop
    declared: dict[str, tuple[torch.dtype, int]] = {}

    def declare(key: str, dtype: torch.dtype, numel: int) -> Storage:
        if declared.setdefault(key, (dtype, numel)) != (dtype, numel):
            raise UnsafeCheckpoint(f"holds two storages under the key {shown(key, quoted=False)}")
        if len(declared) > MAX_STORAGES:
            raise UnsafeCheckpoint(f"holds more than {MAX_STORAGES} storages")
        return Storage(Window(window.file, stop, stop, window.budget), dtype, 0)

    names = {**names, **STORAGE_NAMES}
    sketch = {
        key: Call(_no_tensor, call.types, 1)
        for key, call in names.items()
        if key in REBUILDERS and isinstance(call, Call)
    }
    fill = partial(_build, build)
    Machine(
        window, {**names, **sketch}, build=fill, persistent=_Finder(declare), takes_foreign=True
    ).run()
    storages = _old_storages(window, declared)
    again = Window(window.file, start, stop, window.budget)
    finder = _Finder(lambda key, dtype, numel: storages[key])
    return Machine(again, names, build=fill, persistent=finder, takes_foreign=True).run()


def _no_tensor(*parts: object) -> torch.Tensor:
    return torch.empty(0)


def _old_storages(
    window: Window, declared: Mapping[str, tuple[torch.dtype, int]]
) -> dict[str, Storage]:
    """The storages behind the pickles, in the order of the list of keys."""
    keys = Machine(window, {}).run()
    if type(keys) is not list or sorted(map(str, keys)) != sorted(declared):
        raise UnsafeCheckpoint("holds other storages than the ones it refers to")
    storages = {}
    for key in keys:
        dtype, numel = declared[key]
        (stored,) = struct.unpack("<q", window.take(8))
        if stored != numel:
            raise ValueError(f"holds {stored} elements of a storage that should have {numel}")
        storages[key] = Storage(window.skip(numel * dtype.itemsize), dtype, numel)
    if window.position != window.stop:
        raise ValueError(f"has {window.stop - window.position} bytes after its last storage")
    return storages


class _Finder:
    """Takes the persistent identifier ('storage', type, key, location, numel[, None])."""

    def __init__(self, find: Callable[[str, torch.dtype, int], Storage]) -> None:
        self.find = find

    def __call__(self, identifier: object) -> Storage:
        parts: list[object] = list(identifier) if type(identifier) is tuple else []
        if len(parts) not in (5, 6) or any(part is not None for part in parts[5:]):
            raise UnsafeCheckpoint("holds a storage reference that is malformed")
        kind, storage, key, location, numel = parts[:5]
        if type(kind) is not str or type(key) is not str or type(location) is not str:
            raise UnsafeCheckpoint("holds a storage reference that is malformed")
        if kind != "storage" or type(storage) is not Token:
            raise UnsafeCheckpoint("holds a storage reference that is malformed")
        if storage.name not in DTYPES:
            raise UnsafeCheckpoint(f"holds a storage of the type {storage.name}")
        if type(numel) is not int or not 0 <= numel <= MAX_EXTENT:
            raise UnsafeCheckpoint("holds a storage with an impossible number of elements")
        return self.find(key, DTYPES[storage.name], numel)


def _build(build: Build, target: object, state: object) -> None:
    """BUILD: a state dict also brings the versions of its layers, which nothing here asks for."""
    if type(target) is OrderedDict and type(state) is dict and list(state) == ["_metadata"]:
        return
    build(target, state)


def write_torch_file(data: object, path: str | Path) -> None:
    """Write plain data as a zip archive that `torch.load` reads, as a whole or not at all.

    Tensors go to the CPU and each gets a storage of its own. A record of `argparse.Namespace`
    becomes one again.

    Raises:
        ValueError: the data hold something else than plain values, tensors and namespaces.
        OSError: the file cannot be written; an existing one is left as it was.
    """
    plain = _plain(data, {})
    with replacing(path) as file:
        torch.save(plain, file)


def _plain(value: object, done: dict[int, object], depth: int = 0) -> object:
    """The value without records of ours; what is shared in it stays shared."""
    if type(value) in LEAVES:
        return value
    if depth > MAX_DEPTH:
        raise ValueError(f"data nested deeper than {MAX_DEPTH} levels cannot be written")
    if id(value) not in done:
        done[id(value)] = _plain_object(value, done, depth + 1)
    return done[id(value)]


def _plain_object(value: object, done: dict[int, object], depth: int) -> object:
    if isinstance(value, torch.Tensor):
        return value.detach().cpu().clone(memory_format=torch.contiguous_format)
    if isinstance(value, dict) and type(value) in DICTS:
        kind = OrderedDict if type(value) is OrderedDict else dict
        return kind((key, _plain(item, done, depth)) for key, item in value.items())
    if isinstance(value, list | tuple | set) and type(value) in (list, tuple, set):
        return type(value)(_plain(item, done, depth) for item in value)
    if type(value) is Record and (value.module, value.class_name) == ("argparse", "Namespace"):
        return argparse.Namespace(**{k: _plain(v, done, depth) for k, v in value.state.items()})
    name = repr(value) if type(value) is Record else type(value).__name__
    raise ValueError(f"{name} cannot be written to a torch file; plain values and tensors can")
