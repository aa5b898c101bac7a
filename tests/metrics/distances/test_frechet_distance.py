"""The Frechet distance against closed forms, another library, and what it means."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.linalg
import torch

import metrics


def rotation(d: int, rng: np.random.Generator) -> np.ndarray:
    q, r = np.linalg.qr(rng.standard_normal((d, d)))
    return q * np.sign(np.diag(r))


def statistics(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    return x.mean(0), np.cov(x, rowvar=False)


def rotated_blocks(
    d: int, kappa: float, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray, float]:
    """Two covariances that do not commute, and tr((S1 S2)^(1/2)), known block by 2 x 2 block.

    For 2 x 2 matrices tr(M^(1/2)) = sqrt(tr M + 2 sqrt(det M)); both factors of det are exact here.
    """
    sigma1, sigma2, overlap = np.zeros((d, d)), np.zeros((d, d)), 0.0
    scales = np.logspace(0, -np.log10(kappa), d // 2)
    for i, (scale, angle) in enumerate(zip(scales, rng.uniform(0, np.pi, d // 2), strict=True)):
        turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
        a, b = np.diag([scale, scale / 3]), turn @ np.diag([scale, scale / 7]) @ turn.T
        block = slice(2 * i, 2 * i + 2)
        sigma1[block, block], sigma2[block, block] = a, b
        overlap += np.sqrt(np.trace(a @ b) + 2 * scale * scale / np.sqrt(21))
    q = rotation(d, rng)
    sigma1, sigma2 = q @ sigma1 @ q.T, q @ sigma2 @ q.T
    return (sigma1 + sigma1.T) / 2, (sigma2 + sigma2.T) / 2, overlap


@pytest.mark.parametrize("kappa", [1.0, 1e3, 1e10])
def test_frechet_distance_of_rotated_commuting_gaussians_is_the_closed_form(kappa):
    rng = np.random.default_rng(0)
    d = 96
    a, b = np.logspace(0, -np.log10(kappa), d), np.logspace(-np.log10(kappa), 0, d)
    q, shift = rotation(d, rng), rng.standard_normal(d)
    got = metrics.frechet_distance(shift, (q * a) @ q.T, np.zeros(d), (q * b) @ q.T)
    assert got == pytest.approx((shift**2).sum() + ((a**0.5 - b**0.5) ** 2).sum(), rel=1e-12)


@pytest.mark.parametrize(("kappa", "tolerance"), [(1e5, 1e-12), (1e10, 1e-10)])
def test_frechet_distance_of_gaussians_that_do_not_commute_is_the_closed_form(kappa, tolerance):
    sigma1, sigma2, overlap = rotated_blocks(64, kappa, np.random.default_rng(1))
    want = np.trace(sigma1) + np.trace(sigma2) - 2 * overlap
    zero = np.zeros(64)
    assert metrics.frechet_distance(zero, sigma1, zero, sigma2) == pytest.approx(
        want, rel=tolerance
    )


def test_frechet_distance_of_a_shift_is_its_square_and_of_doubled_spread_is_the_trace():
    rng = np.random.default_rng(2)
    mu, sigma = statistics(rng.standard_normal((300, 24)))
    shift = rng.standard_normal(24)
    shifted = metrics.frechet_distance(mu + shift, sigma, mu, sigma)
    assert shifted == pytest.approx(shift @ shift, rel=1e-12)
    doubled = metrics.frechet_distance(mu, 4 * sigma, mu, sigma)
    assert doubled == pytest.approx(np.trace(sigma), rel=1e-12)


@pytest.mark.parametrize("n", [20, 64, 400])
def test_frechet_distance_of_anything_to_itself_is_zero_even_where_covariance_is_singular(n):
    mu, sigma = statistics(np.random.default_rng(3).standard_normal((n, 64)))
    assert abs(metrics.frechet_distance(mu, sigma, mu, sigma)) < 1e-9 * np.trace(sigma)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_frechet_distance_agrees_with_the_matrix_square_root_of_scipy():
    rng = np.random.default_rng(4)
    mu1, sigma1 = statistics(rng.standard_normal((500, 48)) @ rng.standard_normal((48, 48)))
    mu2, sigma2 = statistics(rng.standard_normal((500, 48)) @ rng.standard_normal((48, 48)) + 0.5)
    root = np.real(scipy.linalg.sqrtm(sigma1 @ sigma2))
    want = ((mu1 - mu2) ** 2).sum() + np.trace(sigma1 + sigma2 - 2 * root)
    assert metrics.frechet_distance(mu1, sigma1, mu2, sigma2) == pytest.approx(want, rel=1e-9)


@pytest.mark.parametrize(("n", "m"), [(30, 400), (400, 30), (30, 20), (200, 400)])
def test_features_give_the_distance_of_their_statistics_whether_many_or_few(n, m):
    rng = np.random.default_rng(5)
    x, y = rng.standard_normal((n, 64)), 1.3 * rng.standard_normal((m, 64)) + 0.2
    want = metrics.frechet_distance(*statistics(x), *statistics(y))
    assert metrics.frechet_distance_of_features(x, y) == pytest.approx(want, rel=1e-12)


def test_dividing_by_n_instead_of_n_less_one_scales_the_covariance():
    x = np.random.default_rng(6).standard_normal((50, 8))
    y = np.zeros((50, 8))
    unbiased = metrics.frechet_distance_of_features(x, y) - (x.mean(0) ** 2).sum()
    biased = metrics.frechet_distance_of_features(x, y, ddof=0) - (x.mean(0) ** 2).sum()
    assert biased == pytest.approx(unbiased * 49 / 50)


def test_numpy_and_torch_and_float32_give_one_number():
    rng = np.random.default_rng(7)
    a, b = statistics(rng.standard_normal((99, 8))), statistics(rng.standard_normal((99, 8)))
    a32, b32 = [[v.astype(np.float32) for v in pair] for pair in (a, b)]
    tensors = [torch.from_numpy(v) for v in (*a32, *b32)]
    assert metrics.frechet_distance(*a32, *b32) == metrics.frechet_distance(*tensors)
    assert metrics.frechet_distance(*a32, *b32) == pytest.approx(
        metrics.frechet_distance(*a, *b), rel=1e-5
    )


def test_factorising_leaves_the_number_of_threads_as_it_was():
    before = torch.get_num_threads()
    metrics.frechet_distance(np.zeros(3), np.eye(3), np.zeros(3), np.diag([1.0, 1.0, 0.0]))
    assert torch.get_num_threads() == before


GOOD = (np.zeros(3), np.eye(3))


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        ((np.zeros(4), np.eye(4)), "one feature space"),
        ((np.zeros(3), np.eye(4)), "3 x 3"),
        ((np.zeros((3, 1)), np.eye(3)), "not empty"),
        ((np.array([0, np.nan, 0]), np.eye(3)), "NaN or infinite"),
        ((np.zeros(3), np.eye(3) + np.tri(3)), "not symmetric"),
        ((np.zeros(3), np.diag([1.0, 1.0, -0.5])), "must not be negative"),
        ((np.array(["a", "b", "c"]), np.eye(3)), "real numbers"),
        ((np.zeros(3), torch.eye(3) * 1j), "real numbers"),
    ],
)
def test_what_is_no_gaussian_is_refused_with_its_reason(bad, message):
    with pytest.raises(ValueError, match=message) as caught:
        metrics.frechet_distance(*GOOD, *bad)
    assert "\n" not in str(caught.value)
