"""One student's numbers against a reference, without a second to compare with: for curves."""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass
from typing import Any

from metrics.evaluate import SPLITS, evaluate
from metrics.ranks import ALONE, Ranks
from metrics.reference import AnyReference, Progress, open_reference
from metrics.sampling import Student, draw_images, first_image
from metrics.spaces.features import AnyExtractor


@dataclass(frozen=True)
class Measurement:
    """One student's numbers in a feature space; no Inception Score where it has no classes."""

    frechet_distance: float
    inception_score: float | None
    num_images: int
    seed: int
    space: str
    seconds: float
    is_inception: bool = False

    def facts(self) -> dict[str, Any]:
        """Plain data for stats.jsonl and report.json."""
        return asdict(self)


def measure(
    student: Student,
    reference: AnyReference,
    *,
    num_images: int,
    seed: int = 0,
    features: AnyExtractor | None = None,
    label: int | None = None,
    noise_mode: str = "random",
    batch: int = 250,
    progress: Progress | None = None,
    ranks: Ranks = ALONE,
) -> Measurement:
    """One student's numbers, of the same images that `compare` draws for this seed; for curves."""
    start = time.monotonic()
    if num_images < 2 * SPLITS:
        raise ValueError(f"num_images is {num_images}; measure at least {2 * SPLITS}")
    real = open_reference(reference, features, batch=batch, ranks=ranks)
    side = evaluate(
        draw_images(
            student, num_images, seed=seed, label=label, noise_mode=noise_mode, ranks=ranks
        ),
        num_images,
        real,
        groups=0,
        batch=batch,
        metrics=["frechet_distance", "inception_score"],
        progress=progress,
        ranks=ranks,
        first=first_image(num_images, ranks),
    )
    score = side.values.get("inception_score")
    return Measurement(
        frechet_distance=side.values["frechet_distance"][0],
        inception_score=None if score is None else score[0],
        num_images=num_images,
        seed=seed,
        space=real.space,
        seconds=time.monotonic() - start,
        is_inception=getattr(real.extractor, "is_inception", False),
    )
