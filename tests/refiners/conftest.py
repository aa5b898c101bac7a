"""A world where all is known: a generator whose law is Gaussian, and that law's exact denoiser."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from refiners import (
    REFINERS,
    ImageSet,
    Inputs,
    PairSet,
    Refinement,
    RunFolder,
    Session,
    Settings,
    read_state,
)
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

    def forward(self, z: torch.Tensor, c: torch.Tensor | None = None) -> torch.Tensor:
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


class PointStudent(torch.nn.Module):
    """A small network from latents to points in the plane, as images of two channels and a pixel.

    Its law starts as about N(0, scale^2 I).
    """

    def __init__(self, scale: float = 1.0, width: int = 32):
        super().__init__()
        self.z_dim, self.c_dim = 2, 0
        self.img_resolution, self.img_channels = 1, 2
        self.hidden = torch.nn.Sequential(
            torch.nn.Linear(2, width), torch.nn.SiLU(), torch.nn.Linear(width, width),
            torch.nn.SiLU(),
        )  # fmt: skip
        self.out = torch.nn.Linear(width, 2)
        torch.nn.init.zeros_(self.out.weight)
        torch.nn.init.zeros_(self.out.bias)
        self.scale = scale

    def sample_latents(self, n: int, *, generator: torch.Generator | None = None) -> torch.Tensor:
        return torch.randn([n, 2], generator=generator)

    def forward(self, z: torch.Tensor, c: torch.Tensor | None = None) -> torch.Tensor:
        return (self.scale * z + self.out(self.hidden(z)))[:, :, None, None]


class PointDenoiser(torch.nn.Module):
    """A small preconditioned denoiser of points (EDM's Table 1); enc holds its inner layers."""

    def __init__(self, width: int = 32, sigma_data: float = 1.0):
        super().__init__()
        self.img_resolution, self.img_channels, self.label_dim = 1, 2, 0
        self.sigma_min, self.sigma_max = 0.0, math.inf
        self.sigma_data = sigma_data
        self.enc = torch.nn.Sequential(
            torch.nn.Conv2d(4, width, 1), torch.nn.SiLU(), torch.nn.Conv2d(width, width, 1),
            torch.nn.SiLU(),
        )  # fmt: skip
        self.out = torch.nn.Conv2d(width, 2, 1)
        torch.nn.init.zeros_(self.out.weight)

    def forward(
        self, x: torch.Tensor, sigma: torch.Tensor, labels: torch.Tensor | None = None
    ) -> torch.Tensor:
        s = sigma[:, None, None, None].to(x)
        total = (s.square() + self.sigma_data**2).sqrt()
        level = s.log().expand(-1, 1, 1, 1) / 4
        features = self.enc(torch.cat([x / total, level, level.square()], dim=1))
        c_skip = (self.sigma_data / total).square()
        return c_skip * x + s * self.sigma_data / total * self.out(features)


class ConvDenoiser(torch.nn.Module):
    """A small denoiser of 4 x 4 images with an encoder whose maps it shows."""

    def __init__(self, width: int = 6):
        super().__init__()
        self.img_resolution, self.img_channels, self.label_dim = 4, 1, 0
        self.sigma_min, self.sigma_max = 0.0, math.inf
        self.enc = torch.nn.Sequential(torch.nn.Conv2d(2, width, 3, padding=1), torch.nn.SiLU())
        self.out = torch.nn.Conv2d(width, 1, 3, padding=1)

    def features(
        self, x: torch.Tensor, sigma: torch.Tensor, labels: torch.Tensor | None = None
    ) -> list[torch.Tensor]:
        level = sigma.log()[:, None, None, None].to(x).expand(-1, 1, 4, 4) / 4
        return [self.enc(torch.cat([x, level], dim=1))]

    def forward(
        self, x: torch.Tensor, sigma: torch.Tensor, labels: torch.Tensor | None = None
    ) -> torch.Tensor:
        s = sigma[:, None, None, None].to(x)
        total = (s.square() + 1).sqrt()
        return x / total.square() + s / total * self.out(self.features(x / total, sigma)[0])


def refine_toys(
    student: Any,
    teacher: Any,
    *,
    method: Any = None,
    kimg: float,
    batch: int | None = None,
    settings: Settings | None = None,
    outdir: Path | str | None = None,
    folder: RunFolder | None = None,
    resume: bool | Path = False,
    inputs: Inputs | None = None,
    auxiliary: Any = None,
    transfer: Path | None = None,
    processes: Any = None,
    **seen: Any,
) -> Any:
    """Carry out a run of networks that are no files; what is seen of it is as Session takes it."""
    settings = (settings or Settings()).with_length(kimg, batch)
    refinement = Refinement(
        student, teacher, method or DiffInstruct(), settings, inputs=inputs, auxiliary=auxiliary,
        processes=processes,
    )  # fmt: skip
    if transfer is not None:
        refinement.start_from(read_state(transfer))
    if folder is None and outdir is not None and refinement.processes.is_first:
        folder = RunFolder.create(Path(outdir), "refine")
    session = Session(refinement, folder, **seen)
    result = session.run_from(resume)
    session.outcome.leave()
    return result


# What refine() takes beside a method, and knobs that the toys need.
KNOBS: dict[str, dict[str, Any]] = {
    "dmd2": {"layer": "enc"},
    "f-distill": {"layer": "enc"},
    "sida": {"layer": "enc"},
    "uni-instruct": {"layer": "enc"},
    "diff-instruct-moments": {"num_reference": 200, "num_features": 8, "memory": 100},
    "adversarial-moments": {"num_reference": 200, "num_features": 8, "memory": 100},
}
NEEDS_IMAGES = (
    "dmd2",
    "f-distill",
    "sida",
    "uni-instruct",
    "diff-instruct-moments",
    "adversarial-moments",
)


def pair_and_inputs(name: str, dtype: torch.dtype = torch.float32) -> tuple[Any, Any, Any, Inputs]:
    """Return student, teacher, method of this name and its inputs; the teacher is not zero."""
    method = REFINERS[name](**KNOBS.get(name, {}))
    student, teacher = AffineStudent(-0.4, 0.3).to(dtype), ConvDenoiser().to(dtype)
    student.sample_latents = lambda n, generator=None: torch.randn(  # type: ignore[method-assign]
        [n, 16], generator=generator
    ).to(dtype)
    images, z = torch.randn(100, 1, 4, 4).to(dtype), torch.randn(100, 16).to(dtype)
    inputs = Inputs(
        ImageSet(images) if name in NEEDS_IMAGES else None,
        PairSet(z, images) if name == "dmd" else None,
    )
    return student, teacher, method, inputs


@pytest.fixture
def world() -> Callable[..., Any]:
    """Make student, teacher, method and inputs for the name of a method."""
    return pair_and_inputs


@pytest.fixture
def point_student() -> Callable[..., Any]:
    """Make a student of points in the plane."""
    return PointStudent


@pytest.fixture
def point_denoiser() -> Callable[..., Any]:
    """Make a trainable denoiser of points in the plane."""
    return PointDenoiser


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
        rates = {"rampup_kimg": 0, "decay_kimg": 0, "auxiliary_steps": 1}
        averages = {"ema": 0.1, "auxiliary_ema": 5.0}
        return Settings(**{**short, **rates, **averages, "tick": 0.064, **changes})

    return make


@pytest.fixture
def refinement(settings: Callable[..., Settings]) -> Callable[..., Refinement]:
    """Start a run: student N(-0.4, 0.3^2), teacher N(0.3, 0.5^2) unless others are given."""

    def make(
        student: Any = None,
        teacher: Any = None,
        method: Any = None,
        *,
        inputs: Inputs | None = None,
        **changes: Any,
    ) -> Refinement:
        student = student or AffineStudent(-0.4, 0.3)
        teacher = teacher or GaussianDenoiser(0.3, 0.5)
        method = method or DiffInstruct()
        return Refinement(student, teacher, method, settings(**changes), inputs=inputs)

    return make


@pytest.fixture
def weights() -> Callable[[torch.nn.Module], dict[str, torch.Tensor]]:
    """Copy a module's parameters and buffers."""
    return lambda module: copy.deepcopy(dict(module.state_dict()))
