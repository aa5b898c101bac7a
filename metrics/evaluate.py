"""Every metric of one stream of images, whole and without each of its groups."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import islice

import torch
from torch import Tensor

from metrics.distances import frechet_distance
from metrics.moments import GroupedMoments, GroupedScore
from metrics.pairs import densities_and_coverages, kernel_distances, precisions_and_recalls
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


def evaluate(
    images: Iterable[Tensor],
    num_images: int,
    reference: Reference,
    *,
    groups: int,
    batch: int,
    progress: Progress | None = None,
) -> Evaluation:
    """Measure uint8 images [n, c, h, w] that come in pieces, num_images in all.

    Image i is in group i % groups; `groups=0` gives the metrics of the whole alone, and only those
    that need no pairs of images. Pieces are joined to about `batch` images for the extractor.
    """
    moments = GroupedMoments(len(reference.statistics.mu), max(groups, 1))
    score, sample, done = None, [], 0
    for part in _join(images, batch):
        features, probabilities = _extract(reference, part)
        moments.update(features)
        if probabilities is not None:
            score = score or GroupedScore(
                num_images, probabilities.shape[1], num_groups=max(groups, 1), splits=SPLITS
            )
            score.update(probabilities)
        sample.append(features[: max(SAMPLE - done, 0)])
        done += len(part)
        if progress:
            progress(done, num_images)
    values = {"frechet_distance": _frechet_distances(moments, reference, groups)}
    if score is not None:
        values["inception_score"] = list(islice(score.leave_one_out(), 1 + groups))
    sizes = dict.fromkeys(values, num_images)
    fake = torch.cat(sample)
    if groups and reference.statistics.features is not None:
        pairs = _pair_metrics(
            torch.from_numpy(reference.statistics.features).double(), fake, groups
        )
        values |= pairs
        sizes |= dict.fromkeys(pairs, len(fake))
    return Evaluation(values, sizes, fake)


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


def _frechet_distances(moments: GroupedMoments, reference: Reference, groups: int) -> list[float]:
    mu, sigma = reference.statistics.mu, reference.statistics.sigma
    return [
        frechet_distance(part.mean, part.covariance(), mu, sigma)
        for part in islice(moments.leave_one_out(), 1 + groups)
    ]


def _pair_metrics(real: Tensor, fake: Tensor, groups: int) -> dict[str, list[float]]:
    precisions, recalls = precisions_and_recalls(real, fake, groups=groups, k=NEIGHBOURS)
    kernel = kernel_distances(real, fake, groups=groups)
    densities, coverages = densities_and_coverages(real, fake, groups=groups, k=DENSITY_NEIGHBOURS)
    return {
        "kernel_distance": kernel,
        "precision": precisions,
        "recall": recalls,
        "density": densities,
        "coverage": coverages,
    }
