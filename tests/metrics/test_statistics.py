"""Statistics files: they come back, others read them, and what does not fit is refused."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import metrics
from metrics import Moments, Statistics


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
