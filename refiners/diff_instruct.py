"""Diff-Instruct: follow the difference of two scores (Luo et al. 2023, arXiv:2305.18455).

The gradient of the integral Kullback-Leibler divergence between the student's law q and the
teacher's p is

    E_sigma,eps [ w(sigma) (s_q(x) - s_p(x)) dx_0 / dtheta ],     x = x_0 + sigma eps,  x_0 = G(z).

With s(x) = (D(x; sigma) - x) / sigma^2 and w = sigma^2 it is D_q - D_p, which is the published
weighting. s_q is not known: an
auxiliary denoiser is trained on the student's own samples, by EDM's denoising loss, and stands for
D_q.

A short run can hold the contrast. The teacher is less sure of the student's samples than the
auxiliary is, so the quickest way to agree with it is to pale: g has a large component along
x_0 - E x_0, which Adam follows at full speed and which returns only once the shapes have moved.
hold_contrast removes it, per sample (measured in docs/experiments.md; not in the paper).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch

from refiners.base import Denoiser
from refiners.sigma_laws import add_noise, check_knobs, denoising_loss, draw_sigma


def one(x_0: torch.Tensor, d_teacher: torch.Tensor) -> torch.Tensor:
    """Weigh as published, w = sigma^2: the plain difference of the denoisers."""
    return torch.ones_like(x_0[:, :1, :1, :1])


def dmd(x_0: torch.Tensor, d_teacher: torch.Tensor) -> torch.Tensor:
    """Weigh each sample by 1 / mean |x_0 - D_p| (DMD: Yin et al. 2024, arXiv:2311.18828, Eq. 8)."""
    return 1 / (x_0 - d_teacher).abs().mean(dim=[1, 2, 3], keepdim=True).clamp(min=1e-5)


def along_contrast(g: torch.Tensor, x_0: torch.Tensor) -> torch.Tensor:
    """Return the part of each sample's gradient g [n, c, h, w] that scales x_0 about its mean."""
    deviation = x_0 - x_0.mean(dim=0, keepdim=True)
    dims = [1, 2, 3]
    length = deviation.square().sum(dim=dims, keepdim=True).clamp(min=1e-12)
    return (g * deviation).sum(dim=dims, keepdim=True) / length * deviation


Weight = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
WEIGHTS: dict[str, Weight] = {"one": one, "dmd": dmd}


def weighted(
    x_0: torch.Tensor, d_teacher: torch.Tensor, d_auxiliary: torch.Tensor, weight: Weight
) -> torch.Tensor:
    """Return w (D_q - D_p), all [n, c, h, w]."""
    return weight(x_0, d_teacher) * (d_auxiliary - d_teacher)


@torch.no_grad()
def difference(
    x_0: torch.Tensor,
    labels: torch.Tensor | None,
    *,
    teacher: Denoiser,
    auxiliary: Denoiser,
    law: str,
    weight: Weight,
) -> torch.Tensor:
    """Return w (D_q - D_p) at one noise level per sample, in the shape of x_0 [n, c, h, w]."""
    sigma = draw_sigma(law, len(x_0), x_0.device)
    x = add_noise(x_0, sigma)
    return weighted(x_0, teacher(x, sigma, labels), auxiliary(x, sigma, labels), weight)


@dataclass(frozen=True)
class DiffInstruct:
    """Diff-Instruct's knobs; the defaults are the published ones.

    Attributes:
        student_sigma: law of sigma in the student's gradient. Low levels move detail, high levels
            move layout.
        auxiliary_sigma: law of sigma in the auxiliary's loss; it must cover the student's.
        weight: "one" (published) or "dmd".
        hold_contrast: share of the batch's gradient along its contrast that is removed, 0 to 1; 0
            is published.
        sigma_data: the teacher's sigma_data, for the auxiliary's loss.
    """

    student_sigma: str = "lognormal:-1.2,1.2"
    auxiliary_sigma: str = "lognormal:-1.2,1.2"
    weight: str = "one"
    hold_contrast: float = 0.0
    sigma_data: float = 0.5

    def __post_init__(self) -> None:
        check_knobs(self)
        if self.weight not in WEIGHTS:
            raise ValueError(f"weight is {self.weight!r}; allowed are {', '.join(WEIGHTS)}")
        if not 0 <= self.hold_contrast <= 1:
            raise ValueError(f"hold_contrast is {self.hold_contrast}; allowed: 0 to 1")

    def pixel_gradient(
        self,
        x_0: torch.Tensor,
        labels: torch.Tensor | None,
        *,
        teacher: Denoiser,
        auxiliary: Denoiser,
    ) -> torch.Tensor:
        """Return w (D_q - D_p), without its part along the contrast as far as that is held."""
        law, weight = self.student_sigma, WEIGHTS[self.weight]
        g = difference(x_0, labels, teacher=teacher, auxiliary=auxiliary, law=law, weight=weight)
        return g - self.hold_contrast * along_contrast(g, x_0) if self.hold_contrast else g

    def gradient_of(
        self, x_0: torch.Tensor, d_teacher: torch.Tensor, d_auxiliary: torch.Tensor
    ) -> torch.Tensor:
        """Return w (D_q - D_p) of images that are denoised already."""
        return weighted(x_0, d_teacher, d_auxiliary, WEIGHTS[self.weight])

    def auxiliary_loss(
        self, x_0: torch.Tensor, labels: torch.Tensor | None, *, auxiliary: Denoiser
    ) -> torch.Tensor:
        """Return EDM's denoising loss on the student's samples (Karras et al. 2022, Eq. 8)."""
        return denoising_loss(
            auxiliary, x_0, labels, law=self.auxiliary_sigma, sigma_data=self.sigma_data
        )
