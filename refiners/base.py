"""What the refinement loop asks of a student, a denoiser and a method, stated as protocols.

The student enters every method only through x_0 = G(z): a method returns the pixel gradient g =
dL/dx_0 and the loop calls
x_0.backward(g / n). Whatever has these shapes can be refined, can teach, or can be a method.
"""

from __future__ import annotations

from typing import Protocol, runtime_checkable

import torch


@runtime_checkable
class Student(Protocol):
    """A torch.nn.Module (z [n, z_dim], c one-hot [n, c_dim] or None) -> images [n, c, h, w]."""

    z_dim: int
    c_dim: int
    img_resolution: int
    img_channels: int

    def sample_latents(self, n: int, *, generator: torch.Generator | None = None) -> torch.Tensor:
        """Draw latents [n, z_dim]."""
        ...

    def __call__(self, z: torch.Tensor, c: torch.Tensor | None = None) -> torch.Tensor:
        """Return images [n, c, h, w] in about [-1, 1]."""
        ...


@runtime_checkable
class Denoiser(Protocol):
    """(x [n, c, h, w], sigma [n], one-hot labels [n, label_dim] or None) -> D(x; sigma)."""

    img_resolution: int
    img_channels: int
    label_dim: int
    sigma_min: float
    sigma_max: float

    def __call__(
        self, x: torch.Tensor, sigma: torch.Tensor, labels: torch.Tensor | None = None
    ) -> torch.Tensor:
        """Return D(x; sigma) [n, c, h, w]."""
        ...


class Method(Protocol):
    """A published refinement method; its knobs are the fields of a frozen dataclass."""

    def pixel_gradient(
        self,
        x_0: torch.Tensor,
        labels: torch.Tensor | None,
        *,
        teacher: Denoiser,
        auxiliary: Denoiser,
    ) -> torch.Tensor:
        """Return g = dL/dx_0 per sample, in the shape of x_0 [n, c, h, w], detached."""
        ...

    def auxiliary_loss(
        self, x_0: torch.Tensor, labels: torch.Tensor | None, *, auxiliary: Denoiser
    ) -> torch.Tensor:
        """Return the auxiliary network's scalar loss on the student's samples x_0 (detached)."""
        ...
