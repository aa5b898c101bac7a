"""Diff-Instruct where everything is known: student, teacher and their denoisers are Gaussian."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from refiners import REFINERS
from refiners.diff_instruct import DiffInstruct

A, B = -0.4, 0.3  # the student's law N(A, B^2)
M, S = 0.3, 0.5  # the teacher's law N(M, S^2)
PIXELS = 16


def fixed(sigma: float, **knobs: Any) -> DiffInstruct:
    """The method with one noise level everywhere."""
    law = f"loguniform:{sigma},{sigma}"
    return DiffInstruct(student_sigma=law, auxiliary_sigma=law, **knobs)


def posterior_mean(x: np.ndarray, sigma: np.ndarray, mean: float, std: float) -> np.ndarray:
    """D(x; sigma) of N(mean, std^2), a precision-weighted mean (Bishop 2006, Eq. 2.116)."""
    precisions = 1 / std**2, 1 / sigma[:, None, None, None] ** 2
    return (precisions[0] * mean + precisions[1] * x) / (precisions[0] + precisions[1])


def divergence(a: Any, b: Any, sigma: float) -> Any:
    """KL(N(a, b^2 + sigma^2) || N(M, S^2 + sigma^2)), of the laws of noised images."""
    q, p = b**2 + sigma**2, S**2 + sigma**2
    return 0.5 * (q / p + (a - M) ** 2 / p - 1 + (p / q).log())


def slope(sigma: float) -> tuple[float, float]:
    """Derivatives of the divergence by the student's mean and standard deviation."""
    a, b = (torch.tensor(v, dtype=torch.float64, requires_grad=True) for v in (A, B))
    da, db = torch.autograd.grad(divergence(a, b, sigma), (a, b))
    return da.item(), db.item()


def as_double(x: torch.Tensor) -> np.ndarray:
    return x.detach().double().numpy()


@pytest.fixture
def pair(gaussian: Callable[..., Any]) -> tuple[Any, Any]:
    """The teacher, and the auxiliary that knows the student exactly."""
    return gaussian(M, S), gaussian(A, B)


def test_pixel_gradient_is_the_difference_of_the_two_posterior_means(pair: Any) -> None:
    teacher, auxiliary = pair
    x_0 = A + B * torch.randn(64, 1, 4, 4)
    g = DiffInstruct(student_sigma="karras:0.02,20").pixel_gradient(
        x_0, None, teacher=teacher, auxiliary=auxiliary
    )
    x, sigma = as_double(teacher.seen[0]), as_double(teacher.seen[1])
    assert len(set(sigma)) == 64
    expected = posterior_mean(x, sigma, A, B) - posterior_mean(x, sigma, M, S)
    np.testing.assert_allclose(as_double(g), expected, rtol=1e-4, atol=2e-6)


def test_teacher_and_auxiliary_judge_the_same_noised_image_with_the_same_label(
    gaussian: Callable[..., Any],
) -> None:
    teacher, auxiliary = gaussian(M, S, label_dim=3), gaussian(A, B, label_dim=3)
    labels = torch.eye(3)
    DiffInstruct().pixel_gradient(
        torch.zeros(3, 1, 4, 4), labels, teacher=teacher, auxiliary=auxiliary
    )
    for theirs, its in zip(teacher.seen, auxiliary.seen, strict=True):
        assert torch.equal(theirs, its)
    assert torch.equal(teacher.seen[2], labels)


@pytest.mark.parametrize("sigma", [0.05, 0.5, 1.5])
def test_gradient_is_sigma_squared_times_the_slope_of_the_divergence_of_the_noised_laws(
    pair: Any, sigma: float
) -> None:
    z = torch.randn(20_000, 1, 4, 4)
    g = fixed(sigma).pixel_gradient(A + B * z, None, teacher=pair[0], auxiliary=pair[1])
    # dx_0/da = 1 and dx_0/db = z, so the expectations of g and g z are the slopes' estimates.
    for estimate, derivative in zip((g, g * z), slope(sigma), strict=True):
        estimate = estimate.double()
        error = estimate.std().item() / math.sqrt(estimate.numel())
        expected = sigma**2 * derivative
        assert 10 * error < abs(expected)
        assert abs(estimate.mean().item() - expected) < 4 * error


@pytest.mark.parametrize("sigma", [0.05, 0.5, 4.0])
@pytest.mark.parametrize("mean", [-1.0, 0.1, 0.5, 2.0])
def test_where_only_the_means_differ_every_pixel_gets_the_exact_slope_towards_the_teacher(
    gaussian: Callable[..., Any], sigma: float, mean: float
) -> None:
    x_0 = mean + S * torch.randn(8, 1, 4, 4)
    g = fixed(sigma).pixel_gradient(x_0, None, teacher=gaussian(M, S), auxiliary=gaussian(mean, S))
    a = torch.tensor(mean, dtype=torch.float64, requires_grad=True)
    q_std = torch.tensor(S, dtype=torch.float64)
    (derivative,) = torch.autograd.grad(divergence(a, q_std, sigma), a)
    torch.testing.assert_close(
        g, torch.full_like(g, sigma**2 * derivative.item()), rtol=1e-4, atol=1e-6
    )
    # Descent, x_0 - g, goes towards the teacher's mean.
    assert (g.sign() == math.copysign(1, mean - M)).all()


@pytest.mark.parametrize("weight", ["one", "dmd"])
def test_gradient_vanishes_where_auxiliary_equals_teacher(
    gaussian: Callable[..., Any], weight: str
) -> None:
    g = DiffInstruct(weight=weight).pixel_gradient(
        torch.randn(32, 1, 4, 4), None, teacher=gaussian(M, S), auxiliary=gaussian(M, S)
    )
    assert torch.equal(g, torch.zeros(32, 1, 4, 4))


def test_dmd_weight_divides_by_the_teachers_mean_absolute_error_per_sample(pair: Any) -> None:
    x_0 = A + B * torch.randn(16, 1, 4, 4)
    g = DiffInstruct(weight="dmd").pixel_gradient(x_0, None, teacher=pair[0], auxiliary=pair[1])
    x, sigma = as_double(pair[0].seen[0]), as_double(pair[0].seen[1])
    for i in range(16):
        level = sigma[i : i + 1]
        d_q = posterior_mean(x[i : i + 1], level, A, B)[0]
        d_p = posterior_mean(x[i : i + 1], level, M, S)[0]
        # Yin et al. 2024, Eq. 7 and 8: w = sigma^2 C S / |x_0 - D_p|_1, scores (D - x) / sigma^2.
        w = level**2 * PIXELS / np.abs(as_double(x_0[i]) - d_p).sum()
        expected = w * ((d_q - x[i]) / level**2 - (d_p - x[i]) / level**2)
        np.testing.assert_allclose(as_double(g[i]), expected, rtol=2e-4, atol=1e-5)


def test_dmd_weight_stays_finite_where_the_teacher_returns_the_image_itself(
    gaussian: Callable[..., Any],
) -> None:
    certain = gaussian(0.25, 1e-9)
    x_0 = torch.full([2, 1, 4, 4], 0.25)
    g = fixed(1.0, weight="dmd").pixel_gradient(
        x_0, None, teacher=certain, auxiliary=gaussian(0.0, S)
    )
    assert torch.equal(certain(x_0, torch.ones(2)), x_0)
    assert g.isfinite().all()


def test_pixel_gradient_is_a_value_without_a_graph(pair: Any) -> None:
    x_0 = torch.randn(2, 1, 4, 4, requires_grad=True)
    g = DiffInstruct().pixel_gradient(x_0, None, teacher=pair[0], auxiliary=pair[1])
    assert g.shape == x_0.shape
    assert not g.requires_grad


def test_auxiliary_loss_is_edms_summed_over_pixels_and_averaged_over_samples(pair: Any) -> None:
    _, auxiliary = pair
    x_0 = torch.randn(16, 1, 4, 4)
    loss = DiffInstruct(sigma_data=0.7).auxiliary_loss(x_0, None, auxiliary=auxiliary)
    x, sigma = as_double(auxiliary.seen[0]), as_double(auxiliary.seen[1])
    error = posterior_mean(x, sigma, A, B) - as_double(x_0)
    # Karras et al. 2022, Table 1: lambda = (sigma^2 + sigma_data^2) / (sigma sigma_data)^2.
    terms = [
        (s**2 + 0.49) / (0.7 * s) ** 2 * (e**2).sum() for s, e in zip(sigma, error, strict=True)
    ]
    assert loss.item() == pytest.approx(np.mean(terms), rel=1e-4)


def test_auxiliary_loss_has_no_slope_at_the_exact_denoiser(pair: Any) -> None:
    _, auxiliary = pair
    slopes = []
    for _ in range(100):
        x_0 = A + B * torch.randn(500, 1, 4, 4)
        loss = DiffInstruct().auxiliary_loss(x_0, None, auxiliary=auxiliary)
        slopes.append(torch.stack(torch.autograd.grad(loss, list(auxiliary.parameters()))))
    drawn = torch.stack(slopes).double()
    mean, error = drawn.mean(dim=0), drawn.std(dim=0) / 10
    assert (mean.abs() < 4 * error).all()


@pytest.mark.parametrize("step", [-0.1, 0.1])
@pytest.mark.parametrize("name", ["mean", "log_std"])
def test_auxiliary_loss_rises_with_every_step_away_from_the_exact_denoiser(
    pair: Any, name: str, step: float
) -> None:
    _, auxiliary = pair
    x_0 = A + B * torch.randn(4000, 1, 4, 4)

    def loss() -> float:
        torch.manual_seed(1)  # the same noise before and after the step
        return DiffInstruct().auxiliary_loss(x_0, None, auxiliary=auxiliary).item()

    least = loss()
    with torch.no_grad():
        getattr(auxiliary, name).add_(step)
    assert loss() > 1.001 * least


def test_each_law_draws_for_its_own_network(pair: Any) -> None:
    method = DiffInstruct(student_sigma="loguniform:2,2", auxiliary_sigma="karras:3,3")
    x_0 = torch.zeros(4, 1, 4, 4)
    method.pixel_gradient(x_0, None, teacher=pair[0], auxiliary=pair[1])
    torch.testing.assert_close(pair[1].seen[1], torch.full([4], 2.0))
    method.auxiliary_loss(x_0, None, auxiliary=pair[1])
    torch.testing.assert_close(pair[1].seen[1], torch.full([4], 3.0))


@pytest.mark.parametrize(
    ("knobs", "complaint"),
    [
        ({"student_sigma": "uniform:0,1"}, "uniform:0,1.*allowed: lognormal"),
        ({"auxiliary_sigma": "karras:1,0"}, "karras:1,0.*MIN <= MAX"),
        ({"weight": "two"}, "weight is 'two'; allowed are one, dmd"),
        ({"sigma_data": 0.0}, "sigma_data is 0.0; it must be"),
        ({"sigma_data": -0.5}, "sigma_data is -0.5; it must be"),
        ({"sigma_data": math.nan}, "sigma_data is nan; it must be"),
    ],
)
def test_a_knob_out_of_range_is_refused_by_name(knobs: dict[str, Any], complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint):
        DiffInstruct(**knobs)


@pytest.mark.parametrize("name", REFINERS)
def test_every_method_of_the_table_is_a_frozen_dataclass_with_published_defaults(name: str) -> None:
    method = REFINERS[name]()
    knob = dataclasses.fields(method)[0].name
    with pytest.raises(dataclasses.FrozenInstanceError):
        setattr(method, knob, getattr(method, knob))


def test_diff_instructs_defaults_are_the_published_ones() -> None:
    # Luo et al. 2023: EDM's own law of sigma for both, and w = sigma^2, which is 1 on D_q - D_p.
    law = "lognormal:-1.2,1.2"
    published = DiffInstruct(student_sigma=law, auxiliary_sigma=law, weight="one", sigma_data=0.5)
    assert REFINERS["diff-instruct"]() == published
