"""When a run's figures say that it diverges or stands still."""

from __future__ import annotations

from typing import Any

import pytest

from refiners import Settings
from refiners.training.health import Watch

# The demo's run at its end, see docs/runs/demo/stats.jsonl.
HEALTHY = {
    "Progress/kimg": 6.0,
    "Health/mean_drift": 0.056,
    "Health/saturated_gain": 0.1,
    "Health/diversity_kept": 0.92,
    "Health/moved": 0.38,
    "Gradient/student_norm": 15.0,
}


def seen(changes: dict[str, float], **settings: Any) -> Any:
    watch = Watch(Settings(kimg=6, **settings))
    watch.note({"Gradient/student_norm": 10.0})
    return watch.see({**HEALTHY, **changes})


def test_a_healthy_run_and_one_without_figures_are_let_alone() -> None:
    assert seen({}) is None
    assert Watch(Settings()).see({"Progress/kimg": 6.0}) is None


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"Health/mean_drift": 1.01}, "mean is 1.01 from the original's"),
        ({"Health/saturated_gain": 0.9}, "90 % of the pixels that had a shade"),
        ({"Health/diversity_kept": 0.05}, "differ by 5 % of what the original's do"),
        ({"Gradient/student_norm": 10_001.0}, "1e+03 times the norm of its first step"),
    ],
)
def test_each_figure_beyond_its_bound_is_a_wreck_and_said(
    changes: dict[str, float], said: str
) -> None:
    found = seen(changes)
    assert found.is_wrecked and said in found.text
    assert seen(changes, ignore_health=True) is None


@pytest.mark.parametrize("ignored", [False, True])
def test_images_that_are_not_finite_are_a_wreck_whatever_is_ignored(ignored: bool) -> None:
    for name in ("Health/mean_drift", "Health/saturated_gain", "Health/diversity_kept"):
        found = seen({name: float("nan")}, ignore_health=ignored)
        assert found.is_wrecked and "are not finite" in found.text


def test_a_student_that_has_not_moved_by_half_of_the_run_stands_still_and_is_no_wreck() -> None:
    still = {"Health/moved": 1e-7}
    found = seen(still)
    assert not found.is_wrecked and "stands still" in found.text
    assert seen({**still, "Progress/kimg": 2.9}) is None
    assert seen(still, batch=512) is None  # 12 steps are too few to tell
