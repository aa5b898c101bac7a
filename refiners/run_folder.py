"""The folder of one run: NNNNN-desc/ with options, log, statistics, pictures, snapshots and states.

Whole files are written aside, flushed to disk and renamed, so that a stopped run leaves the old
file or the new one, never half of
one; lines are appended to log.txt and *.jsonl.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

import checkpoints

STATE_PATTERN = re.compile(r"training-state-(\d{6,})\.pt")
RUN_PATTERN = re.compile(r"(\d{5})-.*")


class RunFolder:
    """One run's files; create() makes a new folder, latest() finds the newest to continue."""

    def __init__(self, path: Path):
        self.path = path

    @classmethod
    def create(cls, outdir: Path, desc: str) -> RunFolder:
        """Make outdir/NNNNN-desc with the next free number; an existing folder is never reused.

        Raises:
            ValueError: the folder cannot be made or written.
        """
        try:
            outdir.mkdir(parents=True, exist_ok=True)
            taken = [int(m[1]) for p in outdir.iterdir() if (m := RUN_PATTERN.fullmatch(p.name))]
            path = outdir / f"{max(taken, default=-1) + 1:05d}-{desc}"
            path.mkdir()
        except OSError as error:
            raise ValueError(
                f"cannot make a run folder in {outdir}: {error.strerror}; "
                "give a folder that can be written"
            ) from error
        return cls(path)

    @classmethod
    def latest(cls, outdir: Path) -> RunFolder:
        """Return the newest run in outdir, or outdir itself, that has a training state."""
        runs = [outdir, *sorted(outdir.glob("[0-9]*-*"))]
        runs = [run for run in runs if run.is_dir() and cls(run).states()]
        if not runs:
            raise ValueError(
                f"no training-state-*.pt under {outdir}; give --outdir of a run to continue"
            )
        return cls(runs[-1])

    def states(self) -> list[Path]:
        """Return the training states, oldest first."""
        found = [(m, p) for p in self.path.iterdir() if (m := STATE_PATTERN.fullmatch(p.name))]
        return [p for _, p in sorted(found, key=lambda pair: int(pair[0][1]))]

    def log(self, text: str) -> None:
        """Append a line to log.txt and print it."""
        print(text, flush=True)
        with open(self.path / "log.txt", "a", encoding="utf-8") as file:
            file.write(text + "\n")

    def append(self, name: str, line: Mapping[str, Any]) -> None:
        """Append one JSON object to a .jsonl file."""
        with open(self.path / name, "a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")

    def write_json(self, name: str, data: Mapping[str, Any]) -> None:
        """Write a JSON file as a whole."""
        text = json.dumps(data, indent=2) + "\n"
        with checkpoints.replacing(self.path / name) as file:
            file.write(text.encode())

    def write_state(self, num_images: int, state: Mapping[str, Any]) -> Path:
        """Write training-state-NNNNNN.pt (kimg); it loads with weights_only=True."""
        path = self.path / f"training-state-{num_images // 1000:06d}.pt"
        with checkpoints.replacing(path) as file:
            torch.save(dict(state), file)
        return path

    def drop_states(self, keep: int) -> None:
        """Delete all but the newest states."""
        for path in self.states()[:-keep]:
            path.unlink()


def read_state(path: Path) -> dict[str, Any]:
    """Read a training state without running anything in it.

    Raises:
        ValueError: the file is missing, damaged, or not a training state.
    """
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises many types for damaged files; all mean the same here
        raise ValueError(
            f"{path} cannot be read as a training state: "
            f"{(str(error) or type(error).__name__).splitlines()[0]}"
        ) from error
    if not isinstance(state, dict) or "num_images" not in state:
        raise ValueError(f"{path} is no training state; give a training-state-*.pt of this program")
    return state
