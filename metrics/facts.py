"""What report.json holds, by name and type: plain data, with nothing added but the schema's number.

A run's facts are its title and comparison; whatever else of `RunFacts` there is, the report shows.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TypedDict


class DifferenceFacts(TypedDict):
    """One metric before and after; low and high are the ends of the 95 % interval of change."""

    metric: str
    before: float
    after: float
    standard_error: float
    low: float
    high: float
    num_images: int
    change: float
    verdict: str
    lower_is_better: bool


class ClassFacts(DifferenceFacts):
    """A metric of one class, by its name."""

    name: str


class _Images(TypedDict):
    num_images: int
    drift: dict[str, float]


class ImageFacts(_Images, total=False):
    """What happened to single images: how far they moved, and which came nearer to real ones."""

    improved_share: float | None
    improved_reach: float | None
    improved: list[int]
    worsened: list[int]


class SpaceFacts(TypedDict):
    """A feature space; `sha256` is of its weights."""

    name: str
    dim: int
    sha256: str | None
    is_inception: bool


class ReferenceFacts(TypedDict):
    """What was measured against; `sha256` is of its statistics."""

    source: str
    num_images: int | None
    sha256: str


class _Comparison(TypedDict):
    num_images: int
    seed: int
    groups: int
    label: int | None
    noise_mode: str
    seconds: float
    differences: list[DifferenceFacts]
    null: DifferenceFacts | None
    space: SpaceFacts
    reference: ReferenceFacts


class ComparisonFacts(_Comparison, total=False):
    """A comparison; the first reports had neither a floor nor single images, classes and pairing.

    pairing is what image i of both sides has in common, and images is None where that is nothing.
    """

    floor: float | None
    images: ImageFacts | None
    pairing: str
    classes: list[ClassFacts]


class PointFacts(TypedDict):
    """A point of the curve; kimg 0 is before the run."""

    kimg: float
    frechet_distance: float
    num_images: int


class JudgedFacts(TypedDict):
    """A point of the judge's curve; kimg 0 is before the run."""

    kimg: float
    judge: float


class HealthFacts(TypedDict):
    """The auxiliary's denoising error on the student's images, as a share of the teacher's."""

    sigma: float
    share: float


class DriftFacts(TypedDict):
    """How far images of kept latents moved, in units of the distance between two of them.

    large is the share beyond half of that.
    """

    way: str
    median: float
    p90: float
    large: float
    num_images: int


class RunFacts(TypedDict, total=False):
    """What a report is made from; `comparison` is None where there was no reference.

    result says in one sentence which network the run hands back and why; judged is the curve of
    what chose it; drift is what became of images that people keep by seed or w, and mapping_moved
    the relative rms change of the mapping network's weights. settings are the run's options,
    provenance its command, versions, seeds, hashes and times, notes sentences for the reader.
    """

    title: str
    result: str
    comparison: ComparisonFacts | None
    curve: Sequence[PointFacts]
    judged: Sequence[JudgedFacts]
    health: Sequence[HealthFacts]
    drift: Sequence[DriftFacts]
    mapping_moved: float
    settings: Mapping[str, object]
    provenance: Mapping[str, object]
    notes: Sequence[str]
