"""What nearest neighbours tell: density and coverage, and whether training images are copied.

Density and coverage (Naeem et al. 2020, arXiv:2002.09797, Eq. 2 and 3), with balls round the real
images as in precision and recall. AuthPct: the share of authentic images (Alaa et al. 2022,
arXiv:2102.08921, Section 4; as Stein et al. 2023, arXiv:2306.04675, report it).
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from metrics.distances.squared import BLOCK, Array, features_pair, manifold_radii, squared_distances


class DensityCoverage(NamedTuple):
    """Mean count of real balls round a generated image, over k (0 and up); covered share of real.

    Density is about 1 where both sets are of one law, and can be above.
    """

    density: float
    coverage: float


def density_coverage(real: Array, fake: Array, *, k: int = 5) -> DensityCoverage:
    """Density and coverage of `fake` [m, d] by `real` [n, d].

    Coverage rises with m: compare only at equal counts. ValueError on fewer than k + 1 rows.
    """
    real, fake = features_pair(real, fake, at_least=k + 1)
    origin = real.mean(0)
    real, fake = real - origin, fake - origin
    radii = manifold_radii(real, k=k)
    inside = torch.zeros((), dtype=torch.float64)
    covered = 0
    for rows, reach in zip(real.split(BLOCK), radii.split(BLOCK), strict=True):
        hits = squared_distances(rows, fake) <= reach[:, None]
        inside += hits.sum()
        covered += int(hits.any(1).sum())
    return DensityCoverage((inside / (k * len(fake))).item(), covered / len(real))


def authentic_percentage(train: Array, fake: Array) -> float:
    """AuthPct, 0 to 100: generated images that are no closer to a training image than others are.

    An image of `fake` [m, d] is authentic where its nearest row of `train` [n, d] has another
    training row nearer to it than the image. A generator that copies scores 0; one of the training
    images' own law scores about 50, more in high dimensions.
    """
    train, fake = features_pair(train, fake, at_least=2)
    return 100 * authentic(train, fake).double().mean().item()


def authentic(train: Tensor, fake: Tensor) -> Tensor:
    """Which rows of fake [m, d] are authentic beside train [n, d], float64; bool [m]."""
    origin = train.mean(0)
    train, fake = train - origin, fake - origin
    own = manifold_radii(train, k=1)
    found = []
    for rows in fake.split(BLOCK):
        nearest, index = squared_distances(rows, train).min(1)
        found.append(own[index] < nearest)
    return torch.cat(found)


def nearest_rows(points: Tensor, among: Tensor, *, count: int = 1) -> Tensor:
    """Indices [m, count] of the rows of among [n, d] nearest to each point [m, d], nearest first.

    ValueError where there are fewer than `count` rows.
    """
    if not 1 <= count <= len(among):
        raise ValueError(f"{count} nearest of {len(among)} rows; ask for 1 to {len(among)}")
    origin = among.mean(0)
    tables = (squared_distances(p - origin, among - origin) for p in points.split(BLOCK))
    return torch.cat([table.topk(count, dim=1, largest=False).indices for table in tables])
