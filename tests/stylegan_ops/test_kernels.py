"""CPU kernels against their definitions: values, derivatives, registration, refusals."""

from __future__ import annotations

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st

import stylegan_ops as ops
from stylegan_ops.kernels.choice import available
from stylegan_ops.modulate import modulate

DTYPES = [torch.float32, torch.float64]
# Rounding of one result of order one to ten.
TOLERANCES = {torch.float32: 1e-5, torch.float64: 1e-12}
UP_TO_8 = st.integers(min_value=1, max_value=8)
FACTOR = st.integers(min_value=1, max_value=4)
SIDE = st.integers(min_value=-2, max_value=5)
SEED = st.integers(min_value=0, max_value=2**31)


@pytest.fixture(scope="module", autouse=True)
def kernels() -> None:
    if not available():
        pytest.skip("no C++ compiler here, so no CPU kernels")


def normal(seed, *shape, dtype=torch.float64):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).to(dtype)


def assert_equal(op, *tensors, dtype, **arguments):
    """The kernel in dtype gives what the definition gives in double precision."""
    ours = op(*tensors, impl="cpu", **arguments)
    exact = [t.double() if t is not None and t.dtype == dtype else t for t in tensors]
    wanted = op(*exact, impl="reference", **arguments)
    assert ours.dtype == dtype
    tolerance = TOLERANCES[dtype]
    torch.testing.assert_close(ours.double(), wanted.double(), rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("act", list(ops.ACTIVATIONS))
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_bias_act_equals_its_definition(act, dtype, layout):
    x, b = normal(0, 2, 3, 5, 7, dtype=dtype).to(memory_format=layout), normal(1, 3, dtype=dtype)
    for clamp in (None, 0.5):
        assert_equal(ops.bias_act, x, b, act=act, clamp=clamp, gain=1.5, dtype=dtype)
    assert ops.bias_act(x, b, act=act, impl="cpu").is_contiguous(memory_format=layout)


@pytest.mark.parametrize("act", list(ops.ACTIVATIONS))
def test_bias_act_has_the_derivatives_of_its_definition(act):
    x, b = normal(0, 2, 3, 17).requires_grad_(), normal(1, 3).requires_grad_()

    def op(x, b):
        return ops.bias_act(x, b, act=act, clamp=0.8, impl="cpu")

    assert torch.autograd.gradcheck(op, (x, b))
    assert torch.autograd.gradgradcheck(op, (x, b))


@settings(max_examples=60)
@given(
    shape=st.tuples(st.integers(0, 2), st.sampled_from([1, 2, 3, 65]), UP_TO_8, UP_TO_8),
    taps=st.tuples(st.integers(1, 6), st.integers(1, 6)),
    separable=st.booleans(),
    up=st.tuples(FACTOR, FACTOR),
    down=st.tuples(FACTOR, FACTOR),
    padding=st.tuples(SIDE, SIDE, SIDE, SIDE),
    flip_filter=st.booleans(),
    dtype=st.sampled_from(DTYPES),
    layout=st.sampled_from([torch.contiguous_format, torch.channels_last]),
    seed=SEED,
)
def test_upfirdn2d_equals_its_definition(
    shape, taps, separable, up, down, padding, flip_filter, dtype, layout, seed
):
    # torch refuses to crop more than there is.
    assume(shape[3] * up[0] + min(0, padding[0]) + min(0, padding[1]) > 0)
    assume(shape[2] * up[1] + min(0, padding[2]) + min(0, padding[3]) > 0)
    x = normal(seed, *shape, dtype=dtype).to(memory_format=layout)
    size = taps[:1] if separable else taps
    f = normal(seed + 1, *size, dtype=torch.float32) / taps[0]
    arguments = {"up": up, "down": down, "padding": padding, "flip_filter": flip_filter}
    try:
        ops.upfirdn2d(x.float(), f, **arguments, impl="reference")
    except ValueError:
        with pytest.raises(ValueError, match="smaller than the filter"):
            ops.upfirdn2d(x, f, **arguments, impl="cpu")
    else:
        assert_equal(ops.upfirdn2d, x, f, **arguments, gain=1.5, dtype=dtype)


@pytest.mark.parametrize("separable", [True, False])
def test_upfirdn2d_has_the_derivatives_of_its_definition(separable):
    x = normal(0, 1, 2, 5, 6).requires_grad_()
    f = ops.setup_filter([1.0, 3, 2, 1], separable=separable)

    def op(x):
        padding = [2, -1, 1, 3]
        return ops.upfirdn2d(x, f, up=[3, 2], down=[2, 1], padding=padding, impl="cpu").square()

    assert torch.autograd.gradcheck(op, x)
    assert torch.autograd.gradgradcheck(op, x)


@settings(max_examples=40)
@given(
    shape=st.tuples(st.integers(0, 2), st.integers(1, 3), st.integers(4, 40), st.integers(4, 40)),
    taps=st.tuples(st.integers(1, 8), st.integers(1, 8)),
    separable=st.tuples(st.booleans(), st.booleans()),
    up=FACTOR,
    down=FACTOR,
    padding=st.tuples(SIDE, SIDE, SIDE, SIDE),
    clamp=st.sampled_from([None, 0.5]),
    dtype=st.sampled_from(DTYPES),
    seed=SEED,
)
def test_filtered_lrelu_equals_its_definition(
    shape, taps, separable, up, down, padding, clamp, dtype, seed
):
    x, b = normal(seed, *shape, dtype=dtype), normal(seed + 1, shape[1], dtype=dtype)
    filters = [
        normal(seed + i, *([size] if is_1d else [size, size]), dtype=torch.float32) / size
        for i, (size, is_1d) in enumerate(zip(taps, separable, strict=True))
    ]
    arguments = {"up": up, "down": down, "padding": padding, "clamp": clamp}
    height = shape[2] * up + padding[2] + padding[3]
    width = shape[3] * up + padding[0] + padding[1]
    if min(height, width) < sum(taps) - 1:
        with pytest.raises(ValueError, match="fu and fd"):
            ops.filtered_lrelu(x, filters[0], filters[1], b, **arguments, impl="cpu")
    else:
        assert_equal(ops.filtered_lrelu, x, *filters, b, **arguments, dtype=dtype)


def test_filtered_lrelu_has_the_derivatives_of_its_definition():
    x, b = normal(0, 1, 2, 5, 6).requires_grad_(), normal(1, 2).requires_grad_()
    fu, fd = ops.setup_filter([1.0, 3, 2, 1], separable=True), ops.setup_filter([1.0, 2, 3])

    def op(x, b):
        arguments = {"up": 2, "down": 2, "padding": [3, 2, 4, 1], "clamp": 0.7, "impl": "cpu"}
        return ops.filtered_lrelu(x, fu, fd, b, **arguments)

    assert torch.autograd.gradcheck(op, (x, b))
    assert torch.autograd.gradgradcheck(op, (x, b))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("noise_shape", [None, (6, 5), (1, 1, 6, 5), (2, 1, 6, 5)])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_modulated_conv2d_equals_its_definition(dtype, noise_shape, layout):
    x = normal(0, 2, 3, 6, 5, dtype=dtype).to(memory_format=layout)
    weight, styles = normal(1, 4, 3, 3, 3, dtype=dtype), normal(2, 2, 3, dtype=dtype)
    noise = None if noise_shape is None else normal(3, *noise_shape, dtype=dtype)
    assert_equal(ops.modulated_conv2d, x, weight, styles, noise, padding=1, dtype=dtype)


@settings(max_examples=40)
@given(
    shape=st.tuples(st.integers(0, 2), st.integers(1, 5), UP_TO_8, UP_TO_8),
    act=st.sampled_from(list(ops.ACTIVATIONS)),
    noises=st.sampled_from([None, 1, "n"]),
    has_bias=st.booleans(),
    clamp=st.sampled_from([None, 0.5]),
    dtype=st.sampled_from(DTYPES),
    layout=st.sampled_from([torch.contiguous_format, torch.channels_last]),
    seed=SEED,
)
def test_what_surrounds_a_modulated_convolution_equals_its_definition(
    shape, act, noises, has_bias, clamp, dtype, layout, seed
):
    n, c, h, w = shape
    x = normal(seed, *shape, dtype=dtype).to(memory_format=layout)
    s, b = normal(seed + 1, n, c, dtype=dtype), normal(seed + 2, c, dtype=dtype)
    noise = normal(seed + 3, n if noises == "n" else 1, 1, h, w, dtype=dtype)
    inputs = (x, s, noise if noises else None, b if has_bias else None)
    assert_equal(modulate, *inputs, act=act, clamp=clamp, dtype=dtype)


def test_a_fresh_image_is_written_over_only_where_no_gradient_is_asked_for(monkeypatch):
    monkeypatch.delenv("REFINE_OPS")
    x, s = normal(0, 1, 4, 512, 512, dtype=torch.float32), normal(1, 1, 4, dtype=torch.float32)
    wanted, fresh = modulate(x, s, act="lrelu", impl="reference"), x.clone()
    modulate(fresh, s.requires_grad_(), act="lrelu", is_fresh=True)
    assert torch.equal(fresh, x)
    with torch.no_grad():
        y = modulate(fresh, s, act="lrelu", is_fresh=True)
    assert y.data_ptr() == fresh.data_ptr()
    torch.testing.assert_close(y, wanted)


@pytest.mark.parametrize("act", ["linear", "lrelu", "swish"])
def test_what_surrounds_a_modulated_convolution_has_the_derivatives_of_its_definition(act):
    shapes = [(2, 3, 3, 4), (2, 3), (2, 1, 3, 4), (3,)]
    inputs = tuple(normal(i, *shape).requires_grad_() for i, shape in enumerate(shapes))

    def op(x, s, noise, b):
        return modulate(x, s, noise, b, act=act, gain=1.3, clamp=0.9, impl="cpu")

    assert torch.autograd.gradcheck(op, inputs)
    assert torch.autograd.gradgradcheck(op, inputs)


def test_modulated_conv2d_has_the_derivatives_of_its_definition():
    shapes = [(2, 2, 3, 4), (3, 2, 3, 3), (2, 2), (1, 1, 3, 4)]
    inputs = tuple(normal(i, *shape).requires_grad_() for i, shape in enumerate(shapes))

    def op(x, weight, styles, noise):
        return ops.modulated_conv2d(x, weight, styles, noise, padding=1, impl="cpu")

    assert torch.autograd.gradcheck(op, inputs)
    assert torch.autograd.gradgradcheck(op, inputs)


def modulated(x, **dtypes):
    """A modulated convolution of which some inputs have another dtype."""
    shapes = {"weight": (2, 3, 3, 3), "styles": (1, 3), "noise": (4, 4), "bias": (2,)}
    drawn = [torch.ones(shape, dtype=dtypes.get(name)) for name, shape in shapes.items()]
    return ops.modulated_conv2d(x, *drawn[:3], bias=drawn[3], padding=1, impl="cpu")


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda x: ops.bias_act(x, impl="fast"), "impl is 'fast'"),
        (lambda x: ops.bias_act(x, impl="cuda"), "impl is 'cuda'; allowed are auto, ref"),
        (lambda x: ops.bias_act(x.half(), impl="cpu"), "x is torch.float16"),
        (lambda x: ops.bias_act(x.int(), impl="cpu"), "x is torch.int32"),
        (lambda x: ops.bias_act(x, clamp=-1, impl="cpu"), "clamp is -1"),
        (lambda x: ops.bias_act(x, torch.ones(3).half(), impl="cpu"), "b is"),
        (lambda x: ops.bias_act(x.new_empty(1).expand(2**31), impl="cpu"), "x has 2147483648"),
        (
            lambda x: ops.upfirdn2d(x, torch.ones(2, requires_grad=True), impl="cpu"),
            "f requires a gradient",
        ),
        (lambda x: ops.upfirdn2d(x, torch.ones(2, 3).T, impl="cpu"), "f, the filter, is not con"),
        (lambda x: ops.upfirdn2d(x, torch.ones(2).int(), impl="cpu"), "f, the filter, is .*int32"),
        (lambda x: ops.filtered_lrelu(x, torch.ones(4)[::2], impl="cpu"), "fu, the filter, is not"),
        (lambda x: ops.filtered_lrelu(x, fd=torch.ones(4)[::2], impl="cpu"), "fd, the filter, is"),
        (lambda x: ops.filtered_lrelu(x, clamp=-1, impl="cpu"), "clamp is -1"),
        (
            lambda x: modulated(x, weight=torch.float64),
            "weight is torch.float64; it must be float32",
        ),
        (lambda x: modulated(x, styles=torch.float16), "styles is torch.float16"),
        (lambda x: modulated(x, noise=torch.float64), "noise is torch.float64"),
        (lambda x: modulated(x, bias=torch.float64), "b is .*torch.float64"),
        (
            lambda x: ops.conv3x3(x, torch.ones(2, 3, 3, 3).double(), impl="cpu"),
            "w is torch.float64",
        ),
        (lambda x: modulate(x, torch.ones(1, 2), impl="cpu"), r"s is \[1, 2\]"),
    ],
)
def test_a_kernel_refuses_what_it_cannot_do_by_the_name_of_the_argument(call, words):
    with pytest.raises(ValueError, match=words):
        call(torch.zeros(1, 3, 4, 4))
