"""Devices by name, what they lack, and the streams of random numbers."""

from __future__ import annotations

import pytest
import torch

from roles.device import pick_device, sent, widest
from roles.processes import device_of_rank
from roles.streams import Stream, random_stream

CPU = torch.device("cpu")


@pytest.mark.parametrize("name", ["gpu", "cuda:", "cuda:x", "cpu:0", "mps:1", "cuda:0:1", ""])
def test_a_name_that_is_no_device_is_refused_with_those_that_are(name: str) -> None:
    with pytest.raises(ValueError, match="allowed are auto, cpu, cuda, cuda:N, mps, xpu and xpu:N"):
        pick_device(name)


def test_a_device_that_is_not_here_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (torch.cuda, torch.xpu, torch.backends.mps):
        monkeypatch.setattr(module, "is_available", lambda: False)
    for name in ("cuda", "cuda:1", "mps", "xpu", "xpu:0"):
        with pytest.raises(ValueError, match=f"--device is {name}, but torch sees no"):
            pick_device(name)
    assert pick_device("auto") == pick_device("cpu") == "cpu"


def test_a_number_beyond_the_devices_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert [pick_device(name) for name in ("auto", "cuda", "cuda:1")] == ["cuda", "cuda", "cuda:1"]
    with pytest.raises(ValueError, match="cuda:2; there are 2 here, cuda:0 to cuda:1"):
        pick_device("cuda:2")


def test_each_process_takes_a_gpu_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    assert device_of_rank("cuda:1") == "cuda:1"
    monkeypatch.setenv("LOCAL_RANK", "3")
    monkeypatch.setenv("WORLD_SIZE", "4")
    assert [device_of_rank(name) for name in ("cpu", "cuda")] == ["cpu", "cuda:3"]
    with pytest.raises(ValueError, match="cuda:1 in each of 4 processes; give --device cuda"):
        device_of_rank("cuda:1")


def test_double_precision_is_kept_off_devices_that_lack_it() -> None:
    found = {kind: widest(torch.device(kind)) for kind in ("cpu", "cuda", "mps", "xpu")}
    single, double = torch.float32, torch.float64
    assert found == {"cpu": double, "cuda": double, "mps": single, "xpu": single}


def test_what_is_sent_to_a_cpu_is_the_tensor_itself() -> None:
    x = torch.randn(3)
    assert sent(x, CPU) is x


def test_a_stream_of_a_seed_leaves_the_callers_as_it_was_also_where_it_fails() -> None:
    torch.manual_seed(1)
    wanted = torch.randn(2)
    torch.manual_seed(1)
    with pytest.raises(RuntimeError), random_stream(7, CPU):
        first = torch.randn(2)
        raise RuntimeError
    assert torch.equal(torch.randn(2), wanted)
    with random_stream(7, CPU):
        assert torch.equal(torch.randn(2), first)
        here = Stream(CPU)
        later = torch.randn(2)
        here.restore()
        assert torch.equal(torch.randn(2), later)
