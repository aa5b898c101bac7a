"""MIND: the distance of sorted projections (arXiv:2605.06797).

    3 d / (n M) sum_u sum_i (sort(x u)_i - sort(y u)_i)^2,    M random unit directions u,

the mean squared one-dimensional Wasserstein distance, scaled so that a shift s gives 3 |s|^2.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from jaxtyping import Float64
from torch import Tensor

from metrics.distances.arrays import Array, OtherRows, Rows, two_samples
from metrics.distances.metric import Metric, of_rows
from metrics.distances.streams import group_of

DIRECTIONS = 1000
DIRECTIONS_AT_ONCE = 128  # 50,000 images project to 50 MiB of float64


def sliced_distance(x: Array, y: Array, *, directions: int = DIRECTIONS, seed: int = 0) -> float:
    """MIND of x [n, d] and y [n, d], in squared units of the features.

    Of equal laws it is not zero but of order d / n: compare only at equal n. ValueError on sets of
    different sizes.
    """
    x, y = two_samples(x, y, at_least=2)
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


def sliced_distances(real: Rows, fake: OtherRows, groups: int) -> list[float]:
    """`sliced_distance` of the first rows, as many of both, then without group 0, 1, ..."""
    n = min(len(real), len(fake))
    real, fake = real[:n], fake[:n]
    group = group_of(n, groups)
    total = torch.zeros(1 + groups, dtype=torch.float64)
    for part in directions_of(real.shape[1]):
        x, y = real @ part, fake @ part
        for left_out in range(-1, groups):
            kept = group != left_out
            total[1 + left_out] += sorted_square(x[kept], y[kept])
    return total.tolist()


def directions_of(
    d: int, count: int = DIRECTIONS, *, seed: int = 0
) -> Iterator[Float64[Tensor, "d some"]]:
    """Random directions, some at a time, of length sqrt(3 d / count)."""
    generator = torch.Generator().manual_seed(seed)
    u = torch.randn(d, count, generator=generator, dtype=torch.float64)
    yield from (u / u.norm(dim=0) * (3 * d / count) ** 0.5).split(DIRECTIONS_AT_ONCE, dim=1)


def sorted_square(
    x: Float64[Tensor, "n some"], y: Float64[Tensor, "n some"]
) -> Float64[Tensor, ""]:
    """Sum over columns of the mean square between the sorted columns of x and y."""
    return (x.sort(0).values - y.sort(0).values).square().sum() / len(x)


METRIC = Metric(
    title="Sliced distance (MIND)",
    help="MIND, of sorted projections",
    unit="squared features",
    lower_is_better=True,
    needs="rows",
    values=of_rows(sliced_distances),
)
