"""Every metric of one stream of images, whole and without each of its groups."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass
from itertools import islice

import torch
from torch import Tensor

from metrics.distances.extrapolation import frechet_infinities
from metrics.distances.frechet import covariance_root, frechet_of_roots, gaussian
from metrics.distances.jackknife import (
    authentic_percentages,
    densities_and_coverages,
    gaussian_discrepancies,
    kernel_distances,
    precisions_and_recalls,
    sliced_distances,
    subset_kernel_distances,
)
from metrics.distances.statistics import GroupedMoments, GroupedScore
from metrics.distances.table import METRICS
from metrics.ranks import ALONE, Ranks
from metrics.reference import SAMPLE, Progress, Reference, extract

SPLITS = 10
NEIGHBOURS = 3  # of precision and recall (Kynkaanniemi et al. 2019)
DENSITY_NEIGHBOURS = 5  # of density and coverage (Naeem et al. 2020)


@dataclass(frozen=True)
class Evaluation:
    """`values[metric]` is the metric of all images, then without group 0, without group 1, ...

    `num_images[metric]` is how many images it is of: metrics over pairs of images see a part, whose
    features are `sample` [m, d], float64.
    """

    values: dict[str, list[float]]
    num_images: dict[str, int]
    sample: Tensor


def num_steps(num_images: int, groups: int, metrics: Collection[str]) -> int:
    """Steps of `evaluate`: each image, each Frechet distance after them, and all the rest.

    In many dimensions the distances take minutes, and a bar that stands still looks hung.
    """
    lines = 2 if "frechet_infinity" in metrics else 1
    return num_images + lines * (1 + groups) + 1


class _Steps:
    """Tells progress of the steps of `num_steps`."""

    def __init__(self, progress: Progress | None, total: int) -> None:
        self.progress, self.total, self.done = progress, total, 0

    def reach(self, done: int) -> None:
        self.done = done
        if self.progress:
            self.progress(done, self.total)

    def each(self, distances: Iterable[float]) -> Iterator[float]:
        for distance in distances:
            self.reach(self.done + 1)
            yield distance


def evaluate(
    images: Iterable[Tensor],
    num_images: int,
    reference: Reference,
    *,
    groups: int,
    batch: int,
    metrics: Collection[str],
    progress: Progress | None = None,
    ranks: Ranks = ALONE,
    first: int = 0,
) -> Evaluation:
    """Measure uint8 images [n, c, h, w] that come in pieces, num_images in all.

    Image i is in group i % groups; `groups=0` gives the metrics of the whole alone, and only those
    that need no pairs of images. Pieces are joined to about `batch` images for the extractor. Of
    several processes each brings its share, which begins at image `first`, and gets the values of
    all. What of `metrics` the features do not allow is left out.
    """
    steps = _Steps(progress, num_steps(num_images, groups, metrics))
    stream = _Stream(reference, num_images, max(groups, 1), first)
    for part in _join(images, batch):
        stream.take(*_extract(reference, part))
        steps.reach(min((stream.seen - first) * ranks.size, num_images))
    stream.finish(ranks)
    distances = _frechet_distances(stream.moments, reference, groups, ranks)
    values = {"frechet_distance": _summed(steps.each(distances), ranks)}
    if stream.score is not None and "inception_score" in metrics:
        values["inception_score"] = list(islice(stream.score.leave_one_out(), 1 + groups))
    if "frechet_infinity" in metrics:
        mu, sigma = reference.statistics.mu, reference.statistics.sigma
        lines = frechet_infinities(stream.moments.groups, mu, sigma)
        values["frechet_infinity"] = list(steps.each(lines))
    sizes = dict.fromkeys(values, num_images)
    if groups and reference.statistics.features is not None:
        real = torch.from_numpy(reference.statistics.features).double()
        pairs = _pair_metrics(real, stream.sample, groups, metrics)
        values |= pairs
        sizes |= dict.fromkeys(pairs, len(stream.sample))
    steps.reach(steps.total)
    return Evaluation(values, sizes, stream.sample)


class _Stream:
    """What is kept of one process's images, and then of all: nothing that grows with their count.

    Image numbers are of the whole set; `sample` holds the features of the first SAMPLE of it.
    """

    def __init__(self, reference: Reference, num_images: int, groups: int, first: int) -> None:
        dim = len(reference.statistics.mu)
        self.num_images, self.num_groups, self.first, self.seen = num_images, groups, first, first
        self.moments = GroupedMoments(dim, groups, first=first)
        self.score: GroupedScore | None = None
        self.sample = torch.zeros(min(num_images, SAMPLE), dim, dtype=torch.float64)

    def take(self, features: Tensor, probabilities: Tensor | None) -> None:
        """The next images' features [n, d] and probabilities [n, k]."""
        self.moments.update(features)
        if probabilities is not None:
            self.score = self.score or GroupedScore(
                self.num_images,
                probabilities.shape[1],
                num_groups=self.num_groups,
                splits=SPLITS,
                first=self.first,
            )
            self.score.update(probabilities)
        kept = features[: max(len(self.sample) - self.seen, 0)]
        self.sample[self.seen : self.seen + len(kept)] = kept
        self.seen += len(features)

    def finish(self, ranks: Ranks) -> None:
        """Take what the other processes have."""
        self.moments.finish(ranks)
        if self.score is not None:
            self.score.finish(ranks)
        # Each row is zero in all processes but the one that has it.
        ranks.sum(self.sample)


def _join(pieces: Iterable[Tensor], batch: int) -> Iterator[Tensor]:
    """Join pieces until they hold `batch` rows or more."""
    waiting: list[Tensor] = []
    for piece in pieces:
        waiting.append(piece)
        if sum(map(len, waiting)) >= batch:
            yield torch.cat(waiting)
            waiting = []
    if waiting:
        yield torch.cat(waiting)


def _extract(reference: Reference, images: Tensor) -> tuple[Tensor, Tensor | None]:
    features, probabilities = extract(reference.extractor, images)
    dim = len(reference.statistics.mu)
    if features.shape[1] != dim:
        raise ValueError(
            f"{reference.space!r} gives {features.shape[1]} features and {reference.source} has "
            f"{dim}; use one feature space for both"
        )
    return features, probabilities


def _frechet_distances(
    moments: GroupedMoments, reference: Reference, groups: int, ranks: Ranks
) -> Iterator[float]:
    """Yield the distance of all, then without each group; 0 for those of other processes."""
    mu, sigma = gaussian("", reference.statistics.mu, reference.statistics.sigma)
    root, trace = covariance_root(sigma), sigma.trace()
    rounding = 0.0
    for i, part in enumerate(islice(moments.leave_one_out(), 1 + groups)):
        own = part.covariance()
        if i == 0:
            # What taking a group from the whole leaves where the other images are all alike.
            size = own.trace() + part.mean.square().sum()
            rounding = torch.finfo(own.dtype).eps * size.item()
        if i % ranks.size == ranks.rank:
            own_root = covariance_root(own, rounding=rounding if i else 0.0)
            yield frechet_of_roots(part.mean, own_root, own.trace(), mu, root, trace)
        else:
            yield 0.0


def _summed(parts: Iterable[float], ranks: Ranks) -> list[float]:
    values = torch.tensor(list(parts), dtype=torch.float64)
    ranks.sum(values)
    return values.tolist()


# One metric of pairs each: (real [n, d], fake [m, d], groups) to the whole's value and the groups'.
SINGLE = {
    "kernel_distance": kernel_distances,
    "kernel_distance_of_subsets": subset_kernel_distances,
    "gaussian_discrepancy": gaussian_discrepancies,
    "sliced_distance": sliced_distances,
    "authentic_percentage": authentic_percentages,
}


def _pair_metrics(
    real: Tensor, fake: Tensor, groups: int, metrics: Collection[str]
) -> dict[str, list[float]]:
    found: dict[str, list[float]] = {}
    if {"precision", "recall"} & set(metrics):
        both = precisions_and_recalls(real, fake, groups=groups, k=NEIGHBOURS)
        found |= dict(zip(("precision", "recall"), both, strict=True))
    if {"density", "coverage"} & set(metrics):
        both = densities_and_coverages(real, fake, groups=groups, k=DENSITY_NEIGHBOURS)
        found |= dict(zip(("density", "coverage"), both, strict=True))
    for name, measure in SINGLE.items():
        if name in metrics:
            found[name] = measure(real, fake, groups=groups)
    return {name: found[name] for name in METRICS if name in found and name in metrics}
