"""Improved distribution matching distillation (DMD2: Yin et al. 2024, arXiv:2405.14867).

DMD without its pairs. The normalised difference of the scores (DMD, Eq. 8) is joined by a GAN: a
head on the auxiliary's innermost features tells noised samples of the student from noised real
images (Eq. 4, with the softplus losses of the published code),

    auxiliary:  EDM's loss + b E [softplus(-h(y + sigma eps)) + softplus(h(x_0 + sigma eps))]
    student:    E [(D_q - D_p) / mean |x_0 - D_p| dx_0/dtheta] + a E softplus(-h(x_0 + sigma eps))

and the auxiliary is trained five times for each step of the student (two time scales): after it, on
the same images and then on new ones. The published losses are means over pixels, ours are sums: a
and b meet c h w.

Samples of the teacher may stand for the real images; then the method needs no data.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch.nn.functional import softplus

from refiners.base import Images, Labels, Scalar, features_of
from refiners.diff_instruct import difference, dmd
from refiners.dmd import DMD
from refiners.head import HeadedDenoiser, judge
from refiners.innermost import INNERMOST
from refiners.knob import check_knobs, knob
from refiners.sigma_laws import (
    add_noise,
    auxiliary_law,
    data_spread,
    denoising_loss,
    draw_sigma,
    parse_law,
    student_law,
)
from roles import Denoiser


@dataclass(frozen=True)
class DMD2:
    """DMD2's knobs; the defaults are those published for ImageNet-64."""

    equation: ClassVar = "the first part of dmd's + a c h w ∇ softplus(-head(x))"
    source: ClassVar = "Yin et al. 2024, [2405.14867](https://arxiv.org/abs/2405.14867), Eq. 4"
    init_sigma: ClassVar = 80.0
    # Those of the published code for ImageNet-64, but for the rates, which go by the network.
    settings: ClassVar[dict[str, Any]] = {
        **DMD.settings,
        "auxiliary_steps": 5,
        "fresh_images": "auxiliary",
        "ema": 0.0,
    }

    student_sigma: str = student_law("karras:0.0032,72.1")
    auxiliary_sigma: str = auxiliary_law("karras:0.002,80")
    head_sigma: str = knob(
        "karras:0.002,80",
        "Law of the noise level at which the head judges (diffusion-GAN).",
        useful="karras:0.002,80 (published)",
        outside="Low levels alone let it win at once, and its gradient vanishes.",
        check=parse_law,
    )
    student_gan: float = knob(
        3e-3,
        "Weight of the head's judgement in the student's loss.",
        useful="1e-3 to 1e-2; 3e-3 (DMD2) and 1e-3 (f-distill) published",
        outside="Too high and the run is a GAN's, with its instability.",
        symbol="a",
        at_least=0,
    )
    auxiliary_gan: float = knob(
        1e-2,
        "Weight of the head's loss in the auxiliary's.",
        useful="1e-2 (DMD2), 1 (f-distill, whose head has its own weights alone)",
        outside="Too high and DMD2's auxiliary forgets to denoise.",
        symbol="b",
        at_least=0,
    )
    layer: str = knob(
        INNERMOST,
        "What the head sees: innermost, the lowest of the teacher's features, or a module's name.",
        useful="innermost (published)",
        outside="Another name is refused, with those that there are.",
    )
    sigma_data: float = data_spread()

    def __post_init__(self) -> None:
        check_knobs(self)

    def check_teacher(self, teacher: Denoiser) -> None:
        """Raise ValueError where the head would look at features and the teacher gives none."""
        if self.layer == INNERMOST:
            features_of(teacher)

    def pixel_gradient(
        self, x_0: Images, labels: Labels, *, teacher: Denoiser, auxiliary: Denoiser
    ) -> Images:
        """Return the normalised difference of the denoisers plus the GAN's slope."""
        law = self.student_sigma
        g = difference(x_0, labels, teacher=teacher, auxiliary=auxiliary, law=law, weight=dmd)
        return g + gan_gradient(
            x_0, labels, auxiliary=auxiliary, law=self.head_sigma, weight=self.student_gan
        )

    def auxiliary_loss(self, x_0: Images, labels: Labels, *, auxiliary: Denoiser) -> Scalar:
        """Return EDM's denoising loss on the student's samples."""
        return denoising_loss(
            auxiliary, x_0, labels, law=self.auxiliary_sigma, sigma_data=self.sigma_data
        )

    def with_head(self, auxiliary: Denoiser, *, teacher: Denoiser) -> HeadedDenoiser:
        """Return the auxiliary with a head on its own innermost features."""
        return HeadedDenoiser(auxiliary, layer=self.layer)

    def head_loss(
        self,
        x_0: Images,
        labels: Labels,
        real: Images,
        real_labels: Labels,
        *,
        auxiliary: Denoiser,
    ) -> Scalar:
        """Return b c h w times the head's loss, each kind at levels of its own."""
        sigma = draw_sigma(self.head_sigma, len(real), x_0.device)
        _, true = judge(auxiliary, add_noise(real, sigma), sigma, real_labels)
        sigma = draw_sigma(self.head_sigma, len(x_0), x_0.device)
        _, theirs = judge(auxiliary, add_noise(x_0, sigma), sigma, labels)
        loss = softplus(theirs).mean() + softplus(-true).mean()
        return self.auxiliary_gan * x_0[0].numel() * loss


def gan_gradient(
    x_0: Images, labels: Labels, *, auxiliary: Denoiser, law: str, weight: float
) -> Images:
    """Return weight c h w times the slope of softplus(-h(x_0 + sigma eps)) at each sample."""
    with torch.enable_grad():
        x_0 = x_0.detach().requires_grad_()
        sigma = draw_sigma(law, len(x_0), x_0.device)
        _, logits = judge(auxiliary, add_noise(x_0, sigma), sigma, labels)
        (slope,) = torch.autograd.grad(softplus(-logits).sum(), x_0)
    return weight * x_0[0].numel() * slope
