"""The nodes that a network file is made of beside plain Python values and tensors."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from typing import TypeAlias, cast

import numpy as np
import torch

from roles.shown import shown

PERSISTENCE_VERSION = 6  # of torch_utils.persistence; all published files have it


class UnsafeCheckpoint(ValueError):
    """The file asks for something a network file has no need of; the message names it."""


MAX_STEPS = 1000  # of one foreign object; an optimiser's table takes one for a thousand items
Steps: TypeAlias = "Sequence[tuple[bytes, object]]"


class EasyDict(dict[str, "Value"]):
    """A dict that the file calls `dnnlib.util.EasyDict`; it is written back under that name."""


DICTS = (dict, OrderedDict, EasyDict)

Key: TypeAlias = "str | int | None"
Leaf: TypeAlias = (
    "bool | int | float | str | bytes | torch.dtype | torch.Tensor | np.generic | None"
)
# What a network file holds, once it is read. What is still to be looked at is an object.
Value: TypeAlias = "Leaf | np.ndarray | Record | list[Value] | tuple[Value, ...] | set[Key] | Dict"
Dict: TypeAlias = "dict[str, Value] | dict[Key, Value]"


class Record:
    """One object of a network file: a class by name and its attributes, never its code.

    A persistent record carries the source text of its class (`source`); the text is passed through
    and never compiled. A plain record names an importable class instead (`module`); nothing is
    imported.

    Attributes:
        class_name: Name of the class within its source or module.
        state: The object's attributes in file order. The constructor call that a persistent record
            remembers is part of it, under `_init_args` and `_init_kwargs`.
        module: Module of a plain class, None for a persistent record.
        source: Source text of a persistent record, None for a plain class.
        foreign: Why no network can be made of it, "" where one can: it is, or holds, what a name
            outside of the allow-list makes, or a hook, or members that are no tensors and modules.
        steps: Of a name outside of the allow-list, what the file does with it: opcodes (call, new
            object, state, items) with their arguments, kept to be written back and never done.
    """

    __slots__ = ("class_name", "foreign", "module", "source", "state", "steps")

    def __init__(
        self,
        class_name: str,
        init_args: tuple[Value, ...] | None,
        init_kwargs: dict[str, Value] | None,
        state: dict[str, Value],
        *,
        module: str | None = None,
        source: str | None = None,
        foreign: str = "",
        steps: Steps = (),
    ) -> None:
        """Make a node; arguments of the call that are not None go into a copy of state."""
        if (module is None) == (source is None):
            raise ValueError(f"record {class_name}: give either its module or its source text")
        call: dict[str, Value] = {"_init_args": init_args, "_init_kwargs": init_kwargs}
        given = {key: value for key, value in call.items() if value is not None}
        self.class_name = class_name
        self.state = {**state, **given} if given else state
        self.module = module
        self.source = source
        self.foreign = foreign
        self.steps = list(steps)

    @property
    def init_args(self) -> tuple[Value, ...]:
        """Positional arguments of the recorded constructor call; () where none were recorded."""
        return cast("tuple[Value, ...]", self.state.get("_init_args") or ())

    @property
    def init_kwargs(self) -> dict[str, Value]:
        """Keyword arguments of the recorded constructor call; {} where none were recorded."""
        return cast("dict[str, Value]", self.state.get("_init_kwargs") or {})

    @property
    def modules(self) -> dict[str, Record | None]:
        """The modules within, by their own names; {} where there are none."""
        return cast("dict[str, Record | None]", self.state.get("_modules", {}))

    def tensors(self, group: str) -> dict[str, torch.Tensor | None]:
        """This object's own `_parameters` or `_buffers` by their names; {} where it has none."""
        return cast("dict[str, torch.Tensor | None]", self.state.get(group, {}))

    def with_state(self, state: dict[str, Value]) -> Record:
        """The same class with other attributes."""
        return Record(self.class_name, None, None, state, module=self.module, source=self.source)

    def step(self, opcode: bytes, argument: object) -> None:
        """Keep one more thing that the file does with a foreign object."""
        if len(self.steps) >= MAX_STEPS:
            raise UnsafeCheckpoint(f"does more than {MAX_STEPS} things with one object")
        self.steps.append((opcode, argument))

    def result(self, opcode: bytes, argument: object) -> Record:
        """What a call of this foreign object would give, which is foreign as well."""
        made = Record(
            self.class_name,
            None,
            None,
            {},
            module=self.module,
            foreign=self.foreign,
            steps=self.steps,
        )
        made.step(opcode, argument)
        return made

    def __repr__(self) -> str:
        where = f"{self.module}." if self.module else ""
        return f"<Record {where}{self.class_name} with {len(self.state)} attributes>"


def check_clean(record: Record, source: object, what: str) -> None:
    """Raise UnsafeCheckpoint if a record of the file `source` is foreign; `what` names it."""
    if record.foreign:
        kind = shown(record.class_name, quoted=False)
        raise UnsafeCheckpoint(
            f"{source}: its {what} ({kind}) is of an unsupported kind: it {record.foreign}; "
            "nothing in it was run"
        )
