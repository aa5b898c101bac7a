"""f-distill: other divergences than the reverse KL (Xu et al. 2025, arXiv:2502.15681).

The gradient of the f-divergence of the noised laws is DMD2's, each sample weighted by

    h(r) = f''(r) r^2,    r = p(x) / q(x) = exp(logit of DMD2's head at x):

1 for the reverse KL, which is DMD2; r for the forward KL, which looks after the modes that the
student lacks; r / (1 + r) for Jensen and Shannon's. r is clipped, and h is divided by its mean over
samples of like noise level, as its size changes with sigma.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

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


@dataclass(frozen=True)
class FDistill:
    """f-distill's knobs: the divergence, and DMD2's."""

    equation: ClassVar = (
        "dmd2's, its first part times h(r), r = exp(head(x)): 1 (rkl), r (kl), r / (1 + r) (js)"
    )
    source: ClassVar = "Xu et al. 2025, [2502.15681](https://arxiv.org/abs/2502.15681)"
    init_sigma: ClassVar = 80.0

    divergence: str = knob(
        "js",
        "The divergence: rkl, kl or js.",
        useful="js",
        outside="rkl seeks modes; kl covers them, with a weight of high variance.",
        symbol="f",
        allowed=tuple(WEIGHTS),
    )
    bins: int = knob(
        4,
        "Groups of like sigma in which the weight's mean is 1 (ours).",
        useful="4 to 10, with 8 samples or more in each",
        outside="With one sample in each every weight is 1, which is rkl.",
        at_least=1,
    )
    student_sigma: str = same_as(DMD2, "student_sigma")
    auxiliary_sigma: str = same_as(DMD2, "auxiliary_sigma")
    head_sigma: str = same_as(DMD2, "head_sigma")
    student_gan: float = same_as(DMD2, "student_gan")
    auxiliary_gan: float = same_as(DMD2, "auxiliary_gan")
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
            d_teacher = teacher(x, sigma, labels)
            d_auxiliary, logits = judge(auxiliary, x, sigma, labels)
            low, high = (math.log(bound) for bound in RATIO)
            h = WEIGHTS[self.divergence](logits.clamp(low, high).exp())
            h = level_by_sigma(h, sigma, self.bins)[:, None, None, None]
            g = h * (dmd(x_0, d_teacher) * (d_auxiliary - d_teacher))
        return g + gan_gradient(
            x_0, labels, auxiliary=auxiliary, law=self.head_sigma, weight=self.student_gan
        )

    def auxiliary_loss(self, x_0: Images, labels: Labels, *, auxiliary: Denoiser) -> Scalar:
        """Return EDM's denoising loss on the student's samples."""
        return self._as_dmd2().auxiliary_loss(x_0, labels, auxiliary=auxiliary)

    def with_head(self, auxiliary: Denoiser) -> HeadedDenoiser:
        """Return the auxiliary with a head on its innermost features."""
        return self._as_dmd2().with_head(auxiliary)

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


def level_by_sigma(h: Levels, sigma: Levels, bins: int) -> Levels:
    """Divide weights by their mean over each of `bins` groups of neighbouring sigma."""
    levelled = torch.empty_like(h)
    for chosen in sigma.argsort().tensor_split(min(bins, len(h))):
        levelled[chosen] = h[chosen] / h[chosen].mean()
    return levelled
