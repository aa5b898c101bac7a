"""Two students against one reference, image by image, with an error bar on every difference.

A side may also be images that are there already (`sides`). Students see the same latents, labels
and noise (`sampling`), so the sampling errors of "before" and "after" largely cancel in their
difference. Its standard error is the delete-a-group jackknife (Tukey 1958; Shao and Wu 1989): with
image i in group i mod K and change_k the change measured without group k,

    se^2 = (K - 1) / K sum_k (change_k - mean change)^2,    95 % interval = change -+ t_(K-1) se.

Sides that have nothing in common (`pairing` is "") are compared with the same formula: without
group k on both sides, so that the errors of both are in it.

A bootstrap would not do: resampled images repeat, which biases a Frechet distance upwards.
"""

from __future__ import annotations

import math
import time
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, replace

import numpy as np
import torch
from jaxtyping import Float64, Int64
from scipy.special import stdtrit
from torch import Tensor

from metrics.distances.changes import ImageChanges, by_class
from metrics.distances.frechet_distance import frechet_distance_of_features
from metrics.distances.frechet_floor import frechet_floor
from metrics.distances.streams import SPLITS
from metrics.distances.table import METRICS, choose_metrics
from metrics.evaluate import Evaluation, allows, evaluate, num_steps
from metrics.facts import ComparisonFacts, DifferenceFacts
from metrics.reference import AnyReference, Progress, Reference, open_reference
from metrics.sampling import draw_classes
from metrics.sides import FoundImages, Side, images_of, pairing_of, part_of
from metrics.spaces.features import AnyExtractor
from roles import Processes


@dataclass(frozen=True)
class Difference:
    """One metric before and after: its change, that change's standard error and 95 % interval."""

    metric: str
    before: float
    after: float
    standard_error: float
    low: float
    high: float
    num_images: int

    @classmethod
    def of(
        cls, metric: str, before: Sequence[float], after: Sequence[float], *, num_images: int
    ) -> Difference:
        """From a metric of all images, followed by its K values without each of K groups."""
        changes = np.subtract(after, before)
        left_out, num_groups = changes[1:], len(changes) - 1
        spread = np.square(left_out - left_out.mean()).sum()
        error = float(np.sqrt((num_groups - 1) / num_groups * spread))
        reach = float(stdtrit(num_groups - 1, 0.975)) * error
        change = float(changes[0])
        return cls(metric, before[0], after[0], error, change - reach, change + reach, num_images)

    @property
    def change(self) -> float:
        """After minus before."""
        return self.after - self.before

    @property
    def verdict(self) -> str:
        """'better' or 'worse' where the interval excludes zero, else 'not resolved'."""
        if self.low <= 0 <= self.high:
            return "not resolved"
        return "better" if (self.high < 0) == METRICS[self.metric].lower_is_better else "worse"

    def facts(self) -> DifferenceFacts:
        """Plain data for report.json."""
        lower = METRICS[self.metric].lower_is_better
        return DifferenceFacts(
            **asdict(self), change=self.change, verdict=self.verdict, lower_is_better=lower
        )


@dataclass(frozen=True)
class Comparison:
    """Every metric's difference between two students, and all that the numbers depend on.

    differences  in the order of METRICS, the Frechet distance first; those that the features and
                 the reference allow
    null         Frechet distance of "before" on these latents against other ones: what sampling
                 alone does, unpaired; None where "before" is images
    floor        Frechet distance of the reference against itself at this count: what a perfect
                 generator would score (`frechet_floor`)
    images       what happened to single images; None where the sides are not paired
    classes      kernel distance of each class, by class: (name, difference); empty where there are
                 no classes, or the reference's images have none
    pairing      what image i of both sides has in common, in words; "" where that is nothing
    """

    differences: tuple[Difference, ...]
    null: Difference | None
    floor: float
    images: ImageChanges | None
    classes: tuple[tuple[str, Difference], ...]
    num_images: int
    seed: int
    groups: int
    label: int | None
    noise_mode: str
    reference: Reference
    seconds: float
    pairing: str

    def __getitem__(self, metric: str) -> Difference:
        """The difference of one metric, by name."""
        for difference in self.differences:
            if difference.metric == metric:
                return difference
        raise KeyError(f"{metric}: measured were {', '.join(d.metric for d in self.differences)}")

    def facts(self) -> ComparisonFacts:
        """Plain data for report.json."""
        extractor, statistics = self.reference.extractor, self.reference.statistics
        return {
            "num_images": self.num_images,
            "seed": self.seed,
            "groups": self.groups,
            "label": self.label,
            "noise_mode": self.noise_mode,
            "seconds": self.seconds,
            "differences": [difference.facts() for difference in self.differences],
            "null": self.null and self.null.facts(),
            "floor": self.floor,
            "images": self.images and self.images.facts(),
            "pairing": self.pairing,
            "classes": [{"name": name, **found.facts()} for name, found in self.classes],
            "space": {
                "name": self.reference.space,
                "dim": len(statistics.mu),
                "sha256": getattr(extractor, "sha256", None),
                "is_inception": getattr(extractor, "is_inception", False),
            },
            "reference": {
                "source": self.reference.source,
                "num_images": statistics.num,
                "sha256": self.reference.sha256,
            },
        }


def compare(
    before: Side,
    after: Side,
    reference: AnyReference,
    *,
    num_images: int,
    seed: int = 0,
    features: AnyExtractor | None = None,
    metrics: Collection[str] | None = None,
    groups: int = 20,
    label: int | None = None,
    noise_mode: str = "random",
    batch: int = 250,
    null: bool = True,
    class_names: Mapping[int, str] | None = None,
    progress: Progress | None = None,
    processes: Processes | None = None,
) -> Comparison:
    """Measure both students on the same num_images latents, labels and noise.

    A side may be images instead (`open_images`), of which so many are taken.
    `reference` and `features` as in `open_reference`. `metrics` are names of `METRICS`, or "all"
    among them; None measures the usual ones, as far as the features allow. `label` fixes the class
    of conditional students, else it is uniform. `batch` is how many images the extractor takes at a
    time and does not change the result. `null=False` saves the third set of images. `class_names`
    are for the table of classes. `progress` hears of every batch of the two or three sets together,
    and of every distance (`num_steps`).
    Several `processes` share the images; all of them call, and get the same. ValueError
    on students of other latents or classes than each other, on fewer than two images for each
    group, on a side of fewer images, and on metrics asked for that the reference does not allow.
    """
    start = time.monotonic()
    _check_comparable(before, after, num_images, groups)
    before, after = part_of(before, num_images), part_of(after, num_images)
    pairing, null = pairing_of(before, after), null and not isinstance(before, FoundImages)
    chosen, processes = choose_metrics(metrics), processes or Processes()
    for name in chosen:
        if groups < METRICS[name].least_groups:
            raise ValueError(
                f"{name} with {groups} groups; its error bar needs at least "
                f"{METRICS[name].least_groups}"
            )
    real = open_reference(reference, features, batch=batch, processes=processes)
    if metrics is not None and "all" not in metrics:
        _require_rows(chosen, real)
    sides: list[Evaluation] = []
    sets = [(before, seed, chosen), (after, seed, chosen), (before, seed + 1, ["frechet_distance"])]
    sets = sets if null else sets[:2]
    steps = [num_steps(num_images, groups, names) for _, _, names in sets]
    for i, (side, its_seed, names) in enumerate(sets):
        images, first = images_of(
            side,
            num_images,
            seed=its_seed,
            label=label,
            noise_mode=noise_mode,
            processes=processes,
        )
        sides.append(
            evaluate(
                images,
                num_images,
                real,
                groups=groups,
                batch=batch,
                metrics=names,
                progress=_of_several(progress, i, steps),
                processes=processes,
                first=first,
            )
        )
    classes = None
    if not isinstance(before, FoundImages) and not isinstance(after, FoundImages):
        classes = draw_classes(before, num_images, seed=seed, label=label)
    return Comparison(
        differences=_differences(sides[0], sides[1], chosen),
        floor=frechet_floor(real.statistics.mu, real.statistics.sigma, num_images, seed=seed),
        images=ImageChanges.of(sides[0].sample, sides[1].sample, real.rows) if pairing else None,
        classes=_of_classes(sides, classes, real, class_names),
        null=_differences(sides[0], sides[2], ["frechet_distance"])[0] if null else None,
        num_images=num_images,
        seed=seed,
        groups=groups,
        label=label,
        noise_mode=noise_mode,
        reference=real,
        seconds=time.monotonic() - start,
        pairing=pairing,
    )


def frechet_change(
    before: Float64[Tensor, "n d"],
    after: Float64[Tensor, "n d"],
    real: Float64[Tensor, "m d"],
    *,
    groups: int = 20,
) -> Difference:
    """Change of the Frechet distance to real, with an interval that counts its images too.

    An interval over latents alone holds for the reference as it is, and with few hundred images a
    change may be one towards their accidents. Here the jackknife goes over groups of both samples,
    whose variances add:

        se^2 = jackknife over images of (before, after) + jackknife over images of real.

    Args:
        before: features of images; their order has nothing to do with what they show.
        after: as many, of the same latents, or of anything else: the interval is then wider.
        real: features of the reference's images, at least two for each group.
        groups: of each jackknife.
    """
    if len(before) != len(after) or min(len(before), len(real)) < 2 * groups:
        raise ValueError(
            f"there are {len(before)} images before, {len(after)} after and {len(real)} of the "
            f"reference; give as many after as before, and {2 * groups} at least of each"
        )

    def distances(side: Tensor) -> tuple[list[float], list[float]]:
        whole = frechet_distance_of_features(side, real)
        images, others = torch.arange(len(side)) % groups, torch.arange(len(real)) % groups
        parts = [(side[images != k], real) for k in range(groups)]
        parts += [(side, real[others != k]) for k in range(groups)]
        left_out = [frechet_distance_of_features(x, y) for x, y in parts]
        return [whole, *left_out[:groups]], [whole, *left_out[groups:]]

    (a, a_real), (b, b_real) = distances(before), distances(after)
    name, num = "frechet_distance", len(before)
    of_images = Difference.of(name, a, b, num_images=num)
    error = math.hypot(
        of_images.standard_error,
        Difference.of(name, a_real, b_real, num_images=num).standard_error,
    )
    reach = float(stdtrit(groups - 1, 0.975)) * error
    return replace(
        of_images,
        standard_error=error,
        low=of_images.change - reach,
        high=of_images.change + reach,
    )


def _require_rows(chosen: Sequence[str], reference: Reference) -> None:
    rows = reference.statistics.features
    for name in chosen:
        if not allows(reference, METRICS[name]):
            least = METRICS[name].least_rows
            has = "means and covariances alone" if rows is None else f"{len(rows)} of {least}"
            raise ValueError(
                f"{name} needs features of single real images, and {reference.source} has {has}; "
                "give a folder or zip of images, or an .npz with features"
            )


def _check_comparable(before: Side, after: Side, num_images: int, groups: int) -> None:
    for name in ("z_dim", "c_dim"):
        a, b = getattr(before, name, None), getattr(after, name, None)
        if None not in (a, b) and a != b:
            raise ValueError(f"{name} is {a} before and {b} after; the same latents need the same")
    if groups < 2 or num_images < max(2 * groups, 2 * SPLITS):
        raise ValueError(
            f"{num_images} images in {groups} groups; an error bar needs at least 2 groups, 2 "
            f"images in each, and {2 * SPLITS} images in all"
        )


def _of_classes(
    sides: Sequence[Evaluation],
    classes: Int64[Tensor, " n"] | None,
    reference: Reference,
    names: Mapping[int, str] | None,
) -> tuple[tuple[str, Difference], ...]:
    real, labels = reference.rows, reference.statistics.labels
    if classes is None or real is None or labels is None:
        return ()
    rows = by_class(sides[0].sample, sides[1].sample, classes, real, labels, names=names)
    return tuple(
        (r.name, Difference.of("kernel_distance", r.before, r.after, num_images=r.num_images))
        for r in rows
    )


def _differences(
    before: Evaluation, after: Evaluation, metrics: Sequence[str]
) -> tuple[Difference, ...]:
    return tuple(
        Difference.of(m, before.values[m], after.values[m], num_images=before.num_images[m])
        for m in metrics
        if m in before.values
    )


def _of_several(progress: Progress | None, index: int, steps: Sequence[int]) -> Progress | None:
    """Progress of one of several sets of so many steps, as progress of them all."""
    if progress is None:
        return None
    return lambda done, _: progress(sum(steps[:index]) + done, sum(steps))
