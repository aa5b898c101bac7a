"""Every operation as torch.library has it: torch.compile, torch.export and opcheck see through."""

from __future__ import annotations

import pytest
import torch

import stylegan_ops.kernels.bias_act
import stylegan_ops.kernels.filtered_lrelu
import stylegan_ops.kernels.modulation
import stylegan_ops.kernels.upfirdn2d
import stylegan_ops.kernels.winograd  # noqa: F401  importing registers
from stylegan_ops.kernels.choice import available

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module", autouse=True)
def kernels() -> None:
    if not available():
        pytest.skip("no C++ compiler here, so no CPU kernels")


def normal(seed, *shape):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def calls():
    """Each operation by its name, with arguments that ask for every derivative it has."""
    sizes = [(2, 3, 8, 8), (2, 3, 8, 8), (2, 3, 16, 16), (3,), (2, 3), (1, 1, 8, 8), (3, 3, 3, 3)]
    drawn = [normal(i, *size).requires_grad_() for i, size in enumerate(sizes)]
    (x, g, doubled, b, s, noise, w), taps = drawn, normal(7, 4, 4)
    return {
        "bias_act": (x, b, None, None, 0, 1, 2, 0.2, 1.4, 0.5),
        "upfirdn2d": (x, taps, [2, 2, 1, 1, 2, 1, 2, 1]),
        "filtered_lrelu": (x, taps, taps, b, [2, 2, 3, 3, 3, 3], 1.4, 0.2, 0.5),
        "modulate": (x, s, noise, b, 2, 0.2, 1.4, 0.5),
        "channel_dot": (x, g),
        "conv3x3": (x, w, s, taps),
        "conv3x3_transposed": (doubled, w, taps),
        "conv3x3_weight": (x, doubled, s, taps),
    }


NAMES = sorted(calls())


def test_no_operation_is_left_out():
    registered = {name for name in dir(torch.ops.stylegan_ops) if not name.startswith("_")}
    assert registered - {"name"} <= set(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_an_operation_is_registered_as_torch_asks(name):
    torch.library.opcheck(getattr(torch.ops.stylegan_ops, name).default, calls()[name])


@pytest.mark.parametrize("name", NAMES)
def test_a_compiled_operation_is_one_graph_with_the_same_values_and_gradients(name):
    op, arguments = getattr(torch.ops.stylegan_ops, name), calls()[name]
    leaves = [a for a in arguments if isinstance(a, torch.Tensor) and a.requires_grad]
    # A backend without a compiler of its own: what counts is that tracing meets no break.
    compiled = torch.compile(lambda *a: op(*a).square(), fullgraph=True, backend="aot_eager")
    ours, wanted = compiled(*arguments), op(*arguments).square()
    torch.testing.assert_close(ours, wanted)
    g = torch.ones_like(wanted)
    torch.testing.assert_close(
        torch.autograd.grad(ours, leaves, g), torch.autograd.grad(wanted, leaves, g)
    )


class Call(torch.nn.Module):
    """One operation with all that is no tensor filled in."""

    def __init__(self, name, arguments):
        super().__init__()
        self.name, self.arguments = name, arguments

    def forward(self, *tensors):
        given = iter(tensors)
        filled = [next(given) if isinstance(a, torch.Tensor) else a for a in self.arguments]
        return getattr(torch.ops.stylegan_ops, self.name)(*filled)


@pytest.mark.parametrize("name", NAMES)
def test_an_exported_operation_is_one_node_with_the_same_values(name):
    arguments = calls()[name]
    tensors = tuple(a.detach() for a in arguments if isinstance(a, torch.Tensor))
    module = Call(name, arguments)
    program = torch.export.export(module, tensors)
    nodes = [str(node.target) for node in program.graph.nodes if node.op == "call_function"]
    assert nodes == [f"stylegan_ops.{name}.default"]
    torch.testing.assert_close(program.module()(*tensors), module(*tensors))
