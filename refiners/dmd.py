"""Distribution matching distillation (Yin et al. 2024, arXiv:2311.18828).

Eq. 7 and 8: the gradient of the reverse Kullback-Leibler divergence, each sample's of like size,

    E [ w (s_q(x) - s_p(x)) dx_0 / dtheta ],    w = sigma^2 C S / |x_0 - D_p(x)|_1,

which in denoisers is (D_q - D_p) / mean |x_0 - D_p|; and, so that no mode of the teacher is lost,
lambda times a distance of G(z) to the teacher's own image y of the same z (Section 3.3). There the
losses are means over pixels; here the gradient is of their sum, so lambda meets c h w.

The published distance is LPIPS; here whatever the run is given, pseudo-Huber unless said, whose
pull towards y is brought to the size of a perceptual distance's (refiners.training.inputs), so that
lambda stands in the published proportion to the first part, which is of about unit size.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch

from refiners.base import Distance, Images, Labels, Scalar
from refiners.diff_instruct import difference, dmd
from refiners.knob import check_knobs, knob
from refiners.sigma_laws import auxiliary_law, data_spread, denoising_loss, student_law
from roles import Denoiser


@dataclass(frozen=True)
class DMD:
    """DMD's knobs; the defaults are the published ones."""

    equation: ClassVar = "(D_q - D_p) / |x_0 - D_p|_1; on pairs also λ c h w ∇ d(G(z), y)"
    source: ClassVar = "Yin et al. 2024, [2311.18828](https://arxiv.org/abs/2311.18828), Eq. 7, 8"
    init_sigma: ClassVar = 80.0
    # Appendix B, but for the rates, which go by the network; the student first by Algorithm 1.
    settings: ClassVar[dict[str, Any]] = {
        "beta1": 0.9,
        "weight_decay": 0.01,
        "clip": 10.0,
        "rampup_kimg": 0.0,
        "rampup_updates": 500,
        "decay_kimg": 0.0,
        "warmup_kimg": 0.0,
        "auxiliary_steps": 1,
        "student_first": True,
        "auxiliary_ema": 0.0,
    }

    student_sigma: str = student_law("karras:0.0032,72.1")  # uniform times without the ends
    auxiliary_sigma: str = auxiliary_law("karras:0.002,80")
    regression: float = knob(
        0.25,
        "Weight of the regression on the teacher's pairs.",
        useful="0.25 (with classes) to 0.5 (without), published with LPIPS",
        outside="0 may lose modes; too high and the images blur.",
        symbol="lambda_reg",
        at_least=0,
    )
    sigma_data: float = data_spread()

    def __post_init__(self) -> None:
        check_knobs(self)

    def pixel_gradient(
        self, x_0: Images, labels: Labels, *, teacher: Denoiser, auxiliary: Denoiser
    ) -> Images:
        """Return (D_q - D_p) / mean |x_0 - D_p| at one noise level per sample."""
        law = self.student_sigma
        return difference(x_0, labels, teacher=teacher, auxiliary=auxiliary, law=law, weight=dmd)

    def auxiliary_loss(self, x_0: Images, labels: Labels, *, auxiliary: Denoiser) -> Scalar:
        """Return EDM's denoising loss on the student's samples."""
        return denoising_loss(
            auxiliary, x_0, labels, law=self.auxiliary_sigma, sigma_data=self.sigma_data
        )

    def pair_gradient(self, images: Images, targets: Images, *, distance: Distance) -> Images:
        """Return lambda c h w times the slope of the distance at the student's images."""
        x = images.detach().requires_grad_()
        with torch.enable_grad():
            (slope,) = torch.autograd.grad(distance(x, targets).sum(), x)
        return self.regression * x[0].numel() * slope
