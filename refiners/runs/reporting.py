"""The report at the end of a run: what was compared, how the run went, what it depends on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

import metrics
from metrics.report import documents
from refiners.runs.drift import Kept
from refiners.runs.folder import RunFolder
from refiners.runs.measuring import CURVE_FILE, last_health, read_curve, read_judged
from refiners.runs.provenance import provenance, sha256
from refiners.runs.snapshots import JUDGE_FILE, RESULT_FILE

Grids = dict[str, np.ndarray]  # pictures by name, uint8 [h, w] or [h, w, 3]


def write_report(
    folder: RunFolder,
    title: str,
    comparison: metrics.Comparison | None,
    grids: Grids,
    *,
    result: str,
    options: Mapping[str, object],
    sources: Mapping[str, object],
    started: float,
    notes: Sequence[str] = (),
    kept: Kept | None = None,
) -> None:
    """Write the report of a run into its folder, and say what it says.

    Args:
        folder: of the run.
        title: of the page.
        comparison: of before and after; None where nothing was measured.
        grids: pictures.
        result: which network the run hands back and why.
        options: every option of the run.
        sources: the files that the networks came from, by role; a module has none.
        started: when the run began, as time.time() has it.
        notes: what else to say.
        kept: what became of images that people keep.
    """
    hashes = {
        f"{role}_sha256": sha256(source)
        for role, source in sources.items()
        if isinstance(source, (str, Path))
    }
    facts = {
        "title": title,
        "result": f"{RESULT_FILE} is {result}.",
        "comparison": comparison and comparison.facts(),
        "curve": read_curve(folder.path / CURVE_FILE),
        "judged": read_judged(folder.path / JUDGE_FILE),
        "health": last_health(folder.path / "stats.jsonl"),
        "drift": list(kept.drift) if kept else [],
        "mapping_moved": kept.mapping_moved if kept else 0.0,
        "settings": options,
        "notes": list(notes),
        "provenance": provenance(started) | hashes,
    }
    show_report(folder.path, facts, grids)


def show_report(folder: Path, facts: Mapping[str, object], grids: Grids) -> None:
    """Write report.json, .md and .html, and print the headline and where they are."""
    documents.write_report(folder, facts, grids=grids)
    if facts.get("result"):
        print(facts["result"])
    print(documents.headline(facts))
    print(f"report: {folder / 'report.html'}")
