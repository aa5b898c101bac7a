"""Maximum mean discrepancy with a Gaussian kernel: CMMD's form (arXiv:2401.09603)."""

from __future__ import annotations

import torch
from jaxtyping import Float64
from torch import Tensor

from metrics.distances.arrays import BLOCK, Array, OtherRows, Rows, two_samples
from metrics.distances.discrepancies import discrepancies
from metrics.distances.metric import Metric, of_rows
from metrics.distances.neighbours import centred, squared_distances
from metrics.distances.streams import group_of

# Those of CMMD.
BANDWIDTH, SCALE = 10.0, 1000.0


def gaussian_discrepancy(
    x: Array, y: Array, *, bandwidth: float = BANDWIDTH, scale: float = SCALE, biased: bool = True
) -> float:
    """MMD^2 times scale, with k(a, b) = exp(-|a - b|^2 / (2 bandwidth^2)) of x [n, d] and y [m, d].

    With CLIP ViT-L/14 (336 pixels) embeddings of unit length and these defaults it is CMMD
    (Jayasumana et al. 2024); with other features do not call it so. `biased=False` leaves out the
    pairs of a row with itself, and can be negative.
    """
    x, y = two_samples(x, y, at_least=2)
    if not bandwidth > 0:
        raise ValueError(f"bandwidth is {bandwidth}; it must be above 0")
    x, y = centred(x, y)

    def mean(a: Tensor, b: Tensor, *, itself: bool) -> Tensor:
        sums = [gaussian_kernel(rows, b, bandwidth=bandwidth).sum() for rows in a.split(BLOCK)]
        without = itself and not biased
        # k(a, a) = 1 for each of the pairs that are left out.
        total = torch.stack(sums).sum() - (len(a) if without else 0)
        return total / (len(a) * (len(b) - without))

    within = mean(x, x, itself=True) + mean(y, y, itself=True)
    return (scale * (within - 2 * mean(x, y, itself=False))).item()


def gaussian_discrepancies(real: Rows, fake: OtherRows, groups: int) -> list[float]:
    """`gaussian_discrepancy` of all, then without group 0, 1, ..."""
    real, fake = centred(real, fake)
    found = discrepancies(
        gaussian_kernel(real, real),
        gaussian_kernel(real, fake),
        gaussian_kernel(fake, fake),
        group_of(len(fake), groups),
        groups,
        unbiased=False,
    )
    return [SCALE * value for value in found]


def gaussian_kernel(
    x: Rows, y: OtherRows, *, bandwidth: float = BANDWIDTH
) -> Float64[Tensor, "n m"]:
    """exp(-|a - b|^2 / (2 bandwidth^2)) of each row of x and of y."""
    return torch.exp(-squared_distances(x, y) / (2 * bandwidth**2))


METRIC = Metric(
    title="Gaussian MMD",
    help=f"MMD with a Gaussian of bandwidth {BANDWIDTH:g}, times {SCALE:,.0f}: CMMD in `clip`",
    unit="none",
    lower_is_better=True,
    needs="rows",
    values=of_rows(gaussian_discrepancies),
)
