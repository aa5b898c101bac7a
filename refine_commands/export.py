"""`refine.py export`: a network in another format, checked at once."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    import torch

    from students.base import StudentModule

SEEDS = (0, 1, 2, 3)
TOLERANCE = 1e-3  # of images about [-1, 1]; another runtime sums in another order
SUFFIXES = {
    ".pkl": "pkl",
    ".safetensors": "safetensors",
    ".pt": "rosinality",
    ".onnx": "onnx",
}
PROGRAMS = ("stylegan2-ada", "stylegan3", "edm", "edm2")

CARD = """\
---
library_name: stylegan-refiner
tags: [gan, stylegan, image-generation]
---
# {name}

{family}: images of {height} x {width} with {channels} channels from latents of {z_dim}
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
@click.option(
    "--for",
    "program",
    type=click.Choice(PROGRAMS),
    help="Write all networks of SOURCE as a pickle that loads in this program's own checkout and "
    "needs nothing of this project. It names the program's classes and carries no program text.",
)
@click.option(
    "--like",
    metavar="PKL",
    help="Where SOURCE holds tensors alone: a pickle whose network has their class and options.",
)
def export(
    source: str,
    out: Path,
    form: str | None,
    network: str,
    program: str | None,
    like: str | None,
) -> None:
    """Write a generator in another format, and compare its images with the source's.

    With --for edm or edm2, a teacher or a one-step student, and what it makes of noise.
    """
    import students

    form = form or SUFFIXES.get(out.suffix.lower())
    if program and form != "pkl":
        raise ValueError(f"--for {program} writes a pickle; --out {out} is none, so end it in .pkl")
    if form is None:
        raise ValueError(
            f"--out {out} has no known suffix; use {', '.join(SUFFIXES)}, or give --format"
        )
    if form == "safetensors" and out.suffix != ".safetensors":
        raise ValueError(f"--out is {out}; safetensors need the suffix .safetensors to be read")
    prepare_folder(out, form)
    if program in ("edm", "edm2"):
        report(write_denoiser(source, out, program), source, out, "what it makes of 4 noises")
        return
    if like is not None and (program or form != "pkl"):
        raise ValueError("--like writes a pickle first, without --for; export that one again")
    student = students.load(source, network=network, like=like)
    if not isinstance(student, students.Student):
        raise ValueError(f"{network} of {source} makes no images; export a generator")
    if like is not None:
        students.save(student, out, like=like, network=network)
        worst = difference(student, students.load(out, network=network))
    elif form == "pkl":
        worst = write_pickle(student, source, out, network, program)
    else:
        worst = WRITERS[form](student, source, out, network)
    report(worst, source, out, f"the images of {len(SEEDS)} seeds")


def prepare_folder(out: Path, form: str) -> None:
    """See that the folder of `out` is there; safetensors get one of their own.

    Raises:
        ValueError: they would be written into the working folder.
        FileNotFoundError: there is no such folder.
    """
    folder = out.parent
    if form == "safetensors":
        if folder.resolve() == Path.cwd():
            raise ValueError(
                f"--out is {out}; safetensors come with a config.json and a README.md, so give "
                f"them a folder of their own, as --out {out.stem}/{out.name}"
            )
        if folder.parent.is_dir():
            folder.mkdir(exist_ok=True)
    if not folder.is_dir():
        raise FileNotFoundError(f"--out is {out}; there is no folder {folder}: make it first")


def report(worst: float, source: str, out: Path, what: str) -> None:
    """Print the largest difference, and raise ValueError where it is not that of rounding."""
    print(f"{out}: largest difference of {what} {worst:.2e}")
    if not worst <= TOLERANCE:
        raise ValueError(f"{out} does not give the images of {source}; it was kept for inspection")


def write_pickle(
    student: StudentModule, source: str, out: Path, network: str, program: str | None
) -> float:
    """Write `source` as a pickle; return the largest difference of the images.

    What carried a program's text or names passes through, unless another program was asked for.
    """
    import students

    if program is None:
        students.save(student, out, like=source, network=network)
    elif "D" in students.save_for(program, source, out):
        print(f"{source} has no D, so {out} makes images but cannot be trained on")
    return difference(student, students.load(out, network=network))


def write_denoiser(source: str, out: Path, program: str) -> float:
    """Write a teacher, or a one-step student, for EDM's programs; return the largest difference."""
    import torch

    import teachers
    from students.adapters.one_step import recorded_sigma

    denoiser = teachers.load(source)
    if teachers.program_of(denoiser) != program:
        raise ValueError(f"{source} is a network of {teachers.program_of(denoiser)}, not {program}")
    sigma = recorded_sigma(source)
    teachers.save(denoiser, out, extra={} if sigma is None else {"init_sigma": sigma})
    written = teachers.load(out)
    r = denoiser.img_resolution
    noise = torch.Generator().manual_seed(0)
    x = torch.randn([len(SEEDS), denoiser.img_channels, r, r], generator=noise)
    n = denoiser.label_dim
    labels = torch.eye(n)[torch.tensor(SEEDS) % n] if n else None
    with torch.no_grad():
        pair = [network(x, 1.0, labels) for network in (denoiser, written)]
    return (pair[0] - pair[1]).abs().max().item()


def write_safetensors(student: StudentModule, source: str, out: Path, network: str) -> float:
    """Write safetensors, config and model card; return the largest difference of the images."""
    import checkpoints
    import students
    from refiners.runs.provenance import sha256
    from students.files import find_network

    record = find_network(checkpoints.read(source), network, source)
    card = CARD.format(
        name=out.stem,
        family=students.family_of(record).name,
        height=student.img_shape[0],
        width=student.img_shape[1],
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


def write_rosinality(student: StudentModule, source: str, out: Path, network: str) -> float:
    """Write rosinality's `.pt`; return the largest difference of the images."""
    import students
    from students.foreign import rosinality

    rosinality.save(student, out)
    return difference(student, students.load(out))


def write_onnx(student: StudentModule, source: str, out: Path, network: str) -> float:
    """Write ONNX; return the largest difference of the outputs under onnxruntime."""
    from students.foreign import onnx

    print(f"ONNX of opset {onnx.OPSET}; torch's exporter takes a minute")
    return onnx.save(student, out, seeds=SEEDS)


WRITERS = {
    "onnx": write_onnx,
    "safetensors": write_safetensors,
    "rosinality": write_rosinality,
}


def difference(student: StudentModule, other: torch.nn.Module) -> float:
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
