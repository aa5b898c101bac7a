"""MIND: the distance of sorted projections (arXiv:2605.06797).

    3 d / (n M) sum_u sum_i (sort(x u)_i - sort(y u)_i)^2,    M random unit directions u,

the mean squared one-dimensional Wasserstein distance, scaled so that a shift s gives 3 |s|^2.
"""

from __future__ import annotations

import torch

from metrics.distances import Array, features_pair

DIRECTIONS_AT_ONCE = 128  # 50,000 images project to 50 MiB of float64


def sliced_distance(x: Array, y: Array, *, directions: int = 1000, seed: int = 0) -> float:
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
    d = x.shape[1]
    generator = torch.Generator().manual_seed(seed)
    u = torch.randn(d, directions, generator=generator, dtype=torch.float64)
    total = torch.zeros((), dtype=torch.float64)
    for part in (u / u.norm(dim=0)).split(DIRECTIONS_AT_ONCE, dim=1):
        total += ((x @ part).sort(0).values - (y @ part).sort(0).values).square().sum()
    return (3 * d * total / (len(x) * directions)).item()
