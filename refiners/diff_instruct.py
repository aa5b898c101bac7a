"""Diff-Instruct: follow the difference of two scores (Luo et al. 2023, arXiv:2305.18455).

The gradient of the integral Kullback-Leibler divergence between the student's law q and the
teacher's p is

    E_sigma,eps [ w(sigma) (s_q(x) - s_p(x)) dx_0 / dtheta ],     x = x_0 + sigma eps,  x_0 = G(z).

With s(x) = (D(x; sigma) - x) / sigma^2 and w = sigma^2 it is D_q - D_p, which is the published
weighting. s_q is not known: an
auxiliary denoiser is trained on the student's own samples, by EDM's denoising loss, and stands for
D_q.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Float

from refiners.base import Images, Labels, Scalar
from refiners.knob import check_knobs, knob
from refiners.sigma_laws import (
    add_noise,
    auxiliary_law,
    data_spread,
    denoising_loss,
    draw_sigma,
    student_law,
)
from roles import Denoiser

Weights = Float[torch.Tensor, "n 1 1 1"]


def one(x_0: Images, d_teacher: Images) -> Weights:
    """Weigh as published, w = sigma^2: the plain difference of the denoisers."""
    return torch.ones_like(x_0[:, :1, :1, :1])


def dmd(x_0: Images, d_teacher: Images) -> Weights:
    """Weigh each sample by 1 / mean |x_0 - D_p| (DMD: Yin et al. 2024, arXiv:2311.18828, Eq. 8)."""
    return 1 / (x_0 - d_teacher).abs().mean(dim=[1, 2, 3], keepdim=True).clamp(min=1e-5)


Weight = Callable[[Images, Images], Weights]
WEIGHTS: dict[str, Weight] = {"one": one, "dmd": dmd}


def weighted(x_0: Images, d_teacher: Images, d_auxiliary: Images, weight: Weight) -> Images:
    """Return w (D_q - D_p)."""
    return weight(x_0, d_teacher) * (d_auxiliary - d_teacher)


@torch.no_grad()
def difference(
    x_0: Images,
    labels: Labels,
    *,
    teacher: Denoiser,
    auxiliary: Denoiser,
    law: str,
    weight: Weight,
) -> Images:
    """Return w (D_q - D_p) at one noise level per sample."""
    sigma = draw_sigma(law, len(x_0), x_0.device)
    x = add_noise(x_0, sigma)
    return weighted(x_0, teacher(x, sigma, labels), auxiliary(x, sigma, labels), weight)


@dataclass(frozen=True)
class DiffInstruct:
    """Diff-Instruct's knobs; the defaults are the published ones."""

    equation: ClassVar = "D_q - D_p"
    source: ClassVar = "Luo et al. 2023, [2305.18455](https://arxiv.org/abs/2305.18455)"
    init_sigma: ClassVar = 1.0
    # Measured to help a GAN in a short run (docs/experiments.md).
    begins: ClassVar = {
        "gan": {"student_sigma": "lognormal:0.3,1.0", "auxiliary_sigma": "lognormal:0.0,1.4"}
    }

    student_sigma: str = student_law("lognormal:-1.2,1.2")
    auxiliary_sigma: str = auxiliary_law()
    weight: str = knob(
        "one",
        "Weight of the gradient: one (sigma^2, published) or dmd (sigma^2 / mean |x_0 - D_p|).",
        useful="as published",
        outside="dmd lifts the samples of which the teacher is sure.",
        symbol="w",
        allowed=tuple(WEIGHTS),
    )
    sigma_data: float = data_spread()

    def __post_init__(self) -> None:
        check_knobs(self)

    def pixel_gradient(
        self, x_0: Images, labels: Labels, *, teacher: Denoiser, auxiliary: Denoiser
    ) -> Images:
        """Return w (D_q - D_p) at one noise level per sample."""
        law, weight = self.student_sigma, WEIGHTS[self.weight]
        return difference(x_0, labels, teacher=teacher, auxiliary=auxiliary, law=law, weight=weight)

    def gradient_of(self, x_0: Images, d_teacher: Images, d_auxiliary: Images) -> Images:
        """Return w (D_q - D_p) of images that are denoised already."""
        return weighted(x_0, d_teacher, d_auxiliary, WEIGHTS[self.weight])

    def auxiliary_loss(self, x_0: Images, labels: Labels, *, auxiliary: Denoiser) -> Scalar:
        """Return EDM's denoising loss on the student's samples (Karras et al. 2022, Eq. 8)."""
        return denoising_loss(
            auxiliary, x_0, labels, law=self.auxiliary_sigma, sigma_data=self.sigma_data
        )
