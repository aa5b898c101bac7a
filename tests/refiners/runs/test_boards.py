"""Statistics on TensorBoard and W&B, by modules that stand in where the packages are absent."""

from __future__ import annotations

import importlib.machinery
import importlib.util
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from refiners import RunFolder
from refiners.runs.boards import check_wandb, tensorboard, wandb_board
from tests.refiners.conftest import refine_toys


def install(monkeypatch: pytest.MonkeyPatch, name: str, **content: Any) -> None:
    """Let a module of this name be found and imported."""
    module = ModuleType(name)
    module.__spec__ = importlib.machinery.ModuleSpec(name, None)
    for key, value in content.items():
        setattr(module, key, value)
    monkeypatch.setitem(sys.modules, name, module)


def remove(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """Let a package not be found, whether it is installed or not."""
    found = importlib.util.find_spec
    monkeypatch.setattr(
        "importlib.util.find_spec", lambda asked, *a: None if asked == name else found(asked, *a)
    )


class FakeWriter:
    """What torch.utils.tensorboard's SummaryWriter is called with."""

    def __init__(self, folder: str):
        self.folder = folder
        self.scalars: list[tuple[str, float, int]] = []
        self.flushed = 0
        FakeWriter.last = self

    def add_scalar(self, name: str, value: float, *, global_step: int) -> None:
        self.scalars.append((name, value, global_step))

    def flush(self) -> None:
        self.flushed += 1

    last: Any = None


def test_tensorboard_gets_each_statistic_of_each_tick_at_its_image_count(
    monkeypatch: pytest.MonkeyPatch, affine: Any, gaussian: Any, settings: Any, tmp_path: Path
) -> None:
    install(monkeypatch, "tensorboard")
    install(monkeypatch, "torch.utils.tensorboard", SummaryWriter=FakeWriter)
    folder = RunFolder.create(tmp_path, "run")
    board = tensorboard(folder.path)
    assert board is not None
    refine_toys(
        affine(-0.4, 0.3), gaussian(0.3, 0.5), kimg=0.128, settings=settings(), folder=folder,
        boards=[board], progress=False,
    )  # fmt: skip
    writer = FakeWriter.last
    assert (writer.folder, writer.flushed) == (str(folder.path), 3)
    ticks = [(v, step) for name, v, step in writer.scalars if name == "Progress/tick"]
    assert ticks == [(0, 0), (1, 64), (2, 128)]
    assert "Health/saturated" in {name for name, _, _ in writer.scalars}


def test_without_tensorboard_there_is_none(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    remove(monkeypatch, "tensorboard")
    assert tensorboard(tmp_path) is None


def test_without_wandb_asking_for_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    remove(monkeypatch, "wandb")
    with pytest.raises(ValueError, match=r"pip install 'stylegan-refiner\[wandb\]'"):
        check_wandb()


def test_wandb_gets_the_options_once_and_each_ticks_statistics(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    calls: list[Any] = []

    def init(**given: Any) -> Any:
        calls.append(given)
        return SimpleNamespace(log=lambda stats, step: calls.append((stats, step)))

    install(monkeypatch, "wandb", init=init)
    folder = tmp_path / "00003-x"
    show = wandb_board("mine", folder, {"batch": 8})
    show({"Loss/auxiliary": 0.5}, 1.024)
    assert calls == [
        {"project": "mine", "dir": str(folder), "name": "00003-x", "config": {"batch": 8}},
        ({"Loss/auxiliary": 0.5}, 1024),
    ]


def test_a_wandb_that_does_not_start_is_one_line(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    class Error(Exception):
        pass

    def init(**given: Any) -> Any:
        raise Error("no API key")

    install(monkeypatch, "wandb", init=init, errors=SimpleNamespace(Error=Error))
    with pytest.raises(ValueError, match=r"no API key\); leave --wandb out, or set WANDB_MODE"):
        wandb_board("mine", tmp_path, {})
