"""conv2d_resample's fast paths against the three steps that define it, written out."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import torch
import torch.nn.functional as F

from stylegan_ops import conv2d_resample, setup_filter, upfirdn2d

# Without any symmetry, so that a flip or a shift shows.
FILTERS = {
    "none": None,
    "short": setup_filter([1.0, 2.0, 4.0, 0.5]),
    "odd": setup_filter([[1.0, 2.0, 0.1], [3.0, 1.0, 0.2], [0.0, 1.0, 2.0]]),
    "separable": setup_filter([1.0, 2.0, 3.0, 5.0, 1.0, 0.5, 2.0, 1.0]),
}


def three_steps(x, w, f, *, up, down, padding, groups, flip_weight, flip_filter) -> torch.Tensor:
    """Upsample with f, correlate with w, downsample with f; nothing is reordered."""
    taps = (1, 1) if f is None else (f.shape[-1], f.shape[0])
    sides = []
    for size, before, after in zip(taps, padding[::2], padding[1::2], strict=True):
        before += (size + up - 1) // 2 if up > 1 else 0
        before += (size - down + 1) // 2 if down > 1 else 0
        after += (size - up) // 2 if up > 1 else 0
        after += (size - down) // 2 if down > 1 else 0
        sides += [before, after]
    first = f if up > 1 else None
    x = upfirdn2d(x, first, up=up, padding=sides, flip_filter=flip_filter, gain=up**2)
    x = F.conv2d(x, w if flip_weight else w.flip([2, 3]), groups=groups)
    return upfirdn2d(x, f, down=down, flip_filter=flip_filter) if down > 1 else x


CASES = list(itertools.product([1, 2, 3], [1, 2, 3], ["1x1", "3x3", "2x3"]))


@pytest.mark.parametrize("filter_name", FILTERS)
@pytest.mark.parametrize(("up", "down", "kernel"), CASES)
def test_every_path_equals_upsampling_convolving_downsampling(up, down, kernel, filter_name):
    kh, kw = map(int, kernel.split("x"))
    x = torch.randn(2, 4, 7, 6, dtype=torch.float64)
    for groups, flip, padding in (
        (1, True, [1, 1, 1, 1]),
        (2, False, [kw // 2, 2, kh // 2, 3]),
        (4, True, [0, 1, 2, 0]),
    ):
        w = torch.randn(8, 4 // groups, kh, kw, dtype=torch.float64)
        options: dict[str, Any] = {
            "up": up,
            "down": down,
            "padding": padding,
            "groups": groups,
            "flip_weight": flip,
            "flip_filter": not flip,
        }
        f = FILTERS[filter_name]
        expected = three_steps(x, w, f, **options)
        torch.testing.assert_close(conv2d_resample(x, w, f, **options), expected)


@pytest.mark.parametrize(("up", "down"), [(1, 1), (2, 1), (1, 2), (2, 2)])
@pytest.mark.parametrize("size", [1, 3])
def test_first_and_second_derivatives_are_exact(up, down, size):
    x = torch.randn(1, 2, 4, 4, dtype=torch.float64, requires_grad=True)
    w = torch.randn(2, 2, size, size, dtype=torch.float64, requires_grad=True)

    def run(x, w):
        return conv2d_resample(x, w, FILTERS["odd"], up=up, down=down, padding=size // 2)

    assert torch.autograd.gradcheck(run, (x, w), fast_mode=True)
    assert torch.autograd.gradgradcheck(run, (x, w), fast_mode=True)


def test_the_size_is_multiplied_by_up_and_divided_by_down():
    x, w, f = torch.randn(1, 2, 8, 8), torch.randn(3, 2, 3, 3), setup_filter([1, 3, 3, 1])
    assert conv2d_resample(x, w, f, up=2, padding=1).shape == (1, 3, 16, 16)
    assert conv2d_resample(x, w, f, down=2, padding=1).shape == (1, 3, 4, 4)
    assert conv2d_resample(x, w, f, up=2, down=4, padding=1).shape == (1, 3, 4, 4)
    assert conv2d_resample(x, w, padding=[-1, 0]).shape == (1, 3, 6, 4)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"up": 0}, "up is 0; it must be at least 1"),
        ({"down": -2}, "down is -2"),
        ({"w": torch.zeros(2, 4, 3, 3)}, r"w is \[2, 4, 3, 3\]; it must be \[out, 2 / groups"),
        ({"w": torch.zeros(3, 1, 3, 3), "groups": 2}, r"w is \[3, 1, 3, 3\].*groups is 2"),
        ({"w": torch.zeros(2, 2, 3, 3, dtype=torch.float64)}, "w is torch.float64"),
        ({"x": torch.zeros(2, 5, 5)}, r"x is \[2, 5, 5\]"),
        ({"padding": [1]}, r"padding is \[1\]"),
        ({"f": torch.zeros(1, 1, 1), "up": 2}, "the filter, is"),
    ],
)
def test_an_argument_that_does_not_fit_is_named(arguments, message):
    with pytest.raises(ValueError, match=message):
        conv2d_resample(**{"x": torch.zeros(1, 2, 5, 5), "w": torch.zeros(2, 2, 3, 3), **arguments})
