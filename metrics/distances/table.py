"""Every metric of a comparison: what it is called, which way is better, what it needs."""

from __future__ import annotations

from collections.abc import Collection
from typing import NamedTuple


class Metric(NamedTuple):
    """One row. `by_default`: measured unasked. `of_pairs`: needs features of single real images."""

    title: str
    lower_is_better: bool
    by_default: bool = True
    of_pairs: bool = True


METRICS = {
    "frechet_distance": Metric("Fréchet distance", True, of_pairs=False),
    "inception_score": Metric("Inception Score", False, of_pairs=False),
    "kernel_distance": Metric("Kernel distance", True),
    "precision": Metric("Precision", False),
    "recall": Metric("Recall", False),
    "density": Metric("Density", False),
    "coverage": Metric("Coverage", False),
    "frechet_infinity": Metric("Fréchet distance at infinity", True, False, False),
    "kernel_distance_of_subsets": Metric("Kernel distance of subsets (KID)", True, False),
    "gaussian_discrepancy": Metric("Gaussian MMD", True, False),
    "sliced_distance": Metric("Sliced distance (MIND)", True, False),
    "authentic_percentage": Metric("Authentic images, %", False, False),
}


def choose_metrics(names: Collection[str] | None) -> list[str]:
    """The rows of these names in the table's order, the Fréchet distance always among them.

    None are those measured by default; ["all"] are all. ValueError on a name that is none.
    """
    if names is None:
        return [name for name, metric in METRICS.items() if metric.by_default]
    if isinstance(names, str):
        raise ValueError(f"metrics is the text {names!r}; give a list of names")
    unknown = [name for name in names if name not in METRICS and name != "all"]
    if unknown:
        raise ValueError(
            f"metric {unknown[0]!r} is unknown; choose all, or some of {', '.join(METRICS)}"
        )
    return [
        name for name in METRICS if name in names or "all" in names or name == "frechet_distance"
    ]
