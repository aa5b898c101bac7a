"""Mean and covariance of features that arrive in pieces.

Two sets with counts n, m, means a, b and scatters S, T (sums of centred outer products) merge into
(Chan, Golub, LeVeque 1979)

    mean = a + (b - a) m / (n + m),     scatter = S + T + (b - a)(b - a)^T n m / (n + m),

all in float64. Unlike raw sums of squares this loses no digits when the mean is large beside the
spread, so any chunking and any order of merging give the same numbers.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float64
from torch import Tensor

from roles import Processes


@dataclass
class Moments:
    """Count, mean [d] and scatter [d, d] of a set of features, in float64.

    The scatter is the sum of the outer products of the features less their mean.
    """

    num: int
    mean: Float64[Tensor, " d"]
    scatter: Float64[Tensor, "d d"]

    @classmethod
    def empty(cls, dim: int) -> Moments:
        """Moments of no sample at all: what merging starts from."""
        return cls(
            0, torch.zeros(dim, dtype=torch.float64), torch.zeros(dim, dim, dtype=torch.float64)
        )

    @classmethod
    def of(cls, features: Tensor) -> Moments:
        """Moments of features [n, d], any dtype and device."""
        x = features.detach().cpu().double()
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

    def over(self, processes: Processes) -> Moments:
        """Moments of the union of the sets of all processes, in each of them."""
        if processes.size == 1:
            return self
        num, total = torch.tensor(self.num, dtype=torch.float64), self.mean * self.num
        processes.sum(num, total, phase="the means")
        mean = total / num.clamp(min=1)
        step = self.mean - mean
        scatter = self.scatter + torch.outer(step, step) * self.num
        processes.sum(scatter, phase="the covariances")
        return Moments(int(num), mean, scatter)

    def covariance(self, *, ddof: int = 1) -> Float64[Tensor, "d d"]:
        """Scatter / (num - ddof). EDM and pytorch-fid use ddof 1, StyleGAN2 and 3 use 0."""
        if self.num <= ddof:
            raise ValueError(
                f"{self.num} samples: a covariance with ddof={ddof} needs at least {ddof + 1}"
            )
        return self.scatter / (self.num - ddof)
