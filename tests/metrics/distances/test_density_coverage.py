"""Density and coverage against their definitions, and what they say."""

from __future__ import annotations

import pytest
import torch

import metrics
from metrics.distances.density_coverage import densities_and_coverages


def test_density_and_coverage_equal_their_definitions_pair_by_pair(normal):
    real, fake = normal(60, 4), normal(50, 4, 1) * 1.2
    radii = torch.cdist(real, real).sort(1).values[:, 5]
    inside = torch.cdist(real, fake) <= radii[:, None]
    got = metrics.density_coverage(real, fake, k=5)
    assert got.density == pytest.approx(inside.sum().item() / (5 * 50), rel=1e-12)
    assert got.coverage == inside.any(1).double().mean().item()


def test_far_images_cover_nothing_and_a_heap_in_the_middle_is_denser_than_one(normal):
    real = normal(200, 8)
    assert metrics.density_coverage(real, real + 100) == (0, 0)
    heap = metrics.density_coverage(real, 0.01 * normal(200, 8, 1))
    assert heap.density > 1
    assert heap.coverage < 1


def test_density_and_coverage_do_not_depend_on_the_origin(normal):
    real, fake = normal(100, 6), normal(100, 6, 1)
    want = metrics.density_coverage(real, fake)
    assert metrics.density_coverage(real + 1e3, fake + 1e3) == pytest.approx(want, abs=1e-6)


def test_density_and_coverage_without_each_group_equal_direct_recomputation(sets, kept):
    real, fake = sets
    found = densities_and_coverages(real, fake, 5)
    for got, part in zip(found, kept(fake, 5), strict=True):
        assert got == pytest.approx(metrics.density_coverage(real, part), rel=1e-12)
