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
from typing import ClassVar

import torch

from refiners.base import Images, Labels
from refiners.diff_instruct import WEIGHTS, DiffInstruct, weighted
from refiners.knob import check_knobs, same_as
from refiners.sigma_laws import add_noise, draw_sigma, student_law
from roles import Denoiser


@dataclass(frozen=True)
class SDS:
    """SDS' knobs; there is no auxiliary network, so no warm-up either."""

    equation: ClassVar = "x_0 - D_p"
    source: ClassVar = "Poole et al. 2023, [2209.14988](https://arxiv.org/abs/2209.14988), Eq. 3"
    init_sigma: ClassVar = 1.0

    # DreamFusion draws the time uniformly, without the ends.
    student_sigma: str = student_law("karras:0.02,20")
    weight: str = same_as(DiffInstruct, "weight")

    def __post_init__(self) -> None:
        check_knobs(self)

    @torch.no_grad()
    def pixel_gradient(
        self, x_0: Images, labels: Labels, *, teacher: Denoiser, auxiliary: Denoiser
    ) -> Images:
        """Return w (x_0 - D_p) at one noise level per sample; the auxiliary is not asked."""
        sigma = draw_sigma(self.student_sigma, len(x_0), x_0.device)
        d_teacher = teacher(add_noise(x_0, sigma), sigma, labels)
        return weighted(x_0, d_teacher, x_0, WEIGHTS[self.weight])
