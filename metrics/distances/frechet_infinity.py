"""The Frechet distance of infinitely many images (Chong and Forsyth 2020, arXiv:1911.07023).

A Frechet distance of N images is too large by about b / N, with a b that depends on the generator.
A line through its values over 1/N is read off at zero.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import numpy as np
import torch
from jaxtyping import Float64

from metrics.distances.arrays import Array, float64
from metrics.distances.frechet_distance import (
    covariance_root,
    frechet_of_roots,
    gaussian,
    sample_root,
)
from metrics.distances.metric import Metric
from metrics.distances.moments import Moments
from metrics.distances.streams import Stream

# Of a line over counts of groups, without any one of them; each costs a distance for every group.
POINTS = 5


def frechet_infinity(
    features: Array, mu: Array, sigma: Array, *, points: int = 10, seed: int = 0
) -> tuple[float, float]:
    """Frechet distance at N = infinity of features [n, d] to (mu [d], sigma [d, d]), and its error.

    Random subsets of n / points, 2 n / points ... n rows; the error is that of the line's intercept
    and knows neither that subsets overlap nor that the line is an approximation. Extrapolates the
    generated side alone: a reference of few images leaves its own bias.
    """
    x = float64("features", features, ndim=2)
    mu, sigma = gaussian("", mu, sigma)
    if x.shape[1] != len(mu):
        raise ValueError(
            f"features have {x.shape[1]} columns and mu {len(mu)}: use one feature space for both"
        )
    if points < 3 or len(x) < 4 * points:
        raise ValueError(
            f"{len(x)} rows at {points} points; a line with an error needs at least 3 points and 4 "
            "rows for each"
        )
    generator = torch.Generator().manual_seed(seed)
    root, trace = covariance_root(sigma), sigma.trace()
    sizes = [round(len(x) * (i + 1) / points) for i in range(points)]
    values = []
    for size in sizes:
        part = x[torch.randperm(len(x), generator=generator)[:size]]
        mean, part_root, part_trace = sample_root(part)
        values.append(frechet_of_roots(mean, part_root, part_trace, mu, root, trace))
    return _intercept(1 / np.array(sizes), np.array(values))


def frechet_infinities(stream: Stream, left_out: Sequence[int]) -> Iterator[float]:
    """Yield the distance at N = infinity of a stream without each of these groups.

    The line is through the first fifth of the groups, two fifths ... all: disjoint random subsets
    of the stream, so no features are kept.
    """
    root, trace = covariance_root(stream.sigma), stream.sigma.trace()
    for without in left_out:
        kept = [group for i, group in enumerate(stream.moments.groups) if i != without]
        sizes, distances, union = [], [], Moments.empty(len(stream.mu))
        ends = {round(len(kept) * (i + 1) / POINTS) for i in range(POINTS)}
        for count, group in enumerate(kept, 1):
            union = union.merge(group)
            if count in ends:
                covariance = union.covariance()
                own = covariance_root(covariance)
                sizes.append(union.num)
                distances.append(
                    frechet_of_roots(union.mean, own, covariance.trace(), stream.mu, root, trace)
                )
        yield _intercept(1 / np.array(sizes), np.array(distances))[0]


def _intercept(x: Float64[np.ndarray, " n"], y: Float64[np.ndarray, " n"]) -> tuple[float, float]:
    """Least squares: the line's value at x = 0, and its standard error."""
    centred = x - x.mean()
    slope = centred @ y / (centred @ centred)
    intercept = y.mean() - slope * x.mean()
    variance = np.square(y - intercept - slope * x).sum() / (len(x) - 2)
    error = math.sqrt(variance * (1 / len(x) + x.mean() ** 2 / (centred @ centred)))
    return float(intercept), error


METRIC = Metric(
    title="Fréchet distance at infinity",
    help="the Fréchet distance, extrapolated to infinitely many images",
    unit="squared features",
    lower_is_better=True,
    needs="moments",
    values=frechet_infinities,
    least_groups=POINTS + 1,
)
