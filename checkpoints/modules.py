"""Networks inside a file: their tensors by dotted name, and records of modules of our own."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping
from typing import NamedTuple, TypeVar, cast

import numpy as np
import torch

from checkpoints.pickles.names import PLAIN_CLASSES
from checkpoints.records import DICTS, Record, Value

HOOKS_BEFORE_FLAG = ("_backward_pre_hooks", "_backward_hooks")
HOOKS_AFTER_FLAG = (
    "_forward_hooks",
    "_forward_hooks_with_kwargs",
    "_forward_hooks_always_called",
    "_forward_pre_hooks",
    "_forward_pre_hooks_with_kwargs",
    "_state_dict_hooks",
    "_state_dict_pre_hooks",
    "_load_state_dict_pre_hooks",
    "_load_state_dict_post_hooks",
)
Tensor = TypeVar("Tensor", bound=torch.Tensor)
Done = dict[int, Record | torch.Tensor]  # what was made of an object, by its id
PLAIN_VALUES = (type(None), bool, int, float, str, torch.dtype, np.generic, np.ndarray)


def parameters(record: Record) -> dict[str, torch.Tensor]:
    """Dotted names and tensors, in the order of `torch.nn.Module.named_parameters`."""
    return _named_tensors(record, "_parameters")


def buffers(record: Record) -> dict[str, torch.Tensor]:
    """Dotted names and tensors, in the order of `torch.nn.Module.named_buffers`."""
    return _named_tensors(record, "_buffers")


def tensors(record: Record) -> dict[str, torch.Tensor]:
    """The parameters, then the buffers. A tensor with several names appears under the first."""
    return {**parameters(record), **buffers(record)}


def nonfinite(held: Record | Mapping[str, torch.Tensor]) -> list[str]:
    """Names of the tensors that hold an infinity or a NaN, in a record or a dict by name."""
    named = tensors(held) if isinstance(held, Record) else held
    return [name for name, value in named.items() if not _is_finite(value)]


def _is_finite(tensor: torch.Tensor) -> bool:
    # The sum takes a fifth of the time and is finite only where all terms are. It may overflow.
    return bool(tensor.sum().isfinite()) or bool(tensor.isfinite().all())


def _named_tensors(record: Record, group: str) -> dict[str, torch.Tensor]:
    found: dict[str, torch.Tensor] = {}
    seen: set[int] = set()
    for prefix, module in named_modules(record):
        for name, value in module.tensors(group).items():
            if value is not None and id(value) not in seen:
                seen.add(id(value))
                found[prefix + name] = value
    return found


def named_modules(record: Record) -> Iterator[tuple[str, Record]]:
    """Each module once, parents first, with the prefix of its members' names."""
    seen: set[int] = set()
    waiting = [("", record)]
    while waiting:
        prefix, module = waiting.pop()
        if id(module) in seen:
            continue
        seen.add(id(module))
        yield prefix, module
        children = module.modules.items()
        waiting += [(f"{prefix}{name}.", child) for name, child in children if child][::-1]


def with_tensors(record: Record, mapping: Mapping[str, torch.Tensor]) -> Record:
    """A copy of the record in which the named tensors have other values, and all else is shared.

    Type, strides and the role as parameter or buffer stay those of the record; values are
    converted.

    Raises:
        ValueError: a name that the record does not have, or a tensor of another shape; all are
            listed.
    """
    old = tensors(record)
    unknown = [name for name in mapping if name not in old]
    if unknown:
        raise ValueError(f"{record.class_name} has no tensor named {', '.join(unknown)}")
    misfits = [
        f"{name} {tuple(value.shape)} instead of {tuple(old[name].shape)}"
        for name, value in mapping.items()
        if value.shape != old[name].shape
    ]
    if misfits:
        raise ValueError(f"tensors of {record.class_name} with another shape: {', '.join(misfits)}")
    changed = {id(old[name]): _like(value, old[name]) for name, value in mapping.items()}
    return _rebuilt(record, changed, {})


def _like(value: torch.Tensor, old: torch.Tensor) -> torch.Tensor:
    new = torch.empty_like(old, requires_grad=False).copy_(value.detach())
    is_parameter = isinstance(old, torch.nn.Parameter)
    return torch.nn.Parameter(new, requires_grad=False) if is_parameter else new


def _rebuilt(record: Record, changed: dict[int, torch.Tensor], done: dict[int, Record]) -> Record:
    """The record with the tensors of these ids replaced; itself where there are none in it."""
    if id(record) in done:
        return done[id(record)]
    groups = [(key, record.tensors(key)) for key in ("_parameters", "_buffers")]
    touched = any(id(member) in changed for _, group in groups for member in group.values())
    children = record.modules
    rebuilt = {name: child and _rebuilt(child, changed, done) for name, child in children.items()}
    result = record
    if touched or any(new is not children[name] for name, new in rebuilt.items()):
        # New dicts even where nothing in them is new: the old record, which may be another network
        # of the same file, keeps its own, and a file in which two records share one is refused.
        state = dict(record.state)
        for key, group in groups:
            if key in state:
                members = ((n, changed.get(id(old), old)) for n, old in group.items())
                state[key] = cast("dict[str, Value]", type(group)(members))
        if "_modules" in state:
            state["_modules"] = cast("dict[str, Value]", type(children)(rebuilt))
        result = record.with_state(state)
    done[id(record)] = result
    return result


Attributes = Mapping[torch.nn.Module, Mapping[str, Value]]  # of the parts of a network


class Program(NamedTuple):
    """A program whose classes a pickle may name, so that it loads there and needs nothing of ours.

    Attributes:
        package: its module that has the classes, which are called as ours are.
        attributes: for the parts of a network, what theirs keep and ours do not, or otherwise;
            `init_kwargs` among them is the constructor call.
    """

    package: str
    attributes: Callable[[torch.nn.Module], Attributes] = lambda network: {}


def describe(
    module: torch.nn.Module, *, source: str | None = None, program: Program | None = None
) -> Record:
    """The record of a module born here, in the layout that PyTorch and the StyleGAN code pickle.

    A module of torch.nn becomes a plain record; any other names a class of `program`, or is a
    persistent one that carries the text `source`: give one of them.
    Its public attributes are kept in assignment order; those whose name begins with an underscore
    are not. The constructor call is `module.init_kwargs` where there is one. Tensors share memory
    with the module.

    Raises:
        ValueError: a public attribute is no plain value, or a module of torch.nn is of an unlisted
            class.
    """
    others = program.attributes(module) if program else {}
    package = program and program.package

    def name(part: torch.nn.Module, state: dict[str, Value]) -> Record:
        call = {"init_kwargs": getattr(part, "init_kwargs", {}), **others.get(part, {})}
        init_kwargs = dict(cast("dict[str, Value]", call.pop("init_kwargs")))
        return Record(
            type(part).__name__, (), init_kwargs, {**state, **call}, source=source, module=package
        )

    return _described(module, name, {})


Name = Callable[[torch.nn.Module, dict[str, Value]], Record]  # makes the record of these attributes


def _described(module: torch.nn.Module, name: Name, done: Done) -> Record:
    if id(module) in done:
        return cast("Record", done[id(module)])
    kind = type(module)
    state = _module_state(module, name, done)
    if kind.__module__.startswith("torch.nn."):
        if (kind.__module__, kind.__name__) not in PLAIN_CLASSES:
            raise ValueError(
                f"{kind.__module__}.{kind.__name__} is not in checkpoints/pickles/names.py"
            )
        record = Record(kind.__name__, None, None, state, module=kind.__module__)
    else:
        record = name(module, state)
    done[id(module)] = record
    return record


def _module_state(module: torch.nn.Module, name: Name, done: Done) -> dict[str, Value]:
    attributes = vars(module)
    hooked = [key for key in (*HOOKS_BEFORE_FLAG, *HOOKS_AFTER_FLAG) if attributes.get(key)]
    if hooked:
        raise ValueError(f"{type(module).__name__} has {hooked[0]}, which no file may hold")
    state: dict[str, Value] = {
        "training": module.training,
        "_parameters": {
            key: _once(done, value, lambda value: torch.nn.Parameter(value.detach(), False))
            for key, value in module._parameters.items()
        },
        "_buffers": {
            key: _once(done, value, torch.Tensor.detach) for key, value in module._buffers.items()
        },
        "_non_persistent_buffers_set": set(attributes["_non_persistent_buffers_set"]),
    }
    state |= {key: OrderedDict() for key in HOOKS_BEFORE_FLAG}
    state["_is_full_backward_hook"] = None
    state |= {key: OrderedDict() for key in HOOKS_AFTER_FLAG}
    state["_modules"] = {
        key: child if child is None else _described(child, name, done)
        for key, child in module._modules.items()
    }
    for key, value in attributes.items():
        if not key.startswith("_") and key not in ("training", "init_kwargs"):
            state[key] = _plain_value(value, f"{type(module).__name__}.{key}")
    return state


def _once(
    done: Done, tensor: Tensor | None, make: Callable[[Tensor], torch.Tensor]
) -> torch.Tensor | None:
    """What is made of this tensor, the same at every place, so that tied weights stay tied."""
    if tensor is None:
        return None
    if id(tensor) not in done:
        done[id(tensor)] = make(tensor)
    return cast("torch.Tensor", done[id(tensor)])


def _plain_value(value: object, name: str) -> Value:
    if isinstance(value, PLAIN_VALUES):
        return value
    if isinstance(value, list | tuple) and type(value) in (list, tuple):
        return type(value)(_plain_value(item, name) for item in value)
    if isinstance(value, dict) and type(value) in DICTS:
        return type(value)((key, _plain_value(item, name)) for key, item in value.items())
    raise ValueError(
        f"the attribute {name} is a {type(value).__name__} and cannot be written; "
        "register it as a buffer, or begin its name with an underscore to leave it out"
    )
