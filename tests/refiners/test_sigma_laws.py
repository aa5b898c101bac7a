"""The laws of sigma against their formulas, the sampler's grid and Karras et al. 2022, Table 1."""

from __future__ import annotations

import math

import pytest
import torch
from scipy.stats import kstest, norm, uniform

from refiners.sigma_laws import add_noise, denoising_weight, draw_sigma, parse_law
from teachers.edm import EDMPrecond
from teachers.sampler import noise_levels

N = 20_000
SMALLEST = {"model_channels": 16, "channel_mult": [1], "num_blocks": 1, "attn_resolutions": []}


def test_lognormal_has_the_mean_and_the_standard_deviation_of_ln_sigma_that_its_name_says() -> None:
    log = draw_sigma("lognormal:-1.2,0.7", N).double().log()
    # 4 standard errors of a mean, and of a standard deviation.
    assert abs(log.mean().item() + 1.2) < 4 * 0.7 / math.sqrt(N)
    assert abs(log.std().item() - 0.7) < 4 * 0.7 / math.sqrt(2 * N)
    assert kstest(log.numpy(), norm(-1.2, 0.7).cdf).pvalue > 1e-3


def test_loguniform_is_uniform_in_ln_sigma_between_its_bounds() -> None:
    sigma = draw_sigma("loguniform:0.02,50", N).double()
    assert 0.02 * (1 - 1e-6) <= sigma.min() <= sigma.max() <= 50 * (1 + 1e-6)
    width = math.log(50) - math.log(0.02)
    assert kstest(sigma.log().numpy(), uniform(math.log(0.02), width).cdf).pvalue > 1e-3


def test_karras_has_the_samplers_noise_levels_as_its_quantiles() -> None:
    teacher = EDMPrecond(4, 1, model_type="SongUNet", **SMALLEST)
    grid = noise_levels(teacher, 21, sigma_min=0.002, sigma_max=80, rho=7)[:-1]
    sigma = draw_sigma("karras:0.002,80", N).double()
    assert 0.002 * (1 - 1e-5) <= sigma.min() <= sigma.max() <= 80 * (1 + 1e-5)
    for i, level in enumerate(grid):
        share_above = (sigma > level).double().mean().item()
        assert share_above == pytest.approx(i / 20, abs=4 * 0.5 / math.sqrt(N))


@pytest.mark.parametrize("law", ["lognormal:0.5,0", "loguniform:1.6,1.6", "karras:1.6,1.6"])
def test_a_law_of_no_width_is_a_constant(law: str) -> None:
    level = math.exp(0.5) if law.startswith("lognormal") else 1.6
    torch.testing.assert_close(draw_sigma(law, 5), torch.full([5], level))


def test_a_law_is_read_as_its_name_and_two_numbers() -> None:
    assert parse_law("lognormal:-1.2,1.2") == ("lognormal", -1.2, 1.2)
    assert parse_law("karras:2e-3,80") == ("karras", 0.002, 80.0)


@pytest.mark.parametrize(
    "law",
    [
        *("", "lognormal", "lognormal:", "lognormal:1", "lognormal:1,2,3", "lognormal:a,b"),
        *("normal:0,1", ":0,1", "Lognormal:0,1", "lognormal:nan,1", "loguniform:0.1,inf"),
    ],
)
def test_what_is_no_law_is_refused_with_the_laws_that_are(law: str) -> None:
    with pytest.raises(ValueError) as caught:
        parse_law(law)
    assert repr(law) in str(caught.value)
    for allowed in ("lognormal:P_MEAN,P_STD", "loguniform:MIN,MAX", "karras:MIN,MAX"):
        assert allowed in str(caught.value)


@pytest.mark.parametrize(
    ("law", "rule"),
    [
        ("lognormal:0,-1", "P_STD must be at least 0"),
        ("loguniform:0,1", "0 < MIN <= MAX"),
        ("loguniform:-2,-1", "0 < MIN <= MAX"),
        ("karras:80,0.002", "0 < MIN <= MAX"),
    ],
)
def test_bounds_that_are_no_interval_are_refused_with_the_rule(law: str, rule: str) -> None:
    with pytest.raises(ValueError, match=rule):
        parse_law(law)


def test_noise_has_mean_zero_and_each_samples_own_standard_deviation_and_is_white() -> None:
    sigma = torch.tensor([0.1, 1.0, 30.0])
    x_0 = torch.linspace(-1, 1, 3 * 64 * 64).reshape(3, 1, 64, 64)
    eps = ((add_noise(x_0, sigma) - x_0) / sigma[:, None, None, None]).double().flatten(1)
    error = 1 / 64  # of the mean of 64 x 64 numbers
    assert (eps.mean(dim=1).abs() < 4 * error).all()
    assert ((eps.std(dim=1) - 1).abs() < 4 * error / math.sqrt(2)).all()
    correlation = torch.corrcoef(eps) - torch.eye(3)
    assert correlation.abs().max() < 4 * error
    neighbours = (eps[:, 1:] * eps[:, :-1]).mean(dim=1)
    assert neighbours.abs().max() < 4 * error


def test_noise_of_level_zero_changes_nothing() -> None:
    x_0 = torch.randn(2, 3, 4, 4)
    assert torch.equal(add_noise(x_0, torch.zeros(2)), x_0)


@pytest.mark.parametrize("sigma_data", [0.5, 1.7])
def test_the_denoising_weight_is_one_over_c_out_squared_as_in_table_1(sigma_data: float) -> None:
    sigma = torch.logspace(-3, 2, 30, dtype=torch.float64)
    network = EDMPrecond(4, 1, sigma_data=sigma_data, model_type="SongUNet", **SMALLEST)
    weight = denoising_weight(sigma, sigma_data)
    torch.testing.assert_close(weight * network.c_out(sigma) ** 2, torch.ones_like(sigma))


def test_the_denoising_weight_is_1_over_sigma_squared_below_and_sigma_data_squared_above() -> None:
    low, high = torch.tensor([1e-4, 1e4], dtype=torch.float64)
    assert (denoising_weight(low, 0.5) * low**2).item() == pytest.approx(1, rel=1e-6)
    assert denoising_weight(high, 0.5).item() == pytest.approx(4, rel=1e-6)
