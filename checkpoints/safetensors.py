"""A network as safetensors: the tensors, and beside them config.json and the model card README.md.

safetensors hold tensors by name and nothing else; what a record says besides (classes, options,
plain attributes, which tensors are parameters) is in config.json. Embedded source text is left out.
"""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import TypedDict, cast

import safetensors.torch
import torch
from safetensors import SafetensorError

from checkpoints.atomic import replacing
from checkpoints.json_files import Json, read_json
from checkpoints.modules import named_modules, tensors
from checkpoints.pickles.settle import Settler
from checkpoints.records import Record, Value

FORMAT = "stylegan-refiner network 1"
CONFIG, CARD = "config.json", "README.md"
MAX_CONFIG = 2**24
GROUPS = ("_parameters", "_buffers", "_modules")
DTYPES = {str(dtype): dtype for dtype in (torch.float32, torch.float16, torch.bfloat16)}
PLAIN = (type(None), bool, int, float, str)

# What config.json says of a module.
Facts = TypedDict(
    "Facts",
    {
        "class": str,
        "state": dict[str, "Value"],
        "dtypes": dict[str, str],
        "module": str | None,
        "parameters": list[str],
        "buffers": list[str],
    },
)


def write_safetensors(record: Record, path: str | Path, *, network: str, card: str) -> None:
    """Write one network's tensors to `path`, and config.json and README.md into the same folder.

    Args:
        record: the network.
        path: the file, with the suffix .safetensors.
        network: its name in a file of several, as G_ema.
        card: text of README.md.

    Raises:
        ValueError: the folder holds another config.json or README.md, which would be lost.
        OSError: a file cannot be written.
    """
    path = Path(path)
    folder = path.parent
    if _is_foreign(folder, path.name):
        raise ValueError(
            f"{folder} holds a {CONFIG} or {CARD} that is not of {path.name}; "
            "name a file in a folder of its own"
        )
    modules = {prefix.rstrip("."): _facts(module) for prefix, module in named_modules(record)}
    config = {"format": FORMAT, "file": path.name, "network": network, "modules": modules}
    text = json.dumps(config, indent=1)
    values = {name: value.detach().contiguous() for name, value in tensors(record).items()}
    folder.mkdir(parents=True, exist_ok=True)
    contents = {
        path: safetensors.torch.save(values, metadata={"format": "pt"}),
        folder / CARD: card.encode(),
        folder / CONFIG: text.encode(),
    }
    for place, content in contents.items():
        with replacing(place) as file:
            file.write(content)


def read_safetensors(path: str | Path) -> dict[str, Value]:
    """The network in a file of `write_safetensors`, by its name, as `read` gives those of pickles.

    Raises:
        ValueError: no safetensors, or no config.json beside it that fits.
        OSError: a file cannot be read.
    """
    path = Path(path)
    config = _read_config(path.with_name(CONFIG))
    if config is None:
        raise ValueError(
            f"{path} has no {CONFIG} of {FORMAT!r} beside it; `refine.py export` writes both"
        )
    try:
        held = safetensors.torch.load_file(path)
    except SafetensorError as error:
        raise ValueError(f"{path} is not a complete safetensors file ({error})") from error
    try:
        record = _record(cast("dict[str, Facts]", config["modules"]), held)
        Settler().settle(record)
        return {str(config["network"]): record}
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{path.with_name(CONFIG)} does not describe {path.name}") from error


def _facts(module: Record) -> Facts:
    state = module.state
    plain = {k: v for k, v in state.items() if k not in GROUPS and _is_plain(v)}
    dtypes = {k: str(v) for k, v in state.items() if isinstance(v, torch.dtype)}
    return {
        "class": module.class_name,
        "state": plain,
        "dtypes": dtypes,
        "module": module.module,
        "parameters": _names(module.tensors("_parameters")),
        "buffers": _names(module.tensors("_buffers")),
    }


def _names(group: dict[str, torch.Tensor | None]) -> list[str]:
    return [name for name, value in group.items() if value is not None]


def _is_plain(value: object) -> bool:
    """Whether JSON keeps the value (a tuple comes back as a list)."""
    if isinstance(value, dict):
        return all(isinstance(k, str) and _is_plain(v) for k, v in value.items())
    if isinstance(value, list | tuple):
        return all(map(_is_plain, value))
    return type(value) in PLAIN and (type(value) is not float or math.isfinite(value))


def _record(modules: dict[str, Facts], held: dict[str, torch.Tensor]) -> Record:
    """The record with its parts, from their facts by dotted name, parents before children."""
    made: dict[str, Record] = {}
    for name, facts in modules.items():
        prefix = f"{name}." if name else ""
        parameters: dict[str, Value] = {
            n: torch.nn.Parameter(held.pop(prefix + n), requires_grad=False)
            for n in facts["parameters"]
        }
        buffers: dict[str, Value] = {n: held.pop(prefix + n) for n in facts["buffers"]}
        groups: dict[str, Value] = dict(zip(GROUPS, (parameters, buffers, {}), strict=True))
        module = facts.get("module")
        dtypes = {key: DTYPES[value] for key, value in facts["dtypes"].items()}
        state = {**dict(facts["state"]), **dtypes, **groups}
        source = "" if module is None else None
        if isinstance(call := state.get("_init_args"), list):  # JSON has no tuples
            state["_init_args"] = tuple(call)
        made[name] = Record(str(facts["class"]), None, None, state, module=module, source=source)
        if name:
            parent, _, own = name.rpartition(".")
            made[parent].modules[own] = made[name]
    if held:
        raise KeyError(next(iter(held)))
    return made[""]


def _read_config(path: Path) -> dict[str, Json] | None:
    if not path.exists():
        return None
    try:
        config = read_json(path, max_bytes=MAX_CONFIG)
    except ValueError:  # another program's file, or damaged: not ours
        return None
    return config if config.get("format") == FORMAT else None


def _is_foreign(folder: Path, name: str) -> bool:
    if not any((folder / other).exists() for other in (CONFIG, CARD)):
        return False
    config = _read_config(folder / CONFIG)
    return config is None or config.get("file") != name
