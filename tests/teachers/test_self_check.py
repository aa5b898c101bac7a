"""A denoiser that denoises is no worse than a linear filter; a wrong one is found to be."""

from __future__ import annotations

import math

import pytest
import torch

from teachers.denoiser import DenoiserModule
from teachers.gaussian import Gaussian, KernelDensity
from teachers.self_check import SIGMAS, faults, told, wiener_error


class Wrong(DenoiserModule):
    """A denoiser that is told `factor` times the noise level."""

    def __init__(self, right: DenoiserModule, factor: float):
        super().__init__(right.img_channels, right.img_resolution)
        self.right, self.factor = right, factor

    def forward(self, x, sigma, labels=None):
        # As a network of eps: it sees x of unit size, whatever it is told.
        wrong = sigma * self.factor
        scale = math.sqrt((1 + wrong**2) / (1 + sigma**2))
        eps = (scale * x - self.right(scale * x, wrong)) / wrong
        return x - sigma * eps


def test_the_bound_of_white_images_is_the_scalar_one():
    images = 0.5 * torch.randn(200, 1, 16, 16)
    for sigma in SIGMAS:
        expected = 0.25 * sigma**2 / (0.25 + sigma**2)
        # A ring of few frequencies knows its power to about a tenth, in few of the pixels.
        assert wiener_error(images, sigma) == pytest.approx(expected, rel=0.01)


def test_the_bound_of_constant_images_is_what_averaging_leaves():
    levels = torch.tensor([0.5, -0.5])[:, None, None, None]
    images = levels.expand(2, 1, 8, 8)
    # All power is at one frequency: 8 * 8 * 0.25.
    power = 16.0
    for sigma in SIGMAS:
        expected = power * sigma**2 / (power + sigma**2) / 64
        assert wiener_error(images, sigma) == pytest.approx(expected, rel=1e-6)


def test_an_exact_denoiser_has_no_faults_and_one_of_another_noise_level_has():
    centres = torch.randn(12, 1, 1, 1) + 0.3 * torch.randn(12, 1, 16, 16).cumsum(3)
    exact = KernelDensity(centres / 4, 0.05)
    chosen = torch.randint(12, [8])
    images = centres[chosen] / 4 + 0.05 * torch.randn(8, 1, 16, 16)
    assert faults(exact, images) == []
    for factor in (0.25, 0.5, 3.0):
        found = faults(Wrong(exact, factor), images)
        assert found and all(fault.error > fault.bound for fault in found)
        line = told(found)
        assert "denoises worse than a linear filter at sigma" in line and "\n" not in line


def test_what_is_not_finite_is_a_fault_and_levels_that_it_does_not_know_are_left_out():
    white = Gaussian(0.0, 0.5, img_channels=1, img_resolution=8)
    images = 0.5 * torch.randn(8, 1, 8, 8)
    found = faults(Wrong(white, math.nan), images)
    assert [fault.sigma for fault in found] == list(SIGMAS)
    assert "not finite" in told(found)
    broken = Wrong(white, math.nan)
    broken.sigma_min, broken.sigma_max = 0.4, 1.5
    assert [fault.sigma for fault in faults(broken, images)] == [0.5, 1.0]
