"""KID as published: the mean of kernel distances over random subsets (Binkowski et al. 2018)."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from jaxtyping import Int64
from torch import Tensor

from metrics.distances.arrays import Array, OtherRows, Rows, two_samples
from metrics.distances.discrepancies import discrepancies
from metrics.distances.kernel_distance import kernel_distance, kernel_tables
from metrics.distances.metric import Metric, of_rows
from metrics.distances.streams import group_of

# Those of published KIDs.
SUBSETS, SUBSET_SIZE = 100, 1000


def kernel_distance_of_subsets(
    x: Array, y: Array, *, subsets: int = SUBSETS, size: int = SUBSET_SIZE, seed: int = 0
) -> tuple[float, float]:
    """Mean and standard deviation of `kernel_distance` over random subsets: the usual KID.

    Subsets of at most `size` rows of x [n, d] and y [m, d], drawn without replacement. The
    deviation is the spread of subsets (ddof 0), no standard error of the mean; `kernel_distance` is
    what the mean estimates, without a seed and with less variance.
    """
    x, y = two_samples(x, y, at_least=2)
    if subsets < 1 or size < 2:
        raise ValueError(f"{subsets} subsets of {size}: allowed are 1 or more, of 2 or more rows")
    drawn = draw_subsets(len(x), len(y), subsets=subsets, size=size, seed=seed)
    values = torch.tensor([kernel_distance(x[i], y[j]) for i, j in drawn], dtype=torch.float64)
    return values.mean().item(), values.std(correction=0).item()


def draw_subsets(
    n: int, m: int, *, subsets: int = SUBSETS, size: int = SUBSET_SIZE, seed: int = 0
) -> Iterator[tuple[Int64[Tensor, " size"], Int64[Tensor, " size"]]]:
    """Yield rows of n and rows of m, `size` of each, or as many as both have."""
    generator = torch.Generator().manual_seed(seed)
    size = min(size, n, m)
    for _ in range(subsets):
        i, j = (torch.randperm(count, generator=generator)[:size] for count in (n, m))
        yield i, j


def mean_kernel_distances(
    real: Rows,
    fake: OtherRows,
    groups: int,
    *,
    subsets: int = SUBSETS,
    size: int = SUBSET_SIZE,
) -> list[float]:
    """Mean of `kernel_distance_of_subsets` of all, then without group 0, 1, ...

    Subsets are drawn once, and a group is left out of each: drawn anew without the group, their
    chance would be taken for that of the images.
    """
    within_real, across, within_fake = kernel_tables(real, fake)
    group = group_of(len(fake), groups)
    found = [
        discrepancies(
            within_real[i][:, i],
            across[i][:, j],
            within_fake[j][:, j],
            group[j],
            groups,
            unbiased=True,
        )
        for i, j in draw_subsets(len(real), len(fake), subsets=subsets, size=size)
    ]
    return torch.tensor(found, dtype=torch.float64).mean(0).tolist()


# In a subset of the two sets' rows, each of twenty groups leaves some of the others.
LEAST_ROWS = 50

METRIC = Metric(
    title="Kernel distance of subsets (KID)",
    help=f"KID as published, the mean of {SUBSETS} subsets of {SUBSET_SIZE:,}",
    unit="none",
    lower_is_better=True,
    needs="rows",
    least_rows=LEAST_ROWS,
    values=of_rows(mean_kernel_distances),
)
