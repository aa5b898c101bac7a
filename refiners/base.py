"""What the refinement loop asks of a method, stated as protocols.

The student enters every method only through x_0 = G(z): a method returns the pixel gradient
g = dL/dx_0 and the loop calls x_0.backward(g / n). Whatever has these shapes can be a method; what
is asked of student and teacher is in roles.

A method is at least `Method`. What it needs beyond is said by the functions that it has, and the
loop asks for nothing else: an auxiliary network (`WithAuxiliary`), a head on that network and real
images (`WithHead`), a discriminator and real images (`WithDiscriminator`), pairs of latents and the
teacher's images (`WithPairs`), a memory of what went before and real images (`WithMemory`), a
teacher that is more than a Denoiser (`WithWishes`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, ClassVar, Protocol, runtime_checkable

import torch
from jaxtyping import Float

from roles import Denoiser, Discriminator

Images = Float[torch.Tensor, "n c h w"]
Levels = Float[torch.Tensor, "n"]  # of noise
Labels = Float[torch.Tensor, "n label_dim"] | None  # one-hot
Scalar = Float[torch.Tensor, ""]
Memory = torch.nn.Module

# (x, y) -> [n], differentiable in x.
Distance = Callable[[Images, Images], Levels]


@runtime_checkable
class Method(Protocol):
    """A published refinement method; its knobs are the fields of a frozen dataclass."""

    __dataclass_fields__: ClassVar[dict[str, Any]]

    def pixel_gradient(
        self, x_0: Images, labels: Labels, *, teacher: Denoiser, auxiliary: Denoiser
    ) -> Images:
        """Return g = dL/dx_0 per sample, detached."""
        ...


@runtime_checkable
class WithAuxiliary(Protocol):
    """A method that trains an auxiliary denoiser; without it the loop makes and trains none."""

    def auxiliary_loss(self, x_0: Images, labels: Labels, *, auxiliary: Denoiser) -> Scalar:
        """Return the auxiliary network's loss on the student's samples x_0 (detached)."""
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

    def gradient_of(self, x_0: Images, d_teacher: Images, d_auxiliary: Images) -> Images:
        """Return g = dL/dx_0 per sample of the denoised x_0 + sigma eps."""
        ...


@runtime_checkable
class WithHead(Protocol):
    """A method whose auxiliary also tells the student's images from real ones."""

    def with_head(self, auxiliary: Denoiser, *, teacher: Denoiser) -> Denoiser:
        """Return the auxiliary with what judges images; it stays a Denoiser, and is trained.

        The teacher is frozen and not to be copied; a head may look at images through it.
        """
        ...

    def head_loss(
        self,
        x_0: Images,
        labels: Labels,
        real: Float[torch.Tensor, "m c h w"],
        real_labels: Float[torch.Tensor, "m label_dim"] | None,
        *,
        auxiliary: Denoiser,
    ) -> Scalar:
        """Return what is added to auxiliary_loss."""
        ...


@runtime_checkable
class WithDiscriminator(Protocol):
    """A method that also trains a discriminator of the student's images and of real ones."""

    def discriminator_loss(
        self,
        x_0: Images,
        labels: Labels,
        real: Float[torch.Tensor, "m c h w"],
        real_labels: Float[torch.Tensor, "m label_dim"] | None,
        *,
        discriminator: Discriminator,
        step: int,
    ) -> Scalar:
        """Return the discriminator's loss at a step, on the student's samples x_0 (detached)."""
        ...

    def discriminator_gradient(
        self, x_0: Images, labels: Labels, *, discriminator: Discriminator
    ) -> Images:
        """Return what is added to pixel_gradient: dL/dx_0 per sample, detached."""
        ...


@runtime_checkable
class WithPairs(Protocol):
    """A method that also regresses the student on images that the teacher made for its latents."""

    def pair_gradient(self, images: Images, targets: Images, *, distance: Distance) -> Images:
        """Return dL/dimages per sample, detached."""
        ...


@runtime_checkable
class WithMemory(Protocol):
    """A method whose gradient also depends on earlier images of the student and on real ones."""

    def new_memory(
        self,
        draw_student: Callable[[int], Images],
        draw_reference: Callable[[int], Images],
        *,
        teacher: Denoiser,
    ) -> Memory:
        """Return what is remembered, as buffers; both sources are n -> n images."""
        ...

    def join(
        self, g: Images, x_0: Images, *, teacher: Denoiser, memory: Memory, at_a_time: int = 0
    ) -> Images:
        """Return the gradient g with the memory's part; the memory is updated.

        Networks see at_a_time of the images x_0 at a time, 0 is all; no number depends on it.
        """
        ...


@runtime_checkable
class WithWishes(Protocol):
    """A method that cannot follow every teacher."""

    def check_teacher(self, teacher: Denoiser) -> None:
        """Raise ValueError where the teacher lacks what the method looks at."""
        ...


def features_of(teacher: Denoiser) -> Callable[..., Sequence[torch.Tensor]]:
    """Return the function that shows what a teacher's encoder makes of noised images (roles).

    Raises:
        ValueError: there is none.
    """
    found: Callable[..., Sequence[torch.Tensor]] | None = getattr(teacher, "features", None)
    if found is None:
        raise ValueError(
            f"a {type(teacher).__name__} gives no features, the maps of an encoder; choose a U-Net "
            "teacher, or a method that needs none (--method diff-instruct, sid, sim or sds)"
        )
    return found
