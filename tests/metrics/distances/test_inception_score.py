"""The Inception Score against its definition and its extremes."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch

import metrics
from metrics.distances.inception_score import mean_scores
from metrics.distances.streams import Stream
from roles import Processes


def test_inception_score_is_one_for_uniform_classes_and_k_for_certain_balanced_ones():
    assert metrics.inception_score(np.full((1000, 10), 0.1)) == pytest.approx((1, 0), abs=1e-12)
    certain = np.eye(10)[np.arange(1000) % 10]
    assert metrics.inception_score(certain, splits=1) == pytest.approx((10, 0), abs=1e-12)
    assert metrics.inception_score(np.eye(10)[np.zeros(100, int)]) == pytest.approx((1, 0))


def test_inception_score_is_the_definition_split_by_split():
    p = torch.randn(97, 7, dtype=torch.float64).softmax(1).numpy()
    scores = []
    for i in range(4):
        part = p[i * 97 // 4 : (i + 1) * 97 // 4]
        scores.append(np.exp((part * np.log(part / part.mean(0))).sum(1).mean()))
    want = (np.mean(scores), np.std(scores))
    assert metrics.inception_score(p, splits=4) == pytest.approx(want, rel=1e-12)


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        (np.ones((99, 9)), "softmax"),
        (np.eye(10)[:3], "one row"),
        (2 * np.eye(20) - 0.05, "softmax"),
    ],
)
def test_what_is_no_distribution_has_no_inception_score(bad, message):
    with pytest.raises(ValueError, match=message):
        metrics.inception_score(bad)


@pytest.mark.parametrize("cut", [1, 19, 203])
def test_the_score_of_a_stream_is_that_of_its_splits_whole_and_without_each_group(cut):
    p = torch.randn(203, 6, dtype=torch.float64).softmax(1)
    mu, sigma = torch.zeros(1).double(), torch.eye(1).double()
    stream = Stream(mu, sigma, None, num_images=203, num_rows=0, groups=5)
    for part in p.split(cut):
        stream.take(torch.zeros(len(part), 1).double(), part)
    stream.finish(Processes())
    group, splits = torch.arange(203) % 5, [i * 203 // 10 for i in range(11)]
    scores = [
        [
            metrics.inception_score(p[a:b][group[a:b] != left_out], splits=1)[0]
            for a, b in itertools.pairwise(splits)
        ]
        for left_out in range(-1, 5)
    ]
    want = [np.mean(of_splits) for of_splits in scores]
    assert want[0] == pytest.approx(metrics.inception_score(p)[0], rel=1e-12)
    assert list(mean_scores(stream, range(-1, 5))) == pytest.approx(want, rel=1e-12)
