"""Streaming moments: exact under any cutting, merging and removing."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from metrics import Moments


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
