"""Distribution matching distillation (Yin et al. 2024, arXiv:2311.18828).

Eq. 7 and 8: the gradient of the reverse Kullback-Leibler divergence, each sample's of like size,

    E [ w (s_q(x) - s_p(x)) dx_0 / dtheta ],    w = sigma^2 C S / |x_0 - D_p(x)|_1,

which in denoisers is (D_q - D_p) / mean |x_0 - D_p|; and, so that no mode of the teacher is lost,
lambda times a distance of G(z) to the teacher's own image y of the same z (Section 3.3). There the
losses are means over pixels; here the gradient is of their sum, so lambda meets c h w.

The published distance is LPIPS; here whatever the run is given, pseudo-Huber unless said.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from refiners.base import Denoiser, Distance
from refiners.diff_instruct import difference, dmd
from refiners.sigma_laws import check_knobs, check_weights, denoising_loss


@dataclass(frozen=True)
class DMD:
    """DMD's knobs; the defaults are the published ones.

    Attributes:
        student_sigma: law of sigma in the student's gradient: uniform times without the ends.
        auxiliary_sigma: law of sigma in the auxiliary's loss.
        regression: lambda, the weight of the regression on pairs; 0.25 for conditional CIFAR-10
            and ImageNet-64, 0.5 for unconditional CIFAR-10.
        sigma_data: the teacher's sigma_data, for the auxiliary's loss.
    """

    student_sigma: str = "karras:0.0032,72.1"
    auxiliary_sigma: str = "karras:0.002,80"
    regression: float = 0.25
    sigma_data: float = 0.5

    def __post_init__(self) -> None:
        check_knobs(self)
        check_weights(self, "regression")

    def pixel_gradient(
        self,
        x_0: torch.Tensor,
        labels: torch.Tensor | None,
        *,
        teacher: Denoiser,
        auxiliary: Denoiser,
    ) -> torch.Tensor:
        """Return (D_q - D_p) / mean |x_0 - D_p| at one noise level per sample."""
        law = self.student_sigma
        return difference(x_0, labels, teacher=teacher, auxiliary=auxiliary, law=law, weight=dmd)

    def auxiliary_loss(
        self, x_0: torch.Tensor, labels: torch.Tensor | None, *, auxiliary: Denoiser
    ) -> torch.Tensor:
        """Return EDM's denoising loss on the student's samples."""
        return denoising_loss(
            auxiliary, x_0, labels, law=self.auxiliary_sigma, sigma_data=self.sigma_data
        )

    def pair_gradient(
        self, images: torch.Tensor, targets: torch.Tensor, *, distance: Distance
    ) -> torch.Tensor:
        """Return lambda c h w times the slope of the distance at the student's images."""
        x = images.detach().requires_grad_()
        with torch.enable_grad():
            (slope,) = torch.autograd.grad(distance(x, targets).sum(), x)
        return self.regression * x[0].numel() * slope
