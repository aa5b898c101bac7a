"""Score distillation sampling: follow the teacher alone (Poole et al. 2023, arXiv:2209.14988).

Diff-Instruct with a generator that makes one image: its law q is a Dirac at x_0, so the mean of the
clean image given any noised one is x_0 itself, D_q = x_0, exactly and without an auxiliary network.
DreamFusion's Eq. 3 is then, in EDM's x = x_0 + sigma eps with w = sigma^2,

    E [ (sigma^2 / sigma) (eps_p(x) - eps) dx_0 / dtheta ] = E [ (x_0 - D_p(x)) dx_0 / dtheta ].

For a generator of many images the entropy of q is missing: every image is drawn to a mode, and
blurs. So it is a limit to compare with, not a refinement to recommend.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from refiners.base import Denoiser
from refiners.diff_instruct import DiffInstruct


class Oracle:
    """The denoiser of a law that is a Dirac at each sample: it returns the clean images."""

    def __init__(self, x_0: torch.Tensor, teacher: Denoiser):
        self.x_0 = x_0
        self.img_resolution, self.img_channels = teacher.img_resolution, teacher.img_channels
        self.label_dim = teacher.label_dim
        self.sigma_min, self.sigma_max = teacher.sigma_min, teacher.sigma_max

    def __call__(
        self, x: torch.Tensor, sigma: torch.Tensor, labels: torch.Tensor | None = None
    ) -> torch.Tensor:
        """Return x_0, whatever the noise."""
        return self.x_0


@dataclass(frozen=True)
class SDS:
    """SDS' knobs; there is no auxiliary network, so no warm-up either.

    Attributes:
        student_sigma: law of sigma. DreamFusion draws the time uniformly, without the ends.
        weight: "one" (w = sigma^2) or "dmd"; see DiffInstruct.
    """

    student_sigma: str = "karras:0.02,20"
    weight: str = "one"

    def __post_init__(self) -> None:
        self._as_diff_instruct()

    def pixel_gradient(
        self,
        x_0: torch.Tensor,
        labels: torch.Tensor | None,
        *,
        teacher: Denoiser,
        auxiliary: Denoiser,
    ) -> torch.Tensor:
        """Return w (x_0 - D_p) at one noise level per sample; the auxiliary is not asked."""
        return self._as_diff_instruct().pixel_gradient(
            x_0, labels, teacher=teacher, auxiliary=Oracle(x_0, teacher)
        )

    def _as_diff_instruct(self) -> DiffInstruct:
        return DiffInstruct(student_sigma=self.student_sigma, weight=self.weight)
