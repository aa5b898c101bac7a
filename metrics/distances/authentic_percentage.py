"""AuthPct: the share of generated images that are no near copies of a real one.

Alaa et al. 2022 (arXiv:2102.08921, Section 4), as Stein et al. 2023 (arXiv:2306.04675) report it.
"""

from __future__ import annotations

from jaxtyping import Bool
from torch import Tensor

from metrics.distances.arrays import Array, OtherRows, Rows, two_samples
from metrics.distances.metric import Metric, of_rows
from metrics.distances.neighbours import centred, nearest, neighbour_radii
from metrics.distances.streams import group_of


def authentic_percentage(train: Array, fake: Array) -> float:
    """AuthPct, 0 to 100: generated images that are no closer to a training image than others are.

    An image of `fake` [m, d] is authentic where its nearest row of `train` [n, d] has another
    training row nearer to it than the image. A generator that copies scores 0; one of the training
    images' own law scores about 50, more in high dimensions.
    """
    return 100 * authentic(*two_samples(train, fake, at_least=2)).double().mean().item()


def authentic_percentages(real: Rows, fake: OtherRows, groups: int) -> list[float]:
    """`authentic_percentage` of all, then without group 0, 1, ..."""
    is_authentic, group = authentic(real, fake).double(), group_of(len(fake), groups)
    return [100 * is_authentic[group != k].mean().item() for k in range(-1, groups)]


def authentic(train: Rows, fake: OtherRows) -> Bool[Tensor, " m"]:
    """Which rows of `fake` are authentic beside `train`."""
    train, fake = centred(train, fake)
    distance, index = nearest(fake, train)
    return neighbour_radii(train, k=1)[index] < distance


METRIC = Metric(
    title="Authentic images, %",
    help="share of images that are no near copies of a real one",
    unit="0 to 100",
    lower_is_better=False,
    needs="rows",
    values=of_rows(authentic_percentages),
)
