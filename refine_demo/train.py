"""Train small networks from images: classifier, diffusion teacher, StyleGAN2 student.

The embedded demo's, on MNIST:

    python -m refine_demo.train classifier --data mnist-png.tar.xz --workdir runs/demo
    python -m refine_demo.train teacher    --data mnist-png.tar.xz --workdir runs/demo --kimg 190
    python -m refine_demo.train teacher    --data mnist-png.tar.xz --workdir runs/demo --kimg 260 \
                                    --label-dropout 0.8
    python -m refine_demo.train student    --data mnist-png.tar.xz --workdir runs/demo --kimg 60
    python -m refine_demo.train pack       --workdir runs/demo

Each stage saves its state every 20 kimg or 10 minutes and continues from it when the same command
is given again; `pack` copies the finished files beside this script, and `keep` puts what a long
training needs to go on elsewhere into a folder of the repository: restart files, curves, the
classifier. Seeds, times and the quality reached are in demo/README.md, those for CIFAR-10 in
docs/cifar10.md.
"""

from __future__ import annotations

import shutil
from pathlib import Path

import click
import torch

from refine_demo import restart
from refine_demo.classifier import classifier
from refine_demo.student import student
from refine_demo.teacher import teacher

HERE = Path(__file__).parent


@click.group()
def main() -> None:
    """Train a classifier, a teacher and a student."""


for command in (classifier, teacher, student):
    main.add_command(command)


@main.command()
@click.option("--workdir", type=click.Path(exists=True, path_type=Path), required=True)
def pack(workdir: Path) -> None:
    """Copy the finished files beside this script."""
    for name in ("features.npz", "teacher.pkl", "student.pkl"):
        shutil.copyfile(workdir / name, HERE / name)
        print(f"{name} {(HERE / name).stat().st_size / 2**20:.2f} MiB")


@main.command()
@click.option("--workdir", type=click.Path(exists=True, path_type=Path), required=True)
@click.option("--dest", type=click.Path(path_type=Path), required=True)
@click.argument("names", nargs=-1)
def keep(workdir: Path, dest: Path, names: tuple[str, ...]) -> None:
    """Put restart files, curves and the classifier of a work folder into DEST, replaced each time.

    NAMES are the trainings'; without any, all of the work folder. A restart file is at most 8 MB; a
    stage continues it with --restart where it has no state.
    """
    dest.mkdir(parents=True, exist_ok=True)
    states = [workdir / f"{name}.pt" for name in names] or sorted(workdir.glob("*.pt"))
    for path in states:
        state = torch.load(path, weights_only=True, map_location="cpu")
        kept = dest / f"{path.stem}.restart.pt"
        form = restart.save(kept, state)
        if (curve := path.with_suffix(".jsonl")).exists():
            shutil.copyfile(curve, restart.curve_of(kept))
        size = kept.stat().st_size / 1e6
        print(f"{kept.name} at {state['num_images']} images, {form}, {size:.1f} MB")
    if (features := workdir / "features.npz").exists():
        shutil.copyfile(features, dest / features.name)


if __name__ == "__main__":
    main()
