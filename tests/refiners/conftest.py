"""A world where all is known: a generator whose law is Gaussian, and that law's exact denoiser."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from typing import Any

import pytest
import torch

from refiners import Refinement, Settings
from refiners.diff_instruct import DiffInstruct


class AffineStudent(torch.nn.Module):
    """x_0 = mean + std z as a square image: its law is N(mean, std^2 I)."""

    def __init__(self, mean: float, std: float, *, c_dim: int = 0, img_resolution: int = 4):
        super().__init__()
        self.mean = torch.nn.Parameter(torch.tensor(mean))
        self.std = torch.nn.Parameter(torch.tensor(std))
        self.z_dim = img_resolution**2
        self.c_dim = c_dim
        self.img_resolution = img_resolution
        self.img_channels = 1

    def sample_latents(self, n: int, *, generator: torch.Generator | None = None) -> torch.Tensor:
        return torch.randn([n, self.z_dim], generator=generator)

    def forward(
        self, z: torch.Tensor, c: torch.Tensor | None = None, *, noise_mode: str = "random"
    ) -> torch.Tensor:
        r = self.img_resolution
        return (self.mean + self.std * z).reshape(-1, 1, r, r)


class GaussianDenoiser(torch.nn.Module):
    """The exact denoiser of N(mean, std^2 I), which can be trained to be that of another Gaussian.

    It notes what it was called with.
    """

    def __init__(self, mean: float, std: float, *, label_dim: int = 0, img_resolution: int = 4):
        super().__init__()
        self.mean = torch.nn.Parameter(torch.tensor(mean))
        self.log_std = torch.nn.Parameter(torch.tensor(math.log(std)))
        self.img_resolution = img_resolution
        self.img_channels = 1
        self.label_dim = label_dim
        self.label_dropout = 0.0
        self.sigma_min = 0.0
        self.sigma_max = math.inf
        self.seen: tuple[torch.Tensor, torch.Tensor, torch.Tensor | None] | None = None

    def forward(
        self, x: torch.Tensor, sigma: torch.Tensor, labels: torch.Tensor | None = None
    ) -> torch.Tensor:
        self.seen = (x.detach(), sigma, labels)
        prior, noise = (2 * self.log_std).exp(), sigma.square()[:, None, None, None]
        return (prior * x + noise * self.mean) / (prior + noise)


@pytest.fixture
def affine() -> Callable[..., Any]:
    """Make a student whose law is N(mean, std^2 I)."""
    return AffineStudent


@pytest.fixture
def gaussian() -> Callable[..., Any]:
    """Make the trainable exact denoiser of N(mean, std^2 I)."""
    return GaussianDenoiser


@pytest.fixture
def settings() -> Callable[..., Settings]:
    """Make the settings of a short run on toys: 10 steps of warm-up, 20 of refinement, batch 16."""

    def make(**changes: Any) -> Settings:
        short = {"kimg": 0.32, "batch": 16, "glr": 0.02, "lr": 0.02, "warmup_kimg": 0.16}
        averages = {"rampup_kimg": 0, "ema_kimg": 0.1, "auxiliary_ema": 5.0, "auxiliary_steps": 1}
        return Settings(**{**short, **averages, "tick": 0.064, **changes})

    return make


@pytest.fixture
def refinement(settings: Callable[..., Settings]) -> Callable[..., Refinement]:
    """Start a run: student N(-0.4, 0.3^2), teacher N(0.3, 0.5^2) unless others are given."""

    def make(student: Any = None, teacher: Any = None, method: Any = None, **changes: Any) -> Any:
        student = student or AffineStudent(-0.4, 0.3)
        teacher = teacher or GaussianDenoiser(0.3, 0.5)
        return Refinement(student, teacher, method or DiffInstruct(), settings(**changes))

    return make


@pytest.fixture
def weights() -> Callable[[torch.nn.Module], dict[str, torch.Tensor]]:
    """Copy a module's parameters and buffers."""
    return lambda module: copy.deepcopy(dict(module.state_dict()))
