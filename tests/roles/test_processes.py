"""Processes on GPUs: what is asked of torch before they begin, and who is missing."""

from __future__ import annotations

import os
from typing import Any

import pytest
import torch
import torch.distributed as dist

from roles import Processes
from roles.processes import LostProcess, is_of_messages


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Stand-ins for torch's groups, as there is no GPU; the backends that were asked for."""
    asked: list[str] = []
    monkeypatch.setattr(dist, "init_process_group", lambda backend, **_: asked.append(backend))
    monkeypatch.setattr(dist, "new_group", lambda backend, **_: asked.append(backend))
    monkeypatch.setattr(dist, "get_rank", lambda: 1)
    monkeypatch.setattr(dist, "get_world_size", lambda: 2)
    monkeypatch.setattr(torch.cuda, "set_device", lambda device: None)
    # Set and taken away, so that it is put back as it was.
    monkeypatch.setenv("TORCH_NCCL_ASYNC_ERROR_HANDLING", "")
    monkeypatch.delenv("TORCH_NCCL_ASYNC_ERROR_HANDLING")
    return asked


def test_nccl_gives_up_a_lost_process_without_ending_the_others(started: list[str]) -> None:
    Processes("cuda:1")
    assert started == ["nccl", "gloo"]
    assert os.environ["TORCH_NCCL_ASYNC_ERROR_HANDLING"] == "2"


def test_a_users_own_way_with_nccls_errors_stays(
    started: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TORCH_NCCL_ASYNC_ERROR_HANDLING", "3")
    Processes("cuda:1")
    assert os.environ["TORCH_NCCL_ASYNC_ERROR_HANDLING"] == "3"


@pytest.mark.parametrize("kind", ["mps", "xpu"])
def test_devices_that_cannot_be_shared_are_refused(started: list[str], kind: str) -> None:
    with pytest.raises(ValueError, match=f"not {kind}; start one"):
        Processes(kind)
    assert not started


def test_a_process_that_nccl_lost_is_named_by_gloos_roll(
    started: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def roll(*_: Any, **__: Any) -> None:
        raise RuntimeError("Ranks 0 failed to pass monitoredBarrier in 5000 ms\nmore")

    monkeypatch.setattr(dist, "monitored_barrier", roll)
    processes = Processes("cuda:1")
    told = r"rank 1 of 2 waited in a step in vain: Ranks 0 failed .*\(NCCL communicator was aborted"
    with pytest.raises(LostProcess, match=told), processes.together("a step"):
        raise dist.DistBackendError("NCCL communicator was aborted on rank 1.\nmore")
    with pytest.raises(RuntimeError, match="of memory"), processes.together("a step"):
        raise RuntimeError("out of memory")


def test_errors_of_messages_are_told_from_those_of_the_work() -> None:
    words = {
        "NCCL error in: ProcessGroupNCCL.cpp": True,
        "[gloo/transport/tcp/pair.cc:534] Connection closed by peer": True,
        "CUDA error: device-side assert triggered": False,
        "mat1 and mat2 shapes cannot be multiplied": False,
    }
    assert {text: is_of_messages(RuntimeError(text)) for text in words} == words
