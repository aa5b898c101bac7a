"""The toy world of these tests: small StyleGAN2 networks in which every weight counts."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

import checkpoints
from checkpoints import Record
from students import originals
from students.stylegan2.discriminator import Discriminator
from students.stylegan2.generator import Generator

WIDTH = {"channel_base": 64, "channel_max": 6}


def off_zero(module: Any) -> Any:
    """Move noise strengths, biases and w_avg off their initial values; a frozen network."""
    for name, tensor in module.state_dict().items():
        if not name.endswith(("weight", "filter", "noise_const")):
            tensor.add_(0.3 * torch.randn_like(tensor))
    return module.eval().requires_grad_(False)


@pytest.fixture
def make_generator() -> Callable[..., Generator]:
    """A generator of 8 x 8 images; mapping options as a dict, synthesis options by name."""

    def make(
        c_dim: int = 0,
        *,
        z_dim: int = 5,
        img_resolution: int = 8,
        mapping: dict[str, Any] | None = None,
        **synthesis: Any,
    ) -> Generator:
        generator = Generator(
            z_dim=z_dim,
            c_dim=c_dim,
            w_dim=4,
            img_resolution=img_resolution,
            img_channels=2,
            mapping_kwargs={"num_layers": 2, "lr_multiplier": 1, **(mapping or {})},
            synthesis_kwargs={**WIDTH, **synthesis},
        )
        return off_zero(generator)

    return make


@pytest.fixture
def make_discriminator() -> Callable[..., Discriminator]:
    """A discriminator of 8 x 8 images."""

    def make(c_dim: int = 0, **options: Any) -> Discriminator:
        options = {**WIDTH, "img_resolution": 8, "img_channels": 2, **options}
        return off_zero(Discriminator(c_dim=c_dim, **options))

    return make


@pytest.fixture
def record_of() -> Callable[[torch.nn.Module], Record]:
    """The record that a file would hold of a network."""
    return lambda module: originals.describe(module)


@pytest.fixture
def write(tmp_path: Path, record_of) -> Callable[..., Path]:
    """Write networks (or records) as one pickle and return its path."""

    def write_file(**networks: Any) -> Path:
        path = tmp_path / "student.pkl"
        data = {
            name: record_of(net) if isinstance(net, torch.nn.Module) else net
            for name, net in networks.items()
        }
        checkpoints.write(data, path)
        return path

    return write_file
