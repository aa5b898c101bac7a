"""The last look at a file: only plain data may leave, in a shape that every caller can walk.

The machine's own tokens must not be left over, nesting is bounded and has no cycles, and a
network's state is what `torch.nn.Module` keeps: tensors by name, modules by name, and no hooks; a
record where it is not is marked foreign, and only who wants to load that one refuses it.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TypeGuard

import numpy as np
import torch

from checkpoints.pickles.window import Window
from checkpoints.records import DICTS, Record, UnsafeCheckpoint
from roles.shown import shown

MAX_DEPTH = 100  # three levels for each module inside a module
MAX_NAME = 100
LEAVES = (type(None), bool, int, float, str, torch.dtype, torch.Size, set)
SPECTRAL = "torch.nn.utils.spectral_norm"
SPECTRAL_HOLDERS = {
    "hook": ("_WrappedHook",),
    "fn": ("SpectralNormLoadStateDictPreHook", "SpectralNormStateDictHook"),
}
ARRAYS = (torch.Tensor, torch.nn.Parameter, np.ndarray)


class Settler:
    """Checks one file's data and turns the bytes objects still unread into bytes, in place.

    A record that is no network, or holds anything foreign, is marked so, with the reason.
    """

    def __init__(self) -> None:
        # id -> (value, what it became, why it is foreign)
        self.settled: dict[int, tuple[object, object, str]] = {}
        self.open: set[int] = set()
        self.claimed: set[int] = set()

    def settle(self, value: object) -> object:
        """The value without tokens of the machine."""
        return self._settle(value)[0]

    def _settle(self, value: object) -> tuple[object, str]:
        """The value without tokens of the machine, and why it is foreign or ""."""
        kind = type(value)
        if kind in LEAVES or kind in ARRAYS or isinstance(value, np.generic):
            return value, ""
        if id(value) in self.settled:
            return self.settled[id(value)][1:]
        if id(value) in self.open or len(self.open) >= MAX_DEPTH:
            raise UnsafeCheckpoint(f"is nested deeper than {MAX_DEPTH} levels, or holds itself")
        self.open.add(id(value))
        result, foreign = self._settle_container(value)
        self.open.remove(id(value))
        self.settled[id(value)] = (value, result, foreign)
        return result, foreign

    def _settle_container(self, value: object) -> tuple[object, str]:
        if type(value) is Window:
            return value.content(), ""
        if type(value) is tuple:
            items, foreign = self._settle_all(value)
            changed = any(new is not old for new, old in zip(items, value, strict=True))
            return (tuple(items) if changed else value), foreign
        if type(value) is list:
            value[:], foreign = self._settle_all(value)
        elif isinstance(value, dict) and type(value) in DICTS:
            items, foreign = self._settle_all(value.values())
            for key, item in zip(value, items, strict=True):
                value[key] = item
        elif type(value) is Record:
            foreign = self._settle_record(value)
        else:
            raise UnsafeCheckpoint(f"holds a bare {type(value).__name__} where data belongs")
        return value, foreign

    def _settle_all(self, values: Iterable[object]) -> tuple[list[object], str]:
        pairs = [self._settle(item) for item in values]
        return [item for item, _ in pairs], next((why for _, why in pairs if why), "")

    def _settle_record(self, record: Record) -> str:
        for n, (opcode, argument) in enumerate(record.steps):
            record.steps[n] = opcode, self.settle(argument)
        within = self._settle(record.state)[1]
        record.foreign = record.foreign or self._fault(record) or within
        return record.foreign

    def _fault(self, record: Record) -> str:
        """Why the record's state is none of a network, or ""."""
        state, name = record.state, shown(record.class_name, quoted=False)
        if not self._claim(state):
            return f"gives {name} a state that is no dict of its own"
        for key, item in state.items():
            if type(key) is not str:
                return f"gives {name} an attribute that has no name"
            if key.startswith("_") and "hook" in key and not is_no_hook(item):
                return f"hangs a hook on {name} ({shown(key, quoted=False)})"
        for key, kind in (("_init_args", tuple), ("_init_kwargs", DICTS)):
            if state.get(key) is not None and not isinstance(state[key], kind):
                return f"gives {name} a malformed {key}"
        groups = {
            "_parameters": torch.nn.Parameter,
            "_buffers": torch.Tensor,
            "_modules": Record,
        }
        faults = (self._members_fault(record, group, kind) for group, kind in groups.items())
        return next((why for why in faults if why), "")

    def _members_fault(self, record: Record, group: str, kind: type) -> str:
        members, owner = record.state.get(group), shown(record.class_name, quoted=False)
        if group not in record.state:
            return ""
        if not self._claim(members):
            return f"gives {owner} a state that is no dict of its own"
        for name, member in members.items():
            if type(name) is not str or not name or "." in name or len(name) > MAX_NAME:
                return f"gives {owner} a member of {group} without a proper name"
            if member is not None and not isinstance(member, kind):
                where = f"{shown(name, quoted=False)} in {group} of {owner}"
                return f"has a {type(member).__name__} as {where}"
        return ""

    def _claim(self, owned: object) -> TypeGuard[dict[object, object]]:
        """Each object has its own dicts; one shared by many would make every walk quadratic."""
        if not isinstance(owned, dict) or type(owned) not in DICTS or id(owned) in self.claimed:
            return False
        self.claimed.add(id(owned))
        return True


def is_no_hook(value: object) -> bool:
    """Whether a hook attribute of a module is an empty container or a flag.

    Or holds nothing but the spectral norm that PyTorch hangs on a layer, which is data: what it
    means is computed by the network here, and nothing of it is called.
    """
    if value is None or type(value) is bool:
        return True
    if not isinstance(value, dict) or type(value) not in DICTS:
        return False
    return all(map(_is_spectral_norm, value.values()))


def _is_spectral_norm(value: object) -> bool:
    """Whether a hook is torch.nn.utils.spectral_norm's, or what carries one into a state dict."""
    for holder in ("hook", "fn"):  # newer files wrap the latter once more
        if type(value) is Record and holder in value.state and not value.foreign:
            known = value.class_name in SPECTRAL_HOLDERS[holder]
            value = value.state[holder] if known and not value.state.get("with_module") else None
    if type(value) is not Record or value.foreign or value.class_name != "SpectralNorm":
        return False
    kinds = {"name": str, "dim": int, "n_power_iterations": int, "eps": float}
    return value.module == SPECTRAL and {k: type(v) for k, v in value.state.items()} == kinds
