"""The Frechet distance of infinitely many images, whole and without each group."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import metrics
from metrics.distances.frechet_infinity import frechet_infinities
from metrics.distances.streams import Stream
from roles import Processes


def test_infinitely_many_images_are_nearer_to_the_truth_than_those_at_hand(normal):
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


def test_a_line_needs_enough_images(normal):
    with pytest.raises(ValueError, match="39 rows at 10 points"):
        metrics.frechet_infinity(normal(39, 2), torch.zeros(2), torch.eye(2))


def test_infinity_without_each_group_is_a_line_through_the_other_groups():
    torch.manual_seed(3)
    x = torch.randn(200, 3, dtype=torch.float64) + 0.3
    mu, sigma = torch.zeros(3), torch.eye(3)
    stream = Stream(mu.double(), sigma.double(), None, num_images=200, num_rows=0, groups=10)
    stream.take(x, None)
    stream.finish(Processes())
    found = frechet_infinities(stream, range(-1, 10))
    for left_out, value in zip(range(-1, 10), found, strict=True):
        kept = [x[i::10] for i in range(10) if i != left_out]
        counts = [round(len(kept) * share) for share in (0.2, 0.4, 0.6, 0.8, 1.0)]
        parts = [torch.cat(kept[:count]) for count in counts]
        distances = [metrics.frechet_distance(p.mean(0), p.T.cov(), mu, sigma) for p in parts]
        line = np.polyfit([1 / len(p) for p in parts], distances, 1)
        assert value == pytest.approx(line[1], rel=1e-9)
