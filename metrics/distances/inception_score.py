"""Inception Score (Salimans et al. 2016, arXiv:1606.03498): how sure and how varied classes are."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch

from metrics.distances.arrays import Array, float64
from metrics.distances.metric import Metric
from metrics.distances.streams import SPLITS, Stream


def inception_score(probabilities: Array, *, splits: int = SPLITS) -> tuple[float, float]:
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


def mean_scores(stream: Stream, left_out: Sequence[int]) -> Iterator[float]:
    """Yield the mean score of the splits without each of these groups.

    That of a split is exp(mean_i sum_y p_i log p_i - sum_y q log q) with q = mean_i p_i.
    """
    assert stream.classes is not None
    for group in left_out:
        count, negentropy, mass = stream.classes.without(group)
        marginal = mass / count[:, None]
        divergence = negentropy / count - torch.xlogy(marginal, marginal).sum(1)
        yield divergence.exp().mean().item()


METRIC = Metric(
    title="Inception Score",
    help="how sure and how varied the classes of the images are",
    unit="1 to the number of classes",
    lower_is_better=False,
    needs="classes",
    values=mean_scores,
    by_default=True,
)
