"""Maximum mean discrepancies beside `kernel_distance`: over random subsets, and with a Gaussian.

    MMD^2 = mean k(x, x') + mean k(y, y') - 2 mean k(x, y)

unbiased where the pairs of a row with itself are left out of the first two means.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from metrics.distances.squared import (
    BLOCK,
    Array,
    features_pair,
    kernel_distance,
    squared_distances,
)

# Those of CMMD.
BANDWIDTH, SCALE = 10.0, 1000.0

# Those of published KIDs.
SUBSETS, SUBSET_SIZE = 100, 1000


def kernel_distance_of_subsets(
    x: Array, y: Array, *, subsets: int = SUBSETS, size: int = SUBSET_SIZE, seed: int = 0
) -> tuple[float, float]:
    """Mean and standard deviation of `kernel_distance` over random subsets: the usual KID.

    Subsets of at most `size` rows of x [n, d] and y [m, d], drawn without replacement
    (Binkowski et al. 2018). The deviation is the spread of subsets (ddof 0), no standard error of
    the mean; `kernel_distance` is what the mean estimates, without a seed and with less variance.
    """
    x, y = features_pair(x, y, at_least=2)
    if subsets < 1 or size < 2:
        raise ValueError(f"{subsets} subsets of {size}: allowed are 1 or more, of 2 or more rows")
    pairs = draw_subsets(len(x), len(y), subsets=subsets, size=size, seed=seed)
    values = torch.tensor([kernel_distance(x[i], y[j]) for i, j in pairs], dtype=torch.float64)
    return values.mean().item(), values.std(correction=0).item()


def draw_subsets(
    n: int, m: int, *, subsets: int = SUBSETS, size: int = SUBSET_SIZE, seed: int = 0
) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield rows of n and rows of m, `size` of each, or as many as both have."""
    generator = torch.Generator().manual_seed(seed)
    size = min(size, n, m)
    for _ in range(subsets):
        i, j = (torch.randperm(count, generator=generator)[:size] for count in (n, m))
        yield i, j


def gaussian_discrepancy(
    x: Array, y: Array, *, bandwidth: float = BANDWIDTH, scale: float = SCALE, biased: bool = True
) -> float:
    """MMD^2 times scale, with k(a, b) = exp(-|a - b|^2 / (2 bandwidth^2)) of x [n, d] and y [m, d].

    With CLIP ViT-L/14 (336 pixels) embeddings of unit length and these defaults it is CMMD
    (Jayasumana et al. 2024, arXiv:2401.09603); with other features do not call it so.
    `biased=False` leaves out the pairs of a row with itself, and can be negative.
    """
    x, y = features_pair(x, y, at_least=2)
    if not bandwidth > 0:
        raise ValueError(f"bandwidth is {bandwidth}; it must be above 0")
    origin = x.mean(0)
    x, y = x - origin, y - origin

    def mean(a: Tensor, b: Tensor, *, itself: bool) -> Tensor:
        sums = [gaussian_kernel(rows, b, bandwidth=bandwidth).sum() for rows in a.split(BLOCK)]
        without = itself and not biased
        # k(a, a) = 1 for each of the pairs that are left out.
        total = torch.stack(sums).sum() - (len(a) if without else 0)
        return total / (len(a) * (len(b) - without))

    within = mean(x, x, itself=True) + mean(y, y, itself=True)
    return (scale * (within - 2 * mean(x, y, itself=False))).item()


def gaussian_kernel(x: Tensor, y: Tensor, *, bandwidth: float = BANDWIDTH) -> Tensor:
    """exp(-|a - b|^2 / (2 bandwidth^2)) of each row of x [n, d] and of y [m, d]: [n, m]."""
    return torch.exp(-squared_distances(x, y) / (2 * bandwidth**2))
