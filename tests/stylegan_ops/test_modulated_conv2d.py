"""modulated_conv2d against per-sample weights (Karras et al. 2020, arXiv:1912.04958, eq. 1, 3)."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from stylegan_ops import conv2d_resample, modulated_conv2d, setup_filter

FILTER = setup_filter([1.0, 2.0, 4.0, 0.5])
WAYS: dict[str, dict[str, Any]] = {
    "same size": {"padding": 1},
    "up": {"up": 2, "padding": 1, "flip_weight": False},
    "down": {"down": 2, "padding": 1},
    "no demodulation": {"padding": 1, "demodulate": False},
}


def per_sample(x, weight, styles, noise, *, demodulate=True, **options) -> torch.Tensor:
    """Each sample convolved with its own weights, modulated and demodulated explicitly."""
    images = []
    for image, style in zip(x, styles, strict=True):
        w = style[None, :, None, None] * weight
        if demodulate:
            w = w / (w.square().sum(dim=[1, 2, 3], keepdim=True) + 1e-8).sqrt()
        images.append(conv2d_resample(image[None], w, FILTER, **options))
    return torch.cat(images) + (0 if noise is None else noise)


def world(size: int = 3) -> tuple[torch.Tensor, ...]:
    """An image, weights and styles, in float64 with gradients."""
    shapes = ([2, 3, 4, 4], [2, 3, size, size], [2, 3])
    return tuple(torch.randn(s, dtype=torch.float64, requires_grad=True) for s in shapes)


@pytest.mark.parametrize("size", [1, 3])
@pytest.mark.parametrize("way", WAYS)
def test_value_first_and_second_gradient_are_those_of_per_sample_weights(way, size):
    options = {**WAYS[way], "padding": size // 2}
    leaves = world(size)
    noise = torch.randn([], dtype=torch.float64)
    x, weight, styles = leaves
    results = []
    for y in (
        modulated_conv2d(x, weight, styles, noise, resample_filter=FILTER, **options),
        per_sample(x, weight, styles, noise, **options),
    ):
        first = torch.autograd.grad(y.sin().sum(), leaves, create_graph=True)
        second = torch.autograd.grad(torch.stack([g.square().sum() for g in first]).sum(), leaves)
        results.append([y, *first, *second])
    for ours, theirs in zip(*results, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("way", WAYS)
def test_first_and_second_derivatives_are_exact(way):
    leaves = world()

    def run(x, weight, styles):
        return modulated_conv2d(x, weight, styles, resample_filter=FILTER, **WAYS[way])

    assert torch.autograd.gradcheck(run, leaves, fast_mode=True)
    assert torch.autograd.gradgradcheck(run, leaves, fast_mode=True)


def test_demodulated_output_does_not_know_the_scale_of_weights_or_styles():
    x, weight, styles = world()
    y = modulated_conv2d(x, weight, styles, padding=1)
    scaled = modulated_conv2d(x, 100 * weight, 7 * styles, padding=1)
    torch.testing.assert_close(y, scaled, rtol=1e-6, atol=1e-6)


def test_demodulated_output_of_white_noise_has_unit_variance():
    x = torch.randn(4, 16, 32, 32)
    y = modulated_conv2d(x, torch.randn(8, 16, 3, 3), torch.randn(4, 16), padding=1)
    inner = y[:, :, 1:-1, 1:-1]
    torch.testing.assert_close(inner.std(dim=[2, 3]), torch.ones(4, 8), rtol=0, atol=0.15)


def test_noise_is_added_after_the_demodulation_once_a_pixel():
    x, weight, styles = world()
    noise = torch.randn(2, 1, 4, 4, dtype=torch.float64)
    for demodulate in (True, False):
        quiet = modulated_conv2d(x, weight, styles, padding=1, demodulate=demodulate)
        loud = modulated_conv2d(x, weight, styles, noise, padding=1, demodulate=demodulate)
        torch.testing.assert_close(loud - quiet, noise.expand_as(quiet), rtol=0, atol=1e-12)


def test_half_precision_neither_overflows_nor_changes_the_result():
    x = torch.randn(2, 64, 8, 8)
    weight, styles = 300 * torch.randn(8, 64, 3, 3), 500 * torch.randn(2, 64)
    half = modulated_conv2d(x.half(), weight, styles, padding=1)
    assert half.dtype == torch.float16
    full = modulated_conv2d(x, weight, styles, padding=1)
    torch.testing.assert_close(half.float(), full, rtol=0, atol=2e-2)


def test_an_argument_that_does_not_fit_is_named():
    x, weight, styles = world()
    with pytest.raises(ValueError, match=r"styles is \[2, 2\]; it must be \[2, 3\]"):
        modulated_conv2d(x, weight, styles[:, :2])
    with pytest.raises(ValueError, match=r"w is \[2, 2, 3, 3\]"):
        modulated_conv2d(x, weight[:, :2], styles)
