"""What every student is: a module that maps (z, labels) to images."""

from __future__ import annotations

import torch
from jaxtyping import Float

NOISE_MODES = ("random", "const", "none")


class StudentModule(torch.nn.Module):
    """A generator with its sizes; forward maps z [n, z_dim] and labels [n, c_dim] to images.

    Attributes:
        z_dim: length of a latent.
        c_dim: number of classes; 0 means unconditional.
        img_resolution: the longer side of the images.
        img_shape: their height and width.
        img_channels: channels of the images.
    """

    z_dim: int
    c_dim: int
    img_resolution: int
    img_channels: int
    _img_shape: tuple[int, int] | None = None  # of images that are not square

    @property
    def img_shape(self) -> tuple[int, int]:
        """Height and width of the images."""
        return self._img_shape or (self.img_resolution, self.img_resolution)

    def sample_latents(
        self, n: int, *, generator: torch.Generator | None = None
    ) -> Float[torch.Tensor, "n z_dim"]:
        """Draw n latents [n, z_dim] from N(0, I), on the generator's device (CPU without one)."""
        device = "cpu" if generator is None else generator.device
        return torch.randn([n, self.z_dim], generator=generator, device=device)


def check_latents(z: torch.Tensor | None, z_dim: int) -> Float[torch.Tensor, "n z_dim"]:
    """Return z, or raise ValueError unless it is [n, z_dim]."""
    if z is None or z.ndim != 2 or z.shape[1] != z_dim:
        raise ValueError(f"z is {_shape(z)}; this network takes [n, {z_dim}]")
    return z


def check_labels(
    c: torch.Tensor | None, c_dim: int, n: int | None = None
) -> Float[torch.Tensor, "n c_dim"]:
    """Return c, or raise ValueError unless it is [n, c_dim]; n None allows any number."""
    rows = "n" if n is None else n
    if c is None:
        raise ValueError(f"this network has {c_dim} classes; give one-hot labels [{rows}, {c_dim}]")
    if c.ndim != 2 or c.shape[1] != c_dim or n not in (None, c.shape[0]):
        raise ValueError(f"labels are {_shape(c)}; this network takes [{rows}, {c_dim}]")
    return c


def check_noise_mode(noise_mode: str) -> None:
    """Raise ValueError unless noise_mode is one of NOISE_MODES."""
    if noise_mode not in NOISE_MODES:
        raise ValueError(f"noise_mode is {noise_mode!r}; allowed are {', '.join(NOISE_MODES)}")


def _shape(x: torch.Tensor | None) -> list[int] | None:
    return None if x is None else list(x.shape)
