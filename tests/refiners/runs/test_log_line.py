"""What is told of a tick."""

from __future__ import annotations

import re
from typing import Any

import pytest

from refiners.runs.log_line import as_stats, duration, holds, tick_line

STATS = {
    "Progress/tick": 601,
    "Progress/kimg": 2423.3,
    "Timing/total_sec": 67000.4,
    "Timing/sec_per_tick": 108.06,
    "Timing/sec_per_kimg": 26.807,
    "Timing/maintenance_sec": 0.21,
    "Resources/peak_cpu_mem_gb": 5.674,
    "Resources/peak_gpu_mem_gb": 8.2,
}


def test_the_tick_line_has_the_fields_of_stylegans_in_their_order_and_widths() -> None:
    assert tick_line(STATS) == (
        "tick 601   kimg 2423.30  time 18h 36m 40s  sec/tick 108.1   sec/kimg 26.81   "
        "maintenance 0.2    cpumem 5.67   gpumem 8.20"
    )


def test_what_this_program_adds_stands_behind_stylegans_fields() -> None:
    more = {"Health/error_share_0.1": 0.4, "Health/error_share_6": 0.91}
    line = tick_line({**STATS, **more, "Progress/skipped_steps": 2.0})
    assert line == tick_line(STATS).ljust(line.index("auxiliary")) + (
        "auxiliary/teacher error 0.40 to 0.91 skipped 2"
    )


def test_a_line_without_a_gpu_still_has_the_field() -> None:
    line = tick_line({name: v for name, v in STATS.items() if "gpu" not in name})
    assert re.fullmatch(r".*gpumem 0\.00", line)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        *((0, "0s"), (59.4, "59s"), (59.6, "1m 00s"), (65, "1m 05s"), (3600, "1h 00m 00s")),
        *((7384, "2h 03m 04s"), (86399, "23h 59m 59s"), (93784, "1d 02h 03m")),
    ],
)
def test_durations_are_written_as_stylegan_does(seconds: float, text: str) -> None:
    assert duration(seconds) == text


def test_a_statistics_line_has_stylegans_form() -> None:
    line: Any = as_stats({"Loss/auxiliary": 0.5})
    assert line["Loss/auxiliary"] == {"num": 1, "mean": 0.5, "std": 0.0}
    assert line["timestamp"] > 1e9


def test_a_condition_holds_of_a_statistic_that_is_there_alone() -> None:
    stats = {"Health/saturated": 0.2}
    assert holds("Health/saturated>0.1", stats) and holds("Health/saturated < 0.3", stats)
    assert not holds("Health/saturated>0.2", stats)
    assert not holds("Health/other<9", stats)
