"""The student: (z, labels) -> images."""

from __future__ import annotations

from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float

from roles.network import Network

# Of a call, as truncation_psi and noise_mode; a family of networks has its own.
Option = float | str | bool | None


def shape_of(student: Student) -> tuple[int, int]:
    """Height and width of a student's images."""
    return getattr(student, "img_shape", (student.img_resolution, student.img_resolution))


@runtime_checkable
class Student(Network, Protocol):
    """A generator of images in about [-1, 1].

    Attributes:
        z_dim: length of a latent.
        c_dim: number of classes; 0 means unconditional.
        img_resolution: height and width of the images; the longer side of those that are not
            square, which also have img_shape, (height, width).
        img_channels: channels of the images.
    """

    z_dim: int
    c_dim: int
    img_resolution: int
    img_channels: int

    def sample_latents(
        self, n: int, *, generator: torch.Generator | None = None
    ) -> Float[torch.Tensor, "n z_dim"]:
        """Draw n latents, on the generator's device (CPU without one)."""
        ...

    def __call__(
        self,
        z: Float[torch.Tensor, "n z_dim"],
        c: Float[torch.Tensor, "n c_dim"] | None = None,
        **options: Option,
    ) -> Float[torch.Tensor, "n c h w"]:
        """Return images in about [-1, 1], not clamped."""
        ...
