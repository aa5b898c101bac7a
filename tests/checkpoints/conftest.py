"""A stand-in for the original code: stock pickle and torch, with its modules importable by name.

It writes and reads files independently of the project, at any protocol. Beside it, a record of what
Python was asked to run.
"""

from __future__ import annotations

import pickle
import sys
import types
import warnings
from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from checkpoints import EasyDict, Record

HOOKS = (
    "_backward_hooks",
    "_forward_hooks",
    "_forward_pre_hooks",
    "_state_dict_hooks",
    "_load_state_dict_pre_hooks",
)
SOURCE = "import os\nos.system('touch pwned')\nclass Network: pass\n"
RUNNING = (
    "exec",
    "compile",
    "os.system",
    "os.exec",
    "os.fork",
    "os.posix_spawn",
    "os.spawn",
    "subprocess.",
    "pickle.",
    "marshal.",
    "ctypes.",
    "socket.",
)


class Original:
    """Stock pickle of objects in the original classes."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.monkeypatch = monkeypatch
        persistence = self.module("torch_utils.persistence")
        persistence._reconstruct_persistent_obj = self.function(
            persistence, "_reconstruct_persistent_obj", lambda meta: Persistent(meta)
        )
        self.easy_dict = self.type("dnnlib.util", "EasyDict", (dict,))

    def module(self, name: str) -> Any:
        """An importable module of this name."""
        for end in [i for i, c in enumerate(name) if c == "."] + [len(name)]:
            if name[:end] not in sys.modules:
                module = types.ModuleType(name[:end])
                self.monkeypatch.setitem(sys.modules, name[:end], module)
        return sys.modules[name]

    def function(self, module: Any, name: str, function: Callable[..., Any]) -> Any:
        """A function that pickle finds under the name."""
        function.__module__, function.__qualname__ = module.__name__, name
        return function

    def type(self, module: str, name: str, bases: tuple[type, ...] = ()) -> type:
        """A class that pickle finds under the name."""
        holder = self.module(module)
        if not hasattr(holder, name):
            setattr(holder, name, type(name, bases, {"__module__": module}))
        return getattr(holder, name)

    def form(self, value: Any, done: dict[int, Any] | None = None) -> Any:
        """Our data as the objects that the original code would pickle."""
        done = {} if done is None else done
        if id(value) in done:
            return done[id(value)]
        if isinstance(value, Record):
            state = self.form(value.state, done)
            if value.module is None:
                keys = ("class", 6, value.source, value.class_name, state)
                names = ("type", "version", "module_src", "class_name", "state")
                result: Any = Persistent(dict(zip(names, keys, strict=True)))
            else:
                kind = self.type(value.module, value.class_name)
                result = object.__new__(kind)
                result.__dict__.update(state)
        elif isinstance(value, dict):
            kind = self.easy_dict if isinstance(value, EasyDict) else type(value)
            result = kind((key, self.form(item, done)) for key, item in value.items())
        elif type(value) in (list, tuple):
            result = type(value)(self.form(item, done) for item in value)
        else:
            result = value
        done[id(value)] = result
        return result

    def dump(self, data: Any, protocol: int = 4) -> bytes:
        """Our data, pickled by stock pickle."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch warns of its own typed storages
            return pickle.dumps(self.form(data), protocol=protocol)

    def load(self, path: Path) -> Any:
        """A file as stock pickle and torch read it."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return pickle.loads(path.read_bytes())


class Persistent:
    """An object that pickles as a call of `_reconstruct_persistent_obj`."""

    def __init__(self, meta: dict[str, Any]) -> None:
        self.meta = meta

    def __reduce__(self) -> Any:
        return sys.modules["torch_utils.persistence"]._reconstruct_persistent_obj, (self.meta,)


def assert_same(ours: Any, theirs: Any, where: str = "") -> None:
    """Our data equal the original objects in every bit, order and class."""
    if isinstance(ours, Record):
        if isinstance(theirs, Persistent):
            assert ours.source == theirs.meta["module_src"], where
            assert ours.class_name == theirs.meta["class_name"], where
            return assert_same(ours.state, theirs.meta["state"], where)
        kind = type(theirs)
        assert (ours.module, ours.class_name) == (kind.__module__, kind.__name__), where
        found = theirs.__dict__
        if isinstance(theirs, torch.nn.Module):  # its __setstate__ adds what this torch has more
            found = {key: item for key, item in found.items() if key in ours.state}
        return assert_same(ours.state, found, where)
    assert type(ours).__name__ == type(theirs).__name__, where
    if isinstance(ours, torch.Tensor):
        assert (ours.dtype, ours.shape) == (theirs.dtype, theirs.shape), where
        assert ours.stride() == theirs.stride(), where
        assert bits(ours) == bits(theirs), where
    elif isinstance(ours, np.ndarray | np.generic):
        assert (ours.dtype, ours.shape) == (theirs.dtype, theirs.shape), where
        assert ours.tobytes() == theirs.tobytes(), where
    elif isinstance(ours, dict):
        assert list(ours) == list(theirs), where
        for key in ours:
            assert_same(ours[key], theirs[key], f"{where}.{key}")
    elif isinstance(ours, list | tuple) and type(ours) is not torch.Size:
        assert len(ours) == len(theirs), where
        for index, (one, other) in enumerate(zip(ours, theirs, strict=True)):
            assert_same(one, other, f"{where}[{index}]")
    else:
        assert ours == theirs, where
    return None


def bits(tensor: torch.Tensor) -> bytes:
    """The elements of a tensor, in row-major order."""
    return tensor.detach().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()


def make_module(class_name: str, **given: Any) -> Record:
    """A persistent network of the old layout: `parameters`, `buffers` and `modules` by name."""
    state: dict[str, Any] = {
        "training": False,
        "_parameters": OrderedDict(
            (name, value if value is None else torch.nn.Parameter(value, requires_grad=False))
            for name, value in given.pop("parameters", {}).items()
        ),
        "_buffers": OrderedDict(given.pop("buffers", {})),
        "_non_persistent_buffers_set": set(),
        **{name: OrderedDict() for name in HOOKS},
        "_modules": OrderedDict(given.pop("modules", {})),
    }
    module = given.pop("module", None)
    if module is not None:
        return Record(class_name, None, None, {**state, **given}, module=module)
    return Record(class_name, (), given, {**state, **given}, source=SOURCE)


def make_snapshot() -> dict[str, Any]:
    """A small file with one of everything that network files hold."""
    conv = make_module(
        "Conv",
        parameters={
            "weight": torch.randn(4, 3, 3, 3).to(memory_format=torch.channels_last),
            "bias": None,
            "strength": torch.randn([]),
        },
        buffers={
            "filter": None,
            "half": torch.randn(3).half(),
            "bfloat": torch.randn(3).bfloat16(),
        },
        gain=np.float32(0.25),
        size=np.arange(6, dtype=np.int64).reshape(2, 3),
        fortran=np.asfortranarray(np.arange(6.0).reshape(2, 3)),
        is_last=np.bool_(True),
        dtype=torch.bfloat16,
    )
    frozen = make_module(
        "Conv",
        buffers={
            "weight": torch.randn(2, 2).double(),
            "mask": torch.tensor([True, False]),
            "count": torch.tensor(7),
            "empty": torch.zeros(0, 3),
        },
    )
    layers = make_module(
        "ModuleDict",
        modules={"a": conv, "b": frozen, "again": conv},
        module="torch.nn.modules.container",
    )
    network = make_module(
        "Network",
        parameters={"const": torch.randn(2, 5)},
        modules={"layers": layers, "none": None},
        z_dim=5,
        synthesis_kwargs=EasyDict(channel_base=2**40, nested=EasyDict()),
        betas=(0, 0.99),
        names=["a", "ä", "\ud800"],
        shape=torch.Size([3, 4]),
        minus=-(2**70),
        raw=b"\x00" * 300,
    )
    loss = Record("EDMLoss", (), {}, {"sigma_data": 0.5}, source=SOURCE)
    options = {"path": "x.zip", "seed": None, "steps": {0: -1, 300: -70000}, "tags": {"u", "v"}}
    return {"G": network, "G_ema": network, "loss_fn": loss, "training_set_kwargs": options}


@pytest.fixture
def original(monkeypatch: pytest.MonkeyPatch) -> Original:
    """The stand-in for the original code."""
    return Original(monkeypatch)


@pytest.fixture
def snapshot() -> dict[str, Any]:
    """A small file with one of everything."""
    return make_snapshot()


@pytest.fixture(name="assert_same")
def assert_same_fixture() -> Callable[[Any, Any], None]:
    """Bit by bit comparison with what stock pickle reads."""
    return assert_same


class Witness:
    """What Python's audit hooks saw while it was listening."""

    def __init__(self) -> None:
        self.listening = False
        self.events: list[str] = []

    def __call__(self, event: str, arguments: tuple[Any, ...]) -> None:
        if self.listening and event.startswith(RUNNING):
            self.events.append(event)


WITNESS = Witness()
sys.addaudithook(WITNESS)


@contextmanager
def watched() -> Iterator[None]:
    """Nothing is executed, compiled, imported or started inside of the block."""
    before = set(sys.modules)
    WITNESS.events.clear()
    WITNESS.listening = True
    try:
        yield
    finally:
        WITNESS.listening = False
    assert not WITNESS.events
    assert not set(sys.modules) - before


@pytest.fixture
def runs_nothing() -> Iterator[None]:
    """The test fails if anything is executed, compiled, imported or started while it runs."""
    with watched():
        yield


@pytest.fixture
def runs_nothing_while() -> Callable[[], AbstractContextManager[None]]:
    """As `runs_nothing`, for a block of the test."""
    return watched
