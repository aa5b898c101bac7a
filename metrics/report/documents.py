"""A run's facts as report.json, and made from it report.md and one self-contained report.html.

The facts are plain data, those of `metrics.facts.RunFacts`.

Markdown and HTML are pure functions of these facts and of the pictures. Text is escaped in both,
and the page asks for no other file: styles, pictures and curve are in it, and it runs no script.
The slider between before and after is a row of radio buttons over the pictures: it works with the
mouse, a finger and the arrow keys, and nothing has to run.
"""

from __future__ import annotations

import base64
import json
import math
import os
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import cast

import jinja2
import numpy as np

from checkpoints import replacing
from image_sets.pictures import encode_png
from metrics.distances.table import METRICS
from metrics.facts import ClassFacts, ComparisonFacts, DifferenceFacts, ImageFacts, RunFacts
from metrics.report.curve import curve_chart, health_bars, interval_bars

SCHEMA = 1
MINUS = "\N{MINUS SIGN}"

# Stops of the slider, from all after to all before.
STOPS = [round(2.5 * i, 1) for i in range(41)]

# What the pictures of `gallery` show; others are grids of the first images.
CAPTIONS = {
    "largest improvements": "before above, after below: the images that came nearest to a real one",
    "largest regressions": "before above, after below: the images that moved away the most",
    "latent interpolation": "before above, after below: from the latent of image 0 to that of 1",
    "nearest real images": "the first images after, above the real image nearest to each",
}

# As they come, from a run or from report.json: RunFacts.
Facts = Mapping[str, object]


def write_report(
    outdir: str | os.PathLike[str],
    facts: Facts,
    *,
    grids: Mapping[str, np.ndarray | bytes] | None = None,
) -> list[Path]:
    """Write report.json, report.md and report.html into outdir; return their paths.

    `grids` are pictures by caption, in the page's order: uint8 [h, w] or [h, w, 3], or the bytes of
    a PNG file. "before" and "after" stand side by side. Each file is written whole or not at all.
    ValueError on facts that are not plain data or hold NaN.
    """
    content = {"schema": SCHEMA, **facts}
    files = {
        "report.json": json.dumps(content, indent=2, allow_nan=False, ensure_ascii=False) + "\n",
        "report.md": render_markdown(content),
        "report.html": render_html(content, {k: _png(v) for k, v in (grids or {}).items()}),
    }
    paths = []
    for name, text in files.items():
        paths.append(Path(outdir) / name)
        with replacing(paths[-1]) as stream:
            stream.write(text.encode())
    return paths


def render_markdown(facts: Facts) -> str:
    """The tables of the report as Markdown."""
    return _templates(autoescape=False).get_template("report.md.jinja").render(_view(facts))


def render_html(facts: Facts, pictures: Mapping[str, bytes]) -> str:
    """The page, with pictures (PNG by caption) inside it."""
    sources = {
        caption: "data:image/png;base64," + base64.b64encode(png).decode()
        for caption, png in pictures.items()
    }
    slider = None
    if {"before", "after"} <= sources.keys() and _same_size(pictures["before"], pictures["after"]):
        slider = {side: sources.pop(side) for side in ("before", "after")}
    template = _templates(autoescape=True).get_template("report.html.jinja")
    return template.render(
        _view(facts), pictures=sources, slider=slider, stops=STOPS, captions=CAPTIONS
    )


def headline(facts: Facts) -> str:
    """The result in one sentence: verdict, numbers, interval."""
    comparison = cast(RunFacts, facts).get("comparison")
    if not comparison:
        return "Nothing was measured: there was no reference to measure against."
    first = _row(comparison["differences"][0])
    opening = {"better": "Better.", "worse": "Worse.", "not resolved": "No difference resolved."}
    recall = [d for d in comparison["differences"] if d["metric"] == "recall"]
    told = opening[first["verdict"]]
    if first["verdict"] == "better" and any(d["verdict"] == "worse" for d in recall):
        told = "Better, but less varied."
    return (
        f"{told} {first['title']} {first['before']} → {first['after']} "
        f"({first['percent']}); the 95 % interval of the change is {first['interval']}."
        + "".join(f" {_beside(_row(d))}" for d in recall)
        + _of_classes(comparison.get("classes") or [])
    )


def _beside(row: Mapping[str, str]) -> str:
    return f"{row['title']} {row['before']} → {row['after']} ({row['verdict']})."


def _of_classes(classes: Sequence[ClassFacts]) -> str:
    if not classes:
        return ""
    counts = Counter(d["verdict"] for d in classes)
    told = ", ".join(f"{counts[v]} {v}" for v in ("better", "worse", "not resolved") if counts[v])
    return f" Of {len(classes)} classes: {told}."


def _view(run: Facts) -> dict[str, object]:
    """What the templates show: facts with every number already in words."""
    facts = cast(RunFacts, run)
    comparison = facts.get("comparison")
    curve = facts.get("curve") or []
    view: dict[str, object] = {
        "title": facts.get("title", "Refinement report"),
        "result": facts.get("result") or "",
        "headline": headline(run),
        "notes": list(facts.get("notes") or []),
        "rows": [],
        "null": None,
        "floor": None,
        "images": [],
        "drift": _drift_sentences(facts),
        "classes": [],
        "protocol": [],
        "pairs": "",
        "curve": curve_chart([(p["kimg"], p["frechet_distance"]) for p in curve]),
        "judge": curve_chart([(p["kimg"], p["judge"]) for p in facts.get("judged") or []]),
        "curve_count": f"{curve[0]['num_images']:,}" if curve else "",
        "health": health_bars(facts.get("health") or []),
        "settings": _pairs(facts.get("settings")),
        "provenance": _pairs(facts.get("provenance")),
    }
    if comparison:
        differences = comparison["differences"]
        bars = interval_bars(differences)
        view["rows"] = [_row(d) | {"bar": bar} for d, bar in zip(differences, bars, strict=True)]
        view["space"] = comparison["space"]["name"]
        view["disclaimer"] = _disclaimer(comparison)
        view["null"] = comparison["null"] and _row(comparison["null"])
        view["protocol"] = _protocol(comparison)
        view["pairs"] = _pairing(comparison)
        view["floor"] = _floor(comparison)
        view["images"] = _image_sentences(comparison.get("images"))
        classes = comparison.get("classes") or []
        view["classes"] = [
            _row(d) | {"name": d["name"], "bar": bar}
            for d, bar in zip(classes, interval_bars(classes), strict=True)
        ]
    return view


LATENTS = "the same latents, labels and noise"  # as all reports have it that do not say otherwise


def _pairing(comparison: ComparisonFacts) -> str:
    """What the intervals are of, in sentences."""
    pairing = comparison.get("pairing", LATENTS)
    if not pairing:
        return (
            "The intervals are of differences between sets of images that have nothing in common: "
            "the sampling errors of both are in them."
        )
    return f"The intervals are of paired differences: both sides use {pairing}."


def _floor(comparison: ComparisonFacts) -> str | None:
    """What a perfect generator would measure, with the decimals of the first row."""
    floor = comparison.get("floor")
    if floor is None:
        return None
    first = comparison["differences"][0]
    decimals = _decimals(first["standard_error"], first["before"], first["after"])
    return _number(floor, decimals)


def _image_sentences(images: ImageFacts | None) -> list[str]:
    if not images:
        return []
    drift, count = images["drift"], f"{images['num_images']:,}"
    decimals = _decimals(0, drift["median"])
    values = [_number(drift[key], decimals) for key in ("median", "p10", "p90")]
    sentences = [
        f"Of the first {count} images the median one moved by {values[0]} in feature space; one in "
        f"ten by less than {values[1]}, one in ten by more than {values[2]}."
    ]
    share, reach = images.get("improved_share"), images.get("improved_reach")
    if share is not None and reach is not None:
        sentences.append(
            f"{100 * share:.0f} % (± {100 * reach:.0f}) of those that moved came nearer to their "
            "nearest real image, the others moved away."
        )
    return sentences


def _drift_sentences(facts: RunFacts) -> list[str]:
    """What became of images that people keep."""
    ways = facts.get("drift") or []
    sentences = [
        f"{d['way'][0].upper()}{d['way'][1:]}: the median image moved by {100 * d['median']:.0f} % "
        f"of the distance between two images, one in ten by more than {100 * d['p90']:.0f} %; "
        f"{100 * d['large']:.0f} % of {d['num_images']} are rather another image (beyond half)."
        for d in ways
    ]
    if ways and any(d["way"] == "saved w" for d in ways):
        share = facts.get("mapping_moved") or 0.0
        sentences.append(
            f"The mapping network moved by {100 * share:.2g} % of its weights, so a seed gives "
            "another w; w_avg was estimated anew."
            if share
            else "The mapping network and w_avg did not move: a seed gives the w that it gave."
        )
    return sentences


def _row(difference: DifferenceFacts) -> dict[str, str]:
    """One difference in words, with as many decimals as its standard error supports."""
    d = difference
    decimals = _decimals(d["standard_error"], d["before"], d["after"])
    percent = "" if not d["before"] else f"{100 * d['change'] / abs(d['before']):+.1f} %"
    return {
        "title": METRICS[d["metric"]].title,
        "arrow": "↓" if d["lower_is_better"] else "↑",
        "direction": "lower is better" if d["lower_is_better"] else "higher is better",
        "before": _number(d["before"], decimals),
        "after": _number(d["after"], decimals),
        "change": _number(d["change"], decimals, sign="+"),
        "percent": percent.replace("-", MINUS),
        "interval": f"{_number(d['low'], decimals, sign='+')} to "
        f"{_number(d['high'], decimals, sign='+')}",
        "verdict": d["verdict"],
        "num_images": f"{d['num_images']:,}",
    }


def _decimals(standard_error: float, *values: float) -> int:
    """Decimals that show two digits of the standard error, or four of the values without one."""
    size, digits = standard_error, 2
    if not size:
        size, digits = max(map(abs, values)), 4
    return max(0, digits - 1 - math.floor(math.log10(size))) if size else 1


def _number(value: float, decimals: int, *, sign: str = "-") -> str:
    if decimals > 6:
        return f"{value:{sign}.3g}".replace("-", MINUS)
    return f"{value:{sign},.{decimals}f}".replace("-", MINUS)


def _disclaimer(comparison: ComparisonFacts) -> str:
    """What the numbers must not be taken for."""
    name, count = comparison["space"]["name"], comparison["num_images"]
    if not comparison["space"]["is_inception"]:
        return (
            f"Measured in the feature space “{name}”, on {count:,} images. This is not FID: FID is "
            "measured in the features of the 2015 Inception network. Numbers of different feature "
            "spaces, or of different counts of images, cannot be compared."
        )
    if count == 50_000:
        return f"Measured in the feature space “{name}”, on 50,000 images, as published FIDs are."
    return (
        f"Measured in the feature space “{name}”, on {count:,} images. Published FIDs are of "
        "50,000 images: distances of fewer are larger, so these cannot be compared with them."
    )


def _protocol(comparison: ComparisonFacts) -> list[tuple[str, str]]:
    reference, space = comparison["reference"], comparison["space"]
    count, label = reference["num_images"], comparison["label"]
    return [
        (
            "Images on each side",
            f"{comparison['num_images']:,}, {comparison.get('pairing', LATENTS) or 'not paired'}",
        ),
        ("Seed", str(comparison["seed"])),
        ("Class", "drawn uniformly, where there are classes" if label is None else str(label)),
        ("Noise inside layers", comparison["noise_mode"]),
        ("Interval", f"95 %, jackknife over {comparison['groups']} groups of image pairs"),
        ("Feature space", f"{space['name']}, {space['dim']} features"),
        ("Its weights, SHA-256", space["sha256"] or "not known"),
        ("Reference", reference["source"]),
        ("Its images", "not known" if count is None else f"{count:,}"),
        ("Its statistics, SHA-256", reference["sha256"]),
        ("Time to measure", f"{comparison['seconds']:.0f} s"),
    ]


def _pairs(mapping: Facts | None) -> list[tuple[str, str]]:
    return [
        (str(key), value if isinstance(value, str) else json.dumps(value, ensure_ascii=False))
        for key, value in (mapping or {}).items()
    ]


def _same_size(a: bytes, b: bytes) -> bool:
    # Width and height stand at the same place in every PNG file.
    return a[16:24] == b[16:24]


def _png(picture: np.ndarray | bytes) -> bytes:
    if isinstance(picture, bytes):
        if not picture.startswith(b"\x89PNG\r\n\x1a\n"):
            raise ValueError("a picture given as bytes is no PNG file; give one, or an array")
        return picture
    if picture.dtype != np.uint8 or (picture.ndim != 2 and picture.shape[2:] != (3,)):
        raise ValueError(
            f"a picture is {picture.dtype} {picture.shape}; allowed: uint8 [h, w] or [h, w, 3]"
        )
    return encode_png(picture, compress_level=6)


def _templates(*, autoescape: bool) -> jinja2.Environment:
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=autoescape,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["cell"] = _markdown_cell
    return environment


def _markdown_cell(text: str) -> str:
    """Text that stays text in a Markdown table: no markup, no new column, no new line."""
    for symbol in "\\`*_[]|#":
        text = text.replace(symbol, "\\" + symbol)
    return " ".join(text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;").split())
