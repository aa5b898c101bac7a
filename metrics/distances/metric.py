"""What a metric is: the facts that tables, reports and docs show, and how it is measured."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

from metrics.distances.arrays import OtherRows, Rows
from metrics.distances.streams import RowValues, Stream, group_of

# What of the images a metric is made of.
NEEDS = {
    "moments": "mean and covariance",
    "classes": "class probabilities",
    "rows": "features of single images",
}
Needs = Literal["moments", "classes", "rows"]

# A stream that has ended, and groups to leave out (-1: none), to the value without each of them.
Values = Callable[[Stream, Sequence[int]], Iterable[float]]


@dataclass(frozen=True)
class Metric:
    """One metric, beside its pure functions in a file of its own; its name is its row's in METRICS.

    title            what reports call it
    help             what it is, in a line
    unit             of its values
    lower_is_better  which way is better
    needs            what it is made of, a key of NEEDS
    values           how it is measured
    by_default       whether it is measured unasked
    least_rows       features of single images on each side, where it needs them
    least_groups     groups of images that its error bar needs
    """

    title: str
    help: str
    unit: str
    lower_is_better: bool
    needs: Needs
    values: Values
    by_default: bool = False
    least_rows: int = 2
    least_groups: int = 2


def of_rows(measure: RowValues, *, part: int = 0) -> Values:
    """Values of what is measured of all rows at once, `part` of it where it is several metrics."""

    def values(stream: Stream, left_out: Sequence[int]) -> Iterable[float]:
        for found in (stream.once(measure)[1 + group] for group in left_out):
            yield found[part] if isinstance(found, tuple) else found

    return values


def set_by_set(
    measure: Callable[[Rows, OtherRows], float],
) -> RowValues:
    """What `of_rows` takes, of a function of real and generated rows that knows no groups."""

    def values(real: Rows, fake: OtherRows, groups: int) -> list[float]:
        group = group_of(len(fake), groups)
        return [measure(real, fake[group != left_out]) for left_out in range(-1, groups)]

    return values
