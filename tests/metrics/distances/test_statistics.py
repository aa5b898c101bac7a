"""Streaming moments: exact under any cutting, merging and leaving out; their files."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import metrics
from metrics.distances.statistics import GroupedMoments, GroupedScore, Moments, Statistics


def assert_same(a: Moments, b: Moments) -> None:
    assert a.num == b.num
    torch.testing.assert_close(a.mean, b.mean, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(a.covariance(), b.covariance(), rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("offset", [0, 1000])
@pytest.mark.parametrize("sizes", [[500], [1] * 500, [499, 1], [7, 200, 93, 200]])
def test_any_cutting_gives_the_moments_of_the_whole_even_far_from_zero(sizes, offset):
    x = torch.randn(500, 12, dtype=torch.float64) + offset
    moments = Moments.empty(12)
    for part in x.split(sizes):
        moments.update(part)
    assert moments.num == 500
    np.testing.assert_allclose(moments.mean, x.numpy().mean(0), rtol=1e-13, atol=1e-14)
    want = np.cov(x.numpy(), rowvar=False)
    np.testing.assert_allclose(moments.covariance(), want, rtol=1e-12, atol=1e-12)


def test_merging_is_symmetric_and_has_the_empty_set_as_its_zero():
    a, b = Moments.of(torch.randn(30, 4)), Moments.of(torch.randn(50, 4) + 3)
    assert_same(a.merge(b), b.merge(a))
    assert_same(a.merge(Moments.empty(4)), a)
    assert_same(Moments.empty(4).merge(a), a)


def test_removing_undoes_merging():
    a, b = Moments.of(torch.randn(30, 4)), Moments.of(torch.randn(50, 4) + 3)
    assert_same(a.merge(b).remove(b), a)
    with pytest.raises(ValueError, match="at least one"):
        a.remove(b)


def test_dividing_by_n_relates_to_dividing_by_n_less_one():
    moments = Moments.of(torch.randn(10, 3))
    assert torch.equal(moments.covariance(ddof=0) * 10, moments.scatter)
    torch.testing.assert_close(moments.covariance(ddof=0), moments.covariance() * 0.9)
    with pytest.raises(ValueError, match="at least 2"):
        Moments.of(torch.randn(1, 3)).covariance()


@pytest.mark.parametrize("num", [7, 40, 1000])
def test_leaving_a_group_out_equals_the_moments_of_the_other_samples(num):
    x = torch.randn(num, 5, dtype=torch.float64)
    groups = GroupedMoments(5, 4)
    for part in x.split(33):
        groups.update(part)
    total, *left_out = groups.leave_one_out()
    assert_same(total, Moments.of(x))
    for group, moments in enumerate(left_out):
        assert_same(moments, Moments.of(x[torch.arange(num) % 4 != group]))


def test_what_is_kept_of_a_stream_does_not_grow_with_it():
    groups, sizes = GroupedMoments(3, 4), set()
    for _ in range(64):
        groups.update(torch.randn(40, 3))
        kept = sum(group.scatter.numel() + group.mean.numel() for group in groups.groups)
        sizes.add(kept)
        assert len(groups.waiting) < 4 * GroupedMoments.ROWS_PER_GROUP
        # Memory of what was taken already is not held on to.
        assert groups.waiting.untyped_storage().nbytes() <= 8 * 3 * (256 + 40)
    assert len(sizes) == 1


def test_grouped_moments_are_bit_equal_however_the_stream_is_cut():
    x = torch.randn(1000, 5)
    totals = []
    for size in (1000, 64, 7):
        groups = GroupedMoments(5, 4)
        for part in x.split(size):
            groups.update(part)
        totals.append(next(groups.leave_one_out()))
    for other in totals[1:]:
        assert torch.equal(other.mean, totals[0].mean)
        assert torch.equal(other.scatter, totals[0].scatter)


@pytest.mark.parametrize("cut", [1, 19, 203])
def test_the_score_from_sums_is_the_inception_score_whole_and_without_each_group(cut):
    p = torch.randn(203, 6, dtype=torch.float64).softmax(1)
    sums = GroupedScore(203, 6, num_groups=5, splits=1)
    for part in p.split(cut):
        sums.update(part)
    group = torch.arange(203) % 5
    want = [metrics.inception_score(p[group != g], splits=1)[0] for g in range(-1, 5)]
    assert list(sums.leave_one_out()) == pytest.approx(want, rel=1e-12)


def test_the_score_from_sums_has_the_splits_of_the_inception_score():
    p = torch.randn(203, 6, dtype=torch.float64).softmax(1)
    sums = GroupedScore(203, 6, num_groups=5, splits=10)
    sums.update(p)
    want = metrics.inception_score(p, splits=10)[0]
    assert next(sums.leave_one_out()) == pytest.approx(want, rel=1e-12)


def test_statistics_come_back_from_their_file_bit_by_bit(tmp_path):
    features = torch.randn(40, 3)
    saved = Statistics.of(Moments.of(features), space="a, b", features=features)
    metrics.save_statistics(tmp_path / "s.npz", saved)
    loaded = metrics.load_statistics(tmp_path / "s.npz")
    assert (loaded.num, loaded.space) == (40, "a, b")
    for key in ("mu", "sigma", "features"):
        assert np.array_equal(getattr(loaded, key), getattr(saved, key))


def test_the_file_is_one_that_numpy_and_so_the_tools_of_others_read(tmp_path):
    moments = Moments.of(torch.randn(40, 3))
    metrics.save_statistics(tmp_path / "s.npz", Statistics.of(moments))
    with np.load(tmp_path / "s.npz", allow_pickle=False) as file:
        assert np.array_equal(file["mu"], moments.mean)
        assert np.array_equal(file["sigma"], moments.covariance())
        assert file["n"] == 40


def test_a_file_of_edm_with_mu_and_sigma_alone_is_read(tmp_path):
    np.savez(tmp_path / "edm.npz", mu=np.zeros(4), sigma=np.eye(4))
    loaded = metrics.load_statistics(tmp_path / "edm.npz")
    assert (loaded.num, loaded.space, loaded.features) == (None, None, None)
    assert np.array_equal(loaded.sigma, np.eye(4))


GOOD = {"mu": np.zeros(4), "sigma": np.eye(4)}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"sigma": None}, "no array 'sigma'"),
        ({"mu": np.zeros((4, 1))}, r"mu is \(4, 1\)"),
        ({"sigma": np.eye(3)}, r"sigma \(3, 3\)"),
        ({"sigma": np.eye(4, dtype=int)}, "floating-point"),
        ({"sigma": np.tri(4)}, "not symmetric"),
        ({"sigma": np.diag([1, 1, 1, -0.1])}, "must not be negative"),
        ({"mu": np.full(4, np.nan)}, "finite"),
        ({"n": np.array(2.5)}, "one whole number"),
        ({"n": np.array(1)}, "at least 2"),
        ({"name": np.array([1, 2])}, "one piece of text"),
        ({"features": np.zeros((5, 3))}, r"\(m, 4\)"),
    ],
)
def test_statistics_that_do_not_fit_are_refused_in_one_line_naming_the_file(
    tmp_path, change, message
):
    arrays = {key: value for key, value in (GOOD | change).items() if value is not None}
    np.savez(tmp_path / "bad.npz", **arrays)
    with pytest.raises(ValueError, match=message) as caught:
        metrics.load_statistics(tmp_path / "bad.npz")
    assert "bad.npz" in str(caught.value)
    assert "\n" not in str(caught.value)
