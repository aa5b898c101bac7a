"""What a run is measured by: the reference of its curve and report, and the judge of its best."""

from __future__ import annotations

import json
from collections.abc import Callable
from math import isfinite
from pathlib import Path
from typing import cast

import metrics
from checkpoints.web.cache import default_folder
from refiners.runs.folder import RunFolder
from refiners.runs.progress import stage_bar
from refiners.runs.schedule import label
from refiners.training.settings import Settings
from roles import Student
from roles.device import pick_device
from roles.processes import device_of_rank

CURVE_IMAGES = 1000  # images behind each point of the curve; the report's own numbers use --num
CURVE_FILE = "metric-frechet_distance.jsonl"


def open_measured(reference: str | None, features: str | None) -> metrics.Reference | None:
    """Return what the report measures against, or None; images need a feature space."""
    if not reference:
        if features:
            raise ValueError(
                f"--features is {features}, but there is no --reference to measure against; name "
                "one, or leave it out"
            )
        return None
    device = device_of_rank(pick_device("auto"))
    space = metrics.choose_features(features, device=device) if features else None
    return metrics.open_reference(
        reference, space, cache=default_folder() / "statistics", progress=stage_bar("reference")
    )


def curve_in(
    folder: RunFolder, reference: metrics.Reference, settings: Settings, *, num: int
) -> Callable[[Student, int], dict[str, float]]:
    """Return what measures a student at num_images and appends a line to the folder's curve."""

    def measure(network: Student, num_images: int) -> dict[str, float]:
        found = metrics.measure(
            network,
            reference,
            num_images=min(num, CURVE_IMAGES),
            seed=settings.seed,
            progress=stage_bar("measure"),
        )
        kimg = num_images / 1000
        snapshot = f"network-snapshot-{label(settings, num_images)}.pkl" if num_images else None
        folder.append(CURVE_FILE, metrics.metric_line(found, kimg=kimg, snapshot=snapshot))
        return {"frechet_distance": found.frechet_distance}

    return measure


def lines_of(path: Path) -> list[object]:
    """Return the lines of a .jsonl file, but for a last one that a killed process left torn."""
    if not path.exists():
        return []
    whole = path.read_bytes().rpartition(b"\n")[0]
    return [json.loads(line) for line in whole.splitlines()]


def read_curve(path: Path) -> list[dict[str, object]]:
    """Return what was measured over kimg, the last line of each, in order."""
    lines = cast("list[dict[str, dict[str, float]]]", lines_of(path))
    measured = {line["protocol"]["kimg"]: line["protocol"] for line in lines}
    return [{**point} for _, point in sorted(measured.items())]


def read_judged(path: Path) -> list[dict[str, float]]:
    """Return the judge's numbers over kimg, the last of each, in order."""
    lines = cast("list[dict[str, float]]", lines_of(path))
    judged = {line["kimg"]: line["judge"] for line in lines}
    return [{"kimg": kimg, "judge": value} for kimg, value in sorted(judged.items())]


def last_health(path: Path) -> list[dict[str, float]]:
    """Return the finite ones of the last tick's error shares by noise level, from stats.jsonl."""
    prefix = "Health/error_share_"
    lines = cast("list[dict[str, dict[str, float]]]", lines_of(path))
    last = lines[-1] if lines else {}
    shares = {
        float(k.removeprefix(prefix)): v["mean"] for k, v in last.items() if k.startswith(prefix)
    }
    return [{"sigma": s, "share": share} for s, share in sorted(shares.items()) if isfinite(share)]
