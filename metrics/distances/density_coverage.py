"""Density and coverage (Naeem et al. 2020, arXiv:2002.09797, Eq. 2 and 3).

As precision and recall, with balls round the real images alone, so less swayed by outliers.
"""

from __future__ import annotations

from dataclasses import replace
from typing import NamedTuple

import torch

from metrics.distances.arrays import BLOCK, Array, OtherRows, Rows, two_samples
from metrics.distances.metric import Metric, of_rows
from metrics.distances.neighbours import centred, neighbour_radii, squared_distances
from metrics.distances.streams import group_of

NEIGHBOURS = 5


class DensityCoverage(NamedTuple):
    """Mean count of real balls round a generated image, over k (0 and up); covered share of real.

    Density is about 1 where both sets are of one law, and can be above.
    """

    density: float
    coverage: float


def density_coverage(real: Array, fake: Array, *, k: int = NEIGHBOURS) -> DensityCoverage:
    """Density and coverage of `fake` [m, d] by `real` [n, d].

    Coverage rises with m: compare only at equal counts. ValueError on fewer than k + 1 rows.
    """
    real, fake = centred(*two_samples(real, fake, at_least=k + 1))
    radii = neighbour_radii(real, k=k)
    inside = torch.zeros((), dtype=torch.float64)
    covered = 0
    for rows, reach in zip(real.split(BLOCK), radii.split(BLOCK), strict=True):
        hits = squared_distances(rows, fake) <= reach[:, None]
        inside += hits.sum()
        covered += int(hits.any(1).sum())
    return DensityCoverage((inside / (k * len(fake))).item(), covered / len(real))


def densities_and_coverages(
    real: Rows, fake: OtherRows, groups: int, k: int = NEIGHBOURS
) -> list[DensityCoverage]:
    """`density_coverage` of all, then without group 0, 1, ..."""
    real, fake = centred(real, fake)
    inside = squared_distances(real, fake) <= neighbour_radii(real, k=k)[:, None]
    one_hot = torch.nn.functional.one_hot(group_of(len(fake), groups), max(groups, 1)).double()
    hits, sizes = inside.double() @ one_hot, one_hot.sum(0)
    found = []
    for left_out in range(-1, groups):
        kept = torch.arange(len(sizes)) != left_out
        balls = hits[:, kept].sum(1)
        density = balls.sum() / (k * sizes[kept].sum())
        found.append(DensityCoverage(density.item(), (balls > 0).double().mean().item()))
    return found


DENSITY = Metric(
    title="Density",
    help=f"as precision, k = {NEIGHBOURS}, less swayed by outliers",
    unit="0 and up, about 1 for one law",
    lower_is_better=False,
    needs="rows",
    values=of_rows(densities_and_coverages, part=0),
    by_default=True,
    least_rows=NEIGHBOURS + 1,
)
COVERAGE = replace(
    DENSITY,
    title="Coverage",
    help=f"as recall, k = {NEIGHBOURS}, less swayed by outliers",
    unit="0 to 1",
    values=of_rows(densities_and_coverages, part=1),
)
