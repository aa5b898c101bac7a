"""What the refinement loop asks of a student, a denoiser and a method, stated as protocols.

The student enters every method only through x_0 = G(z): a method returns the pixel gradient
g = dL/dx_0 and the loop calls x_0.backward(g / n). Whatever has these shapes can be refined, can
teach, or can be a method.

A method is at least `Method`. What it needs beyond is said by the functions that it has, and the
loop asks for nothing else: an auxiliary network (`WithAuxiliary`), a head on that network and real
images (`WithHead`), pairs of latents and the teacher's images (`WithPairs`), a memory of what went
before and real images (`WithMemory`).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar, Protocol, runtime_checkable

import torch

# (x, y), both [n, c, h, w] -> [n], differentiable in x.
Distance = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]


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


@runtime_checkable
class Method(Protocol):
    """A published refinement method; its knobs are the fields of a frozen dataclass."""

    __dataclass_fields__: ClassVar[dict[str, Any]]

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


@runtime_checkable
class WithAuxiliary(Protocol):
    """A method that trains an auxiliary denoiser; without it the loop makes and trains none."""

    def auxiliary_loss(
        self, x_0: torch.Tensor, labels: torch.Tensor | None, *, auxiliary: Denoiser
    ) -> torch.Tensor:
        """Return the auxiliary network's scalar loss on the student's samples x_0 (detached)."""
        ...


@runtime_checkable
class WithSharedPass(WithAuxiliary, Protocol):
    """A method whose gradient is a function of both denoised images of one noisy x."""

    @property
    def student_sigma(self) -> str:
        """The law of sigma in the student's gradient."""
        ...

    @property
    def auxiliary_sigma(self) -> str:
        """The law of sigma in the auxiliary's loss."""
        ...

    def gradient_of(
        self, x_0: torch.Tensor, d_teacher: torch.Tensor, d_auxiliary: torch.Tensor
    ) -> torch.Tensor:
        """Return g = dL/dx_0 per sample, all [n, c, h, w], of the denoised x_0 + sigma eps."""
        ...


@runtime_checkable
class WithHead(Protocol):
    """A method whose auxiliary also tells the student's images from real ones."""

    def with_head(self, auxiliary: torch.nn.Module) -> torch.nn.Module:
        """Return the auxiliary with what judges images; it stays a Denoiser, and is trained."""
        ...

    def head_loss(
        self,
        x_0: torch.Tensor,
        labels: torch.Tensor | None,
        real: torch.Tensor,
        real_labels: torch.Tensor | None,
        *,
        auxiliary: Denoiser,
    ) -> torch.Tensor:
        """Return the scalar that is added to auxiliary_loss; real are images [m, c, h, w]."""
        ...


@runtime_checkable
class WithPairs(Protocol):
    """A method that also regresses the student on images that the teacher made for its latents."""

    def pair_gradient(
        self, images: torch.Tensor, targets: torch.Tensor, *, distance: Distance
    ) -> torch.Tensor:
        """Return dL/dimages per sample, [m, c, h, w], detached."""
        ...


@runtime_checkable
class WithMemory(Protocol):
    """A method whose gradient also depends on earlier images of the student and on real ones."""

    def new_memory(
        self,
        draw_student: Callable[[int], torch.Tensor],
        draw_reference: Callable[[int], torch.Tensor],
        *,
        teacher: Denoiser,
    ) -> torch.nn.Module:
        """Return what is remembered, as buffers; both sources are n -> images [n, c, h, w]."""
        ...

    def join(
        self, g: torch.Tensor, x_0: torch.Tensor, *, teacher: Denoiser, memory: torch.nn.Module
    ) -> torch.Tensor:
        """Return the gradient g [n, c, h, w] with the memory's part; the memory is updated."""
        ...
