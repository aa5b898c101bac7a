"""Every metric of one stream of images, whole and without each of its groups."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass

import torch
from jaxtyping import Float64, UInt8
from torch import Tensor

from metrics.distances.frechet_distance import gaussian
from metrics.distances.metric import Metric
from metrics.distances.streams import Stream
from metrics.distances.table import METRICS
from metrics.reference import SAMPLE, Progress, Reference, extract
from roles import Processes


@dataclass(frozen=True)
class Evaluation:
    """`values[metric]` is the metric of all images, then without group 0, without group 1, ...

    `num_images[metric]` is how many images it is of: metrics that need features of single images
    see a part, whose features are `sample`.
    """

    values: dict[str, list[float]]
    num_images: dict[str, int]
    sample: Float64[Tensor, "m d"]


def num_steps(num_images: int, groups: int, metrics: Collection[str]) -> int:
    """Steps of `evaluate`: each image, each distance of moments after them, and all the rest.

    In many dimensions those distances take minutes, and a bar that stands still looks hung.
    """
    of_moments = sum(METRICS[name].needs == "moments" for name in metrics)
    return num_images + of_moments * (1 + groups) + 1


def evaluate(
    images: Iterable[UInt8[Tensor, "n c h w"]],
    num_images: int,
    reference: Reference,
    *,
    groups: int,
    batch: int,
    metrics: Collection[str],
    progress: Progress | None = None,
    processes: Processes | None = None,
    first: int = 0,
) -> Evaluation:
    """Measure images that come in pieces, num_images in all.

    Image i is in group i % groups; `groups=0` gives the metrics of the whole alone. Pieces are
    joined to about `batch` images for the extractor. Of several processes each brings its share,
    which begins at image `first`, and gets the values of all. What of `metrics` the features do not
    allow is left out.
    """
    processes = processes or Processes()
    total, done = num_steps(num_images, groups, metrics), 0

    def reach(step: int) -> None:
        nonlocal done
        done = min(step, total)
        if progress:
            progress(done, total)

    mu, sigma = gaussian("", reference.statistics.mu, reference.statistics.sigma)
    num_rows = min(num_images, SAMPLE)
    stream = Stream(
        mu,
        sigma,
        reference.rows,
        num_images=num_images,
        num_rows=num_rows,
        groups=groups,
        first=first,
    )
    for part in _join(images, batch):
        stream.take(*_extract(reference, part))
        reach(min((stream.seen - first) * processes.size, num_images))
    stream.finish(processes)
    values: dict[str, list[float]] = {}
    # Each process measures without some of the groups.
    left_out = range(processes.rank - 1, groups, processes.size)
    for name, metric in METRICS.items():
        lacks_classes = metric.needs == "classes" and stream.classes is None
        if name not in metrics or lacks_classes or not allows(reference, metric):
            continue
        found = torch.zeros(1 + groups, dtype=torch.float64)
        for group, value in zip(left_out, metric.values(stream, left_out), strict=True):
            found[1 + group] = value
            if metric.needs == "moments":
                reach(done + processes.size)
        processes.sum(found, phase=name)
        values[name] = found.tolist()
    reach(total)
    sizes = {name: num_rows if METRICS[name].needs == "rows" else num_images for name in values}
    return Evaluation(values, sizes, stream.rows)


def allows(reference: Reference, metric: Metric) -> bool:
    """Whether a reference has the features of single images that a metric needs."""
    rows = reference.statistics.features
    return metric.needs != "rows" or (rows is not None and len(rows) >= metric.least_rows)


def _join(
    pieces: Iterable[UInt8[Tensor, "n c h w"]], batch: int
) -> Iterator[UInt8[Tensor, "n c h w"]]:
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
