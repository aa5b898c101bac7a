"""The last look at a file: only plain data may leave, in a shape that every caller can walk.

The machine's own tokens must not be left over, nesting is bounded and has no cycles, and a
network's state is what `torch.nn.Module` keeps: tensors by name, modules by name, and no hooks.
"""

from __future__ import annotations

import numpy as np
import torch

from checkpoints.pickles.window import Window
from checkpoints.records import DICTS, Record, UnsafeCheckpoint
from roles.shown import shown

MAX_DEPTH = 100  # three levels for each module inside a module
MAX_NAME = 100
LEAVES = (type(None), bool, int, float, str, torch.dtype, torch.Size, set)
ARRAYS = (torch.Tensor, torch.nn.Parameter, np.ndarray)


class Settler:
    """Checks one file's data and turns the bytes objects still unread into bytes, in place."""

    def __init__(self) -> None:
        self.settled: dict[int, tuple[object, object]] = {}  # id -> (value, what it became)
        self.open: set[int] = set()
        self.claimed: set[int] = set()

    def settle(self, value: object) -> object:
        """The value without tokens of the machine."""
        kind = type(value)
        if kind in LEAVES or kind in ARRAYS or isinstance(value, np.generic):
            return value
        if id(value) in self.settled:
            return self.settled[id(value)][1]
        if id(value) in self.open or len(self.open) >= MAX_DEPTH:
            raise UnsafeCheckpoint(f"is nested deeper than {MAX_DEPTH} levels, or holds itself")
        self.open.add(id(value))
        result = self._settle_container(value)
        self.open.remove(id(value))
        self.settled[id(value)] = (value, result)
        return result

    def _settle_container(self, value: object) -> object:
        if type(value) is Window:
            return value.content()
        if type(value) is tuple:
            items = tuple(self.settle(item) for item in value)
            changed = any(new is not old for new, old in zip(items, value, strict=True))
            return items if changed else value
        if type(value) is list:
            value[:] = [self.settle(item) for item in value]
        elif isinstance(value, dict) and type(value) in DICTS:
            for key, item in value.items():
                value[key] = self.settle(item)
        elif type(value) is Record:
            self._settle_record(value)
        else:
            raise UnsafeCheckpoint(f"holds a bare {type(value).__name__} where data belongs")
        return value

    def _settle_record(self, record: Record) -> None:
        state = record.state
        self._claim(state, record)
        for key, item in state.items():
            if type(key) is not str:
                raise UnsafeCheckpoint(f"gives {record.class_name} an attribute that has no name")
            if key.startswith("_") and "hook" in key and not is_no_hook(item):
                raise UnsafeCheckpoint(
                    f"hangs a hook on {record.class_name} ({shown(key, quoted=False)})"
                )
        self._check_members(record, "_parameters", torch.nn.Parameter)
        self._check_members(record, "_buffers", torch.Tensor)
        self._check_members(record, "_modules", Record)
        for key, kind in (("_init_args", tuple), ("_init_kwargs", DICTS)):
            if state.get(key) is not None and not isinstance(state[key], kind):
                raise UnsafeCheckpoint(f"gives {record.class_name} a malformed {key}")
        self.settle(state)

    def _check_members(self, record: Record, group: str, kind: type) -> None:
        if group not in record.state:
            return
        members = self._claim(record.state[group], record)
        for name, member in members.items():
            if type(name) is not str or not name or "." in name or len(name) > MAX_NAME:
                raise UnsafeCheckpoint(
                    f"gives {record.class_name} a member of {group} without a proper name"
                )
            if member is not None and not isinstance(member, kind):
                where = f"{shown(name, quoted=False)} in {group} of {record.class_name}"
                raise UnsafeCheckpoint(f"has a {type(member).__name__} as {where}")

    def _claim(self, owned: object, record: Record) -> dict[object, object]:
        """Each object has its own dicts; one shared by many would make every walk quadratic."""
        if not isinstance(owned, dict) or type(owned) not in DICTS or id(owned) in self.claimed:
            raise UnsafeCheckpoint(f"gives {record.class_name} a state that is no dict of its own")
        self.claimed.add(id(owned))
        return owned


def is_no_hook(value: object) -> bool:
    """Whether a hook attribute of a module is an empty container or a flag."""
    return value is None or type(value) is bool or (type(value) in DICTS and not value)
