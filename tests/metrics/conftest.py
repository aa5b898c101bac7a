"""The toy world of these tests: students of 8 x 8 images, and features that are a few pixels."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from metrics import Moments, Statistics


class Toy(nn.Module):
    """Images around `mean`, of spread 0.25 from the latent and `noise` drawn inside, per class."""

    z_dim = 8
    img_resolution = 8
    img_channels = 1

    def __init__(self, mean: float = 0.0, *, noise: float = 0.1, c_dim: int = 0) -> None:
        super().__init__()
        self.c_dim = c_dim
        self.noise = noise
        self.mean = nn.Parameter(torch.tensor(mean))
        self.dropout = nn.Dropout(0.5)
        self.dropout.eval()

    def sample_latents(self, n: int, *, generator: torch.Generator | None = None) -> Tensor:
        return torch.randn(n, self.z_dim, generator=generator)

    def forward(self, z: Tensor, c: Tensor | None = None, *, noise_mode: str = "random") -> Tensor:
        x = self.mean + 0.25 * z[:, None, :, None] * torch.linspace(0.5, 1, 8)
        if noise_mode == "random":
            x = x + self.noise * torch.randn(len(z), 1, 8, 8)
        if c is not None:
            x = x + 0.1 * c.argmax(1).float()[:, None, None, None]
        return x


class Pixels:
    """Six pixels of each image, in units of its range, and class probabilities made of three."""

    name = "six pixels (toy)"
    dim = 6
    sha256 = "0" * 64

    def __call__(self, images: Tensor) -> tuple[Tensor, Tensor]:
        features = images[:, 0, ::3, ::4].flatten(1).float() / 255
        return features, (20 * features[:, :3]).softmax(1)


@pytest.fixture
def toy() -> type[Toy]:
    return Toy


@pytest.fixture
def features() -> Pixels:
    return Pixels()


@pytest.fixture
def reference() -> Statistics:
    """Statistics of the law that students are to reach, the toy's at mean 0, with a sample."""
    generator = torch.Generator().manual_seed(123)
    x = 0.25 * torch.randn(4000, 1, 8, 1, generator=generator) * torch.linspace(0.5, 1, 8)
    x = x + 0.1 * torch.randn(4000, 1, 8, 8, generator=generator)
    values, _ = Pixels()((x * 127.5 + 128).clamp(0, 255).to(torch.uint8))
    return Statistics.of(Moments.of(values), space=Pixels.name, features=values[:500])
