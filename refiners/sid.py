"""Score identity distillation (Zhou et al. 2024, arXiv:2404.04057).

The Fisher divergence of the noised laws, in a form that needs no derivative of an unknown score.
With x = x_0 + sigma eps, and per sample,

    L = sum (D_p - D_q) ((D_p - x_0) - alpha (D_p - D_q)) / mean |x_0 - D_p|    (Eq. 23 to 25)

where the divisor is a constant and the gradient runs through x_0, through D_p and through D_q: the
networks are frozen, their inputs are not. The published factor 100 is left out, as Adam does not
see it. alpha is 1.2 where published on CIFAR-10, 1 on AFHQ; above 1 the biased part counts.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from refiners.base import Denoiser
from refiners.sigma_laws import add_noise, check_knobs, denoising_loss, draw_sigma


@dataclass(frozen=True)
class SiD:
    """SiD's knobs; the defaults are the published ones.

    Attributes:
        student_sigma: law of sigma in the student's loss: the lower 800 of the sampler's 1000
            levels.
        auxiliary_sigma: law of sigma in the auxiliary's loss.
        alpha: weight of |D_p - D_q|^2; useful from 0.75 to 1.2, above 1.25 it diverges. Above 1 an
            auxiliary that is nearly exact pushes the student away: a toy student of a mixture
            diverged with 1.2 where 1 and 1.1 led it home.
        sigma_data: the teacher's sigma_data, for the auxiliary's loss.
    """

    student_sigma: str = "karras:0.002,24.4"
    auxiliary_sigma: str = "lognormal:-1.2,1.2"
    alpha: float = 1.2
    sigma_data: float = 0.5

    def __post_init__(self) -> None:
        check_knobs(self)
        if not -10 <= self.alpha <= 10:
            raise ValueError(f"alpha is {self.alpha}; allowed: -10 to 10, published: 1 to 1.2")

    def pixel_gradient(
        self,
        x_0: torch.Tensor,
        labels: torch.Tensor | None,
        *,
        teacher: Denoiser,
        auxiliary: Denoiser,
    ) -> torch.Tensor:
        """Return dL/dx_0 by autograd through the teacher and the auxiliary."""
        with torch.enable_grad():
            x_0 = x_0.detach().requires_grad_()
            sigma = draw_sigma(self.student_sigma, len(x_0), x_0.device)
            x = add_noise(x_0, sigma)
            d_teacher = teacher(x, sigma, labels)
            gap = d_teacher - auxiliary(x, sigma, labels)
            error = d_teacher - x_0
            size = error.detach().abs().mean(dim=[1, 2, 3], keepdim=True).clamp(min=1e-5)
            loss = (gap * (error - self.alpha * gap) / size).sum()
            return torch.autograd.grad(loss, x_0)[0]

    def auxiliary_loss(
        self, x_0: torch.Tensor, labels: torch.Tensor | None, *, auxiliary: Denoiser
    ) -> torch.Tensor:
        """Return EDM's denoising loss on the student's samples."""
        return denoising_loss(
            auxiliary, x_0, labels, law=self.auxiliary_sigma, sigma_data=self.sigma_data
        )
