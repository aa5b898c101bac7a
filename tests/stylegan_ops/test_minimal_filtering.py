"""3 x 3 convolutions by minimal filtering: equal to direct ones, taken where they win."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils.flop_counter import FlopCounterMode

import stylegan_ops as ops
from stylegan_ops.kernels.choice import available
from stylegan_ops.kernels.winograd import conv3x3
from stylegan_ops.upfirdn2d import upfirdn2d


@pytest.fixture(scope="module", autouse=True)
def kernels() -> None:
    if not available():
        pytest.skip("no C++ compiler here, so no CPU kernels")


# Whole groups of 64 channels, 16 columns and 6 rows take other paths than what is left of them.
CHANNELS = st.integers(1, 8) | st.sampled_from([64, 70])


def normal(seed, *shape):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


@settings(max_examples=25)
@given(
    shape=st.tuples(st.integers(1, 3), CHANNELS, st.integers(1, 19), st.integers(1, 19)),
    out=CHANNELS,
    is_scaled=st.booleans(),
    is_doubled=st.booleans(),
    seed=st.integers(0, 2**31),
)
def test_minimal_filtering_equals_convolution_and_its_first_and_second_derivatives(
    shape, out, is_scaled, is_doubled, seed
):
    n, inner, height, width = shape
    x, w = normal(seed, *shape), normal(seed + 1, out, inner, 3, 3)
    s, taps = normal(seed + 2, n, inner) if is_scaled else None, normal(seed + 3, 4, 4)
    size = [height * 2, width * 2] if is_doubled else [height, width]
    g = normal(seed + 4, n, out, *size).double()

    def definition(x, w, s):
        x = x if s is None else x * s[:, :, None, None]
        if is_doubled:
            x = upfirdn2d(x, taps, up=2, padding=[3, 2, 3, 2], flip_filter=True, impl="reference")
        return F.conv2d(x, w, padding=0 if is_doubled else 1)

    def minimal(x, w, s):
        return conv3x3(x, w, s, taps if is_doubled else None)

    found = []
    for op, dtype in ((minimal, torch.float32), (definition, torch.float64)):
        leaves = [t.to(dtype).detach().requires_grad_() for t in (x, w, s) if t is not None]
        y = op(*leaves, *([] if is_scaled else [None]))
        first = torch.autograd.grad(y, leaves, g.to(y.dtype), create_graph=True)
        squares = torch.stack([gradient.square().sum() for gradient in first]).sum()
        found.append([y, *first, *torch.autograd.grad(squares, leaves)])
    for ours, wanted in zip(*found, strict=True):
        # Rounding is relative to the largest terms of a sum, not to its result.
        scale = float(wanted.detach().abs().amax())
        atol = 5e-5 * max(1.0, scale)
        torch.testing.assert_close(ours.double(), wanted, rtol=0, atol=atol)


def test_wide_layers_take_minimal_filtering_and_narrow_ones_do_not(monkeypatch):
    monkeypatch.delenv("REFINE_OPS")
    for channels, is_fast in ((128, True), (16, False)):
        x = normal(0, 16, channels, 24, 24)
        w, bias = (
            normal(1, channels, channels, 3, 3) / (3 * channels**0.5),
            normal(2, channels),
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
    assert conv3x3(torch.ones(0, 3, 5, 6), torch.ones(2, 3, 3, 3)).shape == (0, 2, 5, 6)


@pytest.mark.parametrize("flip_weight", [True, False])
@pytest.mark.parametrize("flip_filter", [True, False])
def test_a_doubling_convolution_by_minimal_filtering_equals_its_definition(
    flip_weight, flip_filter, monkeypatch
):
    monkeypatch.delenv("REFINE_OPS")
    x, w = normal(0, 16, 128, 24, 24), normal(1, 128, 128, 3, 3) / 34
    f = ops.setup_filter([[1.0, 3, 3, 1], [2, 1, 4, 1], [3, 0, 1, 2], [1, 1, 1, 5]])
    arguments = {"up": 2, "padding": 1, "flip_weight": flip_weight, "flip_filter": flip_filter}
    ours = ops.conv2d_resample(x, w, f, **arguments)
    wanted = ops.conv2d_resample(x.double(), w.double(), f, **arguments)
    torch.testing.assert_close(ours.double(), wanted, rtol=0, atol=2e-5)
    # Another order of sums: equality to the last bit would say that the kernel did not run.
    assert not torch.equal(ours, ops.conv2d_resample(x, w, f, **arguments, impl="reference"))


@pytest.mark.parametrize("is_doubled", [False, True])
def test_a_counter_sees_the_work_of_the_convolution_that_is_replaced(is_doubled):
    x, w = normal(1, 2, 8, 6, 5).requires_grad_(), normal(2, 4, 8, 3, 3).requires_grad_()
    with FlopCounterMode(display=False) as ours:
        conv3x3(x, w, None, normal(3, 4, 4) if is_doubled else None).sum().backward()
    with FlopCounterMode(display=False) as theirs:
        if is_doubled:
            F.conv_transpose2d(x, w.transpose(0, 1), stride=2).sum().backward()
        else:
            F.conv2d(x, w, padding=1).sum().backward()
    assert ours.get_total_flops() == theirs.get_total_flops() == 3 * 2 * w.numel() * 2 * 6 * 5
