"""What a refinement did to single images and to single classes.

drift      how far image i moved in feature space
nearness   distance to the nearest real image, before and after: which images improved
classes    kernel distance of every class for itself, paired, with an interval

All of it is of the sample of images whose features are kept, never of more than that.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float64, Int, Int64
from torch import Tensor

from metrics.distances.kernel_distance import kernel_distances
from metrics.distances.neighbours import nearest
from metrics.facts import ImageFacts

SHOWN = 8  # images of each kind that a report shows
CLASS_GROUPS = 10
MIN_PER_CLASS = 2 * CLASS_GROUPS  # fewer give an interval that says nothing


@dataclass(frozen=True)
class ImageChanges:
    """Of images 0 to m - 1, in units of the features.

    drift   distance between the features of an image before and after
    before  distance to the nearest of the reference's images; None where it holds no features
    after   the same after
    """

    drift: Float64[np.ndarray, " m"]
    before: Float64[np.ndarray, " m"] | None
    after: Float64[np.ndarray, " m"] | None

    @classmethod
    def of(
        cls,
        before: Float64[Tensor, "m d"],
        after: Float64[Tensor, "m d"],
        real: Float64[Tensor, "n d"] | None,
    ) -> ImageChanges:
        """From the features of both sides and of the reference."""
        drift = (after - before).norm(dim=1).numpy()
        if real is None:
            return cls(drift, None, None)
        sides = [nearest(side, real)[0].sqrt().numpy() for side in (before, after)]
        return cls(drift, sides[0], sides[1])

    @property
    def gains(self) -> Float64[np.ndarray, " m"]:
        """How much nearer to the real images each one came; without a reference 0 for all."""
        if self.before is None or self.after is None:
            return np.zeros_like(self.drift)
        return self.before - self.after

    def improved(self, count: int = SHOWN) -> list[int]:
        """Indices of the largest gains, largest first; only images that gained."""
        order = np.argsort(-self.gains, kind="stable")[:count]
        return [int(i) for i in order if self.gains[i] > 0]

    def worsened(self, count: int = SHOWN) -> list[int]:
        """Indices of the largest losses, largest first; only images that lost."""
        order = np.argsort(self.gains, kind="stable")[:count]
        return [int(i) for i in order if self.gains[i] < 0]

    def facts(self) -> ImageFacts:
        """Plain data for report.json."""
        p10, median, p90 = map(float, np.quantile(self.drift, [0.1, 0.5, 0.9]))
        facts = ImageFacts(
            num_images=len(self.drift), drift={"p10": p10, "median": median, "p90": p90}
        )
        if self.before is None:
            return facts
        moved = self.gains != 0
        share = float((self.gains[moved] > 0).mean()) if moved.any() else None
        # Normal approximation of the binomial; images of one seed are independent.
        reach = None if share is None else float(1.96 * (share * (1 - share) / moved.sum()) ** 0.5)
        return {
            **facts,
            "improved_share": share,
            "improved_reach": reach,
            "improved": self.improved(),
            "worsened": self.worsened(),
        }


@dataclass(frozen=True)
class ClassResult:
    """One class: its number, name, and the kernel distance's values of both sides by group."""

    label: int
    name: str
    num_images: int
    before: list[float]
    after: list[float]


def by_class(
    before: Float64[Tensor, "m d"],
    after: Float64[Tensor, "m d"],
    classes: Int64[Tensor, " images"],
    real: Float64[Tensor, "n d"],
    real_classes: Int[np.ndarray, " n"],
    *,
    names: Mapping[int, str] | None = None,
) -> list[ClassResult]:
    """Kernel distance of every class that has enough images on all sides.

    before, after and real are features, `classes` are those of all images, of which these are the
    first, and `real_classes` those of real. Frechet distances of so few images would be bias alone.
    """
    rows = []
    for label in sorted(set(classes.tolist())):
        chosen = classes[: len(before)] == label
        among = real[torch.from_numpy(np.asarray(real_classes) == label)]
        if int(chosen.sum()) < MIN_PER_CLASS or len(among) < MIN_PER_CLASS:
            continue
        values = [kernel_distances(among, side[chosen], CLASS_GROUPS) for side in (before, after)]
        name = (names or {}).get(label, str(label))
        rows.append(ClassResult(label, name, int(chosen.sum()), values[0], values[1]))
    return rows
