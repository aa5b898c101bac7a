"""Density, coverage, AuthPct, KID of subsets, CMMD's form, MIND, extrapolation, and the floor."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import metrics
from metrics.distances.jackknife import densities_and_coverages


def normal(n: int, d: int, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(n, d, generator=generator, dtype=torch.float64)


def test_density_and_coverage_equal_their_definitions_pair_by_pair():
    real, fake = normal(60, 4), normal(50, 4, 1) * 1.2
    radii = torch.cdist(real, real).sort(1).values[:, 5]
    inside = torch.cdist(real, fake) <= radii[:, None]
    got = metrics.density_coverage(real, fake, k=5)
    assert got.density == pytest.approx(inside.sum().item() / (5 * 50), rel=1e-12)
    assert got.coverage == inside.any(1).double().mean().item()


def test_far_images_cover_nothing_and_a_heap_in_the_middle_is_denser_than_one():
    real = normal(200, 8)
    assert metrics.density_coverage(real, real + 100) == (0, 0)
    heap = metrics.density_coverage(real, 0.01 * normal(200, 8, 1))
    assert heap.density > 1
    assert heap.coverage < 1


def test_density_and_coverage_do_not_depend_on_the_origin():
    real, fake = normal(100, 6), normal(100, 6, 1)
    want = metrics.density_coverage(real, fake)
    assert metrics.density_coverage(real + 1e3, fake + 1e3) == pytest.approx(want, abs=1e-6)


def test_density_and_coverage_without_each_group_equal_direct_recomputation():
    real, fake = normal(70, 3), normal(61, 3, 1)
    found = zip(*densities_and_coverages(real, fake, groups=4, k=5), strict=True)
    group = torch.arange(61) % 4
    parts = [fake, *(fake[group != k] for k in range(4))]
    for got, part in zip(found, parts, strict=True):
        assert got == pytest.approx(metrics.density_coverage(real, part), rel=1e-12)


def test_copies_are_not_authentic_and_far_images_are():
    train = normal(100, 5)
    assert metrics.authentic_percentage(train, train[:40] + 1e-6) == 0
    assert metrics.authentic_percentage(train, train + 50) == 100


def test_fresh_images_of_the_training_law_are_authentic_about_every_other_time():
    found = metrics.authentic_percentage(normal(1500, 2), normal(1500, 2, 1))
    assert 40 < found < 60


def test_one_subset_of_everything_is_the_kernel_distance_itself():
    x, y = normal(80, 6), normal(80, 6, 1) + 0.3
    mean, spread = metrics.kernel_distance_of_subsets(x, y, subsets=1, size=1000)
    assert mean == pytest.approx(metrics.kernel_distance(x, y), rel=1e-9)
    assert spread == 0


def test_subsets_estimate_the_kernel_distance_and_depend_on_their_seed_alone():
    x, y = normal(400, 6), normal(300, 6, 1) + 0.3
    want = metrics.kernel_distance(x, y)
    mean, spread = metrics.kernel_distance_of_subsets(x, y, subsets=60, size=80)
    assert abs(mean - want) < 4 * spread / 60**0.5
    assert metrics.kernel_distance_of_subsets(x, y, subsets=60, size=80) == (mean, spread)
    assert metrics.kernel_distance_of_subsets(x, y, subsets=60, size=80, seed=1)[0] != mean


def test_the_biased_discrepancy_of_a_set_from_itself_is_zero():
    x = normal(50, 8)
    assert metrics.gaussian_discrepancy(x, x, bandwidth=3.0) == pytest.approx(0, abs=1e-9)


def test_the_unbiased_discrepancy_of_one_law_is_zero_on_average():
    values = [
        metrics.gaussian_discrepancy(
            normal(40, 3, 2 * i), normal(40, 3, 2 * i + 1), bandwidth=2.0, biased=False
        )
        for i in range(200)
    ]
    assert abs(np.mean(values)) < 3 * np.std(values) / 200**0.5


def test_a_wide_kernel_sees_the_square_of_the_shift_of_means():
    # exp(-r / 200) is 1 - r / 200 for unit vectors: 1000 MMD^2 = 10 |mean - mean|^2.
    x, y = (
        torch.nn.functional.normalize(v, dim=1) for v in (normal(300, 16), normal(300, 16, 1) + 1)
    )
    want = 10 * (x.mean(0) - y.mean(0)).square().sum().item()
    assert metrics.gaussian_discrepancy(x, y) == pytest.approx(want, rel=0.01)


def test_sorted_projections_see_a_shift_as_three_times_its_square():
    x, shift = normal(200, 32), normal(1, 32, 5)
    found = metrics.sliced_distance(x, x + shift, directions=4000)
    assert found == pytest.approx(3 * shift.square().sum().item(), rel=0.05)


def test_sorted_projections_see_a_scale_as_three_times_the_mean_square_it_moved():
    x = normal(500, 32)
    found = metrics.sliced_distance(x, 1.1 * x, directions=4000)
    assert found == pytest.approx(3 * 0.01 * x.square().sum(1).mean().item(), rel=0.01)
    assert metrics.sliced_distance(x, x[torch.randperm(500)]) == 0


def test_sets_of_different_sizes_have_no_sorted_projections():
    with pytest.raises(ValueError, match=r"30 and 20 rows: .* give as many of each"):
        metrics.sliced_distance(normal(30, 3), normal(20, 3))


def test_infinitely_many_images_are_nearer_to_the_truth_than_those_at_hand():
    d = 16
    shift = torch.full([d], 0.2, dtype=torch.float64)
    truth = shift.square().sum().item()
    mu, sigma = torch.zeros(d), torch.eye(d)
    errors = []
    for seed in range(5):
        x = normal(600, d, seed) + shift
        mean, cov = x.mean(0), x.T.cov()
        at_hand = metrics.frechet_distance(mean, cov, mu, sigma)
        infinite, error = metrics.frechet_infinity(x, mu, sigma)
        assert 0 < error < 0.5 * at_hand
        assert metrics.frechet_infinity(x, mu, sigma) == (infinite, error)
        errors.append((abs(infinite - truth), abs(at_hand - truth)))
    assert np.mean([e[0] for e in errors]) < np.mean([e[1] for e in errors])


def test_a_line_needs_enough_images():
    with pytest.raises(ValueError, match="39 rows at 10 points"):
        metrics.frechet_infinity(normal(39, 2), torch.zeros(2), torch.eye(2))


@pytest.mark.parametrize("num", [30, 200])
def test_the_floor_is_what_draws_of_the_reference_measure_on_average(num):
    # With fewer draws than features the covariance is singular: the other branch.
    d = 48
    scale = torch.linspace(0.2, 2, d, dtype=torch.float64)
    mu, sigma = torch.ones(d), torch.diag(scale**2)
    drawn = []
    for seed in range(40):
        mean, cov = (lambda x: (x.mean(0), x.T.cov()))(normal(num, d, seed) * scale + 1)
        drawn.append(metrics.frechet_distance(mean, cov, mu, sigma))
    floors = [metrics.frechet_floor(mu, sigma, num, seed=seed) for seed in range(40)]
    error = np.hypot(np.std(drawn), np.std(floors)) / 40**0.5
    assert abs(np.mean(floors) - np.mean(drawn)) < 4 * error
    assert error < 0.05 * np.mean(drawn)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda x: metrics.density_coverage(x, x[:4]), "at least 6"),
        (lambda x: metrics.authentic_percentage(x, x[:, :2]), "3 and 2 columns"),
        (lambda x: metrics.gaussian_discrepancy(x, x, bandwidth=0), "bandwidth is 0"),
        (lambda x: metrics.kernel_distance_of_subsets(x, x, subsets=0), "0 subsets"),
        (lambda x: metrics.sliced_distance(x, x, directions=0), "0 directions"),
        (lambda x: metrics.frechet_floor(torch.zeros(3), torch.eye(3), 1), "num_images is 1"),
        (lambda x: metrics.frechet_infinity(x, torch.zeros(2), torch.eye(2)), "one feature space"),
    ],
)
def test_what_has_no_distance_is_one_clear_line(call, message):
    with pytest.raises(ValueError, match=message):
        call(normal(60, 3))
