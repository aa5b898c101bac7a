"""FastGAN's own files (odegeasslbc's FastGAN-pytorch): `.pth` of state dicts g and d.

`N.pth` has the averaged weights in g. `all_N.pth` has those of the training in g and the averaged
parameters in g_ema, a list in the order of g's parameters. Beside tensors nothing is recorded.
"""

from __future__ import annotations

import re
from collections import OrderedDict
from collections.abc import Mapping
from pathlib import Path
from typing import cast

import torch

import checkpoints
from checkpoints import Record, Value, is_state_dict
from students.fastgan import calls
from students.fastgan.generator import ALWAYS, RESOLUTIONS

KEY = "g"
AVERAGE = "g_ema"
BUFFERS = ("weight_u", "weight_v", "running_mean", "running_var", "num_batches_tracked")
MARKS = (calls.FIRST, "to_128.weight_orig")
PREFIX = "module."  # of networks that were trained on several devices


def matches(data: Value) -> bool:
    """Tell a file of this program by the names of its generator's tensors."""
    return bool(names(data))


def names(data: Value) -> list[str]:
    """The networks that the file holds."""
    state = _state(data)
    if not all(mark in state for mark in MARKS):
        return []
    return ["G_ema", "G"] if _averages(data) else ["G_ema"]


def _state(data: Value) -> dict[str, torch.Tensor]:
    state = data.get(KEY) if isinstance(data, dict) else None
    if not is_state_dict(state):
        return {}
    return {name.removeprefix(PREFIX): value for name, value in state.items()}


def _averages(data: Value) -> list[torch.Tensor]:
    """The averaged parameters where the file has them by themselves."""
    average = data.get(AVERAGE) if isinstance(data, dict) else None
    held = average if isinstance(average, list) else []
    return [value for value in held if isinstance(value, torch.Tensor)]


def _parameters(state: Mapping[str, Value]) -> list[str]:
    return [name for name in state if not name.endswith(BUFFERS)]


def record(data: Value, network: str) -> Record:
    """One network of the file as a record of FastGAN's class, with its averages if they are meant.

    Raises:
        ValueError: averages that are not those of the tensors beside them, or tensors of which no
            such generator is made.
    """
    state, averages = _state(data), _averages(data)
    if averages and network == "G_ema":
        learned = _parameters(state)
        shapes = [state[name].shape for name in learned]
        if [value.shape for value in averages] != shapes:
            raise ValueError(
                f"its {AVERAGE} are {len(averages)} tensors, and other ones than the "
                f"{len(learned)} parameters of {KEY}"
            )
        state |= dict(zip(learned, averages, strict=True))
    return as_record(state)


def as_record(state: Mapping[str, torch.Tensor]) -> Record:
    """The record of a generator with these tensors, by the names that its own program gives."""
    found = [int(name[5:].partition(".")[0]) for name in state if re.match(r"feat_\d{1,4}\.", name)]
    top = max((r for r in found if r in RESOLUTIONS), default=ALWAYS)
    synthesis = _module({name: value for name, value in state.items()})
    whole = {"c_dim": 0, "img_resolution": max(top, ALWAYS), "_modules": {"synthesis": synthesis}}
    return Record("Generator", None, None, cast("dict[str, Value]", whole), module=calls.OWN)


def _module(state: Mapping[str, torch.Tensor]) -> Record:
    """A record of modules inside modules, as the dots in the names say."""
    inner: dict[str, dict[str, torch.Tensor]] = {}
    groups: dict[str, dict[str, Value]] = {"_parameters": {}, "_buffers": {}}
    for name, value in state.items():
        first, dot, rest = name.partition(".")
        if dot:
            inner.setdefault(first, {})[rest] = value
        else:
            groups["_buffers" if name in BUFFERS else "_parameters"][first] = value
    modules = {name: _module(held) for name, held in inner.items()}
    held = cast("dict[str, Value]", {**groups, "_modules": modules})
    return Record("Module", None, None, held, module=calls.OWN)


def replace(data: Value, network: str, changed: Record, path: str | Path) -> None:
    """Write the file with other tensors in one of its networks; all else passes through."""
    assert isinstance(data, dict)
    tensors = checkpoints.tensors(changed)
    old = cast("Mapping[str, torch.Tensor]", data[KEY])
    new = {
        name: tensors[f"synthesis.{name.removeprefix(PREFIX)}"].to(value.dtype)
        for name, value in old.items()
    }
    if network == "G_ema" and _averages(data):
        # The buffers are one for both; the parameters have a place of their own.
        averages = [new[name] for name in _parameters(old)]
        checkpoints.write_torch_file(dict(data) | {AVERAGE: averages}, path)
    else:
        checkpoints.write_torch_file(dict(data) | {KEY: OrderedDict(new)}, path)
