"""Score implicit matching (Luo et al. 2024, arXiv:2410.16794).

For any distance d of the scores the gradient of E d(s_q - s_p), x drawn from the noised student, is
that of

    L = -d'(y) . (s_q(x) - grad_x log q(x | x_0)),    y = s_q(x) - s_p(x)          (Theorem 3.1)

through x_0 and x, with s_q frozen. With the pseudo-Huber distance d' = y / sqrt(|y|^2 + c^2), so no
sample pulls harder than another. In denoisers, up to powers of sigma that belong to the weight,

    L = -(D_q - D_p) . (D_q - x_0) / sqrt(|D_q - D_p|^2 + c^2).

With |y|^2 for d, which is c to infinity, it is SiD at alpha = 1 without SiD's divisor.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch

from refiners.base import Denoiser
from refiners.sigma_laws import add_noise, check_knobs, denoising_loss, draw_sigma


@dataclass(frozen=True)
class SIM:
    """SIM's knobs; laws and weight are SiD's, as the method's are.

    Attributes:
        student_sigma: law of sigma in the student's loss.
        auxiliary_sigma: law of sigma in the auxiliary's loss.
        c: where the distance turns from square to linear, per square root of c h w; the default is
            that of consistency models (Song and Dhariwal 2023, arXiv:2310.14189).
        sigma_data: the teacher's sigma_data, for the auxiliary's loss.
    """

    student_sigma: str = "karras:0.002,24.4"
    auxiliary_sigma: str = "lognormal:-1.2,1.2"
    c: float = 0.00054
    sigma_data: float = 0.5

    def __post_init__(self) -> None:
        check_knobs(self)
        if not 0 < self.c < math.inf:
            raise ValueError(f"c is {self.c}; it must be above 0 and finite")

    def pixel_gradient(
        self,
        x_0: torch.Tensor,
        labels: torch.Tensor | None,
        *,
        teacher: Denoiser,
        auxiliary: Denoiser,
    ) -> torch.Tensor:
        """Return dL/dx_0 by autograd through the teacher and the auxiliary."""
        dims = [1, 2, 3]
        with torch.enable_grad():
            x_0 = x_0.detach().requires_grad_()
            sigma = draw_sigma(self.student_sigma, len(x_0), x_0.device)
            x = add_noise(x_0, sigma)
            d_auxiliary = auxiliary(x, sigma, labels)
            y = d_auxiliary - teacher(x, sigma, labels)
            length = (y.square().sum(dim=dims) + self.c**2 * x_0[0].numel()).sqrt()
            loss = -((y * (d_auxiliary - x_0)).sum(dim=dims) / length).sum()
            return torch.autograd.grad(loss, x_0)[0]

    def auxiliary_loss(
        self, x_0: torch.Tensor, labels: torch.Tensor | None, *, auxiliary: Denoiser
    ) -> torch.Tensor:
        """Return EDM's denoising loss on the student's samples."""
        return denoising_loss(
            auxiliary, x_0, labels, law=self.auxiliary_sigma, sigma_data=self.sigma_data
        )
