"""What a refinement did to single images and to single classes.

drift      how far image i moved in feature space
nearness   distance to the nearest real image, before and after: which images improved
classes    kernel distance of every class for itself, paired, with an interval

All of it is of the sample of images whose features are kept, never of more than that.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from metrics.distances.jackknife import kernel_distances
from metrics.distances.squared import BLOCK, squared_distances

SHOWN = 8  # images of each kind that a report shows
CLASS_GROUPS = 10
MIN_PER_CLASS = 2 * CLASS_GROUPS  # fewer give an interval that says nothing


@dataclass(frozen=True)
class ImageChanges:
    """Of images 0 to m - 1, in units of the features: float64 [m] each.

    drift   distance between the features of an image before and after
    before  distance to the nearest of the reference's images; None where it holds no features
    after   the same after
    """

    drift: np.ndarray
    before: np.ndarray | None
    after: np.ndarray | None

    @classmethod
    def of(cls, before: Tensor, after: Tensor, real: Tensor | None) -> ImageChanges:
        """From float64 features [m, d] of both sides and [n, d] of the reference."""
        drift = (after - before).norm(dim=1).numpy()
        if real is None:
            return cls(drift, None, None)
        return cls(drift, _nearest_distances(before, real), _nearest_distances(after, real))

    @property
    def gains(self) -> np.ndarray:
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

    def facts(self) -> dict[str, Any]:
        """Plain data for report.json."""
        quantiles = np.quantile(self.drift, [0.1, 0.5, 0.9])
        facts: dict[str, Any] = {
            "num_images": len(self.drift),
            "drift": dict(zip(("p10", "median", "p90"), map(float, quantiles), strict=True)),
        }
        if self.before is None:
            return facts
        moved = self.gains != 0
        share = float((self.gains[moved] > 0).mean()) if moved.any() else None
        # Normal approximation of the binomial; images of one seed are independent.
        reach = None if share is None else 1.96 * (share * (1 - share) / moved.sum()) ** 0.5
        return facts | {
            "improved_share": share,
            "improved_reach": None if reach is None else float(reach),
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
    before: Tensor,
    after: Tensor,
    classes: Tensor,
    real: Tensor,
    real_classes: np.ndarray,
    *,
    names: Mapping[int, str] | None = None,
) -> list[ClassResult]:
    """Kernel distance of every class that has enough images on all sides.

    before, after [m, d] and real [n, d] are float64 features, `classes` [m] and `real_classes` [n]
    their labels. Frechet distances of so few images would be bias alone.
    """
    rows = []
    for label in sorted(set(classes.tolist())):
        chosen = classes[: len(before)] == label
        among = real[torch.from_numpy(np.asarray(real_classes) == label)]
        if int(chosen.sum()) < MIN_PER_CLASS or len(among) < MIN_PER_CLASS:
            continue
        values = [
            kernel_distances(among, side[chosen], groups=CLASS_GROUPS) for side in (before, after)
        ]
        name = (names or {}).get(label, str(label))
        rows.append(ClassResult(label, name, int(chosen.sum()), values[0], values[1]))
    return rows


def _nearest_distances(points: Tensor, real: Tensor) -> np.ndarray:
    origin = real.mean(0)
    tables = (squared_distances(p - origin, real - origin) for p in points.split(BLOCK))
    return torch.cat([table.min(1).values for table in tables]).sqrt().numpy()
