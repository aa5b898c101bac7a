"""Score implicit matching (Luo et al. 2024, arXiv:2410.16794).

For any distance d of the scores the gradient of E d(s_q - s_p), x drawn from the noised student, is
that of

    L = -d'(y) . (s_q(x) - grad_x log q(x | x_0)),    y = s_q(x) - s_p(x)          (Theorem 3.1)

through x_0 and x, with s_q frozen. With the pseudo-Huber distance d' = y / sqrt(|y|^2 + c^2), so no
sample pulls harder than another. In denoisers y = (D_q - D_p) / sigma^2, and with the weight
sigma^2

    L = -(D_q - D_p) . (D_q - x_0) / sqrt(|D_q - D_p|^2 + c^2 sigma^4).

With |y|^2 for d, which is c to infinity, it is SiD at alpha = 1 with another weight.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch

from refiners.base import Images, Labels, Scalar
from refiners.knob import check_knobs, knob, same_as
from refiners.sid import SiD
from refiners.sigma_laws import add_noise, denoising_loss, draw_sigma
from roles import Denoiser


@dataclass(frozen=True)
class SIM:
    """SIM's knobs; laws and weight are SiD's, as the method's are."""

    equation: ClassVar = (
        "-∇ Σ y · (D_q - x_0) / sqrt(|y|² + c² · dims), y = s_q - s_p = (D_q - D_p) / sigma²"
    )
    source: ClassVar = "Luo et al. 2024, [2410.16794](https://arxiv.org/abs/2410.16794)"
    init_sigma: ClassVar = SiD.init_sigma  # whose recipe it takes

    student_sigma: str = same_as(SiD, "student_sigma")
    auxiliary_sigma: str = same_as(SiD, "auxiliary_sigma")
    # That of consistency models (Song and Dhariwal 2023, arXiv:2310.14189).
    c: float = knob(
        0.00054,
        "Where the distance of the scores turns from square to linear, per square root of the "
        "pixels.",
        useful="1e-4 to 1e-2",
        outside="Very large it is SiD's square, very small the gradient has no scale.",
        symbol="c",
        above=0,
    )
    sigma_data: float = same_as(SiD, "sigma_data")

    def __post_init__(self) -> None:
        check_knobs(self)

    def pixel_gradient(
        self, x_0: Images, labels: Labels, *, teacher: Denoiser, auxiliary: Denoiser
    ) -> Images:
        """Return dL/dx_0 by autograd through the teacher and the auxiliary."""
        dims = [1, 2, 3]
        with torch.enable_grad():
            x_0 = x_0.detach().requires_grad_()
            sigma = draw_sigma(self.student_sigma, len(x_0), x_0.device)
            x = add_noise(x_0, sigma)
            d_auxiliary = auxiliary(x, sigma, labels)
            gap = d_auxiliary - teacher(x, sigma, labels)
            # sigma^2 |(y, c)|, which no low sigma makes overflow.
            c = self.c * sigma.square() * math.sqrt(x_0[0].numel())
            length = (gap.square().sum(dim=dims) + c.square()).sqrt()
            loss = -((gap * (d_auxiliary - x_0)).sum(dim=dims) / length).sum()
            return torch.autograd.grad(loss, x_0)[0]

    def auxiliary_loss(self, x_0: Images, labels: Labels, *, auxiliary: Denoiser) -> Scalar:
        """Return EDM's denoising loss on the student's samples."""
        return denoising_loss(
            auxiliary, x_0, labels, law=self.auxiliary_sigma, sigma_data=self.sigma_data
        )
