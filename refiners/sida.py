"""Adversarial score identity distillation (SiDA: Zhou et al. 2024, arXiv:2410.14919).

SiD's loss at alpha = 1, joined by a GAN without a network of its own: the mean over the channels of
the auxiliary's innermost features is a map m of logits. With x = x_0 + sigma eps, y a real image
and B the binary cross entropy over places and samples,

    auxiliary:  E lambda(sigma) |D_q(x) - x_0|^2 + E lambda(sigma) (B(m(x), 0) + B(m(y_x), 1)) / 2
    student:    SiD's + b c h w B(m(x), 1) E [1 / mean |x_0 - D_p|]

where y_x = y + sigma eps has the noise of x, lambda is EDM's weight, and the divisors are
constants. b is 1e-4: the published factors are 100 for SiD's loss and 0.01 for the other. There the
student stands still for 100 kimg, which are the run's warm-up here, and does without the GAN for as
many again, which is left out: a method has no clock.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch.nn.functional import softplus

from refiners.base import Images, Labels, Scalar
from refiners.dmd2 import DMD2
from refiners.head import HeadedDenoiser, Logits, judge
from refiners.knob import check_knobs, knob, same_as
from refiners.sid import SiD
from refiners.sigma_laws import add_noise, denoising_weight, draw_sigma
from roles import Denoiser

MOST_LOGIT = 10.0  # to which the student's are held, as published


@dataclass(frozen=True)
class SiDA:
    """SiD's knobs with alpha 1, and the GAN's."""

    equation: ClassVar = (
        "sid's at alpha 1 + b c h w ∇ mean softplus(-m(x)) E[1 / |x_0 - D_p|_1], m the mean "
        "channel of the auxiliary's encoder"
    )
    source: ClassVar = "Zhou et al. 2024, [2410.14919](https://arxiv.org/abs/2410.14919)"
    init_sigma: ClassVar = SiD.init_sigma
    couples_samples: ClassVar = True  # by the mean divisor
    # Those of the published code, but for the rates (1e-5 there), which go by the network.
    settings: ClassVar[dict[str, Any]] = {
        "auxiliary_clip": 1.0,
        "rampup_kimg": 0.0,
        "decay_kimg": 0.0,
        "ema": 500.0,
        "ema_rampup_ratio": 0.05,
        "warmup_kimg": 100.0,
        "auxiliary_steps": 1,
        "fresh_images": "all",
        "auxiliary_ema": 0.0,
    }

    student_sigma: str = same_as(SiD, "student_sigma")
    auxiliary_sigma: str = same_as(SiD, "auxiliary_sigma")
    alpha: float = same_as(SiD, "alpha", 1.0)
    student_gan: float = knob(
        1e-4,
        "Weight of the encoder's judgement beside SiD's loss.",
        useful="1e-4 (published)",
        outside="0 is SiD; too high and the run is a GAN's, with its instability.",
        symbol="lambda_adv",
        at_least=0,
    )
    layer: str = same_as(DMD2, "layer")
    sigma_data: float = same_as(SiD, "sigma_data")

    def __post_init__(self) -> None:
        check_knobs(self)

    def check_teacher(self, teacher: Denoiser) -> None:
        """Raise ValueError where DMD2 would."""
        DMD2(layer=self.layer).check_teacher(teacher)

    def pixel_gradient(
        self, x_0: Images, labels: Labels, *, teacher: Denoiser, auxiliary: Denoiser
    ) -> Images:
        """Return dL/dx_0 by autograd through the teacher and the auxiliary with its map."""
        with torch.enable_grad():
            x_0 = x_0.detach().requires_grad_()
            sigma = draw_sigma(self.student_sigma, len(x_0), x_0.device)
            x = add_noise(x_0, sigma)
            d_teacher = teacher(x, sigma, labels)
            d_auxiliary, logits = judge(auxiliary, x, sigma, labels)
            gap, error = d_teacher - d_auxiliary, d_teacher - x_0
            size = error.detach().abs().mean(dim=[1, 2, 3], keepdim=True).clamp(min=1e-5)
            loss = (gap * (error - self.alpha * gap) / size).sum()
            loss = loss + self.student_gan * fooling_loss(logits, size) * x_0[0].numel()
            return torch.autograd.grad(loss, x_0)[0]

    def auxiliary_loss(self, x_0: Images, labels: Labels, *, auxiliary: Denoiser) -> Scalar:
        """Return 0: head_loss has EDM's loss too, as one pass serves both."""
        return x_0.new_zeros([])

    def with_head(self, auxiliary: Denoiser, *, teacher: Denoiser) -> HeadedDenoiser:
        """Return the auxiliary with its map of logits; no parameter is added."""
        return HeadedDenoiser(auxiliary, layer=self.layer, is_bare=True)

    def head_loss(
        self,
        x_0: Images,
        labels: Labels,
        real: Images,
        real_labels: Labels,
        *,
        auxiliary: Denoiser,
    ) -> Scalar:
        """Return EDM's loss on the student's samples and the map's, on as many real images."""
        sigma = draw_sigma(self.auxiliary_sigma, len(x_0), x_0.device)
        x = add_noise(x_0, sigma)
        denoised, made = judge(auxiliary, x, sigma, labels)
        _, true = judge(auxiliary, real + (x - x_0), sigma, real_labels)
        weight = denoising_weight(sigma, self.sigma_data)
        error = (denoised - x_0).square().sum(dim=[1, 2, 3])
        told_apart = (softplus(-true).mean() + softplus(made).mean()) / 2
        return (weight * error).mean() + weight.mean() * told_apart


def fooling_loss(logits: Logits, size: torch.Tensor) -> Scalar:
    """Return the mean of softplus(-logits), summed over samples, each by its size [n, 1, 1, 1]."""
    return softplus(-logits.clamp(-MOST_LOGIT, MOST_LOGIT)).mean() * (1 / size).sum()
