"""Kernel distance (Binkowski et al. 2018, arXiv:1801.01401): KID without random subsets."""

from __future__ import annotations

import torch
from jaxtyping import Float64
from torch import Tensor

from metrics.distances.arrays import BLOCK, Array, OtherRows, Rows, two_samples
from metrics.distances.discrepancies import discrepancies
from metrics.distances.metric import Metric, of_rows
from metrics.distances.streams import group_of


def kernel_distance(x: Array, y: Array) -> float:
    """Squared maximum mean discrepancy with k(a, b) = (a.b / d + 1)^3, unbiased, over all pairs.

    `x` is [n, d], `y` is [m, d], n and m at least 2. The full U-statistic: no random subsets, so no
    seed and less variance than the usual mean over subsets, of which it is the expectation. Can be
    negative.
    """
    x, y = two_samples(x, y, at_least=2)
    n, m = len(x), len(y)
    within_x = _kernel_sum(x, x) - _kernel_diagonal(x)
    within_y = _kernel_sum(y, y) - _kernel_diagonal(y)
    across = _kernel_sum(x, y)
    return (within_x / (n * (n - 1)) + within_y / (m * (m - 1)) - 2 * across / (n * m)).item()


def kernel_distances(real: Rows, fake: OtherRows, groups: int) -> list[float]:
    """`kernel_distance` of all, then without group 0, 1, ..."""
    group = group_of(len(fake), groups)
    return discrepancies(*kernel_tables(real, fake), group, groups, unbiased=True)


def kernel_tables(
    real: Rows, fake: OtherRows
) -> tuple[Float64[Tensor, "n n"], Float64[Tensor, "n m"], Float64[Tensor, "m m"]]:
    """k(a, b) of real and real, real and fake, fake and fake; pairs of a row with itself are 0."""
    d = real.shape[1]
    within = [_kernel(x @ x.T, d).fill_diagonal_(0) for x in (real, fake)]
    return within[0], _kernel(real @ fake.T, d), within[1]


def _kernel(products: Float64[Tensor, "*shape"], d: int) -> Float64[Tensor, "*shape"]:
    """(a.b / d + 1)^3 of inner products a.b of d features."""
    return (products / d + 1) ** 3


def _kernel_sum(x: Rows, y: OtherRows) -> Float64[Tensor, ""]:
    sums = [_kernel(rows @ y.T, x.shape[1]).sum() for rows in x.split(BLOCK)]
    return torch.stack(sums).sum()


def _kernel_diagonal(x: Rows) -> Float64[Tensor, ""]:
    return _kernel(x.square().sum(1), x.shape[1]).sum()


METRIC = Metric(
    title="Kernel distance",
    help="KID over all pairs, unbiased: the one to read at few images",
    unit="none",
    lower_is_better=True,
    needs="rows",
    values=of_rows(kernel_distances),
    by_default=True,
)
