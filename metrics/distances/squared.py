"""What compares two sets of image features: pure functions of arrays, all in float64.

Inception Score (Salimans et al. 2016, arXiv:1606.03498), kernel distance (Binkowski et al. 2018,
arXiv:1801.01401) and precision / recall (Kynkaanniemi et al. 2019, arXiv:1904.06991), with the
checks of features and the distances between them that other metrics share. The Frechet distance
has a file of its own, frechet.py.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor

Array = ArrayLike | Tensor

# Rows of one block of a pairwise table. 1024 x 50,000 float64 numbers are 400 MiB.
BLOCK = 1024


class PrecisionRecall(NamedTuple):
    """Share of generated images that look real, of real images that can be generated; 0 to 1."""

    precision: float
    recall: float


def inception_score(probabilities: Array, *, splits: int = 10) -> tuple[float, float]:
    """Mean and standard deviation (over splits, ddof 0) of exp(mean KL(p(y|x) || p(y))); 1 to k.

    `probabilities` is [n, k], rows summing to 1. Splits are consecutive, unshuffled: the score
    depends on their size, so quote their number and n. ValueError on fewer rows than splits or on
    no distributions.
    """
    p = float64("probabilities", probabilities, ndim=2)
    if splits < 1 or len(p) < splits:
        raise ValueError(f"{len(p)} rows in {splits} splits: give at least one row for each split")
    if p.min() < 0 or (p.sum(1) - 1).abs().max() > 1e-3:
        raise ValueError(
            "probabilities must be >= 0 and sum to 1 in every row: apply a softmax to logits"
        )
    scores = []
    for i in range(splits):
        part = p[i * len(p) // splits : (i + 1) * len(p) // splits]
        marginal = part.mean(0)
        divergence = torch.xlogy(part, part).sum(1).mean() - torch.xlogy(marginal, marginal).sum()
        scores.append(divergence.exp())
    mean = torch.stack(scores).mean()
    return mean.item(), (torch.stack(scores) - mean).square().mean().sqrt().item()


def kernel_distance(x: Array, y: Array) -> float:
    """Squared maximum mean discrepancy with k(a, b) = (a.b / d + 1)^3, unbiased, over all pairs.

    `x` is [n, d], `y` is [m, d], n and m at least 2. The full U-statistic: no random subsets, so no
    seed and less variance than the usual mean over subsets, of which it is the expectation. Can be
    negative.
    """
    x, y = features_pair(x, y, at_least=2)
    n, m = len(x), len(y)
    within_x = _kernel_sum(x, x) - _kernel_diagonal(x)
    within_y = _kernel_sum(y, y) - _kernel_diagonal(y)
    across = _kernel_sum(x, y)
    return (within_x / (n * (n - 1)) + within_y / (m * (m - 1)) - 2 * across / (n * m)).item()


def precision_recall(real: Array, fake: Array, *, k: int = 3) -> PrecisionRecall:
    """Share of `fake` [m, d] inside the manifold of `real` [n, d], and the reverse.

    The manifold of a set is the union of balls round its points that reach to the k-th nearest
    neighbour (Kynkaanniemi et al. 2019, Eq. 1 and 2). Values depend on n and m: compare only at
    equal counts.
    """
    real, fake = features_pair(real, fake, at_least=k + 1)
    # Distances do not depend on the origin; near it they lose the fewest digits.
    origin = real.mean(0)
    real, fake = real - origin, fake - origin
    in_real = in_manifold(fake, real, manifold_radii(real, k=k))
    in_fake = in_manifold(real, fake, manifold_radii(fake, k=k))
    return PrecisionRecall(in_real.double().mean().item(), in_fake.double().mean().item())


def manifold_radii(x: Tensor, *, k: int) -> Tensor:
    """Squared distance from each point of x [n, d] to its k-th nearest other point, [n]."""
    if not 1 <= k < len(x):
        raise ValueError(
            f"k = {k} nearest neighbours of {len(x)} points: k must be 1 to {len(x) - 1}"
        )
    return torch.cat(
        [squared_distances(block, x).kthvalue(k + 1, dim=1).values for block in x.split(BLOCK)]
    )


def in_manifold(points: Tensor, centres: Tensor, radii: Tensor) -> Tensor:
    """Whether points [m, d] lie in any ball round centres [n, d] of squared radii [n]; bool [m]."""
    return torch.cat(
        [(squared_distances(block, centres) <= radii).any(1) for block in points.split(BLOCK)]
    )


def squared_distances(x: Tensor, y: Tensor) -> Tensor:
    """[n, m]; pairs that agree to about a millionth of their norms have distance zero, exactly."""
    norms = x.square().sum(1)[:, None] + y.square().sum(1)
    distances = norms - 2 * (x @ y.T)
    return torch.where(distances > 1e-12 * norms, distances, 0.0)


def polynomial_kernel(products: Tensor, d: int) -> Tensor:
    """(a.b / d + 1)^3 of inner products a.b of d features."""
    return (products / d + 1) ** 3


def _kernel_sum(x: Tensor, y: Tensor) -> Tensor:
    sums = [polynomial_kernel(rows @ y.T, x.shape[1]).sum() for rows in x.split(BLOCK)]
    return torch.stack(sums).sum()


def _kernel_diagonal(x: Tensor) -> Tensor:
    return polynomial_kernel(x.square().sum(1), x.shape[1]).sum()


def float64(name: str, value: Array, *, ndim: int) -> Tensor:
    """The array as a float64 CPU tensor of `ndim` axes, all finite; else ValueError."""
    if isinstance(value, Tensor):
        tensor = value.detach()
    else:
        array = np.asarray(value)
        if array.dtype.kind not in "fiub":
            raise ValueError(f"{name} holds {array.dtype}: give an array of real numbers")
        tensor = torch.from_numpy(array.astype(np.float64))
    if tensor.is_complex():
        raise ValueError(f"{name} holds {tensor.dtype}: give an array of real numbers")
    tensor = tensor.to("cpu", torch.float64)
    if tensor.ndim != ndim or not tensor.numel():
        axes = "[d]" if ndim == 1 else "[rows, columns]"
        raise ValueError(f"{name} has shape {tuple(tensor.shape)}: give {axes}, not empty")
    if not tensor.isfinite().all():
        raise ValueError(
            f"{name} has {(~tensor.isfinite()).sum()} numbers that are NaN or infinite"
        )
    return tensor


def features_pair(x: Array, y: Array, *, at_least: int) -> tuple[Tensor, Tensor]:
    """Two samples [n, d] and [m, d] in float64, checked to be of one d and of enough rows."""
    x, y = float64("first features", x, ndim=2), float64("second features", y, ndim=2)
    if x.shape[1] != y.shape[1]:
        raise ValueError(
            f"features have {x.shape[1]} and {y.shape[1]} columns: use one feature space for both"
        )
    if min(len(x), len(y)) < at_least:
        raise ValueError(
            f"{len(x)} and {len(y)} rows of features: give at least {at_least} of each"
        )
    return x, y
