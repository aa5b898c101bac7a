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
from typing import Any

import torch

from refiners.base import Denoiser
from refiners.diff_instruct import dmd
from refiners.dmd2 import DMD2, gan_gradient
from refiners.head import HeadedDenoiser
from refiners.sigma_laws import add_noise, draw_sigma

WEIGHTS: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "rkl": torch.ones_like,
    "kl": lambda r: r,
    "js": lambda r: r / (1 + r),
}
RATIO = (0.1, 20.0)


@dataclass(frozen=True)
class FDistill:
    """f-distill's knobs: the divergence, and DMD2's.

    Attributes:
        divergence: "rkl", "kl" or "js".
        bins: how many groups of like sigma a batch is cut into; each has a mean weight of 1.
        student_sigma, auxiliary_sigma, head_sigma, student_gan, auxiliary_gan, layer, sigma_data:
            see DMD2.
    """

    divergence: str = "js"
    bins: int = 4
    student_sigma: str = "karras:0.0032,72.1"
    auxiliary_sigma: str = "karras:0.002,80"
    head_sigma: str = "karras:0.002,80"
    student_gan: float = 3e-3
    auxiliary_gan: float = 1e-2
    layer: str = "model.enc"
    sigma_data: float = 0.5

    def __post_init__(self) -> None:
        self._as_dmd2()
        if self.divergence not in WEIGHTS:
            raise ValueError(f"divergence is {self.divergence!r}; allowed are {', '.join(WEIGHTS)}")
        if not self.bins >= 1:
            raise ValueError(f"bins is {self.bins}; it must be at least 1")

    def pixel_gradient(
        self,
        x_0: torch.Tensor,
        labels: torch.Tensor | None,
        *,
        teacher: Denoiser,
        auxiliary: Any,
    ) -> torch.Tensor:
        """Return DMD2's gradient with each sample's difference weighted by h(r)."""
        with torch.no_grad():
            sigma = draw_sigma(self.student_sigma, len(x_0), x_0.device)
            x = add_noise(x_0, sigma)
            d_teacher = teacher(x, sigma, labels)
            d_auxiliary, logits = auxiliary.judge(x, sigma, labels)
            low, high = (math.log(bound) for bound in RATIO)
            h = WEIGHTS[self.divergence](logits.clamp(low, high).exp())
            h = level_by_sigma(h, sigma, self.bins)[:, None, None, None]
            g = h * (dmd(x_0, d_teacher) * (d_auxiliary - d_teacher))
        return g + gan_gradient(
            x_0, labels, auxiliary=auxiliary, law=self.head_sigma, weight=self.student_gan
        )

    def auxiliary_loss(
        self, x_0: torch.Tensor, labels: torch.Tensor | None, *, auxiliary: Denoiser
    ) -> torch.Tensor:
        """Return EDM's denoising loss on the student's samples."""
        return self._as_dmd2().auxiliary_loss(x_0, labels, auxiliary=auxiliary)

    def with_head(self, auxiliary: torch.nn.Module) -> HeadedDenoiser:
        """Return the auxiliary with a head on its innermost features."""
        return self._as_dmd2().with_head(auxiliary)

    def head_loss(
        self,
        x_0: torch.Tensor,
        labels: torch.Tensor | None,
        real: torch.Tensor,
        real_labels: torch.Tensor | None,
        *,
        auxiliary: Any,
    ) -> torch.Tensor:
        """Return DMD2's loss of the head."""
        return self._as_dmd2().head_loss(x_0, labels, real, real_labels, auxiliary=auxiliary)

    def _as_dmd2(self) -> DMD2:
        knobs = {k: v for k, v in vars(self).items() if k not in ("divergence", "bins")}
        return DMD2(**knobs)


def level_by_sigma(h: torch.Tensor, sigma: torch.Tensor, bins: int) -> torch.Tensor:
    """Divide weights [n] by their mean over each of `bins` groups of neighbouring sigma."""
    levelled = torch.empty_like(h)
    for chosen in sigma.argsort().tensor_split(min(bins, len(h))):
        levelled[chosen] = h[chosen] / h[chosen].mean()
    return levelled
