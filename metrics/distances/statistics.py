"""Mean and covariance of features that arrive in pieces, and the statistics files of FID.

Two sets with counts n, m, means a, b and scatters S, T (sums of centred outer products) merge into
(Chan, Golub, LeVeque 1979)

    mean = a + (b - a) m / (n + m),     scatter = S + T + (b - a)(b - a)^T n m / (n + m),

all in float64. Unlike raw sums of squares this loses no digits when the mean is large beside the
spread, so any chunking and any order of merging give the same numbers.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from metrics.distances.frechet import SYMMETRY_TOLERANCE, covariance_root
from metrics.ranks import Ranks
from metrics.storage import Arrays, read_arrays, text, whole_number, write_arrays


@dataclass
class Moments:
    """Count, mean [d] and scatter [d, d] of a set of features, in float64.

    The scatter is the sum of the outer products of the features less their mean.
    """

    num: int
    mean: Tensor
    scatter: Tensor

    @classmethod
    def empty(cls, dim: int) -> Moments:
        """Moments of no sample at all: what merging starts from."""
        return cls(
            0, torch.zeros(dim, dtype=torch.float64), torch.zeros(dim, dim, dtype=torch.float64)
        )

    @classmethod
    def of(cls, features: Tensor) -> Moments:
        """Moments of features [n, d], any dtype and device."""
        x = features.detach().to("cpu", torch.float64)
        if x.ndim != 2 or not len(x):
            raise ValueError(f"features have shape {tuple(x.shape)}: give [n, d] with n at least 1")
        mean = x.mean(0)
        return cls(len(x), mean, (x - mean).T @ (x - mean))

    def update(self, features: Tensor) -> None:
        """Take more features [n, d] into this set."""
        union = self.merge(Moments.of(features))
        self.num, self.mean, self.scatter = union.num, union.mean, union.scatter

    def merge(self, other: Moments) -> Moments:
        """Moments of the union of two disjoint sets."""
        num = self.num + other.num
        if not num:
            return self
        step = other.mean - self.mean
        mean = self.mean + step * (other.num / num)
        scatter = (
            self.scatter + other.scatter + torch.outer(step, step) * (self.num * other.num / num)
        )
        return Moments(num, mean, scatter)

    def remove(self, other: Moments) -> Moments:
        """Moments of this set without `other`, a proper part of it: `merge` solved backwards."""
        num = self.num - other.num
        if num < 1:
            raise ValueError(
                f"cannot take {other.num} samples from {self.num}: at least one must be left"
            )
        step = self.mean - other.mean
        mean = self.mean + step * (other.num / num)
        scatter = (
            self.scatter - other.scatter - torch.outer(step, step) * (self.num * other.num / num)
        )
        return Moments(num, mean, scatter)

    def over(self, ranks: Ranks) -> Moments:
        """Moments of the union of the sets of all processes, in each of them."""
        if ranks.size == 1:
            return self
        num, total = torch.tensor(self.num, dtype=torch.float64), self.mean * self.num
        ranks.sum(num, total)
        mean = total / num.clamp(min=1)
        step = self.mean - mean
        scatter = self.scatter + torch.outer(step, step) * self.num
        ranks.sum(scatter)
        return Moments(int(num), mean, scatter)

    def covariance(self, *, ddof: int = 1) -> Tensor:
        """Scatter / (num - ddof). EDM and pytorch-fid use ddof 1, StyleGAN2 and 3 use 0."""
        if self.num <= ddof:
            raise ValueError(
                f"{self.num} samples: a covariance with ddof={ddof} needs at least {ddof + 1}"
            )
        return self.scatter / (self.num - ddof)


class GroupedMoments:
    """Moments of interleaved groups: sample i of the stream is in group i % num_groups.

    Holds what a delete-a-group jackknife needs, in memory that does not grow with the stream. Rows
    are taken in portions of fixed size, so the result does not depend on how the stream is cut.
    `first` is the number of the first sample, where another process has those before.
    """

    ROWS_PER_GROUP = 64

    def __init__(self, dim: int, num_groups: int, *, first: int = 0) -> None:
        self.first = first
        self.groups = [Moments.empty(dim) for _ in range(num_groups)]
        self.waiting = torch.zeros(0, dim, dtype=torch.float64)

    def update(self, features: Tensor) -> None:
        """Take the next features [n, d] of the stream."""
        self.waiting = torch.cat([self.waiting, features.detach().to("cpu", torch.float64)])
        portion = self.ROWS_PER_GROUP * len(self.groups)
        while len(self.waiting) >= portion:
            self._absorb(self.waiting[:portion])
            self.waiting = self.waiting[portion:]

    def finish(self, ranks: Ranks) -> None:
        """End the stream: take the rows that wait, and the groups of the other processes."""
        self._take_waiting()
        self.groups = [group.over(ranks) for group in self.groups]

    def leave_one_out(self) -> Iterator[Moments]:
        """Yield the moments of all samples, then for every group those of the samples outside it.

        Ends the stream: what comes after would start again at the first group.
        """
        self._take_waiting()
        total = Moments.empty(self.waiting.shape[1])
        for group in self.groups:
            total = total.merge(group)
        yield total
        for group in self.groups:
            yield total.remove(group)

    def _take_waiting(self) -> None:
        self._absorb(self.waiting)
        self.waiting = self.waiting[:0]

    def _absorb(self, rows: Tensor) -> None:
        # A portion is a multiple of the groups, so every one of them begins in the same group.
        for start in range(min(len(self.groups), len(rows))):
            group = (self.first + start) % len(self.groups)
            self.groups[group].update(rows[start :: len(self.groups)])


class GroupedScore:
    """Inception Score of a stream of known length, whole or without one of its interleaved groups.

    The score of a split is exp(mean_i sum_y p_i log p_i - sum_y q log q) with q = mean_i p_i, so
    sums over each (split, group) cell are all it needs. Splits and groups as in `inception_score`
    and `GroupedMoments`.
    """

    def __init__(
        self, num_images: int, num_classes: int, *, num_groups: int, splits: int, first: int = 0
    ) -> None:
        self.num_images, self.splits, self.num_groups = num_images, splits, num_groups
        self.seen = first
        self.counts = torch.zeros(splits, num_groups, dtype=torch.float64)
        self.negentropy = torch.zeros(splits, num_groups, dtype=torch.float64)
        self.mass = torch.zeros(splits, num_groups, num_classes, dtype=torch.float64)

    def update(self, probabilities: Tensor) -> None:
        """Take the next class probabilities [n, k] of the stream."""
        p = probabilities.detach().to("cpu", torch.float64)
        index = torch.arange(self.seen, self.seen + len(p))
        # Split s is the images from s n // splits up to (s + 1) n // splits.
        split = ((index + 1) * self.splits - 1) // self.num_images
        cell = split * self.num_groups + index % self.num_groups
        self.counts.view(-1).index_add_(0, cell, torch.ones(len(p), dtype=torch.float64))
        self.negentropy.view(-1).index_add_(0, cell, torch.xlogy(p, p).sum(1))
        self.mass.view(-1, p.shape[1]).index_add_(0, cell, p)
        self.seen += len(p)

    def finish(self, ranks: Ranks) -> None:
        """End the stream: take what the other processes have seen."""
        ranks.sum(self.counts, self.negentropy, self.mass)

    def leave_one_out(self) -> Iterator[float]:
        """Yield the mean score of the splits over all images, then without each of the groups."""
        for left_out in (None, *range(self.num_groups)):
            kept = [group for group in range(self.num_groups) if group != left_out]
            count = self.counts[:, kept].sum(1)
            marginal = self.mass[:, kept].sum(1) / count[:, None]
            negentropy = self.negentropy[:, kept].sum(1) / count
            yield (negentropy - torch.xlogy(marginal, marginal).sum(1)).exp().mean().item()


@dataclass(frozen=True)
class Statistics:
    """What a statistics file holds: mu [d] and sigma [d, d] in float64, and what they are of.

    num       number of images
    space     name of the feature space
    features  a sample of the features themselves, float [m, d], for precision and recall
    labels    classes of that sample, int [m], for the table of classes

    Each of the last four is None where the file does not say.
    """

    mu: np.ndarray
    sigma: np.ndarray
    num: int | None = None
    space: str | None = None
    features: np.ndarray | None = None
    labels: np.ndarray | None = None

    @classmethod
    def of(
        cls,
        moments: Moments,
        *,
        space: str | None = None,
        features: Tensor | None = None,
        labels: np.ndarray | None = None,
    ) -> Statistics:
        """Statistics of moments, with the unbiased covariance."""
        sample = None if features is None else features.detach().cpu().float().numpy()
        mu, sigma = moments.mean.numpy(), moments.covariance().numpy()
        return cls(mu, sigma, moments.num, space, sample, labels)

    def arrays(self) -> Arrays:
        """The arrays of the file: mu, sigma, and n, name, features, labels where known."""
        optional = {
            "n": self.num,
            "name": self.space,
            "features": self.features,
            "labels": self.labels,
        }
        arrays = {"mu": self.mu, "sigma": self.sigma}
        return arrays | {
            key: np.asarray(value) for key, value in optional.items() if value is not None
        }

    @classmethod
    def from_arrays(cls, arrays: Arrays, *, path: str | os.PathLike[str]) -> Statistics:
        """Check and take the statistics among `arrays`, ignoring others; `path` is for messages."""
        for key in ("mu", "sigma"):
            if key not in arrays:
                raise ValueError(f"{path}: has no array {key!r}; statistics have 'mu' and 'sigma'")
        mu, sigma, sample = arrays["mu"], arrays["sigma"], arrays.get("features")
        if mu.ndim != 1 or not len(mu) or sigma.shape != (len(mu), len(mu)):
            raise ValueError(
                f"{path}: mu is {mu.shape} and sigma {sigma.shape}; allowed are (d,) and (d, d)"
            )
        if sample is not None and (sample.ndim != 2 or sample.shape[1] != len(mu)):
            raise ValueError(
                f"{path}: features are {sample.shape} and mu {mu.shape}; allowed is (m, {len(mu)})"
            )
        labels = arrays.get("labels")
        if labels is not None and (
            sample is None or labels.shape != sample.shape[:1] or labels.dtype.kind not in "iu"
        ):
            raise ValueError(
                f"{path}: labels are {labels.dtype} {labels.shape}; allowed are whole numbers, one "
                "for each row of features"
            )
        for key in ("mu", "sigma", "features"):
            if key in arrays and not (
                arrays[key].dtype.kind == "f" and np.isfinite(arrays[key]).all()
            ):
                raise ValueError(f"{path}: {key!r} must hold finite floating-point numbers")
        if np.abs(sigma - sigma.T).max() > SYMMETRY_TOLERANCE * np.abs(sigma).max():
            raise ValueError(f"{path}: sigma is not symmetric; it must be a covariance matrix")
        mu, sigma = mu.astype(np.float64), sigma.astype(np.float64)
        try:
            covariance_root(torch.from_numpy(sigma))
        except ValueError as error:
            raise ValueError(f"{path}: {error}") from None
        num = whole_number(arrays, "n", path=path)
        if num is not None and num < 2:
            raise ValueError(f"{path}: n is {num}; statistics are of at least 2 images")
        space = text(arrays, "name", path=path)
        return cls(mu, sigma, num, space, sample, labels)


def save_statistics(path: str | os.PathLike[str], statistics: Statistics) -> None:
    """Write an .npz with mu and sigma, as EDM and pytorch-fid read it, and what else is known."""
    write_arrays(path, statistics.arrays())


def load_statistics(path: str | os.PathLike[str]) -> Statistics:
    """Read the statistics of an .npz, ours or one with mu and sigma only (EDM, pytorch-fid)."""
    return Statistics.from_arrays(read_arrays(path), path=path)
