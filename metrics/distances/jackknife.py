"""Metrics over pairs of images, for a whole set and again without each of its interleaved groups.

The definitions are those of `distances`; here the table of pairs is made once, and what K + 1
evaluations share is taken from it.
"""

from __future__ import annotations

import torch
from torch import Tensor

from metrics.distances.kernels import SCALE, draw_subsets, gaussian_kernel
from metrics.distances.neighbours import authentic
from metrics.distances.slices import directions_of, sorted_square
from metrics.distances.squared import (
    in_manifold,
    manifold_radii,
    polynomial_kernel,
    squared_distances,
)


def kernel_distances(real: Tensor, fake: Tensor, *, groups: int) -> list[float]:
    """`kernel_distance` of real [n, d] and fake [m, d] float64, then without group 0, 1, ..."""
    return _unbiased(*_kernel_tables(real, fake), torch.arange(len(fake)) % groups, groups)


def subset_kernel_distances(real: Tensor, fake: Tensor, *, groups: int) -> list[float]:
    """Mean of `kernel_distance_of_subsets` of real [n, d] and fake [m, d], then without group 0 ...

    Subsets are drawn once, and a group is left out of each: drawn anew without the group, their
    chance would be taken for that of the images.
    """
    within_real, across, within_fake = _kernel_tables(real, fake)
    group = torch.arange(len(fake)) % groups
    found = [
        _unbiased(within_real[i][:, i], across[i][:, j], within_fake[j][:, j], group[j], groups)
        for i, j in draw_subsets(len(real), len(fake))
    ]
    return torch.tensor(found, dtype=torch.float64).mean(0).tolist()


def _kernel_tables(real: Tensor, fake: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """k(a, b) of real and real, real and fake, fake and fake; pairs of a row with itself are 0."""
    d = real.shape[1]
    within = [polynomial_kernel(x @ x.T, d).fill_diagonal_(0) for x in (real, fake)]
    return within[0], polynomial_kernel(real @ fake.T, d), within[1]


def _unbiased(
    within_real: Tensor, across: Tensor, within_fake: Tensor, group: Tensor, groups: int
) -> list[float]:
    """The unbiased discrepancy of all images, then without each group; `group` [m] is of the fake.

    It is made of sums over pairs, so sums over each pair of groups are enough.
    """
    n = len(within_real)
    one_hot = torch.nn.functional.one_hot(group, groups).double()
    sizes = one_hot.sum(0)
    if n < 2 or len(group) - sizes.max() < 2:
        raise ValueError(
            f"kernel distance of {n} real and {len(group)} generated images in {groups} groups: "
            "without any one group at least 2 of each must be left; measure more images"
        )
    within = one_hot.T @ within_fake @ one_hot
    mixed = across.sum(0) @ one_hot
    constant = within_real.sum() / (n * (n - 1))
    values = []
    for left_out in range(-1, groups):
        kept = torch.arange(groups) != left_out
        m = sizes[kept].sum()
        step = mixed[kept].sum() / (n * m)
        values.append((constant + within[kept][:, kept].sum() / (m * (m - 1)) - 2 * step).item())
    return values


def precisions_and_recalls(
    real: Tensor, fake: Tensor, *, groups: int, k: int
) -> tuple[list[float], list[float]]:
    """`precision_recall` of real [n, d] and fake [m, d] float64, then without group 0, 1, ..."""
    origin = real.mean(0)
    real, fake = real - origin, fake - origin
    inside = in_manifold(fake, real, manifold_radii(real, k=k)).double()
    group = torch.arange(len(fake)) % groups
    nearest = _nearest_of_each_group(squared_distances(fake, fake), groups, k + 1)
    across = squared_distances(real, fake)
    precisions, recalls = [], []
    for left_out in range(-1, groups):  # No image is in group -1: first the whole.
        kept = group != left_out
        others = nearest[:, torch.arange(groups) != left_out].flatten(1)
        radii = others[kept].kthvalue(k + 1, dim=1).values
        precisions.append(inside[kept].mean().item())
        recalls.append((across[:, kept] <= radii).any(1).double().mean().item())
    return precisions, recalls


def densities_and_coverages(
    real: Tensor, fake: Tensor, *, groups: int, k: int
) -> tuple[list[float], list[float]]:
    """`density_coverage` of real [n, d] and fake [m, d] float64, then without group 0, 1, ..."""
    origin = real.mean(0)
    real, fake = real - origin, fake - origin
    inside = squared_distances(real, fake) <= manifold_radii(real, k=k)[:, None]
    one_hot = torch.nn.functional.one_hot(torch.arange(len(fake)) % groups, groups).double()
    hits, sizes = inside.double() @ one_hot, one_hot.sum(0)
    densities, coverages = [], []
    for left_out in range(-1, groups):
        kept = torch.arange(groups) != left_out
        found = hits[:, kept].sum(1)
        densities.append((found.sum() / (k * sizes[kept].sum())).item())
        coverages.append((found > 0).double().mean().item())
    return densities, coverages


def gaussian_discrepancies(real: Tensor, fake: Tensor, *, groups: int) -> list[float]:
    """`gaussian_discrepancy` of real [n, d] and fake [m, d], then without group 0, 1, ..."""
    origin = real.mean(0)
    real, fake = real - origin, fake - origin
    one_hot = torch.nn.functional.one_hot(torch.arange(len(fake)) % groups, groups).double()
    sizes = one_hot.sum(0)
    within = one_hot.T @ gaussian_kernel(fake, fake) @ one_hot
    across = gaussian_kernel(real, fake).mean(0) @ one_hot
    constant = gaussian_kernel(real, real).mean()
    values = []
    for left_out in range(-1, groups):
        kept = torch.arange(groups) != left_out
        m = sizes[kept].sum()
        mixed = across[kept].sum() / m
        values.append((SCALE * (constant + within[kept][:, kept].sum() / m**2 - 2 * mixed)).item())
    return values


def sliced_distances(real: Tensor, fake: Tensor, *, groups: int) -> list[float]:
    """`sliced_distance` of the first rows of real [n, d] and fake [m, d], then without group 0, ...

    As many rows of both; a group is left out of both.
    """
    n = min(len(real), len(fake))
    real, fake = real[:n], fake[:n]
    group = torch.arange(n) % groups
    total = torch.zeros(1 + groups, dtype=torch.float64)
    for part in directions_of(real.shape[1]):
        x, y = real @ part, fake @ part
        for left_out in range(-1, groups):
            kept = group != left_out
            total[1 + left_out] += sorted_square(x[kept], y[kept])
    return total.tolist()


def authentic_percentages(real: Tensor, fake: Tensor, *, groups: int) -> list[float]:
    """`authentic_percentage` of fake [m, d] beside real [n, d], then without group 0, 1, ..."""
    is_authentic = authentic(real, fake).double()
    group = torch.arange(len(fake)) % groups
    return [100 * is_authentic[group != k].mean().item() for k in range(-1, groups)]


def _nearest_of_each_group(distances: Tensor, groups: int, count: int) -> Tensor:
    """[m, groups, count] smallest distances from each row to the columns of every group.

    The smallest of any union of groups are among them. Short groups are filled up with infinity.
    """
    padding = -distances.shape[1] % groups
    full = torch.nn.functional.pad(distances, (0, padding), value=torch.inf)
    by_group = full.unflatten(1, (-1, groups)).transpose(1, 2)
    return by_group.topk(min(count, by_group.shape[2]), dim=2, largest=False).values
