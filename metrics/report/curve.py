"""Geometry of the report's drawings: numbers in, coordinates out; the templates draw them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TypedDict

from metrics.facts import DifferenceFacts, HealthFacts

# The curve's view box and the space its axes take, in its own units.
WIDTH, HEIGHT = 460, 290
LEFT, RIGHT, TOP, BOTTOM = 58, 18, 22, 44


class Point(TypedDict):
    """A point of a curve: where it is drawn, and its numbers in words."""

    x: float
    y: float
    kimg: str
    value: str


class Chart(TypedDict):
    """A curve in its view box; a tick is where it is drawn and its number in words."""

    width: int
    height: int
    left: int
    right: int
    top: int
    bottom: int
    points: list[Point]
    line: str
    start: Point
    end: Point
    x_ticks: list[tuple[float, str]]
    y_ticks: list[tuple[float, str]]


def curve_chart(points: Sequence[tuple[float, float]]) -> Chart | None:
    """Coordinates of a curve of (kimg, value), with ticks of round numbers; None below two points.

    The vertical axis starts at zero, so that heights compare as the values do.
    """
    if len(points) < 2:
        return None
    x_ticks = _round_ticks(max(x for x, _ in points), 6)
    y_ticks = _round_ticks(max(y for _, y in points), 5)
    x_end, y_end = max(x for x, _ in points), y_ticks[-1]

    def place(x: float, y: float) -> tuple[float, float]:
        across, up = x / x_end if x_end else 0, y / y_end if y_end else 0
        return (
            round(LEFT + across * (WIDTH - LEFT - RIGHT), 1),
            round(HEIGHT - BOTTOM - up * (HEIGHT - TOP - BOTTOM), 1),
        )

    largest = max(abs(y) for _, y in points) or 1
    decimals = max(0, 3 - math.floor(math.log10(largest)))
    placed: list[Point] = [
        {"x": across, "y": up, "kimg": f"{x:g}", "value": f"{y:.{decimals}f}"}
        for (x, y), (across, up) in ((point, place(*point)) for point in sorted(points))
    ]
    return {
        "width": WIDTH,
        "height": HEIGHT,
        "left": LEFT,
        "right": WIDTH - RIGHT,
        "top": TOP,
        "bottom": HEIGHT - BOTTOM,
        "points": placed,
        "line": " ".join(f"{p['x']},{p['y']}" for p in placed),
        "start": placed[0],
        "end": placed[-1],
        "x_ticks": [(place(t, 0)[0], f"{t:g}") for t in x_ticks if t <= x_end],
        "y_ticks": [(place(0, t)[1], f"{t:g}") for t in y_ticks],
    }


def interval_bars(differences: Sequence[DifferenceFacts]) -> list[dict[str, float] | None]:
    """For each difference its interval on a scale from -1 to 1, right is better; None at no spread.

    Every row has its own scale, so only the side of zero and the width beside it can be compared.
    """
    bars = []
    for d in differences:
        reach = 1.15 * max(abs(d["low"]), abs(d["high"]))
        side = -1 if d["lower_is_better"] else 1
        if not reach:
            bars.append(None)
            continue
        ends = sorted(side * d[key] / reach for key in ("low", "high"))
        middle = side * d["change"] / reach
        values = {"low": ends[0], "high": ends[1], "middle": middle}
        bars.append({key: round(50 + 48 * value, 1) for key, value in values.items()})
    return bars


def health_bars(health: Sequence[HealthFacts]) -> list[dict[str, object]]:
    """For each noise level its share as a bar in percent, and where a share of one stands."""
    full = max([1.0, *(h["share"] for h in health)])
    return [
        {
            "sigma": f"{h['sigma']:g}",
            "share": f"{h['share']:.2f}",
            "width": f"{100 * h['share'] / full:.1f}",
            "one": f"{100 / full:.1f}",
            "known": h["share"] < 1,
        }
        for h in health
    ]


def _round_ticks(end: float, count: int) -> list[float]:
    """About `count` multiples of 1, 2 or 5 times a power of ten, from 0 to at least `end`."""
    if end <= 0:
        return [0.0, 1.0]
    power = 10.0 ** math.floor(math.log10(end / count))
    step = next(m * power for m in (1, 2, 5, 10) if m * power * count >= end)
    return [i * step for i in range(math.ceil(end / step - 1e-9) + 1)]
