"""Improved distribution matching distillation (DMD2: Yin et al. 2024, arXiv:2405.14867).

DMD without its pairs. The normalised difference of the scores (DMD, Eq. 8) is joined by a GAN: a
head on the auxiliary's innermost features tells noised samples of the student from noised real
images (Eq. 4, with the softplus losses of the published code),

    auxiliary:  EDM's loss + b E [softplus(-h(y + sigma eps)) + softplus(h(x_0 + sigma eps))]
    student:    E [(D_q - D_p) / mean |x_0 - D_p| dx_0/dtheta] + a E softplus(-h(x_0 + sigma eps))

and the auxiliary is trained several times for each step of the student (two time scales: the run's
auxiliary_steps, 5 where published, here on one generated batch with fresh noise each). The
published losses are means over pixels, ours are sums: a and b meet c h w.

Samples of the teacher may stand for the real images; then the method needs no data.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch.nn.functional import softplus

from refiners.base import Denoiser
from refiners.diff_instruct import difference, dmd
from refiners.head import HeadedDenoiser
from refiners.sigma_laws import add_noise, check_knobs, check_weights, denoising_loss, draw_sigma


@dataclass(frozen=True)
class DMD2:
    """DMD2's knobs; the defaults are those published for ImageNet-64.

    Attributes:
        student_sigma: law of sigma in the difference of the scores.
        auxiliary_sigma: law of sigma in the auxiliary's denoising loss.
        head_sigma: law of sigma where the head judges (diffusion-GAN).
        student_gan: a, the weight of the head's judgement in the student's loss.
        auxiliary_gan: b, the weight of the head's loss in the auxiliary's.
        layer: the teacher's module whose output the head sees; see HeadedDenoiser.
        sigma_data: the teacher's sigma_data, for the auxiliary's loss.
    """

    student_sigma: str = "karras:0.0032,72.1"
    auxiliary_sigma: str = "karras:0.002,80"
    head_sigma: str = "karras:0.002,80"
    student_gan: float = 3e-3
    auxiliary_gan: float = 1e-2
    layer: str = "model.enc"
    sigma_data: float = 0.5

    def __post_init__(self) -> None:
        check_knobs(self)
        check_weights(self, "student_gan", "auxiliary_gan")

    def pixel_gradient(
        self,
        x_0: torch.Tensor,
        labels: torch.Tensor | None,
        *,
        teacher: Denoiser,
        auxiliary: Any,
    ) -> torch.Tensor:
        """Return the normalised difference of the denoisers plus the GAN's slope."""
        law = self.student_sigma
        g = difference(x_0, labels, teacher=teacher, auxiliary=auxiliary, law=law, weight=dmd)
        return g + gan_gradient(
            x_0, labels, auxiliary=auxiliary, law=self.head_sigma, weight=self.student_gan
        )

    def auxiliary_loss(
        self, x_0: torch.Tensor, labels: torch.Tensor | None, *, auxiliary: Denoiser
    ) -> torch.Tensor:
        """Return EDM's denoising loss on the student's samples."""
        return denoising_loss(
            auxiliary, x_0, labels, law=self.auxiliary_sigma, sigma_data=self.sigma_data
        )

    def with_head(self, auxiliary: torch.nn.Module) -> HeadedDenoiser:
        """Return the auxiliary with a head on its innermost features."""
        return HeadedDenoiser(auxiliary, layer=self.layer)

    def head_loss(
        self,
        x_0: torch.Tensor,
        labels: torch.Tensor | None,
        real: torch.Tensor,
        real_labels: torch.Tensor | None,
        *,
        auxiliary: Any,
    ) -> torch.Tensor:
        """Return b c h w times the head's loss, images of both kinds noised alike."""
        sigma = draw_sigma(self.head_sigma, len(x_0), x_0.device)
        _, theirs = auxiliary.judge(add_noise(x_0, sigma), sigma, labels)
        _, true = auxiliary.judge(add_noise(real, sigma), sigma, real_labels)
        loss = softplus(theirs).mean() + softplus(-true).mean()
        return self.auxiliary_gan * x_0[0].numel() * loss


def gan_gradient(
    x_0: torch.Tensor,
    labels: torch.Tensor | None,
    *,
    auxiliary: Any,
    law: str,
    weight: float,
) -> torch.Tensor:
    """Return weight c h w times the slope of softplus(-h(x_0 + sigma eps)) at each sample."""
    with torch.enable_grad():
        x_0 = x_0.detach().requires_grad_()
        sigma = draw_sigma(law, len(x_0), x_0.device)
        _, logits = auxiliary.judge(add_noise(x_0, sigma), sigma, labels)
        (slope,) = torch.autograd.grad(softplus(-logits).sum(), x_0)
    return weight * x_0[0].numel() * slope
