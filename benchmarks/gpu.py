"""The first day on a GPU, in three calls of at most nine minutes each.

    python -m benchmarks.gpu 1|2|3 [--out DIR] [--kit DIR] [--device cuda] [--minutes 9]
                             [--size full|small]

1, is it right: doctor, tests that need a GPU, each method's step beside the CPU's from the same
latents and noise, drift of tf32 and bf16, resume, --deterministic, what the host waits for.
2, how fast: a step of both students beside the published loop, its precisions, memory, operations.
3, the whole: `gan` on the embedded pair, a profile of three steps, and from the kit's images
CIFAR-10's networks, refined and distilled.

The machine's own Python runs it; what that lacks comes in the kit (benchmarks/gpu_kit.py). A part
needs no other part's files. Each row is printed and written into DIR/gpu-N.json as it is known, so
that a call that is ended tells what it has; a row that fails does not end the others, and the
command ends with 1 where one failed. `--size small --device cpu` shows in seconds that all runs.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

from benchmarks import gpu_kit

ROOT = Path(__file__).resolve().parent.parent
PARTS = {"1": "gpu_correct", "2": "gpu_figures", "3": "gpu_whole"}
LEAST_SECONDS = 5  # that are left for a row to begin

# What was found: a text or a number, and whether it is as it should be; None is no judgement.
Finding = tuple[object, bool | None]


@dataclass
class Row:
    """A line of the table."""

    name: str
    found: object
    passed: bool | None
    seconds: float


@dataclass
class Day:
    """Carries out the rows of a part within its time.

    Attributes:
        out: where files go.
        kit: what was carried along.
        device: that everything is computed on.
        small: whether it is only to be shown that everything runs.
        deadline: when no other row begins, by the monotonic clock.
        rows: so far.
    """

    part: str
    out: Path
    kit: Path
    device: str
    small: bool
    deadline: float
    about: Mapping[str, object] = field(default_factory=dict)
    rows: list[Row] = field(default_factory=list)

    @property
    def left(self) -> float:
        """Seconds until the deadline."""
        return self.deadline - time.monotonic()

    def row(self, name: str, work: Callable[[], Finding]) -> None:
        """Do some work, and print and write what it found; what it raises is a finding too."""
        began = time.monotonic()
        found: object
        passed: bool | None
        if self.left < LEAST_SECONDS:
            found, passed = "left out: no time", None
        else:
            try:
                found, passed = work()
            except Exception as error:  # of the day's other rows none is to be lost
                told = str(error).strip().splitlines() or [""]
                found, passed = f"{type(error).__name__}: {told[0][:160]}", False
        self.rows.append(Row(name, found, passed, round(time.monotonic() - began, 2)))
        print(line_of(self.rows[-1]), flush=True)
        self.write()

    def write(self) -> None:
        """Write all that is known."""
        facts = {"part": self.part, "device": self.device, "small": self.small}
        rows = [asdict(row) for row in self.rows]
        text = json.dumps({**facts, "machine": self.about, "rows": rows}, indent=1, default=str)
        (self.out / f"gpu-{self.part}.json").write_text(text + "\n", encoding="utf-8")

    def command(self, *arguments: object, seconds: float | None = None) -> str:
        """Run a module or script of ours by this Python, and return what it printed.

        Raises:
            RuntimeError: it failed, with its last line; or took too long.
        """
        paths = os.pathsep.join(path for path in sys.path if path)
        limit = min(max(self.left, 1), seconds or self.left)
        try:
            done = subprocess.run(
                [sys.executable, *map(str, arguments)],
                cwd=ROOT, env={**os.environ, "PYTHONPATH": paths}, timeout=limit,
                capture_output=True, text=True,
            )  # fmt: skip
        except subprocess.TimeoutExpired:
            raise RuntimeError(f"not done after {limit:.0f} s") from None
        if done.returncode:
            lines = (done.stderr.strip() or done.stdout.strip()).splitlines() or [""]
            raise RuntimeError(f"exit code {done.returncode}: {lines[-1][:160]}")
        return done.stdout


def line_of(row: Row) -> str:
    """Return a row as text."""
    verdict = {True: "ok", False: "FAILED", None: ""}[row.passed]
    found = f"{row.found:.3g}" if isinstance(row.found, float) else str(row.found)
    return f"{row.name:48} {verdict:7} {row.seconds:7.1f} s  {found}"


def main(arguments: Sequence[str] | None = None) -> int:
    """Carry out a part and return the exit code."""
    parser = argparse.ArgumentParser(description="The first day on a GPU; see the module.")
    parser.add_argument("part", choices=sorted(PARTS))
    parser.add_argument("--out", type=Path, default=Path("build/gpu-day"))
    parser.add_argument("--kit", type=Path, default=Path("build/gpu-kit"))
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--minutes", type=float, default=9.0)
    parser.add_argument("--size", choices=["full", "small"], default="full")
    given = parser.parse_args(arguments)
    began = time.monotonic()
    given.out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as unpacked:
        carried = gpu_kit.wheels_of(given.kit, Path(unpacked))
        # Only now: these import what may have been carried.
        machine = importlib.import_module("benchmarks.machine")
        part = importlib.import_module(f"benchmarks.{PARTS[given.part]}")
        day = Day(
            given.part, given.out, given.kit, given.device, given.size == "small",
            began + 60 * given.minutes,
        )  # fmt: skip
        day.row("packages that were carried", lambda: (", ".join(carried) or "none", None))
        part.rows(day)
        day.about = machine.describe()
        day.write()
    print(f"\n{machine.headline(day.about)}")
    print("\n".join(map(line_of, day.rows)))
    failed = [row.name for row in day.rows if row.passed is False]
    print(f"{len(failed)} failed" + (f": {', '.join(failed)}" if failed else ""))
    return int(bool(failed))


if __name__ == "__main__":
    sys.exit(main())
