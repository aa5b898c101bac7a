"""`refine.py dataset`: any source of images to a zip in the StyleGAN layout."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import click

from refiners.runs.progress import stage_bar

MAX_LISTED = 1000  # lines that a terminal is given; the count is always whole


def parse_resolution(text: str) -> int:
    """Turn "64x64" or "64" into 64."""
    match = re.fullmatch(r"(\d{1,5})(?:x(\d{1,5}))?", text.strip())
    if match is None or int(match[2] or match[1]) != int(match[1]) or int(match[1]) < 1:
        raise ValueError(f"--resolution is {text!r}; allowed is a square, as in 64x64")
    return int(match[1])


@click.command()
@click.option("--source", metavar="PATH", required=True, help="Folder, zip, tar, or see above.")
@click.option("--dest", metavar="ZIP", required=True, type=click.Path(path_type=Path))
@click.option("--resolution", metavar="WxH", help="Side of the square that is written.")
@click.option(
    "--transform",
    type=click.Choice(["center-crop", "stretch"]),
    help="How other shapes become square.  [default: center-crop]",
)
@click.option(
    "--resize-filter",
    type=click.Choice(["lanczos", "box"]),
    default="lanczos",
    show_default=True,
    help="EDM's data sets are made with lanczos, StyleGAN2-ADA's FFHQ-256 with box.",
)
@click.option(
    "--max-images", metavar="INT", type=click.IntRange(min=1), help="So many, across the classes."
)
@click.option("--split", metavar="NAME", help="Only what lies below a folder NAME; train or test.")
@click.option("--pad-to", metavar="INT", type=click.IntRange(min=1), help="Centre on black.")
@click.option("--fix", metavar="LIST", help="Repair instead of refusing: rgb, resize.")
def dataset(
    source: str,
    dest: Path,
    resolution: str | None,
    transform: str | None,
    resize_filter: str,
    max_images: int | None,
    split: str | None,
    pad_to: int | None,
    fix: str | None,
) -> None:
    """Write a data set as a StyleGAN zip, with the labels that it has.

    PATH is a folder, zip or tar of images (one folder a class, or a dataset.json, gives labels),
    cifar-10-python.tar.gz, or train-images-idx3-ubyte.gz of MNIST with its labels beside it. Every
    image is tried first; those that cannot be used are all listed, with reasons.

    ImageNet as EDM has it: --source .../ILSVRC/Data/CLS-LOC/train --resolution 64x64 --transform
    center-crop
    """
    import image_sets

    try:
        written = image_sets.convert(
            source,
            dest,
            resolution=None if resolution is None else parse_resolution(resolution),
            transform=transform,
            resize_filter=resize_filter,
            max_images=max_images,
            split=split,
            pad_to=pad_to,
            fix=[name.strip() for name in fix.split(",")] if fix else [],
            progress=stage_bar("convert"),
            remark=print,
        )
    except image_sets.UnusableImages as error:
        for reason in error.reasons[:MAX_LISTED]:
            print(" ".join(reason.split()), file=sys.stderr)
        # --fix cannot help where every one of them is damaged.
        damaged = all("not a usable image" in reason for reason in error.reasons)
        way = "remove them or get them again" if damaged else "remove them, or try --fix rgb,resize"
        raise ValueError(
            f"{len(error.reasons)} images of {source} cannot be used (listed above) and nothing "
            f"was written; {way}"
        ) from None
    c, h, w = written.shape
    labels = f"{written.num_classes} classes" if written.num_classes else "no labels"
    print(f"{dest}: {len(written)} images of {w} x {h}, {c} channels, {labels}")
    if max_images is not None and len(written) < max_images:
        print(f"{source} has no more: {max_images} were asked for")
