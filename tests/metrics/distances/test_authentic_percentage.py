"""AuthPct: copies, far images, and fresh ones of the same law."""

from __future__ import annotations

import pytest

import metrics
from metrics.distances.authentic_percentage import authentic_percentages


def test_copies_are_not_authentic_and_far_images_are(normal):
    train = normal(100, 5)
    assert metrics.authentic_percentage(train, train[:40] + 1e-6) == 0
    assert metrics.authentic_percentage(train, train + 50) == 100


def test_fresh_images_of_the_training_law_are_authentic_about_every_other_time(normal):
    found = metrics.authentic_percentage(normal(1500, 2), normal(1500, 2, 1))
    assert 40 < found < 60


def test_authentic_images_without_each_group_equal_direct_recomputation(sets, kept):
    real, fake = sets
    want = [metrics.authentic_percentage(real, part) for part in kept(fake, 5)]
    assert authentic_percentages(real, fake, 5) == pytest.approx(want, rel=1e-12)
