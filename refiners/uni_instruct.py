"""Uni-Instruct: an f-divergence expanded over noise (Wang et al. 2025, arXiv:2505.20755).

Along the noising, an f-divergence of the teacher's law p and the student's q changes by a Fisher
divergence that is weighted by the ratio r = p / q (Theorem 3.1),

    D_f(p_0, q_0) = int sigma E_q [H |y|^2] dsigma,    y = s_q - s_p,    H(r) = r^2 f''(r).

Its gradient needs that of s_q by the student, which SIM's identity (see sim.py) turns into a mean:
E_q [u . ds_q] is minus the slope of E [u . (s_q - grad_x log q(x | x_0))] through x and x_0, for
any u. With u = 2 H y, and as H falls with log q by r H', it is that of (Theorem 3.2)

    E [K |y|^2 - 2 H y . (s_q - grad_x log q(x | x_0))],    K(r) = H - r H'

through x_0 and x, with s_q and the ratio as functions of x. The second term is SIM's by the weight
H. The first is the slope of |y|^2 by K and, as grad_x r = -r y, Diff-Instruct's y by -r K' |y|^2.

    f           H                K
    kl          r                0
    rkl         1                1
    js          r / (1 + r)      r^2 / (1 + r)^2
    chi2        r^2              -r^2

In denoisers, with the weight sigma^4 / (2 mean |x_0 - D_p|) and gap = D_p - D_q, the loss is

    (H gap . (D_q - x_0) + K |gap|^2 / 2) / mean |x_0 - D_p|,

so rkl is SiD at alpha = 1/2, and kl is SiD at alpha = 1 by the ratio. r is exp of the mean logit of
SiDA's map, and H and K are divided by the mean H. H's own slope, r H' (y . ...) y, has the mean 0
given x but a large spread; it is left out as in the published code unless ratio_slope is set. The
GAN and the auxiliary's loss are SiDA's.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from jaxtyping import Float

from refiners.base import Images, Labels, Levels, Scalar
from refiners.f_distill import RATIO
from refiners.head import HeadedDenoiser, judge
from refiners.knob import check_knobs, knob, same_as
from refiners.sida import SiDA, fooling_loss
from refiners.sigma_laws import add_noise, draw_sigma
from roles import Denoiser

Weight = Callable[[Levels], Levels]
# H and K, functions of the ratio.
WEIGHTS: dict[str, tuple[Weight, Weight]] = {
    "kl": (lambda r: r, torch.zeros_like),
    "rkl": (torch.ones_like, torch.ones_like),
    "js": (lambda r: r / (1 + r), lambda r: (r / (1 + r)).square()),
    "chi2": (torch.square, lambda r: -r.square()),
}


@dataclass(frozen=True)
class UniInstruct:
    """The divergence, and SiDA's knobs."""

    equation: ClassVar = (
        "∇ (H(r) (D_p - D_q) · (D_q - x_0) + K(r) |D_p - D_q|² / 2) / [|x_0 - D_p|_1], "
        "r = exp(mean m(x)), K = H - r H'; and sida's second part"
    )
    source: ClassVar = (
        "Wang et al. 2025, [2505.20755](https://arxiv.org/abs/2505.20755), Theorem 3.1, 3.2"
    )
    init_sigma: ClassVar = SiDA.init_sigma
    couples_samples: ClassVar = True
    settings: ClassVar[dict[str, Any]] = SiDA.settings

    divergence: str = knob(
        "kl",
        "The divergence: kl (forward), rkl, js or chi2.",
        useful="kl (published with the best figures)",
        outside="rkl seeks modes; chi2 hangs on few samples.",
        symbol="f",
        allowed=tuple(WEIGHTS),
    )
    ratio_slope: bool = knob(
        False,
        "Follow the slope of SIM's weight too, 0 or 1.",
        useful="0 (published); 1 is the exact gradient",
        outside="1 has a mean that hardly differs and a much larger spread.",
    )
    student_sigma: str = same_as(SiDA, "student_sigma")
    auxiliary_sigma: str = same_as(SiDA, "auxiliary_sigma")
    student_gan: float = same_as(SiDA, "student_gan")
    layer: str = same_as(SiDA, "layer")
    sigma_data: float = same_as(SiDA, "sigma_data")

    def __post_init__(self) -> None:
        check_knobs(self)

    def check_teacher(self, teacher: Denoiser) -> None:
        """Raise ValueError where SiDA would."""
        self._as_sida().check_teacher(teacher)

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
            low, high = (math.log(bound) for bound in RATIO)
            log_ratio = logits.detach().mean(dim=1).clamp(low, high)
            losses, h = self.matching(x_0, x, sigma, d_teacher, d_auxiliary, log_ratio)
            size = (d_teacher - x_0).detach().abs().mean(dim=[1, 2, 3], keepdim=True)
            size = size.clamp(min=1e-5)
            loss = (losses / size.flatten()).sum() / h.mean()
            loss = loss + self.student_gan * fooling_loss(logits, size) * x_0[0].numel()
            return torch.autograd.grad(loss, x_0)[0]

    def matching(
        self,
        x_0: Images,
        x: Images,
        sigma: Levels,
        d_teacher: Images,
        d_auxiliary: Images,
        log_ratio: Levels,
    ) -> tuple[Levels, Levels]:
        """Return each sample's H gap . (D_q - x_0) + K |gap|^2 / 2, and H as a constant.

        Args:
            x_0: the student's samples, of which x and what was denoised are functions.
            x: noised.
            sigma: noise levels.
            d_teacher: D_p(x).
            d_auxiliary: D_q(x).
            log_ratio: log p(x) / q(x), a constant; its slope is that of the scores.
        """
        gap = d_teacher - d_auxiliary
        slope = (gap / sigma.square()[:, None, None, None]).detach()  # s_p - s_q
        moving = (log_ratio + over_pixels(slope * (x - x.detach()))).exp()
        of_h, of_k = WEIGHTS[self.divergence]
        h = of_h(moving if self.ratio_slope else log_ratio.exp())
        losses = h * over_pixels(gap * (d_auxiliary - x_0))
        losses = losses + of_k(moving) * over_pixels(gap.square()) / 2
        return losses, h.detach()

    def _as_sida(self) -> SiDA:
        knobs = {k: v for k, v in vars(self).items() if k not in ("divergence", "ratio_slope")}
        return SiDA(**knobs)

    def auxiliary_loss(self, x_0: Images, labels: Labels, *, auxiliary: Denoiser) -> Scalar:
        """Return 0, as SiDA does."""
        return self._as_sida().auxiliary_loss(x_0, labels, auxiliary=auxiliary)

    def with_head(self, auxiliary: Denoiser, *, teacher: Denoiser) -> HeadedDenoiser:
        """Return the auxiliary with its map of logits."""
        return self._as_sida().with_head(auxiliary, teacher=teacher)

    def head_loss(
        self,
        x_0: Images,
        labels: Labels,
        real: Images,
        real_labels: Labels,
        *,
        auxiliary: Denoiser,
    ) -> Scalar:
        """Return SiDA's loss of the auxiliary and its map."""
        return self._as_sida().head_loss(x_0, labels, real, real_labels, auxiliary=auxiliary)


def over_pixels(x: Float[torch.Tensor, "n c h w"]) -> Levels:
    """Return the sum of each sample."""
    return x.sum(dim=[1, 2, 3])
