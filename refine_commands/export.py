"""`refine.py export`: a network in another format, checked at once."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

SEEDS = (0, 1, 2, 3)
TOLERANCE = 1e-3  # of images about [-1, 1]; another runtime sums in another order
SUFFIXES = {
    ".pkl": "pkl",
    ".safetensors": "safetensors",
    ".pt": "rosinality",
    ".onnx": "onnx",
}

CARD = """\
---
library_name: stylegan-refiner
tags: [gan, stylegan, image-generation]
---
# {name}

{family}: images of {resolution} x {resolution} with {channels} channels from latents of {z_dim}
numbers{classes}. Weights: `{file}`; architecture: `config.json`.

Made from `{source}` (SHA-256 `{digest}`). The licence is that of this source.

```python
import students, torch
student = students.load("{file}", network="{network}")
images = student(student.sample_latents(4){labels})  # float [4, {channels}, h, w], about [-1, 1]
```
"""


@click.command()
@click.argument("source", metavar="PKL|URL|NAME")
@click.option("--out", metavar="FILE", type=click.Path(path_type=Path), required=True)
@click.option(
    "--format",
    "form",
    type=click.Choice(sorted(SUFFIXES.values())),
    help="Default: from the suffix of FILE (.pkl, .safetensors, .onnx; .pt is rosinality).",
)
@click.option("--network", default="G_ema", show_default=True, help="Which network of SOURCE.")
def export(source: str, out: Path, form: str | None, network: str) -> None:
    """Write a generator in another format, and compare its images with the source's."""
    import students

    form = form or SUFFIXES.get(out.suffix.lower())
    if form is None:
        raise ValueError(
            f"--out {out} has no known suffix; use {', '.join(SUFFIXES)}, or give --format"
        )
    if form == "safetensors" and out.suffix != ".safetensors":
        raise ValueError(f"--out is {out}; safetensors need the suffix .safetensors to be read")
    out.parent.mkdir(parents=True, exist_ok=True)
    student = students.load(source, network=network)
    if not isinstance(student, students.Student):
        raise ValueError(f"{network} of {source} makes no images; export a generator")
    difference = WRITERS[form](student, source, out, network)
    print(f"{out}: largest difference of the images of {len(SEEDS)} seeds {difference:.2e}")
    if not difference <= TOLERANCE:
        raise ValueError(f"{out} does not give the images of {source}; it was kept for inspection")


def write_pickle(student: Any, source: str, out: Path, network: str) -> float:
    """Write `source` again as a pickle; return the largest difference of the images."""
    import students

    students.save(student, out, like=source, network=network)
    return difference(student, students.load(out, network=network))


def write_safetensors(student: Any, source: str, out: Path, network: str) -> float:
    """Write safetensors, config and model card; return the largest difference of the images."""
    import checkpoints
    import students
    from refiners.runs.provenance import sha256
    from students.files import find_network

    record = find_network(checkpoints.read(source), network, source)
    card = CARD.format(
        name=out.stem,
        family=students.family_of(record).name,
        resolution=student.img_resolution,
        channels=student.img_channels,
        z_dim=student.z_dim,
        classes=f" and one of {student.c_dim} classes" if student.c_dim else "",
        labels=f", torch.eye({student.c_dim})[:4]" if student.c_dim else "",
        file=out.name,
        source=Path(source).name,
        digest=sha256(checkpoints.local(source)),
        network=network,
    )
    checkpoints.write_safetensors(record, out, network=network, card=card)
    return difference(student, students.load(out, network=network))


def write_rosinality(student: Any, source: str, out: Path, network: str) -> float:
    """Write rosinality's `.pt`; return the largest difference of the images."""
    import students
    from students.foreign import rosinality

    rosinality.save(student, out)
    return difference(student, students.load(out))


def write_onnx(student: Any, source: str, out: Path, network: str) -> float:
    """Write ONNX; return the largest difference of the outputs under onnxruntime."""
    from students.foreign import onnx

    print(f"ONNX of opset {onnx.OPSET}; torch's exporter takes a minute")
    return onnx.save(student, out, seeds=SEEDS)


WRITERS = {
    "onnx": write_onnx,
    "pkl": write_pickle,
    "safetensors": write_safetensors,
    "rosinality": write_rosinality,
}


def difference(student: Any, other: Any) -> float:
    """Return the largest difference of two students' images of the same seeds."""
    import torch

    worst = 0.0
    for seed in SEEDS:
        z = student.sample_latents(1, generator=torch.Generator().manual_seed(seed))
        c = torch.eye(student.c_dim)[[seed % student.c_dim]] if student.c_dim else None
        with torch.no_grad():
            pair = [network(z, c, noise_mode="const") for network in (student, other)]
        worst = max(worst, (pair[0] - pair[1]).abs().max().item())
    return worst
