"""What is kept of a stream of images, whole and by group: nothing that grows with its length.

Image i is in group i % groups. From sums over the groups every metric has its value of all images
and its values without group 0, 1, ..., which a delete-a-group jackknife needs. A `left_out` is the
number of a group, or -1, which leaves out none.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from jaxtyping import Float, Float64, Int64
from torch import Tensor

from metrics.distances.arrays import Rows
from metrics.distances.moments import Moments
from roles import Processes

SPLITS = 10  # of the Inception Score

# A metric's values of real rows [n, d] and generated rows [m, d]: of all, then without group 0, 1,
# ... of so many; metrics that share their work have a tuple for each of these.
RowValues = Callable[[Tensor, Tensor, int], Sequence[float] | Sequence[tuple[float, ...]]]


def group_of(count: int, groups: int) -> Int64[Tensor, " count"]:
    """Group of each of `count` images; without groups all are in one."""
    return torch.arange(count) % max(groups, 1)


class GroupedMoments:
    """Moments of interleaved groups: sample i of the stream is in group i % num_groups.

    Rows are taken in portions of fixed size, so the result does not depend on how the stream is
    cut. `first` is the number of the first sample, where another process has those before.
    """

    ROWS_PER_GROUP = 64

    def __init__(self, dim: int, num_groups: int, *, first: int = 0) -> None:
        self.first = first
        self.groups = [Moments.empty(dim) for _ in range(num_groups)]
        self.total = Moments.empty(dim)
        self.waiting = torch.zeros(0, dim, dtype=torch.float64)

    def update(self, features: Float[Tensor, "n d"]) -> None:
        """Take the next features of the stream."""
        self.waiting = torch.cat([self.waiting, features.detach().cpu().double()])
        portion = self.ROWS_PER_GROUP * len(self.groups)
        while len(self.waiting) >= portion:
            self._absorb(self.waiting[:portion])
            self.waiting = self.waiting[portion:]

    def finish(self, processes: Processes) -> None:
        """End the stream: take the rows that wait, and the groups of the other processes."""
        self._absorb(self.waiting)
        self.waiting = self.waiting[:0]
        self.groups = [group.over(processes) for group in self.groups]
        for group in self.groups:
            self.total = self.total.merge(group)

    def without(self, left_out: int) -> Moments:
        """Moments of all samples but those of a group, of a stream that has ended."""
        return self.total if left_out < 0 else self.total.remove(self.groups[left_out])

    def _absorb(self, rows: Rows) -> None:
        # A portion is a multiple of the groups, so every one of them begins in the same group.
        for start in range(min(len(self.groups), len(rows))):
            group = (self.first + start) % len(self.groups)
            self.groups[group].update(rows[start :: len(self.groups)])


class GroupedClasses:
    """Sums of class probabilities p of a stream of known length, by split and group.

    counts [splits, groups], negentropy: sums of sum_y p log p, mass [splits, groups, k]: sums of p.
    Splits are consecutive, groups as in `GroupedMoments`.
    """

    def __init__(
        self, num_images: int, num_classes: int, *, num_groups: int, splits: int, first: int = 0
    ) -> None:
        self.num_images, self.splits, self.num_groups = num_images, splits, num_groups
        self.seen = first
        self.counts = torch.zeros(splits, num_groups, dtype=torch.float64)
        self.negentropy = torch.zeros(splits, num_groups, dtype=torch.float64)
        self.mass = torch.zeros(splits, num_groups, num_classes, dtype=torch.float64)

    def update(self, probabilities: Float[Tensor, "n k"]) -> None:
        """Take the next class probabilities of the stream."""
        p = probabilities.detach().cpu().double()
        index = torch.arange(self.seen, self.seen + len(p))
        # Split s is the images from s n // splits up to (s + 1) n // splits.
        split = ((index + 1) * self.splits - 1) // self.num_images
        cell = split * self.num_groups + index % self.num_groups
        self.counts.view(-1).index_add_(0, cell, torch.ones(len(p), dtype=torch.float64))
        self.negentropy.view(-1).index_add_(0, cell, torch.xlogy(p, p).sum(1))
        self.mass.view(-1, p.shape[1]).index_add_(0, cell, p)
        self.seen += len(p)

    def finish(self, processes: Processes) -> None:
        """End the stream: take what the other processes have seen."""
        processes.sum(self.counts, self.negentropy, self.mass, phase="the classes")

    def without(
        self, left_out: int
    ) -> tuple[Float64[Tensor, " s"], Float64[Tensor, " s"], Float64[Tensor, "s k"]]:
        """Counts, negentropy and mass of the splits over all images but those of a group."""
        kept = [group for group in range(self.num_groups) if group != left_out]
        return (
            self.counts[:, kept].sum(1),
            self.negentropy[:, kept].sum(1),
            self.mass[:, kept].sum(1),
        )


class Stream:
    """Generated images as metrics see them, beside the reference that they are measured against.

    mu, sigma  of the reference, float64 [d] and [d, d]
    real       features of single images of the reference, float64 [n, d]; None where it has none
    moments    of the generated images, by group
    classes    their class probabilities, by split and group; None where the features have none
    rows       the features of the first of them, float64 [m, d]
    groups     their number; 0 where only the value of all images is asked for

    Of several processes each has its share of the images until the stream is finished.
    """

    def __init__(
        self,
        mu: Float64[Tensor, " d"],
        sigma: Float64[Tensor, "d d"],
        real: Rows | None,
        *,
        num_images: int,
        num_rows: int,
        groups: int,
        first: int = 0,
    ) -> None:
        self.mu, self.sigma, self.real = mu, sigma, real
        self.num_images, self.groups, self.first, self.seen = num_images, groups, first, first
        self.moments = GroupedMoments(len(mu), max(groups, 1), first=first)
        self.classes: GroupedClasses | None = None
        self.rows = torch.zeros(num_rows, len(mu), dtype=torch.float64)
        self._found: dict[RowValues, Sequence[float] | Sequence[tuple[float, ...]]] = {}

    def take(self, features: Rows, probabilities: Float[Tensor, "n k"] | None) -> None:
        """The next images' features and class probabilities."""
        self.moments.update(features)
        if probabilities is not None:
            self.classes = self.classes or GroupedClasses(
                self.num_images,
                probabilities.shape[1],
                num_groups=len(self.moments.groups),
                splits=SPLITS,
                first=self.first,
            )
            self.classes.update(probabilities)
        kept = features[: max(len(self.rows) - self.seen, 0)]
        self.rows[self.seen : self.seen + len(kept)] = kept
        self.seen += len(features)

    def finish(self, processes: Processes) -> None:
        """End the stream: take what the other processes have."""
        self.moments.finish(processes)
        if self.classes is not None:
            self.classes.finish(processes)
        # Each row is zero in all processes but the one that has it.
        processes.sum(self.rows, phase="the features")

    def once(self, measure: RowValues) -> Sequence[float] | Sequence[tuple[float, ...]]:
        """What a function of the rows gives, also where several metrics ask for it."""
        assert self.real is not None
        if measure not in self._found:
            self._found[measure] = measure(self.real, self.rows, self.groups)
        return self._found[measure]
