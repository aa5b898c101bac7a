"""The report at the end of a run: what was compared, how the run went, what it depends on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

import metrics
from metrics.report import documents
from refiners.runs.folder import RunFolder
from refiners.runs.measuring import CURVE_FILE, last_health, read_curve
from refiners.runs.provenance import provenance, sha256

Grids = dict[str, np.ndarray]  # pictures by name, uint8 [h, w] or [h, w, 3]


def write_report(
    folder: RunFolder,
    title: str,
    comparison: metrics.Comparison | None,
    grids: Grids,
    *,
    options: Mapping[str, object],
    sources: Mapping[str, object],
    started: float,
    notes: Sequence[str] = (),
) -> None:
    """Write the report of a run into its folder, and say what it says.

    Args:
        folder: of the run.
        title: of the page.
        comparison: of before and after; None where nothing was measured.
        grids: pictures.
        options: every option of the run.
        sources: the files that the networks came from, by role; a module has none.
        started: when the run began, as time.time() has it.
        notes: what else to say.
    """
    hashes = {
        f"{role}_sha256": sha256(source)
        for role, source in sources.items()
        if isinstance(source, (str, Path))
    }
    facts = {
        "title": title,
        "comparison": comparison and comparison.facts(),
        "curve": read_curve(folder.path / CURVE_FILE),
        "health": last_health(folder.path / "stats.jsonl"),
        "settings": options,
        "notes": list(notes),
        "provenance": provenance(started) | hashes,
    }
    show_report(folder.path, facts, grids)


def show_report(folder: Path, facts: Mapping[str, object], grids: Grids) -> None:
    """Write report.json, .md and .html, and print the headline and where they are."""
    documents.write_report(folder, facts, grids=grids)
    print(documents.headline(facts))
    print(f"report: {folder / 'report.html'}")
