"""`refine.py blend`: a generator between two of one architecture."""

from __future__ import annotations

import math
from pathlib import Path

import click


@click.command()
@click.argument("before", metavar="A")
@click.argument("after", metavar="B")
@click.option(
    "--alpha",
    metavar="NUMBER",
    type=float,
    required=True,
    help="How far to go from A to B: 0 is A, 1 is B, beyond is further the same way.",
)
@click.option(
    "--out",
    metavar="FILE",
    type=click.Path(path_type=Path, dir_okay=False),
    required=True,
    help="The file to write, in A's layout; everything else in it is A's.",
)
@click.option(
    "--network",
    type=click.Choice(["G_ema", "G"]),
    default="G_ema",
    show_default=True,
    help="Which network of the files.",
)
def blend(before: str, after: str, alpha: float, out: Path, network: str) -> None:
    """Write the generator that lies between those of two files, such as before and after a run."""
    import students
    from refiners.training.blend import blend as between

    if not math.isfinite(alpha):
        raise ValueError(f"--alpha is {alpha}; give a number, as 0.5")
    if not out.parent.is_dir():
        raise ValueError(f"--out is {out}, whose folder does not exist; make it first")
    a, b = (students.load(path, network=network) for path in (before, after))
    students.save(between(a, b, alpha), out, like=before, network=network)
    print(f"{out}: {network} of {before}, moved {alpha:g} times the way to that of {after}")
