"""Distances between rows of features, and what nearest neighbours say."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float64, Int64
from torch import Tensor

from metrics.distances.arrays import BLOCK, OtherRows, Rows


def squared_distances(x: Rows, y: OtherRows) -> Float64[Tensor, "n m"]:
    """Pairs that agree to about a millionth of their norms have distance zero, exactly."""
    norms = x.square().sum(1)[:, None] + y.square().sum(1)
    distances = norms - 2 * (x @ y.T)
    return torch.where(distances > 1e-12 * norms, distances, 0.0)


def centred(real: Rows, fake: OtherRows) -> tuple[Rows, OtherRows]:
    """Both less the mean of the real: distances stay, and near the origin lose fewest digits."""
    origin = real.mean(0)
    return real - origin, fake - origin


def neighbour_radii(x: Rows, *, k: int) -> Float64[Tensor, " n"]:
    """Squared distance from each point to its k-th nearest other point."""
    if not 1 <= k < len(x):
        raise ValueError(
            f"k = {k} nearest neighbours of {len(x)} points: k must be 1 to {len(x) - 1}"
        )
    return torch.cat(
        [squared_distances(block, x).kthvalue(k + 1, dim=1).values for block in x.split(BLOCK)]
    )


def in_any_ball(
    points: OtherRows, centres: Rows, radii: Float64[Tensor, " n"]
) -> Bool[Tensor, " m"]:
    """Whether points lie in any of the balls round centres; the radii are squared."""
    return torch.cat(
        [(squared_distances(block, centres) <= radii).any(1) for block in points.split(BLOCK)]
    )


def nearest(points: OtherRows, among: Rows) -> tuple[Float64[Tensor, " m"], Int64[Tensor, " m"]]:
    """Squared distance from each point to the row nearest to it, and that row's index."""
    among, points = centred(among, points)
    tables = [squared_distances(block, among).min(1) for block in points.split(BLOCK)]
    return torch.cat([t.values for t in tables]), torch.cat([t.indices for t in tables])
