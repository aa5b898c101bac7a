"""validation.png: a teacher's loss over the images so far, and over the noise levels at the end."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import cast

import numpy as np
from PIL import Image, ImageDraw

import image_sets
from refiners.runs.measuring import lines_of

WIDTH, HEIGHT = 460, 300  # of a panel
LEFT, RIGHT, TOP, BOTTOM = 52, 16, 30, 40
COLOURS = {"held_out": (20, 60, 160), "seen": (150, 150, 150)}
WORDS = {"held_out": "held-out images", "seen": "images trained on"}
INK, RULE = (60, 60, 60), (225, 225, 225)

Curve = Sequence[tuple[float, float]]


def draw_losses(source: Path, dest: Path) -> None:
    """Draw the lines of a metric-validation.jsonl as PNG, once there are two beyond the start.

    Both vertical axes begin at 0.
    """
    lines = cast("list[dict[str, float]]", lines_of(source))
    points = {line["kimg"]: line for line in lines if line["kimg"]}
    if len(points) < 2:
        return
    order = [line for _, line in sorted(points.items())]
    last = cast("dict[str, list[float]]", order[-1])
    over_kimg = {part: [(line["kimg"], line[part]) for line in order] for part in COLOURS}
    over_sigma = {
        part: [
            (math.log10(sigma), loss)
            for sigma, loss in zip(last["sigma"], last[f"{part}_over_sigma"], strict=True)
        ]
        for part in COLOURS
    }
    both = Image.new("RGB", (2 * WIDTH, HEIGHT), "white")
    kimg = f"{order[-1]['kimg']:g}"
    for i, (curves, title, under) in enumerate(
        (
            (over_kimg, "loss", "kimg"),
            (over_sigma, f"loss over sigma at kimg {kimg}", "log10 sigma"),
        )
    ):
        both.paste(panel(curves, title, under), (i * WIDTH, 0))
    image_sets.save_png(dest, np.asarray(both))


def panel(curves: Mapping[str, Curve], title: str, under: str) -> Image.Image:
    """Return a picture of curves that share their axes."""
    picture = Image.new("RGB", (WIDTH, HEIGHT), "white")
    draw = ImageDraw.Draw(picture)
    xs, ys = zip(*(point for curve in curves.values() for point in curve), strict=True)
    low, high = min(xs), max(xs)
    top = max(*ys, 1e-12) * 1.05

    def place(x: float, y: float) -> tuple[float, float]:
        across = (x - low) / (high - low or 1)
        return (
            LEFT + across * (WIDTH - LEFT - RIGHT),
            HEIGHT - BOTTOM - y / top * (HEIGHT - TOP - BOTTOM),
        )

    draw.text((LEFT, 8), title, fill=INK)
    for share in (0, 0.25, 0.5, 0.75, 1):
        across, _ = place(low + share * (high - low), 0)
        _, up = place(low, share * top)
        draw.line([(LEFT, up), (WIDTH - RIGHT, up)], fill=RULE)
        draw.text((4, up - 6), f"{share * top:.3f}", fill=INK)
        draw.text((across - 10, HEIGHT - BOTTOM + 6), f"{low + share * (high - low):.3g}", fill=INK)
    draw.text((WIDTH - RIGHT - 70, HEIGHT - 16), under, fill=INK)
    for i, (part, curve) in enumerate(curves.items()):
        draw.line([place(*point) for point in curve], fill=COLOURS[part], width=2)
        draw.text((WIDTH - 150, 4 + 12 * i), WORDS[part], fill=COLOURS[part])
    return picture
