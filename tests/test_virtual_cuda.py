"""The CUDA device of the tests that is not there: it fails and waits where CUDA would."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from roles.device import sent
from tests.virtual_cuda import CUDA, MixedDevices, virtual_cuda

COPY, READ = "copy to the device", "reading numbers"


def test_an_operation_on_tensors_of_both_devices_fails_and_on_scalars_does_not() -> None:
    with virtual_cuda():
        here, there = torch.ones(3), torch.ones(3, device=CUDA)
        for mixed in (
            lambda: here + there,
            lambda: torch.cat([here, there]),
            lambda: torch.stack([here[0], there[0]]),
            lambda: torch.nn.functional.linear(there[None], torch.nn.Linear(3, 2).weight),
            lambda: torch.where(there > 0, there, here),
        ):
            with pytest.raises(MixedDevices):
                mixed()
        assert (there * torch.tensor(2.0)).device == CUDA  # the host reads its own number


def test_results_views_copies_and_gradients_are_where_their_operands_are() -> None:
    with virtual_cuda():
        layer = torch.nn.Linear(3, 2).to(CUDA)
        assert {p.device for p in layer.parameters()} == {CUDA}
        x = torch.randn(4, 3).to(layer.weight)
        y = layer(x).flatten()[2:]
        y.square().sum().backward()
        made = (y, y.detach(), torch.zeros_like(y), y.new_zeros(2), layer.weight.grad, layer.bias)
        assert {tensor.device for tensor in made if tensor is not None} == {CUDA}
        assert y.is_cuda and y.cpu().device.type == "cpu" and not torch.ones(2).is_cuda


@pytest.mark.parametrize(
    ("what", "work"),
    [
        (COPY, lambda x: torch.ones(3).to(CUDA)),
        (COPY, lambda x: torch.ones(3).to(CUDA, non_blocking=True)),  # of memory that may move
        (COPY, lambda x: torch.ones(3).pin_memory().to(CUDA)),
        (COPY, lambda x: torch.as_tensor(0.5, device=CUDA)),
        (COPY, lambda x: torch.tensor([0.5], device=CUDA)),
        (COPY, lambda x: x.copy_(torch.ones(3))),
        (READ, lambda x: x.tolist()),
        ("local_scalar_dense", lambda x: float(x[0])),
        ("local_scalar_dense", lambda x: bool(x[0] > 0)),
        ("local_scalar_dense", lambda x: x.sum().item()),
        ("copy to the host", lambda x: x.cpu()),
        ("index", lambda x: x[x > 0]),
        ("copy of an index", lambda x: x[torch.tensor([0, 2])]),
        ("nonzero", lambda x: x.nonzero()),
        ("equal", lambda x: torch.equal(x, x)),
        ("linalg_eigh", lambda x: torch.linalg.eigh(torch.outer(x, x))),
        ("", lambda x: sent(torch.ones(3), CUDA)),
        ("", lambda x: x.to(CUDA).to(torch.float64)),
        ("", lambda x: x.to("cpu", non_blocking=True)),
        ("", lambda x: torch.full([3], 0.5, device=CUDA) + torch.randn(3, device=CUDA)),
        ("", lambda x: x[torch.arange(2, device=CUDA)] * 2.0),
        ("", lambda x: torch.nn.functional.one_hot(torch.arange(3, device=CUDA), 3)),
    ],
)
def test_what_keeps_the_host_waiting_is_counted(
    what: str, work: Callable[[torch.Tensor], object]
) -> None:
    with virtual_cuda() as ledger:
        x = torch.ones(3, device=CUDA)
        ledger.take()
        work(x)
        assert dict(ledger.take()) == ({what: 1} if what else {})
