"""One student's numbers against a reference, without a second to compare with: for curves."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass

from metrics.distances.streams import SPLITS
from metrics.distances.table import METRICS
from metrics.evaluate import evaluate
from metrics.reference import AnyReference, Progress, open_reference
from metrics.sides import Side, images_of, part_of
from metrics.spaces.features import AnyExtractor
from roles import Processes


@dataclass(frozen=True)
class Measurement:
    """One student's numbers in a feature space.

    `values` are of the usual metrics that need no features of single images; None where the
    features have no classes for one.
    """

    values: Mapping[str, float | None]
    num_images: int
    seed: int
    space: str
    seconds: float
    is_inception: bool = False

    @property
    def frechet_distance(self) -> float:
        """The number that curves and judges go by."""
        found = self.values["frechet_distance"]
        assert found is not None
        return found

    def facts(self) -> dict[str, object]:
        """Plain data for stats.jsonl and report.json."""
        names = ("num_images", "seed", "space", "seconds", "is_inception")
        return {**self.values, **{name: getattr(self, name) for name in names}}


def measure(
    student: Side,
    reference: AnyReference,
    *,
    num_images: int,
    seed: int = 0,
    features: AnyExtractor | None = None,
    label: int | None = None,
    noise_mode: str = "random",
    batch: int = 250,
    progress: Progress | None = None,
    processes: Processes | None = None,
) -> Measurement:
    """One student's numbers, of the same images that `compare` draws for this seed; for curves.

    Or those of images that are there (`open_images`), of which so many are taken.
    """
    start, processes = time.monotonic(), processes or Processes()
    if num_images < 2 * SPLITS:
        raise ValueError(f"num_images is {num_images}; measure at least {2 * SPLITS}")
    real = open_reference(reference, features, batch=batch, processes=processes)
    names = [name for name, m in METRICS.items() if m.by_default and m.needs != "rows"]
    images, first = images_of(
        part_of(student, num_images),
        num_images,
        seed=seed,
        label=label,
        noise_mode=noise_mode,
        processes=processes,
    )
    found = evaluate(
        images,
        num_images,
        real,
        groups=0,
        batch=batch,
        metrics=names,
        progress=progress,
        processes=processes,
        first=first,
    )
    return Measurement(
        values={name: found.values[name][0] if name in found.values else None for name in names},
        num_images=num_images,
        seed=seed,
        space=real.space,
        seconds=time.monotonic() - start,
        is_inception=getattr(real.extractor, "is_inception", False),
    )
