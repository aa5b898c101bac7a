"""MIND: the distance of sorted projections (arXiv:2605.06797).

    3 d / (n M) sum_u sum_i (sort(x u)_i - sort(y u)_i)^2,    M random unit directions u,

the mean squared one-dimensional Wasserstein distance, scaled so that a shift s gives 3 |s|^2.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from metrics.distances.squared import Array, features_pair

DIRECTIONS = 1000
DIRECTIONS_AT_ONCE = 128  # 50,000 images project to 50 MiB of float64


def sliced_distance(x: Array, y: Array, *, directions: int = DIRECTIONS, seed: int = 0) -> float:
    """MIND of x [n, d] and y [n, d], in squared units of the features.

    Of equal laws it is not zero but of order d / n: compare only at equal n. ValueError on sets of
    different sizes.
    """
    x, y = features_pair(x, y, at_least=2)
    if len(x) != len(y):
        raise ValueError(
            f"{len(x)} and {len(y)} rows: sorted projections are compared one by one, give as many "
            "of each"
        )
    if directions < 1:
        raise ValueError(f"{directions} directions; give at least 1")
    total = torch.zeros((), dtype=torch.float64)
    for part in directions_of(x.shape[1], directions, seed=seed):
        total += sorted_square(x @ part, y @ part)
    return total.item()


def directions_of(d: int, count: int = DIRECTIONS, *, seed: int = 0) -> Iterator[Tensor]:
    """Random directions [d, some], some at a time, of length sqrt(3 d / count)."""
    generator = torch.Generator().manual_seed(seed)
    u = torch.randn(d, count, generator=generator, dtype=torch.float64)
    yield from (u / u.norm(dim=0) * (3 * d / count) ** 0.5).split(DIRECTIONS_AT_ONCE, dim=1)


def sorted_square(x: Tensor, y: Tensor) -> Tensor:
    """Sum over columns of the mean square between the sorted columns of x and y, both [n, some]."""
    return (x.sort(0).values - y.sort(0).values).square().sum() / len(x)
