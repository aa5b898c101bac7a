"""The table of metrics: what is derived from it, and what the manual says of it."""

from __future__ import annotations

from pathlib import Path

import metrics
from metrics.distances.metric import NEEDS
from metrics.spaces.choice import SPACES

MANUAL = Path(__file__).parents[3] / "docs" / "metrics.md"


def test_the_manuals_table_of_metrics_is_this_one():
    rows = [
        f"| `{name}` | {m.help} | {m.unit} | {'lower' if m.lower_is_better else 'higher'} "
        f"| {NEEDS[m.needs]} | {'yes' if m.by_default else 'no'} |"
        for name, m in metrics.METRICS.items()
    ]
    assert "\n".join(rows) in MANUAL.read_text(encoding="utf-8")


def test_the_manual_has_every_feature_space():
    text = MANUAL.read_text(encoding="utf-8")
    assert [name for name in SPACES if f"`{name}`" not in text] == []


def test_metrics_are_chosen_in_the_tables_order_with_the_frechet_distance():
    usual = [name for name, metric in metrics.METRICS.items() if metric.by_default]
    assert metrics.choose_metrics(None) == usual
    assert metrics.choose_metrics(["all"]) == list(metrics.METRICS)
    assert metrics.choose_metrics(["recall", "density"]) == [
        "frechet_distance",
        *(name for name in metrics.METRICS if name in ("recall", "density")),
    ]
