"""Part 2 of the first day on a GPU: how fast a step is (benchmarks/gpu.py).

Each row is `python -m benchmarks.step time` in a process of its own: our step and the published
loop in turn, on networks of CIFAR-10's size, and the most memory that each held.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from benchmarks.gpu import Day, Finding

# In the order of their worth, as the time may not reach for all.
WAYS: dict[str, tuple[str, ...]] = {
    "tf32": ("--precision", "tf32"),
    "bf16": ("--precision", "bf16"),
    "bf16, compiled": ("--precision", "bf16", "--compile"),
    "fp32": ("--precision", "fp32"),
    "bf16, channels last": ("--precision", "bf16", "--channels-last"),
    "bf16, compiled, channels last": ("--precision", "bf16", "--compile", "--channels-last"),
    "tf32, one pass shared": ("--precision", "tf32", "--share-pass"),
}


def step(day: Day, student: str, batch: int, flags: tuple[str, ...], file: Path) -> Finding:
    """Time a step; return images/s, the ratio to the published loop, and memory."""
    sizes = ["--width", 1 / 16, "--repeats", 1] if day.small else ["--repeats", 3]
    day.command(
        *("-m", "benchmarks.step", "time", "--student", student, "--batch", batch),
        *("--device", day.device, "--json", file, *sizes, *flags),
        seconds=150,
    )
    sides: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))["sides"]
    ours, theirs = sides["ours"], sides["published"]
    images = batch / ours["seconds"]["median"]
    ratio = theirs["seconds"]["min"] / ours["seconds"]["min"]
    share = 100 * ours["share_of_matmul_speed"]
    memory = f"{ours['peak_mb'] / 1000:.1f} GB against {theirs['peak_mb'] / 1000:.1f}"
    return f"{images:.1f} images/s, {ratio:.2f} times, {share:.0f} % of mm, {memory}", None


def operations(day: Day) -> Finding:
    """Time every operation, compiled beside its definition; return the file's name."""
    file = day.out / "ops.json"
    kind = "cuda" if day.device.startswith("cuda") else "cpu"
    size = "small" if day.small else "full"
    told = ("-m", "benchmarks.passes", "ops", "--device", kind, "--size", size)
    said = day.command(*told, "--repeats", 1 if day.small else 3, "--json", file, seconds=120)
    print(said, flush=True)
    return file.name, None


def rows(day: Day) -> None:
    """Carry out the part."""
    batches = (1,) if day.small else (256, 64)
    ways = {"fp32": WAYS["fp32"]} if day.small else WAYS
    for batch in batches:
        for name, flags in ways.items():
            for student in ("edm", "stylegan2"):
                file = day.out / f"step-{student}-{batch}-{name.replace(', ', '-')}.json"
                day.row(
                    f"{student}, batch {batch}, {name}",
                    lambda s=student, b=batch, f=flags, file=file: step(day, s, b, f, file),
                )
        if batch == batches[0]:
            day.row("operations", lambda: operations(day))
