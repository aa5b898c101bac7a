"""Every method's pixel gradient where the scores are Gaussian: the papers' formulas in NumPy."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from refiners.diff_instruct import DiffInstruct
from refiners.dmd import DMD
from refiners.sds import SDS
from refiners.sid import SiD
from refiners.sim import SIM
from refiners.training.inputs import pseudo_huber

A, B = -0.4, 0.3  # the student's law N(A, B^2)
M, S = 0.3, 0.5  # the teacher's law N(M, S^2)
LAW = "karras:0.02,20"
PIXELS = 16


def as_double(x: torch.Tensor) -> np.ndarray:
    return x.detach().double().numpy()


def affine_denoiser(sigma: np.ndarray, mean: float, std: float) -> tuple[np.ndarray, np.ndarray]:
    """The slope and the intercept in x of D(x; sigma) of N(mean, std^2) (Bishop 2006, 2.116)."""
    level = sigma[:, None, None, None] ** 2
    return std**2 / (std**2 + level), level * mean / (std**2 + level)


class World:
    """One gradient on 64 samples of the student, with the noised images and all in float64."""

    def __init__(self, gaussian: Callable[..., Any], method: Any):
        teacher, auxiliary = gaussian(M, S), gaussian(A, B)
        x_0 = A + B * torch.randn(64, 1, 4, 4)
        self.g = as_double(method.pixel_gradient(x_0, None, teacher=teacher, auxiliary=auxiliary))
        x, sigma, _ = teacher.seen
        self.x_0, self.x, self.sigma = as_double(x_0), as_double(x), as_double(sigma)
        assert len(set(self.sigma)) == 64
        self.slope_p, at_0 = affine_denoiser(self.sigma, M, S)
        self.d_p = self.slope_p * self.x + at_0
        self.slope_q, at_0 = affine_denoiser(self.sigma, A, B)
        self.d_q = self.slope_q * self.x + at_0
        self.size = np.abs(self.x_0 - self.d_p).mean(axis=(1, 2, 3), keepdims=True)

    def expect(self, g: np.ndarray) -> None:
        scale = np.abs(g).max(axis=(1, 2, 3), keepdims=True)
        np.testing.assert_allclose(self.g / scale, g / scale, rtol=0, atol=2e-4)


def test_sds_is_dreamfusions_difference_of_predicted_and_added_noise(gaussian: Any) -> None:
    world = World(gaussian, SDS(student_sigma=LAW))
    sigma = world.sigma[:, None, None, None]
    eps, predicted = (world.x - world.x_0) / sigma, (world.x - world.d_p) / sigma
    # Poole et al. 2023, Eq. 3, with w = sigma^2 and dx/dx_0 = 1: sigma (eps_p - eps).
    world.expect(sigma * (predicted - eps))


class Oracle(torch.nn.Module):
    """The denoiser of a law that is a Dirac at each sample: it returns the clean images."""

    def __init__(self, x_0: torch.Tensor):
        super().__init__()
        self.x_0 = x_0
        self.img_resolution, self.img_channels, self.label_dim = 4, 1, 0
        self.sigma_min, self.sigma_max = 0.0, math.inf

    def forward(self, x: torch.Tensor, sigma: torch.Tensor, labels: Any = None) -> torch.Tensor:
        return self.x_0


@pytest.mark.parametrize("weight", ["one", "dmd"])
def test_diff_instruct_with_the_oracle_is_sds(gaussian: Any, weight: str) -> None:
    teacher, x_0 = gaussian(M, S), A + B * torch.randn(64, 1, 4, 4)
    torch.manual_seed(1)
    sds = SDS(student_sigma=LAW, weight=weight).pixel_gradient(
        x_0, None, teacher=teacher, auxiliary=gaussian(A, B)
    )
    torch.manual_seed(1)
    method = DiffInstruct(student_sigma=LAW, weight=weight)
    with_oracle = method.pixel_gradient(x_0, None, teacher=teacher, auxiliary=Oracle(x_0))
    assert torch.equal(sds, with_oracle)
    # And with the oracle's limit, a denoiser sure of one image.
    one = torch.full([64, 1, 4, 4], 0.25)
    gradients = []
    for auxiliary in (gaussian(0.25, 1e-6), Oracle(one)):
        torch.manual_seed(1)
        gradients.append(method.pixel_gradient(one, None, teacher=teacher, auxiliary=auxiliary))
    torch.testing.assert_close(*gradients, rtol=1e-4, atol=1e-6)


def test_dmd_is_the_weighted_difference_of_the_scores(gaussian: Any) -> None:
    world = World(gaussian, DMD(student_sigma=LAW))
    level = world.sigma[:, None, None, None] ** 2
    # Yin et al. 2024, Eq. 7 and 8: w = sigma^2 C S / |x_0 - D_p|_1, scores (D - x) / sigma^2.
    w = level * PIXELS / (PIXELS * world.size)
    world.expect(w * ((world.d_q - world.x) / level - (world.d_p - world.x) / level))


@pytest.mark.parametrize("alpha", [0.0, 0.5, 1.0, 1.2])
def test_sid_is_the_slope_of_its_loss_through_x_0_and_both_denoisers(
    gaussian: Any, alpha: float
) -> None:
    world = World(gaussian, SiD(student_sigma=LAW, alpha=alpha))
    gap, gap_slope = world.d_p - world.d_q, world.slope_p - world.slope_q
    error, error_slope = world.d_p - world.x_0, world.slope_p - 1
    # Zhou et al. 2024: d/dx_0 of (D_p - D_q)((D_p - x_0) - alpha (D_p - D_q)), by the product rule;
    # the divisor is a constant.
    slope = gap_slope * (error - alpha * gap) + gap * (error_slope - alpha * gap_slope)
    world.expect(slope / world.size)


def test_sid_agrees_with_finite_differences_of_its_published_loss(gaussian: Any) -> None:
    x_0 = (A + B * torch.randn(2, 1, 4, 4)).double()
    teacher, auxiliary = gaussian(M, S).double(), gaussian(A, B).double()
    torch.manual_seed(1)
    g = SiD(student_sigma="loguniform:0.5,0.5").pixel_gradient(
        x_0, None, teacher=teacher, auxiliary=auxiliary
    )
    eps = (teacher.seen[0] - x_0) / 0.5
    sigma = torch.full([2], 0.5, dtype=torch.float64)
    fixed = (x_0 - teacher(x_0 + 0.5 * eps, sigma)).abs().mean(dim=[1, 2, 3], keepdim=True)

    def loss(x_0: torch.Tensor) -> torch.Tensor:
        d_p, d_q = (net(x_0 + 0.5 * eps, sigma) for net in (teacher, auxiliary))
        return ((d_p - d_q) * ((d_p - x_0) - 1.2 * (d_p - d_q)) / fixed).sum()

    step = torch.zeros_like(x_0)
    step[1, 0, 2, 3] = 1e-4
    slope = (loss(x_0 + step) - loss(x_0 - step)) / 2e-4
    assert g[1, 0, 2, 3].item() == pytest.approx(slope.item(), rel=1e-4)


@pytest.mark.parametrize("c", [1e-3, 0.1, 1e4])
def test_sim_is_the_slope_of_its_loss_through_x_0_and_both_denoisers(
    gaussian: Any, c: float
) -> None:
    world = World(gaussian, SIM(student_sigma=LAW, c=c))
    dims = (1, 2, 3)
    y, y_slope = world.d_q - world.d_p, world.slope_q - world.slope_p
    v, v_slope = world.d_q - world.x_0, world.slope_q - 1
    level = world.sigma[:, None, None, None] ** 2
    length = np.sqrt((y**2).sum(axis=dims, keepdims=True) + (c * level) ** 2 * PIXELS)
    inner = (y * v).sum(axis=dims, keepdims=True)
    # Luo et al. 2024, Theorem 3.1: d/dx_0 of -(y . v) / sqrt(|y|^2 + c^2), by the quotient rule,
    # with the scores' difference y / sigma^2 and the weight sigma^2.
    slope = -(y_slope * v + y * v_slope) / length + inner * y * y_slope / length**3
    world.expect(slope)


def test_sim_with_the_square_for_distance_is_sid_at_alpha_one_but_for_the_weight(
    gaussian: Any,
) -> None:
    c = 1e5
    worlds = []
    for method in (SiD(LAW, alpha=1.0), SIM(LAW, c=c)):
        torch.manual_seed(3)
        worlds.append(World(gaussian, method))
    sid, sim = worlds
    # The weight sigma^2 is left of the length c sigma^2.
    expected = sid.g * sid.size / sid.sigma[:, None, None, None] ** 2
    scale = np.abs(expected).max(axis=(1, 2, 3), keepdims=True)
    np.testing.assert_allclose(sim.g * c * math.sqrt(PIXELS) / scale, expected / scale, atol=2e-4)


@pytest.mark.parametrize("method", [DMD(), SiD(), SIM()], ids=lambda m: type(m).__name__)
def test_gradient_is_small_where_student_and_auxiliary_are_the_teachers(
    gaussian: Any, method: Any
) -> None:
    x_0 = M + S * torch.randn(32, 1, 4, 4)
    g = method.pixel_gradient(x_0, None, teacher=gaussian(M, S), auxiliary=gaussian(M, S))
    assert torch.equal(g, torch.zeros_like(g))


@pytest.mark.parametrize("method", [SDS(), SiD(), SIM()], ids=lambda m: type(m).__name__)
def test_gradient_is_a_value_and_leaves_no_gradient_in_the_networks(
    gaussian: Any, method: Any
) -> None:
    teacher, auxiliary = gaussian(M, S), gaussian(A, B)
    with torch.no_grad():  # as in a loop that wants none
        g = method.pixel_gradient(torch.randn(4, 1, 4, 4), None, teacher=teacher,
                                  auxiliary=auxiliary)  # fmt: skip
    assert not g.requires_grad
    assert all(p.grad is None for n in (teacher, auxiliary) for p in n.parameters())


def test_dmds_regression_pulls_along_the_slope_of_the_distance_in_units_of_the_pixel_sum() -> None:
    x, y = torch.randn(3, 2, 4, 4), torch.randn(3, 2, 4, 4)
    g = DMD(regression=0.5).pair_gradient(
        x, y, distance=lambda a, b: (a - b).square().mean(dim=[1, 2, 3])
    )
    # lambda c h w times d/dx of the mean square, which is 2 (x - y) / (c h w).
    torch.testing.assert_close(g, 0.5 * 2 * (x - y))
    g = DMD(regression=0.5).pair_gradient(x, y, distance=pseudo_huber)
    gap = as_double(x - y)
    length = np.sqrt((gap**2).mean(axis=(1, 2, 3), keepdims=True) + 0.00054**2)
    np.testing.assert_allclose(as_double(g), 0.5 * gap / length, rtol=1e-4)


@pytest.mark.parametrize("size", [4, 16, 64])
def test_dmds_two_terms_are_in_the_published_proportion_whatever_the_images_size(
    gaussian: Any, size: int
) -> None:
    """The matching term is of about unit size by its divisor; the regression's is lambda."""
    method, (a, b) = DMD(), torch.randn(2, 64, 1, size, size)
    g = method.pixel_gradient(a, None, teacher=gaussian(M, S), auxiliary=gaussian(A, B))
    pairs = method.pair_gradient(a, b, distance=pseudo_huber)
    matching, regression = (x.square().mean().sqrt().item() for x in (g, pairs))
    assert regression == pytest.approx(method.regression, rel=1e-3)
    assert 0.1 < regression / matching < 1


@pytest.mark.parametrize(
    ("make", "complaint"),
    [
        (lambda: SDS(student_sigma="x"), "law of sigma is 'x'"),
        (lambda: SDS(weight="two"), "weight is 'two'"),
        (lambda: DMD(regression=-1), "regression is -1; it must be at least 0"),
        (lambda: DMD(sigma_data=math.inf), "sigma_data is inf; it must be finite"),
        (lambda: DiffInstruct(sigma_data=math.inf), "sigma_data is inf; it must be finite"),
        (lambda: SiD(alpha=math.nan), "alpha is nan; it must be finite"),
        (lambda: SiD(auxiliary_sigma="karras:1,0"), "karras:1,0"),
        (lambda: SIM(c=0.0), "c is 0.0; it must be above 0"),
    ],
)
def test_a_knob_out_of_range_is_refused_by_name(make: Callable[[], object], complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint):
        make()
