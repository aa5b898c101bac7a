"""CPU kernels against their definitions: values, derivatives, registration, refusals.

In double and half precision a CPU runs the arithmetic that the GPU's kernels run (arithmetic.h); in
single precision its own vector code.
"""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from hypothesis import assume, given, settings
from hypothesis import strategies as st

import stylegan_ops as ops
from stylegan_ops.kernels.choice import available

DTYPES = [torch.float32, torch.float64, torch.float16, torch.bfloat16]
# Rounding of one result of order one to ten; sums of half precision are made in single.
TOLERANCES = {torch.float32: 1e-5, torch.float64: 1e-12, torch.float16: 1e-2, torch.bfloat16: 1e-1}
UP_TO_8 = st.integers(min_value=1, max_value=8)
FACTOR = st.integers(min_value=1, max_value=4)
SIDE = st.integers(min_value=-2, max_value=5)
SEED = st.integers(min_value=0, max_value=2**31)


@pytest.fixture(scope="module", autouse=True)
def kernels() -> None:
    if not available(torch.device("cpu")):
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
    shape=st.tuples(st.integers(0, 2), st.integers(1, 3), UP_TO_8, UP_TO_8),
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


def test_modulated_conv2d_has_the_derivatives_of_its_definition():
    shapes = [(2, 2, 3, 4), (3, 2, 3, 3), (2, 2), (1, 1, 3, 4)]
    inputs = tuple(normal(i, *shape).requires_grad_() for i, shape in enumerate(shapes))

    def op(x, weight, styles, noise):
        return ops.modulated_conv2d(x, weight, styles, noise, padding=1, impl="cpu")

    assert torch.autograd.gradcheck(op, inputs)
    assert torch.autograd.gradgradcheck(op, inputs)


@settings(max_examples=30)
@given(
    shape=st.tuples(st.integers(1, 3), UP_TO_8, st.integers(1, 19), st.integers(1, 19)),
    out=UP_TO_8,
    seed=SEED,
)
def test_minimal_filtering_equals_convolution_and_its_first_and_second_derivatives(
    shape, out, seed
):
    from stylegan_ops.kernels.winograd import conv3x3

    x, w = normal(seed, *shape, dtype=torch.float32), normal(seed + 1, out, shape[1], 3, 3).float()
    g = normal(seed + 2, shape[0], out, *shape[2:]).double()
    found = []
    for op, dtype in ((conv3x3, torch.float32), (lambda x, w: F.conv2d(x, w, padding=1), None)):
        leaves = [t.to(dtype or torch.float64).detach().requires_grad_() for t in (x, w)]
        y = op(*leaves)
        first = torch.autograd.grad(y, leaves, g.to(y.dtype), create_graph=True)
        squares = torch.stack([gradient.square().sum() for gradient in first]).sum()
        found.append([y, *first, *torch.autograd.grad(squares, leaves)])
    for ours, wanted in zip(*found, strict=True):
        # Rounding is relative to the largest terms of a sum, not to its result.
        scale = float(wanted.detach().abs().amax())
        atol = 2e-5 * max(1.0, scale)
        torch.testing.assert_close(ours.double(), wanted, rtol=0, atol=atol)


def test_wide_layers_take_minimal_filtering_and_narrow_ones_do_not(monkeypatch):
    monkeypatch.delenv("REFINE_OPS")
    for channels, is_fast in ((128, True), (16, False)):
        x = normal(0, 16, channels, 24, 24, dtype=torch.float32)
        w, bias = (
            normal(1, channels, channels, 3, 3).float() / (3 * channels**0.5),
            normal(2, channels).float(),
        )
        ours = ops.conv3x3(x, w, bias)
        wanted = F.conv2d(x, w, bias, padding=1)
        torch.testing.assert_close(ours, wanted, rtol=0, atol=2e-5)
        # Another order of sums shows in the last bits.
        assert torch.equal(ours, wanted) is not is_fast


def test_a_convolution_refuses_what_it_cannot_take():
    x, w = torch.ones(1, 2, 4, 4), torch.ones(3, 2, 3, 3)
    for bad, words in ((torch.ones(3, 1, 3, 3), "w is"), (torch.ones(3, 2, 1, 1), "w is")):
        with pytest.raises(ValueError, match=words):
            ops.conv3x3(x, bad)
    with pytest.raises(ValueError, match="impl is 'fast'"):
        ops.conv3x3(x, w, impl="fast")
    with pytest.raises(ValueError, match="takes float32"):
        ops.conv3x3(x.double(), w.double(), impl="cpu")


def test_minimal_filtering_of_no_images_is_no_images():
    from stylegan_ops.kernels.winograd import conv3x3

    assert conv3x3(torch.ones(0, 3, 5, 6), torch.ones(2, 3, 3, 3)).shape == (0, 2, 5, 6)


@pytest.mark.parametrize("flip_weight", [True, False])
@pytest.mark.parametrize("flip_filter", [True, False])
def test_a_doubling_convolution_by_minimal_filtering_equals_its_definition(
    flip_weight, flip_filter, monkeypatch
):
    monkeypatch.delenv("REFINE_OPS")
    x, w = normal(0, 16, 128, 24, 24).float(), normal(1, 128, 128, 3, 3).float() / 34
    f = ops.setup_filter([[1.0, 3, 3, 1], [2, 1, 4, 1], [3, 0, 1, 2], [1, 1, 1, 5]])
    arguments = {"up": 2, "padding": 1, "flip_weight": flip_weight, "flip_filter": flip_filter}
    ours = ops.conv2d_resample(x, w, f, **arguments)
    wanted = ops.conv2d_resample(x.double(), w.double(), f, **arguments)
    torch.testing.assert_close(ours.double(), wanted, rtol=0, atol=2e-5)
    # Another order of sums: equality to the last bit would say that the kernel did not run.
    assert not torch.equal(ours, ops.conv2d_resample(x, w, f, **arguments, impl="reference"))


@pytest.mark.slow
def test_every_operation_is_registered_as_torch_asks():
    from stylegan_ops.kernels import bias_act, filtered_lrelu, modulation, upfirdn2d, winograd

    assert bias_act and filtered_lrelu and modulation and upfirdn2d and winograd
    x, taps = normal(0, 2, 3, 8, 8).requires_grad_(), normal(1, 4, 4).float()
    b, s = normal(2, 3).requires_grad_(), normal(3, 2, 3).requires_grad_()
    noise = normal(4, 1, 1, 8, 8).requires_grad_()
    small, w = x.float().detach().requires_grad_(), normal(5, 3, 3, 3, 3).float().requires_grad_()
    calls = {
        "bias_act": (x, b, None, None, 0, 1, 2, 0.2, 1.4, 0.5),
        "upfirdn2d": (x, taps, [2, 2, 1, 1, 2, 1, 2, 1]),
        "filtered_lrelu": (x, taps, taps, b, [2, 2, 3, 3, 3, 3], 1.4, 0.2, 0.5),
        "modulate": (x, s, noise),
        "channel_dot": (x, normal(6, 2, 3, 8, 8).requires_grad_()),
        "conv3x3": (small, w),
    }
    for name, arguments in calls.items():
        torch.library.opcheck(getattr(torch.ops.stylegan_ops, name).default, arguments)


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda x: ops.bias_act(x, impl="fast"), "impl is 'fast'"),
        (lambda x: ops.bias_act(x, impl="cuda"), "impl is 'cuda', but x is on cpu"),
        (lambda x: ops.bias_act(x.int(), impl="cpu"), "x is torch.int32"),
        (lambda x: ops.bias_act(x, clamp=-1, impl="cpu"), "clamp is -1"),
        (lambda x: ops.bias_act(x, torch.ones(3).half(), impl="cpu"), "b is"),
        (lambda x: ops.bias_act(x.new_empty(1).expand(2**31), impl="cpu"), "x has 2147483648"),
        (
            lambda x: ops.upfirdn2d(x, torch.ones(2, requires_grad=True), impl="cpu"),
            "f requires a gradient",
        ),
    ],
)
def test_a_kernel_refuses_what_it_cannot_do_by_the_name_of_the_argument(call, words):
    with pytest.raises(ValueError, match=words):
        call(torch.zeros(1, 3, 4, 4))


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", DTYPES)
def test_the_kernels_of_a_gpu_equal_those_of_the_cpu(dtype):
    x, b = normal(0, 2, 3, 17, 19, dtype=dtype), normal(1, 3, dtype=dtype)
    f = ops.setup_filter([1.0, 3, 3, 1])
    weight, styles = normal(2, 4, 3, 3, 3, dtype=dtype), normal(3, 2, 3, dtype=dtype)
    calls = [
        (ops.bias_act, (x, b), {"act": "lrelu", "clamp": 0.7}),
        (ops.upfirdn2d, (x, f), {"up": 2, "down": 3, "padding": [2, -1, 1, 3]}),
        (ops.filtered_lrelu, (x, f, f, b), {"up": 2, "down": 2, "padding": 3, "clamp": 0.7}),
        (ops.modulated_conv2d, (x, weight, styles), {"padding": 1}),
    ]
    for op, tensors, arguments in calls:
        on_cpu = op(*tensors, **arguments, impl="cpu")
        on_gpu = op(*(t.cuda() for t in tensors), **arguments, impl="cuda").cpu()
        tolerance = TOLERANCES[dtype]
        torch.testing.assert_close(on_gpu, on_cpu, rtol=tolerance, atol=tolerance)
