"""One pass of the auxiliary for both its own loss and the student's gradient.

A step of Diff-Instruct passes the student's images through the auxiliary twice, each time with
fresh noise: once with a gradient, to train it, and once without, to follow it. Where both draw
sigma from one law, the first pass can serve both. With the work of a pass through the U-Net as U
and a backward pass as 2 U, a step is then 4 U instead of 5 U, the generator not counted. The
student follows the auxiliary as it was before its update (a Jacobi step instead of a Gauss-Seidel
one), and its own weights instead of their average.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from refiners.base import Denoiser, WithSharedPass
from refiners.training.settings import Settings


@dataclass(frozen=True)
class Pass:
    """What went through a denoiser: x [n, c, h, w], sigma [n], and D(x; sigma), detached."""

    x: torch.Tensor
    sigma: torch.Tensor
    denoised: torch.Tensor


class Heard:
    """A denoiser that remembers its last pass."""

    def __init__(self, denoiser: Any):
        self.denoiser = denoiser
        self.last: Pass | None = None

    def __call__(
        self, x: torch.Tensor, sigma: torch.Tensor, labels: torch.Tensor | None = None
    ) -> torch.Tensor:
        """Return D(x; sigma) [n, c, h, w]."""
        denoised = self.denoiser(x, sigma, labels)
        self.last = Pass(x.detach(), sigma, denoised.detach())
        return denoised


@torch.no_grad()
def shared_gradient(
    method: WithSharedPass,
    x_0: torch.Tensor,
    labels: torch.Tensor | None,
    of_auxiliary: Pass,
    *,
    teacher: Denoiser,
) -> torch.Tensor:
    """Return the method's pixel gradient at the auxiliary's noise, in the shape of x_0."""
    d_teacher = teacher(of_auxiliary.x, of_auxiliary.sigma, labels)
    return method.gradient_of(x_0, d_teacher, of_auxiliary.denoised)


def check_shared_pass(method: Any, settings: Settings) -> None:
    """Raise ValueError where share_pass is set and one pass cannot serve both."""
    if not settings.share_pass:
        return
    if not isinstance(method, WithSharedPass):
        raise ValueError(
            f"share_pass is set, which {type(method).__name__} cannot do: its gradient is not that "
            "of one pass of the auxiliary; leave it out"
        )
    laws = method.student_sigma, method.auxiliary_sigma
    if laws[0] != laws[1]:
        raise ValueError(
            f"share_pass is set, but student_sigma is {laws[0]} and auxiliary_sigma {laws[1]}; "
            "give both one law"
        )
    if settings.auxiliary_ema:
        raise ValueError(
            f"share_pass is set with auxiliary_ema {settings.auxiliary_ema:g}; the pass is that of "
            "the auxiliary itself, so set auxiliary_ema to 0"
        )
    if getattr(method, "hold_contrast", 0):
        raise ValueError("share_pass is set with hold_contrast; set that to 0")
