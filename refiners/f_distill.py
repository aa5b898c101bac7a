"""f-distill: other divergences than the reverse KL (Xu et al. 2025, arXiv:2502.15681).

The gradient of the f-divergence of the noised laws is DMD2's, each sample weighted by

    h(r) = f''(r) r^2,    r = p(x) / q(x) = exp(logit of DMD2's head at x):

1 for the reverse KL, which is DMD2; r for the forward KL, which looks after the modes that the
student lacks; r / (1 + r) for Jensen and Shannon's. r is clipped and, as its size changes with
sigma, divided by its mean over samples of like noise level (ten bins of sigma); h is divided by its
mean over the batch. The head looks through the frozen teacher, so the auxiliary is trained to
denoise alone.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

import torch

from refiners.base import Images, Labels, Levels, Scalar
from refiners.diff_instruct import dmd
from refiners.dmd2 import DMD2, gan_gradient
from refiners.head import HeadedDenoiser, judge
from refiners.knob import check_knobs, knob, same_as
from refiners.sigma_laws import add_noise, draw_sigma
from roles import Denoiser

WEIGHTS: dict[str, Callable[[Levels], Levels]] = {
    "rkl": torch.ones_like,
    "kl": lambda r: r,
    "js": lambda r: r / (1 + r),
}
RATIO = (0.1, 20.0)
SIGMAS = (0.002, 80.0)  # over which the bins are spread evenly, EDM's


@dataclass(frozen=True)
class FDistill:
    """f-distill's knobs: the divergence, and DMD2's."""

    equation: ClassVar = (
        "dmd2's, its first part times h(r), r = exp(head(x)): 1 (rkl), r (kl), r / (1 + r) (js)"
    )
    source: ClassVar = "Xu et al. 2025, [2502.15681](https://arxiv.org/abs/2502.15681)"
    init_sigma: ClassVar = 80.0
    couples_samples: ClassVar = True  # by the weights' means
    # DMD2's, on whose code it was built; published results are averages of the student, though.
    settings: ClassVar[dict[str, Any]] = {k: v for k, v in DMD2.settings.items() if k != "ema"}

    divergence: str = knob(
        "kl",
        "The divergence: rkl, kl or js.",
        useful="kl on CIFAR-10, js",
        outside="rkl seeks modes; kl covers them, with a weight of high variance.",
        symbol="f",
        allowed=tuple(WEIGHTS),
    )
    bins: int = knob(
        10,
        "Bins of sigma in which the ratio's mean is 1.",
        useful="10 (published)",
        outside="With one sample in each every weight is 1, which is rkl.",
        at_least=1,
    )
    student_sigma: str = same_as(DMD2, "student_sigma")
    auxiliary_sigma: str = same_as(DMD2, "auxiliary_sigma")
    head_sigma: str = same_as(DMD2, "head_sigma")
    student_gan: float = same_as(DMD2, "student_gan", 1e-3)
    auxiliary_gan: float = same_as(DMD2, "auxiliary_gan", 1.0)
    layer: str = same_as(DMD2, "layer")
    sigma_data: float = same_as(DMD2, "sigma_data")

    def __post_init__(self) -> None:
        check_knobs(self)

    def check_teacher(self, teacher: Denoiser) -> None:
        """Raise ValueError where DMD2 would."""
        self._as_dmd2().check_teacher(teacher)

    def pixel_gradient(
        self, x_0: Images, labels: Labels, *, teacher: Denoiser, auxiliary: Denoiser
    ) -> Images:
        """Return DMD2's gradient with each sample's difference weighted by h(r)."""
        with torch.no_grad():
            sigma = draw_sigma(self.student_sigma, len(x_0), x_0.device)
            x = add_noise(x_0, sigma)
            # The head looks through the teacher.
            d_teacher, logits = judge(auxiliary, x, sigma, labels)
            d_auxiliary = auxiliary(x, sigma, labels)
            low, high = (math.log(bound) for bound in RATIO)
            ratio = level_by_sigma(logits[:, 0].clamp(low, high).exp(), sigma, self.bins)
            h = WEIGHTS[self.divergence](ratio)
            h = (h / h.mean())[:, None, None, None]
            g = h * (dmd(x_0, d_teacher) * (d_auxiliary - d_teacher))
        return g + gan_gradient(
            x_0, labels, auxiliary=auxiliary, law=self.head_sigma, weight=self.student_gan
        )

    def auxiliary_loss(self, x_0: Images, labels: Labels, *, auxiliary: Denoiser) -> Scalar:
        """Return EDM's denoising loss on the student's samples."""
        return self._as_dmd2().auxiliary_loss(x_0, labels, auxiliary=auxiliary)

    def with_head(self, auxiliary: Denoiser, *, teacher: Denoiser) -> HeadedDenoiser:
        """Return the auxiliary with a head on the teacher's innermost features."""
        return HeadedDenoiser(auxiliary, layer=self.layer, eyes=teacher)

    def head_loss(
        self,
        x_0: Images,
        labels: Labels,
        real: Images,
        real_labels: Labels,
        *,
        auxiliary: Denoiser,
    ) -> Scalar:
        """Return DMD2's loss of the head."""
        return self._as_dmd2().head_loss(x_0, labels, real, real_labels, auxiliary=auxiliary)

    def _as_dmd2(self) -> DMD2:
        knobs = {k: v for k, v in vars(self).items() if k not in ("divergence", "bins")}
        return DMD2(**knobs)


def level_by_sigma(ratio: Levels, sigma: Levels, bins: int) -> Levels:
    """Divide ratios by their mean over the samples in each of `bins` even bins of sigma."""
    low, high = SIGMAS
    place = ((sigma - low) * (bins / (high - low))).long().clamp(0, bins - 1)
    sums, counts = (
        ratio.new_zeros(bins).index_add_(0, place, values)
        for values in (ratio, torch.ones_like(ratio))
    )
    return ratio * counts[place] / sums[place]
