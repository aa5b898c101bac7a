"""Precision and recall (Kynkaanniemi et al. 2019, arXiv:1904.06991): fidelity, and variety."""

from __future__ import annotations

from dataclasses import replace
from typing import NamedTuple

import torch
from jaxtyping import Float64
from torch import Tensor

from metrics.distances.arrays import Array, OtherRows, Rows, two_samples
from metrics.distances.metric import Metric, of_rows
from metrics.distances.neighbours import centred, in_any_ball, neighbour_radii, squared_distances
from metrics.distances.streams import group_of

NEIGHBOURS = 3


class PrecisionRecall(NamedTuple):
    """Share of generated images that look real, of real images that can be generated; 0 to 1."""

    precision: float
    recall: float


def precision_recall(real: Array, fake: Array, *, k: int = NEIGHBOURS) -> PrecisionRecall:
    """Share of `fake` [m, d] inside the manifold of `real` [n, d], and the reverse.

    The manifold of a set is the union of balls round its points that reach to the k-th nearest
    neighbour (Eq. 1 and 2). Values depend on n and m: compare only at equal counts.
    """
    real, fake = centred(*two_samples(real, fake, at_least=k + 1))
    in_real = in_any_ball(fake, real, neighbour_radii(real, k=k))
    in_fake = in_any_ball(real, fake, neighbour_radii(fake, k=k))
    return PrecisionRecall(in_real.double().mean().item(), in_fake.double().mean().item())


def precisions_and_recalls(
    real: Rows, fake: OtherRows, groups: int, k: int = NEIGHBOURS
) -> list[PrecisionRecall]:
    """`precision_recall` of all, then without group 0, 1, ..."""
    real, fake = centred(real, fake)
    inside = in_any_ball(fake, real, neighbour_radii(real, k=k)).double()
    group = group_of(len(fake), groups)
    nearest = _nearest_of_each_group(squared_distances(fake, fake), max(groups, 1), k + 1)
    across = squared_distances(real, fake)
    found = []
    for left_out in range(-1, groups):
        kept = group != left_out
        others = nearest[:, torch.arange(nearest.shape[1]) != left_out].flatten(1)
        radii = others[kept].kthvalue(k + 1, dim=1).values
        recall = (across[:, kept] <= radii).any(1).double().mean()
        found.append(PrecisionRecall(inside[kept].mean().item(), recall.item()))
    return found


def _nearest_of_each_group(
    distances: Float64[Tensor, "m m"], groups: int, count: int
) -> Float64[Tensor, "m groups count"]:
    """Smallest distances from each row to the columns of every group.

    The smallest of any union of groups are among them. Short groups are filled up with infinity.
    """
    padding = -distances.shape[1] % groups
    full = torch.nn.functional.pad(distances, (0, padding), value=torch.inf)
    by_group = full.unflatten(1, (-1, groups)).transpose(1, 2)
    return by_group.topk(min(count, by_group.shape[2]), dim=2, largest=False).values


PRECISION = Metric(
    title="Precision",
    help=f"share of generated images among the real ones, k = {NEIGHBOURS}: fidelity",
    unit="0 to 1",
    lower_is_better=False,
    needs="rows",
    values=of_rows(precisions_and_recalls, part=0),
    by_default=True,
    least_rows=NEIGHBOURS + 1,
)
RECALL = replace(
    PRECISION,
    title="Recall",
    help=f"share of real images among the generated ones, k = {NEIGHBOURS}: variety",
    values=of_rows(precisions_and_recalls, part=1),
)
