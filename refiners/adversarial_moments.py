"""The student's own discriminator on the teacher's images, joined by moments in its features.

A good student and its teacher are near each other, and the difference of two trained denoisers is
then mostly their own noise. The discriminator that the student's file carries already knows where
its generator errs: after a short training against images of the teacher (or real ones), its slope
points where the Frechet distance falls more surely than any other gradient that we measured
(docs/experiments.md). The student follows the non-saturating loss (Goodfellow et al. 2014,
arXiv:1406.2661),

    g = d/dx_0 softplus(-D(x_0)),

while D goes on learning, with R1 on real images y (Mescheder et al. 2018, arXiv:1801.04406), at
every sixteenth step as in Karras et al. 2020 (arXiv:1912.04958, Appendix B),

    E softplus(D(x_0)) + E softplus(-D(y)) + gamma / 2 E |dD/dy|^2.

A discriminator sees one image at a time and lets proportions drift; the moments of the teacher's
features see the whole law, and join g as in moments.py. No denoiser is trained. Where a file has no
discriminator that fits, heads on the teacher's features take its place (feature_discriminator.py).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch.nn.functional import softplus

from refiners.base import Images, Labels, Memory, Scalar
from refiners.knob import check_knobs, knob, same_as
from refiners.moments import DiffInstructMoments
from roles import Denoiser, Discriminator

R1_INTERVAL = 16  # steps


@dataclass(frozen=True)
class AdversarialMoments:
    """The discriminator's knob and those of the moments."""

    equation: ClassVar = "∇ softplus(-D(x_0)) + a · rms(∇) / rms(h) · h, h as above"
    source: ClassVar = (
        "ours; Goodfellow et al. 2014, [1406.2661](https://arxiv.org/abs/1406.2661); "
        "Mescheder et al. 2018, [1801.04406](https://arxiv.org/abs/1801.04406)"
    )
    init_sigma: ClassVar = 2.5
    # Measured on pairs of several strengths, see docs/experiments.md.
    settings: ClassVar[dict[str, Any]] = {
        "glr": 3e-4,
        "lr": 6e-4,
        "beta2": 0.99,
        "rampup_kimg": 0.0,
        "decay_kimg": 2.0,
        "ema": 4.0,
        "warmup_kimg": 1.0,
        "auxiliary_steps": 1,
        "patience_kimg": 8.0,
    }

    r1: float = knob(
        1.0,
        "Weight of the discriminator's gradient penalty on real images.",
        useful="0.1 to 10; the value that the student was trained with",
        outside="Too low and the discriminator learns its images by heart; too high, nothing.",
        symbol="gamma",
        at_least=0,
    )
    moments: float = knob(
        0.5,
        "Share of the moments' gradient, in units of the discriminator's.",
        useful="0.5 to 2",
        outside="0 is the discriminator alone, which is slower; far above 2 the features are "
        "matched and the images are not.",
        symbol="a",
        at_least=0,
    )
    feature_sigmas: str = same_as(DiffInstructMoments, "feature_sigmas")
    num_features: int = same_as(DiffInstructMoments, "num_features")
    memory: int = same_as(DiffInstructMoments, "memory")
    num_reference: int = same_as(DiffInstructMoments, "num_reference")

    def __post_init__(self) -> None:
        check_knobs(self)

    def matching(self) -> DiffInstructMoments:
        """Return the part that matches moments."""
        return DiffInstructMoments(
            moments=self.moments,
            feature_sigmas=self.feature_sigmas,
            num_features=self.num_features,
            memory=self.memory,
            num_reference=self.num_reference,
        )

    def pixel_gradient(
        self, x_0: Images, labels: Labels, *, teacher: Denoiser, auxiliary: Denoiser
    ) -> Images:
        """Return zeros: all of the gradient is the discriminator's and the moments'."""
        return torch.zeros_like(x_0)

    def discriminator_gradient(
        self, x_0: Images, labels: Labels, *, discriminator: Discriminator
    ) -> Images:
        """Return the slope of softplus(-D) at each sample, in the shape of x_0 [n, c, h, w]."""
        with torch.enable_grad():
            x_0 = x_0.detach().requires_grad_()
            loss = softplus(-discriminator(x_0, labels)).sum()
            (slope,) = torch.autograd.grad(loss, x_0)
        return slope

    def discriminator_loss(
        self,
        x_0: Images,
        labels: Labels,
        real: Images,
        real_labels: Labels,
        *,
        discriminator: Discriminator,
        step: int,
    ) -> Scalar:
        """Return the logistic loss of the student's and of real images, at times with R1."""
        penalised = self.r1 > 0 and step % R1_INTERVAL == 0
        real = real.detach().requires_grad_(penalised)
        logits = discriminator(real, real_labels)
        loss = softplus(discriminator(x_0, labels)).mean() + softplus(-logits).mean()
        if penalised:
            (slope,) = torch.autograd.grad(logits.sum(), real, create_graph=True)
            penalty = slope.square().sum(dim=[1, 2, 3]).mean()
            loss = loss + self.r1 / 2 * R1_INTERVAL * penalty
        return loss

    def check_teacher(self, teacher: Denoiser) -> None:
        """Raise ValueError unless the teacher gives features."""
        self.matching().check_teacher(teacher)

    def new_memory(
        self,
        draw_student: Callable[[int], Images],
        draw_reference: Callable[[int], Images],
        *,
        teacher: Denoiser,
    ) -> Memory:
        """Return the moments of the student's features and those to reach."""
        return self.matching().new_memory(draw_student, draw_reference, teacher=teacher)

    def join(
        self, g: Images, x_0: Images, *, teacher: Denoiser, memory: Memory, at_a_time: int = 0
    ) -> Images:
        """Return the gradient g with the moments' part; memory sees the batch."""
        return self.matching().join(g, x_0, teacher=teacher, memory=memory, at_a_time=at_a_time)
