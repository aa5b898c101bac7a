"""upfirdn2d against its definition in SciPy, its adjoint, and the filters of every kind."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import scipy.signal
import torch

from stylegan_ops import downsample2d, filter2d, setup_filter, upfirdn2d, upsample2d


def definition(x, f, *, up, down, padding, flip_filter, gain) -> np.ndarray:
    """Insert zeros, pad or crop, convolve where the filter fits, keep every down-th pixel."""
    n, c, h, w = x.shape
    x0, x1, y0, y1 = padding
    canvas = np.zeros([n, c, h * up[1], w * up[0]])
    canvas[:, :, :: up[1], :: up[0]] = x
    canvas = np.pad(
        canvas, [(0, 0), (0, 0), *((max(a, 0), max(b, 0)) for a, b in [(y0, y1), (x0, x1)])]
    )
    height, width = canvas.shape[2:]
    canvas = canvas[:, :, max(-y0, 0) : height - max(-y1, 0), max(-x0, 0) : width - max(-x1, 0)]
    f = np.ones([1, 1]) if f is None else np.outer(f, f) if f.ndim == 1 else f
    f = f[::-1, ::-1] if flip_filter else f
    rows = [[scipy.signal.convolve2d(image, f, mode="valid") for image in row] for row in canvas]
    return gain * np.array(rows)[:, :, :: down[1], :: down[0]]


def random_case(seed: int) -> tuple[torch.Tensor, torch.Tensor | None, dict[str, Any]]:
    """An image, a filter without any symmetry, and every option."""
    rng = np.random.default_rng(seed)
    shapes = [None, [1], [3], [8], [2, 5], [4, 4], [3, 1]]
    shape = shapes[seed % len(shapes)]
    f = None if shape is None else torch.from_numpy(rng.standard_normal(shape).astype(np.float32))
    options = {
        "up": rng.integers(1, 4, 2).tolist(),
        "down": rng.integers(1, 4, 2).tolist(),
        "padding": rng.integers(-2, 5, 4).tolist(),
        "flip_filter": bool(rng.integers(2)),
        "gain": 1.5,
    }
    return torch.from_numpy(rng.standard_normal([2, 2, 12, 13])), f, options


@pytest.mark.parametrize("seed", range(28))
def test_it_inserts_zeros_pads_convolves_and_decimates(seed):
    x, f, options = random_case(seed)
    expected = definition(x.numpy(), None if f is None else f.numpy(), **options)
    # The filter is scaled by the gain in float32.
    np.testing.assert_allclose(upfirdn2d(x, f, **options).numpy(), expected, rtol=0, atol=1e-5)
    options["gain"] = 1
    expected = definition(x.numpy(), None if f is None else f.numpy().astype(float), **options)
    np.testing.assert_allclose(upfirdn2d(x, f, **options).numpy(), expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("seed", range(14))
def test_its_adjoint_swaps_up_and_down_and_flips_the_filter(seed):
    x, f, options = random_case(seed)
    y = upfirdn2d(x, f, **options)
    v = torch.randn_like(y)
    taps = (1, 1) if f is None else (f.shape[-1], f.shape[0])
    padding = []
    for axis, (size, up, down) in enumerate(
        zip(x.shape[:1:-1], options["up"], options["down"], strict=True)
    ):
        before = options["padding"][2 * axis]
        padding.append(taps[axis] - 1 - before)
        padding.append(size * up - y.shape[3 - axis] * down + before - up + 1)
    back = {"up": options["down"], "down": options["up"], "padding": padding}
    adjoint = upfirdn2d(v, f, flip_filter=not options["flip_filter"], gain=options["gain"], **back)
    assert adjoint.shape == x.shape
    torch.testing.assert_close((y * v).sum(), (x * adjoint).sum(), rtol=1e-10, atol=1e-10)
    leaf = x.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(upfirdn2d(leaf, f, **options), leaf, v)
    torch.testing.assert_close(gradient, adjoint, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("f", [None, torch.randn(3), torch.randn(2, 3)])
def test_first_and_second_derivatives_are_exact(f):
    x = torch.randn(1, 2, 3, 4, dtype=torch.float64, requires_grad=True)

    def run(x):
        return upfirdn2d(x, f, up=2, down=[1, 2], padding=[2, 1, -1, 3], gain=2).sin()

    assert torch.autograd.gradcheck(run, (x,))
    assert torch.autograd.gradgradcheck(run, (x,))


def test_a_separable_filter_is_its_outer_product():
    x, f = torch.randn(1, 2, 9, 9, dtype=torch.float64), torch.randn(4)
    options: dict[str, Any] = {"up": 2, "down": 3, "padding": [3, 2, 1, 4], "gain": 4}
    outer = torch.outer(f.double(), f.double())
    torch.testing.assert_close(upfirdn2d(x, f, **options), upfirdn2d(x, outer, **options))


@pytest.mark.parametrize("taps", [[1, 3, 3, 1], [1, 2, 1], [1, 1], [1, 1, 2, 2, 2, 3, 1, 1, 1]])
def test_resampling_keeps_constants_away_from_the_border(taps):
    f = setup_filter(taps)
    x = torch.full([1, 1, 24, 24], 2.5, dtype=torch.float64)
    for y, size in (
        (filter2d(x, f), 24),
        (upsample2d(x, f), 48),
        (downsample2d(x, f), 12),
        (downsample2d(x, f, down=3), 8),
    ):
        assert y.shape == (1, 1, size, size)
        inner = y[:, :, size // 4 : -size // 4, size // 4 : -size // 4]
        torch.testing.assert_close(inner, torch.full_like(inner, 2.5), rtol=1e-6, atol=0)


def test_padding_of_the_resamplers_is_beyond_what_keeps_the_size():
    x, f = torch.randn(1, 1, 8, 8), setup_filter([1, 3, 3, 1])
    assert filter2d(x, f, padding=[1, 2, 3, 4]).shape == (1, 1, 15, 11)
    assert torch.equal(filter2d(x, f, padding=-1), filter2d(x, f)[:, :, 1:-1, 1:-1])
    assert torch.equal(upsample2d(x, f, padding=-2), upsample2d(x, f)[:, :, 2:-2, 2:-2])
    assert downsample2d(x, f, padding=2).shape == (1, 1, 6, 6)


def test_setup_filter_normalises_flips_scales_and_keeps_long_filters_separable():
    short = [1.0, 3.0, 3.0, 1.0]
    torch.testing.assert_close(setup_filter(short), torch.outer(*[torch.tensor(short) / 8] * 2))
    long = torch.arange(1.0, 9.0)
    torch.testing.assert_close(setup_filter(long), long / 36)
    torch.testing.assert_close(setup_filter(long, separable=False).sum(), torch.tensor(1.0))
    assert setup_filter(long, separable=False).shape == (8, 8)
    torch.testing.assert_close(setup_filter(short, separable=True), torch.tensor(short) / 8)
    square = torch.tensor([[1.0, 2.0], [3.0, 4.0]])
    flipped = setup_filter(square, normalize=False, flip_filter=True, gain=4)
    assert flipped.tolist() == [[16.0, 12.0], [8.0, 4.0]]
    assert setup_filter(long, normalize=False, gain=4).tolist() == (2 * long).tolist()
    assert setup_filter(None).tolist() == [[1.0]]
    assert setup_filter(5, normalize=False, separable=True).tolist() == [5.0]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"up": 0}, "up is 0; it must be at least 1"),
        ({"down": [2, 0]}, r"down is \[2, 0\]"),
        ({"padding": [1, 2, 3]}, r"padding is \[1, 2, 3\]; give"),
        ({"f": torch.zeros(1, 1, 1)}, r"the filter, is \[1, 1, 1\]"),
        ({"f": torch.zeros(6)}, "x is 5 x 5.*smaller than the filter, 6 x 6 taps"),
        ({"padding": -3}, "x is 5 x 5: with up 1 and padding -3"),
        ({"x": torch.zeros(5, 5)}, r"x is \[5, 5\]; it must be \[n, c, h, w\]"),
    ],
)
def test_an_argument_that_does_not_fit_is_named(arguments, message):
    with pytest.raises(ValueError, match=message):
        upfirdn2d(**{"x": torch.zeros(1, 1, 5, 5), **arguments})


@pytest.mark.parametrize("f", [[], torch.zeros(1, 1, 1), [[]]])
def test_a_filter_without_taps_or_of_three_dimensions_is_refused(f):
    with pytest.raises(ValueError, match="the filter is"):
        setup_filter(f)
