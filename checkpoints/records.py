"""The nodes that a network file is made of beside plain Python values and tensors."""

from __future__ import annotations

from collections import OrderedDict
from typing import TypeAlias, cast

import numpy as np
import torch

PERSISTENCE_VERSION = 6  # of torch_utils.persistence; all published files have it


class UnsafeCheckpoint(ValueError):
    """The file asks for something a network file has no need of; the message names it."""


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
    """

    __slots__ = ("class_name", "module", "source", "state")

    def __init__(
        self,
        class_name: str,
        init_args: tuple[Value, ...] | None,
        init_kwargs: dict[str, Value] | None,
        state: dict[str, Value],
        *,
        module: str | None = None,
        source: str | None = None,
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

    def __repr__(self) -> str:
        where = f"{self.module}." if self.module else ""
        return f"<Record {where}{self.class_name} with {len(self.state)} attributes>"
