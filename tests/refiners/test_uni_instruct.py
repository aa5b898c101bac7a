"""Uni-Instruct where the laws are Gaussian: its theorems, by quadrature in one pixel."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch

from refiners.sid import SiD
from refiners.sida import SiDA
from refiners.uni_instruct import WEIGHTS, UniInstruct

A, B = -0.3, 0.4  # the student's law N(A, B^2)
M, S = 0.2, 0.5  # the teacher's law N(M, S^2)
# r^2 f'' and so f, whose slope and value at 1 are 0 up to a line.
F = {
    "kl": lambda r: r * np.log(r),
    "rkl": lambda r: -np.log(r),
    "js": lambda r: r * np.log(r) - (1 + r) * np.log((1 + r) / 2),
    "chi2": lambda r: (r - 1) ** 2 / 2,
}


def density(x: np.ndarray, mean: float, variance: float) -> np.ndarray:
    return np.exp(-((x - mean) ** 2) / (2 * variance)) / math.sqrt(2 * math.pi * variance)


def weight_h(kind: str, r: np.ndarray) -> np.ndarray:
    return WEIGHTS[kind][0](torch.from_numpy(r)).numpy()


def fisher(kind: str, sigma: float, mean: float, std: float) -> float:
    """E_q [H(p / q) (s_q - s_p)^2] of the laws noised to sigma, on a grid."""
    x = np.linspace(-1, 1, 40_001) * 12 * math.sqrt(S**2 + sigma**2)
    vq, vp = std**2 + sigma**2, S**2 + sigma**2
    q, p = density(x, mean, vq), density(x, M, vp)
    y = -(x - mean) / vq + (x - M) / vp
    keep = q > 1e-200
    r = p[keep] / q[keep]
    return float((q[keep] * weight_h(kind, r) * y[keep] ** 2).sum() * (x[1] - x[0]))


@pytest.mark.parametrize("kind", [*WEIGHTS])
def test_a_divergence_is_the_sum_of_fisher_divergences_over_the_noise(kind: str) -> None:
    """Theorem 3.1: D_f(p, q) = int sigma E_q [r^2 f''(r) |s_q - s_p|^2] dsigma."""
    x = np.linspace(-8, 8, 200_001)
    p, q = density(x, M, S**2), density(x, A, B**2)
    keep = (q > 1e-250) & (p > 1e-250)
    divergence = (q[keep] * F[kind](p[keep] / q[keep])).sum() * (x[1] - x[0])
    log_sigma = np.linspace(math.log(1e-3), math.log(300), 800)
    values = [math.exp(2 * t) * fisher(kind, math.exp(t), A, B) for t in log_sigma]
    assert np.trapezoid(values, log_sigma) == pytest.approx(divergence, rel=2e-3)


def quadrature(num: int = 60) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Nodes z and eps of two unit Gaussians, and their weights."""
    nodes, weights = np.polynomial.hermite_e.hermegauss(num)
    z, eps = (torch.from_numpy(g.ravel()) for g in np.meshgrid(nodes, nodes))
    return z, eps, torch.from_numpy(np.outer(weights, weights).ravel()) / (2 * math.pi)


def method_gradient(kind: str, sigma: float, *, ratio_slope: bool) -> tuple[float, float]:
    """The slope of our loss by the student's mean and deviation, its mean over z and eps."""
    z, eps, weights = quadrature()
    a, b = (torch.tensor(v, dtype=torch.float64, requires_grad=True) for v in (A, B))
    x_0 = (a + b * z)[:, None, None, None]
    levels = torch.full_like(z, sigma)
    x = x_0 + sigma * eps[:, None, None, None]
    vq, vp = B**2 + sigma**2, S**2 + sigma**2
    d_teacher = (S**2 * x + sigma**2 * M) / vp
    d_auxiliary = (B**2 * x + sigma**2 * A) / vq
    at = x.detach().flatten()
    log_ratio = (at - A) ** 2 / (2 * vq) - (at - M) ** 2 / (2 * vp) + 0.5 * math.log(vq / vp)
    method = UniInstruct(divergence=kind, ratio_slope=ratio_slope)
    losses, _ = method.matching(x_0, x, levels, d_teacher, d_auxiliary, log_ratio)
    slopes = torch.autograd.grad((weights * losses).sum(), (a, b))
    # The loss has the weight sigma^4 / 2.
    by_mean, by_std = (slope.item() * 2 / sigma**4 for slope in slopes)
    return by_mean, by_std


@pytest.mark.parametrize("kind", [*WEIGHTS])
@pytest.mark.parametrize("sigma", [0.5, 1.0, 3.0])
def test_the_gradient_is_that_of_the_weighted_fisher_divergence(kind: str, sigma: float) -> None:
    """Theorem 3.2, by the student's mean and by its deviation, against finite differences."""
    found = method_gradient(kind, sigma, ratio_slope=True)
    step = 1e-4
    expected = (
        (fisher(kind, sigma, A + step, B) - fisher(kind, sigma, A - step, B)) / (2 * step),
        (fisher(kind, sigma, A, B + step) - fisher(kind, sigma, A, B - step)) / (2 * step),
    )
    assert found == pytest.approx(expected, rel=1e-3)


def test_the_reverse_kls_weight_has_no_slope() -> None:
    assert method_gradient("rkl", 1.0, ratio_slope=False) == method_gradient(
        "rkl", 1.0, ratio_slope=True
    )


@pytest.mark.parametrize("kind", [*WEIGHTS])
def test_k_is_h_less_r_times_its_slope(kind: str) -> None:
    r = torch.linspace(0.1, 20, 50, dtype=torch.float64, requires_grad=True)
    of_h, of_k = WEIGHTS[kind]
    (slope,) = torch.autograd.grad(of_h(r).sum() + 0 * r.sum(), r)
    torch.testing.assert_close(of_k(r), of_h(r) - r * slope)


class Mapped(torch.nn.Module):
    """A Gaussian's denoiser with a map of logits that are all one number."""

    def __init__(self, denoiser: Any, logit: float):
        super().__init__()
        self.denoiser, self.logit = denoiser, logit
        self.img_resolution, self.img_channels, self.label_dim = 4, 1, 0
        self.sigma_min, self.sigma_max = 0.0, math.inf

    def forward(self, x: torch.Tensor, sigma: torch.Tensor, labels: Any = None) -> torch.Tensor:
        return self.denoiser(x, sigma)

    def judge(self, x: torch.Tensor, sigma: torch.Tensor, labels: Any = None) -> Any:
        return self.denoiser(x, sigma), torch.full([len(x), 4], self.logit) + 0 * x.sum()


@pytest.mark.parametrize(
    ("method", "alpha"),
    [(UniInstruct("kl"), 1.0), (UniInstruct("rkl"), 0.5), (SiDA(), 1.0), (SiDA(alpha=1.2), 1.2)],
)
@pytest.mark.parametrize("logit", [0.0, 0.7])
def test_where_the_map_tells_nothing_it_is_sid(
    gaussian: Any, method: Any, alpha: float, logit: float
) -> None:
    x_0, gradients = A + B * torch.randn(16, 1, 4, 4), []
    auxiliary = Mapped(gaussian(A, B), logit)
    for each in (method, SiD(alpha=alpha)):
        torch.manual_seed(1)
        gradients.append(
            each.pixel_gradient(x_0, None, teacher=gaussian(M, S), auxiliary=auxiliary)
        )
    torch.testing.assert_close(*gradients, rtol=1e-4, atol=1e-6)


def test_an_unknown_divergence_is_refused_by_name() -> None:
    with pytest.raises(ValueError, match="divergence is 'tv'; allowed are kl, rkl, js, chi2"):
        UniInstruct(divergence="tv")
    with pytest.raises(ValueError, match=r"student_gan is -1.0; it must be at least 0"):
        UniInstruct(student_gan=-1.0)
