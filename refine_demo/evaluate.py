"""Measure what refine_demo.train made, a line of its curve each time.

    python -m refine_demo.evaluate images    --network runs/cifar10/student.pkl \
                                      --reference runs/cifar10/features.npz --num 10000
    python -m refine_demo.evaluate images    --network runs/cifar10/teacher.pkl \
                                      --reference cifar10-train.zip --features efficientnet-lite0
    python -m refine_demo.evaluate denoising --network runs/cifar10/teacher.pkl \
                                             --data cifar10-jpg.tar.xz

`images` is the Frechet distance of generated images, and the Inception Score where the features
have classes: of a student's own images, and of a teacher's by Heun's sampler. `denoising` is the
teacher's loss on test images at fixed noise levels and noise.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path

import click
import torch
from torch import Tensor, nn

import checkpoints
import image_sets
import metrics
import students
import teachers
from refine_demo.stages import NUM_CLASSES, Command, append_line
from refiners.denoising import Denoising
from refiners.runs.teacher_sampler import TeacherSampler
from roles import Denoiser, Student


@click.group()
def main() -> None:
    """Measure networks that refine_demo.train made."""


def measured(function: Command) -> Command:
    """Add the options of every measurement."""
    for option in (
        click.option("--network", type=click.Path(exists=True, path_type=Path), required=True),
        click.option("--num", type=int, default=10_000, show_default=True),
        click.option("--seed", type=int, default=0, show_default=True),
        click.option("--threads", type=int, default=1, show_default=True),
        click.option("--curve", type=click.Path(path_type=Path), help="Append the line to it."),
        click.option("--kimg", type=float, help="Where on the curve the network stands."),
    ):
        function = option(function)
    return function


@main.command()
@measured
@click.option("--reference", type=click.Path(exists=True, path_type=Path), required=True)
@click.option("--features", help="A feature space by name; an .npz of a classifier has its own.")
@click.option("--cache", type=click.Path(path_type=Path), help="Folder of the images' statistics.")
@click.option("--steps", type=int, default=18, show_default=True, help="Of a teacher's sampler.")
@click.option("--unconditional", is_flag=True, help="Ask the teacher without labels.")
def images(
    network: Path,
    num: int,
    seed: int,
    threads: int,
    curve: Path | None,
    kimg: float | None,
    reference: Path,
    features: str | None,
    cache: Path | None,
    steps: int,
    unconditional: bool,
) -> None:
    """Measure generated images against real ones."""
    torch.set_num_threads(threads)
    space = metrics.choose_features(features) if features else None
    real = metrics.open_reference(reference, space, cache=cache)
    student, how = open_network(network, steps=steps, unconditional=unconditional)
    found = metrics.measure(student, real, num_images=num, seed=seed)
    facts = {"distance": found.frechet_distance, "inception_score": found.values["inception_score"]}
    facts |= {"num": num, "seed": seed, "space": found.space, "images": how}
    _tell({**facts, "seconds": round(found.seconds)}, curve, kimg, network)


@main.command()
@measured
@click.option("--data", type=click.Path(exists=True, path_type=Path), required=True)
def denoising(
    network: Path,
    num: int,
    seed: int,
    threads: int,
    curve: Path | None,
    kimg: float | None,
    data: Path,
) -> None:
    """Measure a teacher's denoising of test images."""
    torch.set_num_threads(threads)
    start = time.monotonic()
    teacher = teachers.load(network)
    found, classes = image_sets.read_class_folders(data, split="test", pad_to=32)
    # They come class by class: an even stride keeps every class.
    pick = torch.arange(0, len(found), max(len(found) // num, 1))[:num]
    x_0, labels = torch.from_numpy(found)[pick], torch.from_numpy(classes)[pick]
    with_labels = denoising_loss(teacher, x_0, labels, seed=seed)
    without = denoising_loss(teacher, x_0, None, seed=seed)
    facts = {"test_loss": with_labels, "test_loss_unconditional": without}
    facts |= {"num": len(pick), "seed": seed}
    _tell({**facts, "seconds": round(time.monotonic() - start)}, curve, kimg, network)


@torch.no_grad()
def denoising_loss(
    teacher: Denoiser, images: Tensor, labels: Tensor | None, *, seed: int, batch: int = 100
) -> float:
    """Return the mean denoising error, weighted as EDM trains (Karras et al. 2022, Eq. 8).

    The noise levels are the quantiles of EDM's distribution in an order that the seed draws, and
    the noise is the seed's: two teachers see the same noisy images.

    Args:
        teacher: the denoiser; sigma_data is taken as 0.5.
        images: uint8 [n, c, h, w].
        labels: classes int64 [n], or None to ask without.
        seed: of noise and order.
        batch: images at a time.
    """
    n = len(images)
    generator = torch.Generator().manual_seed(seed)
    quantiles = (torch.randperm(n, generator=generator) + 0.5) / n
    method = Denoising()  # EDM's law and weight
    sigmas = method.levels(quantiles)
    total = 0.0
    for part in torch.arange(n).split(batch):
        x_0, sigma = images[part].float() / 127.5 - 1, sigmas[part]
        eps = torch.randn(x_0.shape, generator=generator)
        c = None if labels is None else nn.functional.one_hot(labels[part], NUM_CLASSES).float()
        denoised = teacher(x_0 + sigma[:, None, None, None] * eps, sigma, c)
        total += method.errors(denoised, x_0, sigma).sum().item()
    return total / n


def open_network(path: Path, *, steps: int, unconditional: bool) -> tuple[Student, str]:
    """Return what draws images from a network file, a teacher's or a student's, and its name."""
    content = checkpoints.read(path)
    if isinstance(content, dict) and "G_ema" in content:
        return students.load(path), "student"
    teacher = teachers.load(path)
    sampled = TeacherSampler(teacher, num_steps=steps, has_classes=not unconditional)
    how = "without labels" if unconditional else "with labels"
    return sampled, f"teacher, {steps} Heun steps, {how}"


def _tell(
    facts: Mapping[str, object], curve: Path | None, kimg: float | None, network: Path
) -> None:
    print(f"{network}: " + "  ".join(f"{k} {v}" for k, v in facts.items()))
    if curve is not None:
        append_line(curve, {"kimg": kimg, **facts})


if __name__ == "__main__":
    main()
