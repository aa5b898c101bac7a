"""The metrics by name, one row each; all else that names a metric asks this table."""

from __future__ import annotations

from collections.abc import Collection

from metrics.distances import (
    authentic_percentage,
    density_coverage,
    frechet_distance,
    frechet_infinity,
    gaussian_discrepancy,
    inception_score,
    kernel_distance,
    kernel_distance_of_subsets,
    precision_recall,
    sliced_distance,
)

METRICS = {
    "frechet_distance": frechet_distance.METRIC,
    "inception_score": inception_score.METRIC,
    "kernel_distance": kernel_distance.METRIC,
    "precision": precision_recall.PRECISION,
    "recall": precision_recall.RECALL,
    "density": density_coverage.DENSITY,
    "coverage": density_coverage.COVERAGE,
    "frechet_infinity": frechet_infinity.METRIC,
    "kernel_distance_of_subsets": kernel_distance_of_subsets.METRIC,
    "gaussian_discrepancy": gaussian_discrepancy.METRIC,
    "sliced_distance": sliced_distance.METRIC,
    "authentic_percentage": authentic_percentage.METRIC,
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
