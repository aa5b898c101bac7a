"""Names and order of tensors are torch's; records made here have the layout of the originals."""

from __future__ import annotations

from typing import Any, cast

import pytest
import torch

import checkpoints


class Layer(torch.nn.Module):
    def __init__(self, width: int, *, bias: bool = True) -> None:
        super().__init__()
        self.width = width
        self.weight = torch.nn.Parameter(torch.randn(width, width))
        self.register_parameter("unused", None)
        self.register_buffer("filter", torch.randn(3))
        self.register_buffer("scratch", torch.randn(2), persistent=False)
        self.register_buffer("absent", None)
        self.bias = torch.nn.Parameter(torch.randn(width)) if bias else None
        self._cache = object()


class Net(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.init_kwargs = {"z_dim": 4, "options": {"names": ["a", "b"], "clamp": None}}
        self.z_dim = 4
        self.betas = (0.0, 0.99)
        self.enc = torch.nn.ModuleDict({"8x8": Layer(3), "4x4": Layer(2, bias=False)})
        self.const = torch.nn.Parameter(torch.randn(2))
        self.tied = self.enc["8x8"]
        self.embed = torch.nn.Embedding(5, 2)
        self.embed_weight = self.embed.weight
        self.out = torch.nn.Linear(2, 3)
        self.gone: torch.nn.Module | None = None


@pytest.fixture
def net() -> Net:
    return Net().eval()


def test_names_and_order_are_those_of_torch(net):
    record = checkpoints.describe(net, source="")
    for found, expected in (
        (checkpoints.parameters(record), dict(net.named_parameters())),
        (checkpoints.buffers(record), dict(net.named_buffers())),
    ):
        assert list(found) == list(expected)
        assert all(torch.equal(found[name], expected[name]) for name in expected)
    assert list(checkpoints.tensors(record)) == [
        *dict(net.named_parameters()),
        *dict(net.named_buffers()),
    ]


def test_a_described_module_survives_a_file(net, tmp_path, original, assert_same):
    record = checkpoints.describe(net, source="class Net: ...")
    path = tmp_path / "a.pkl"
    checkpoints.write({"ema": record}, path)
    got = cast("Any", checkpoints.read(path))["ema"]
    assert_same(got, original.form(record))
    assert (got.class_name, got.module, got.source) == ("Net", None, "class Net: ...")
    assert got.init_kwargs == net.init_kwargs
    assert got.modules["enc"].module == "torch.nn.modules.container"
    assert got.modules["enc"].modules["8x8"] is got.modules["tied"]


def test_the_state_has_the_layout_that_torch_pickles(net):
    state = checkpoints.describe(net, source="").state
    own = ["z_dim", "betas", "gone", "_init_args", "_init_kwargs"]
    torch_keys = [key for key in torch.nn.Module().__dict__ if "compiled" not in key]
    assert list(state) == [*torch_keys, *own]
    record = checkpoints.describe(net.enc["4x4"], source="")
    layer = record.state
    assert layer["bias"] is None
    assert record.tensors("_parameters")["unused"] is None
    assert record.tensors("_buffers")["absent"] is None
    assert layer["_non_persistent_buffers_set"] == {"scratch"}
    assert "_cache" not in layer


def test_stock_torch_revives_the_plain_modules_of_a_described_network(net, tmp_path, original):
    path = tmp_path / "a.pkl"
    checkpoints.write(checkpoints.describe(net, source="").modules["out"], path)
    linear = original.load(path)
    x = torch.randn(4, 2)
    assert torch.equal(linear(x), net.out(x))


def test_an_attribute_that_is_no_plain_value_is_named(net):
    net.enc["8x8"].helper = print
    with pytest.raises(ValueError, match=r"Layer\.helper is a builtin_function_or_method"):
        checkpoints.describe(net, source="")


def test_a_hook_and_an_unlisted_class_cannot_be_described(net):
    net.gone = torch.nn.LSTM(1, 1)
    with pytest.raises(ValueError, match="LSTM"):
        checkpoints.describe(net, source="")
    net.gone = None
    net.out.register_forward_hook(lambda *_: None)
    with pytest.raises(ValueError, match="_forward_hooks"):
        checkpoints.describe(net, source="")


def test_changed_tensors_change_and_all_else_is_shared(net):
    record = checkpoints.describe(net, source="")
    old = checkpoints.tensors(record)
    new = {"enc.4x4.weight": torch.ones(2, 2), "enc.8x8.filter": torch.ones(3).double()}
    changed = checkpoints.with_tensors(record, new)
    got = checkpoints.tensors(changed)
    assert list(got) == list(old)
    for name, tensor in got.items():
        assert (tensor.dtype, type(tensor)) == (old[name].dtype, type(old[name]))
        if name in new:
            assert torch.equal(tensor, new[name].to(tensor.dtype))
        else:
            assert tensor is old[name]
    assert not torch.equal(old["enc.4x4.weight"], new["enc.4x4.weight"])
    modules = changed.modules
    assert modules["out"] is record.modules["out"]
    assert modules["tied"] is modules["enc"].modules["8x8"]
    assert changed.init_kwargs == record.init_kwargs


def test_changed_tensors_are_copies_in_the_layout_of_the_old():
    weight = torch.randn(4, 3, 3, 3).to(memory_format=torch.channels_last)
    module = torch.nn.Conv2d(3, 4, 3, bias=False)
    module.weight = torch.nn.Parameter(torch.zeros_like(weight))
    record = checkpoints.describe(module, source="")
    new = weight.contiguous().requires_grad_()
    got = checkpoints.tensors(checkpoints.with_tensors(record, {"weight": new}))["weight"]
    with torch.no_grad():
        new.zero_()
    assert torch.equal(got, weight)
    assert got.is_contiguous(memory_format=torch.channels_last)
    assert not got.requires_grad


def test_unknown_names_and_other_shapes_are_all_listed(net):
    record = checkpoints.describe(net, source="")
    with pytest.raises(ValueError, match=r"nope, enc\.8x8"):
        checkpoints.with_tensors(record, {"nope": torch.ones(1), "enc.8x8": torch.ones(1)})
    with pytest.raises(ValueError, match=r"const \(3,\) instead of \(2,\), out\.bias"):
        checkpoints.with_tensors(record, {"const": torch.ones(3), "out.bias": torch.ones(1)})


def test_nothing_changed_is_the_same_record(net):
    record = checkpoints.describe(net, source="")
    assert checkpoints.with_tensors(record, {}) is record


def test_tensors_that_are_not_finite_are_named_and_not_refused(net, tmp_path):
    net.const.data[1] = float("nan")
    net.enc["8x8"].filter[0] = float("inf")
    path = tmp_path / "a.pkl"
    checkpoints.write(checkpoints.describe(net, source=""), path)
    assert checkpoints.nonfinite(cast("Any", checkpoints.read(path))) == ["const", "enc.8x8.filter"]


def test_one_record_that_is_two_networks_can_become_two(tmp_path):
    """The other network of the file keeps its values, and the file can be read again."""
    weight = torch.nn.Parameter(torch.ones(2))
    inner = checkpoints.Record("Inner", (), {}, {"_parameters": {"w": weight}}, source="")
    buffers = {"b": torch.zeros(3)}
    state = {"_buffers": buffers, "_modules": {"i": inner}}
    network = checkpoints.Record("Outer", (), {}, state, source="")
    changed = checkpoints.with_tensors(network, {"i.w": torch.full([2], 5.0)})
    path = tmp_path / "two.pkl"
    checkpoints.write({"G": network, "G_ema": changed}, path)
    data = cast("Any", checkpoints.read(path))
    for name, value in (("G", 1.0), ("G_ema", 5.0)):
        tensors = checkpoints.tensors(data[name])
        assert torch.equal(tensors["i.w"], torch.full([2], value))
        assert torch.equal(tensors["b"], torch.zeros(3))


def test_finite_numbers_whose_sum_overflows_are_finite():
    tensors = {
        "large": torch.full([4], 3e38),
        "half": torch.full([4], 6e4, dtype=torch.float16),
        "opposite": torch.tensor([float("inf"), float("-inf")]),
        "one": torch.tensor([1.0, float("nan"), 2.0]),
        "whole": torch.tensor([1, 2]),
    }
    assert checkpoints.nonfinite(tensors) == ["opposite", "one"]


@pytest.mark.parametrize("shape", [[3, 2, 1, 1], [1], [1, 1, 1], [2, 3, 4, 5], [0, 2], []])
def test_bytes_of_a_tensor_are_its_values_in_order_whatever_their_strides(shape):
    plain = torch.randn(shape)
    stride = [9 if n == 1 else s for n, s in zip(plain.shape, plain.stride(), strict=True)]
    odd = plain.as_strided(plain.shape, stride)
    assert bytes(checkpoints.value_bytes(odd)) == plain.numpy().tobytes()
    if len(shape) == 4:
        last = odd.contiguous(memory_format=torch.channels_last)
        assert bytes(checkpoints.value_bytes(last)) == plain.numpy().tobytes()
