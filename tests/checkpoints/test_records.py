"""Objects of a file are what a network state needs: names, tensors, modules, and no hooks."""

from __future__ import annotations

import io
from collections import OrderedDict
from typing import Any

import numpy as np
import pytest
import torch

import checkpoints
from checkpoints import UnsafeCheckpoint, check_clean
from checkpoints.pickles.reader import read_stream


def read_bytes(raw: bytes) -> Any:
    return read_stream(io.BytesIO(raw), len(raw))


def module_state(**changes):
    state = {"_parameters": {}, "_buffers": {}, "_modules": {}, "_forward_hooks": OrderedDict()}
    return {**state, **changes}


def record(**changes):
    return checkpoints.Record("Network", None, None, module_state(**changes), source="")


@pytest.mark.parametrize(
    ("key", "value", "shown"),
    [
        ("version", 7, "version 7"),
        ("version", True, "version True"),
        ("version", None, "version None"),
        ("type", "function", "type"),
        ("class_name", "a.b", "class name"),
        ("class_name", 3, "class name"),
        ("module_src", b"import os", "source"),
        ("state", [1], "not a dict"),
        ("more", 1, "other fields"),
    ],
)
def test_the_fields_of_a_persistent_object_are_checked(key, value, shown, original):
    meta = {"type": "class", "version": 6, "module_src": "", "class_name": "G", "state": {}}
    raw = original.dump({"G": type(original.form(record()))({**meta, key: value})}, 4)
    with pytest.raises(UnsafeCheckpoint, match=shown):
        read_bytes(raw)


@pytest.mark.parametrize("key", ["_forward_hooks", "_state_dict_hooks", "_some_future_hooks"])
@pytest.mark.parametrize("container", [OrderedDict({0: "hook"}), ["hook"], "hook", 1])
def test_a_hook_on_a_module_is_refused(key, container, original):
    raw = original.dump(record(**{key: container}), 4)
    with pytest.raises(UnsafeCheckpoint, match=key):
        check_clean(read_bytes(raw), "a.pkl", "G")


@pytest.mark.parametrize(
    ("group", "members"),
    [
        ("_parameters", {"weight": torch.zeros(1)}),
        ("_parameters", {"a.b": torch.nn.Parameter(torch.zeros(1), False)}),
        ("_parameters", {0: torch.nn.Parameter(torch.zeros(1), False)}),
        ("_parameters", {"x" * 101: None}),
        ("_parameters", [1]),
        ("_parameters", None),
        ("_buffers", {"weight": 1.0}),
        ("_buffers", {"weight": np.zeros(1)}),
        ("_modules", {"layer": {}}),
        ("_modules", {"": None}),
        ("_init_kwargs", [1]),
        ("_init_args", {}),
    ],
)
def test_the_members_of_a_module_are_checked(group, members, original):
    raw = original.dump(record(**{group: members}), 4)
    with pytest.raises(UnsafeCheckpoint, match="Network"):
        check_clean(read_bytes(raw), "a.pkl", "G")


def test_two_modules_cannot_share_a_state(original):
    state = module_state()
    pair = [record(), record()]
    pair[0].state = pair[1].state = state
    with pytest.raises(UnsafeCheckpoint, match="of its own"):
        for one in read_bytes(original.dump(pair, 4)):
            check_clean(one, "a.pkl", "G")
