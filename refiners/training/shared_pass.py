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

import torch

from refiners.base import Method, WithSharedPass
from refiners.training.settings import Settings
from roles import Denoiser


@dataclass(frozen=True)
class Pass:
    """What went through a denoiser: x [n, c, h, w], sigma [n], and D(x; sigma), detached."""

    x: torch.Tensor
    sigma: torch.Tensor
    denoised: torch.Tensor


class Heard(torch.nn.Module):
    """A denoiser that remembers its last pass; it is asked nothing else."""

    def __init__(self, denoiser: Denoiser):
        super().__init__()
        self.denoiser = denoiser
        self.last: Pass | None = None
        self.img_resolution, self.img_channels = denoiser.img_resolution, denoiser.img_channels
        self.label_dim = denoiser.label_dim
        self.sigma_min, self.sigma_max = denoiser.sigma_min, denoiser.sigma_max

    def forward(
        self, x: torch.Tensor, sigma: torch.Tensor, labels: torch.Tensor | None = None
    ) -> torch.Tensor:
        """Return D(x; sigma) [n, c, h, w]."""
        denoised = self.denoiser(x, sigma, labels)
        self.last = Pass(x.detach(), sigma, denoised.detach())
        return denoised


@torch.no_grad()
def shared_gradient(
    method: Method,
    x_0: torch.Tensor,
    labels: torch.Tensor | None,
    of_auxiliary: Pass,
    *,
    teacher: Denoiser,
) -> torch.Tensor:
    """Return the method's pixel gradient at the auxiliary's noise, in the shape of x_0."""
    assert isinstance(method, WithSharedPass)
    d_teacher = teacher(of_auxiliary.x, of_auxiliary.sigma, labels)
    return method.gradient_of(x_0, d_teacher, of_auxiliary.denoised)


def check_shared_pass(method: object, settings: Settings) -> None:
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
    if settings.student_first or settings.fresh_images != "none":
        raise ValueError(
            f"share_pass is set with student_first {settings.student_first} and fresh_images "
            f"{settings.fresh_images}; the pass is of one batch and comes before the student's "
            "update, so leave both out"
        )
    if settings.augment or settings.dropout:
        raise ValueError(
            f"share_pass is set with augment {settings.augment:g} and dropout "
            f"{settings.dropout:g}, which are of the auxiliary's own pass alone; leave them at 0"
        )
    if settings.auxiliary_ema:
        raise ValueError(
            f"share_pass is set with auxiliary_ema {settings.auxiliary_ema:g}; the pass is that of "
            "the auxiliary itself, so set auxiliary_ema to 0"
        )
