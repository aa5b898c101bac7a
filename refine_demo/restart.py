"""Restart files: what is kept of a training in the repository, small, and replaced each time.

A full state has the optimiser's moments too, several times the networks. A restart file holds the
networks and the number of images; whoever continues it begins with a fresh optimiser. It takes the
finest of three forms that fits MAX_BYTES:

    float32   all weights as they are
    float16   all weights rounded to 11 bits
    int8      as float16, but a network that has an average beside it is written as its difference
              to that, for each tensor in 255 steps of the same size: the difference is small, and
              it is mostly the noise of the last steps
"""

from __future__ import annotations

import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import checkpoints

MAX_BYTES = 8_000_000
FORMS = ("float32", "float16", "int8")
COUNTS = "num_images", "core_seconds"
AVERAGE_OF = "network", "generator"  # the networks that the one called "average" follows

State = Mapping[str, Tensor]


def save(path: Path, state: Mapping[str, Any]) -> str:
    """Write the restart file of a training's state; return its form.

    Args:
        path: the file, replaced as a whole.
        state: the counts, and state dicts of networks by name; whatever else there is is left out:
            an optimiser's has a key "param_groups".

    Raises:
        ValueError: no form fits MAX_BYTES, or a weight is not finite in the form that does.
    """
    networks = {
        k: v for k, v in state.items() if isinstance(v, Mapping) and "param_groups" not in v
    }
    for form in FORMS:
        file = io.BytesIO()
        content = {name: _packed(name, networks, form) for name in networks}
        counts = {key: state[key] for key in COUNTS}
        torch.save({"form": form, **counts, "networks": content}, file)
        if len(file.getvalue()) <= MAX_BYTES:
            break
    else:
        raise ValueError(
            f"{path}: the networks take {len(file.getvalue())} bytes; allowed are {MAX_BYTES}"
        )
    for name, tensors in _unpacked(content, form).items():
        checkpoints.check_finite({f"{name}.{key}": value for key, value in tensors.items()})
    with checkpoints.replacing(path) as out:
        out.write(file.getvalue())
    return form


def load(path: Path, modules: Mapping[str, Any]) -> dict[str, Any]:
    """Give the networks among `modules` the weights of a restart file; return its counts.

    Raises:
        ValueError: the file is not one, or does not fit the networks.
    """
    kept = torch.load(path, weights_only=True, map_location="cpu")
    if not isinstance(kept, dict) or kept.get("form") not in FORMS:
        raise ValueError(f"{path}: no restart file; one is written by refine_demo.train keep")
    networks = _unpacked(kept["networks"], kept["form"])
    wanted = {name for name, module in modules.items() if isinstance(module, nn.Module)}
    if networks.keys() != wanted:
        raise ValueError(
            f"{path}: holds {', '.join(sorted(networks))}; expected {', '.join(sorted(wanted))}"
        )
    for name, tensors in networks.items():
        fit = f"{path}: tensors of {name} that do not fit; give the size and options it was made by"
        checkpoints.check_fit(tensors, modules[name].state_dict(), fit)
        modules[name].load_state_dict(tensors)
    return {key: kept[key] for key in COUNTS}


def curve_of(path: Path) -> Path:
    """The curve that is kept beside a restart file."""
    return path.with_name(path.name.removesuffix(".restart.pt") + ".jsonl")


def _packed(name: str, networks: Mapping[str, State], form: str) -> dict[str, Any]:
    average = networks.get("average")
    if form == "int8" and average is not None and name in AVERAGE_OF:
        return {key: _difference(value, average[key]) for key, value in networks[name].items()}
    return {key: _narrow(value, form).contiguous() for key, value in networks[name].items()}


def _unpacked(content: Mapping[str, Mapping[str, Any]], form: str) -> dict[str, dict[str, Tensor]]:
    networks = {
        name: {k: v for k, v in tensors.items() if isinstance(v, Tensor)}
        for name, tensors in content.items()
    }
    for name, tensors in content.items():
        for key, value in tensors.items():
            if isinstance(value, dict):
                base = content["average"][key]
                networks[name][key] = base.float() + value["steps"].float() * value["step"]
    # Whole numbers keep their type.
    return {
        name: {k: v.float() if v.is_floating_point() else v for k, v in tensors.items()}
        for name, tensors in networks.items()
    }


def _narrow(value: Tensor, form: str) -> Tensor:
    narrow = form != "float32" and value.is_floating_point()
    return value.to(torch.float16) if narrow else value


def _difference(value: Tensor, average: Tensor) -> Any:
    if not value.is_floating_point():
        return value
    difference = value - average.to(torch.float16).float()
    step = difference.abs().max().clamp_min(1e-30) / 127
    return {"steps": (difference / step).round().to(torch.int8).contiguous(), "step": step}
