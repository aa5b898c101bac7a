"""Train small networks from images: classifier, diffusion teacher, StyleGAN2 student.

The embedded demo's, on MNIST:

    python -m refine_demo.train classifier --data mnist-png.tar.xz --workdir runs/demo
    python -m refine_demo.train teacher    --data mnist-png.tar.xz --workdir runs/demo --kimg 190
    python -m refine_demo.train teacher    --data mnist-png.tar.xz --workdir runs/demo --kimg 260 \
                                    --label-dropout 0.8
    python -m refine_demo.train student    --data mnist-png.tar.xz --workdir runs/demo --kimg 60
    python -m refine_demo.train pack       --workdir runs/demo

Each stage saves its state every 20 kimg and continues from it when the same command is given again;
`pack` copies the finished files beside this script. Seeds, times and the quality reached are in
refine_demo/README.md. `--size cifar10` makes larger networks for CIFAR-10 in colour, for a GPU.
"""

from __future__ import annotations

import copy
import shutil
from pathlib import Path
from typing import Any

import click
import torch
import torch.nn.functional as F

import checkpoints
import image_sets
import teachers
from metrics import Moments, Statistics
from metrics.spaces.features import Classifier, ClassifierFeatures, save_features
from refine_demo.sizes import SIZES
from refine_demo.stages import (
    NUM_CLASSES,
    Progress,
    batches,
    load_images,
    load_state,
    save_state,
    stage,
)
from refiners.training.optimiser import follow
from students import originals
from students.stylegan2.discriminator import Discriminator
from students.stylegan2.generator import Generator
from teachers.edm import EDMPrecond

HERE = Path(__file__).parent
SAVE_EVERY = 20_000  # images
AVERAGE_HALF_LIFE = 138.28  # updates of the student: a factor of 0.995 each


@click.group()
def main() -> None:
    """Train a classifier, a teacher and a student."""


@main.command()
@stage
@click.option("--epochs", type=int, default=4, show_default=True)
def classifier(
    data: Path, workdir: Path, seed: int, threads: int, size: str, device: str, epochs: int
) -> None:
    """Train the classifier whose features are the feature space."""
    torch.set_num_threads(threads)
    workdir.mkdir(parents=True, exist_ok=True)
    images, labels = load_images(data, workdir)
    torch.manual_seed(seed)
    sizes = SIZES[size]
    network = Classifier(
        img_resolution=32,
        img_channels=sizes.img_channels,
        widths=sizes.classifier,
        num_classes=NUM_CLASSES,
    ).to(device)
    optimizer = torch.optim.Adam(network.parameters(), lr=2e-3)
    batch = 100
    steps = epochs * len(images) // batch
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    stream = batches(images, labels, batch, seed=seed, start=0, device=device)
    progress = Progress(0)
    for step in range(steps):
        x, c = next(stream)
        loss = F.cross_entropy(network(x)[1], c)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        progress((step + 1) * batch, loss.item())
    features = ClassifierFeatures(network.cpu())
    held_images, held_labels = image_sets.read_class_folders(data, split="test", pad_to=32)
    probabilities = features(torch.from_numpy(held_images))[1]
    assert probabilities is not None
    right = (probabilities.argmax(1) == torch.from_numpy(held_labels)).float().mean().item()
    moments = Moments.empty(features.dim)
    for part in images.split(1000):
        moments = moments.merge(Moments.of(features(part)[0]))
    # A sample of the features themselves, for precision and recall.
    sample = features(images[:: max(len(images) // 2000, 1)][:2000])[0]
    name = f"{size.upper()} classifier, {features.dim}-d penultimate"
    statistics = Statistics.of(moments, space=name, features=sample)
    save_features(workdir / "features.npz", network, statistics, name=name)
    print(f"test accuracy {100 * right:.2f} %")


@main.command()
@stage
@click.option("--kimg", type=float, default=190, show_default=True)
@click.option("--batch", type=int, default=128, show_default=True)
@click.option("--label-dropout", type=float, default=0.3, show_default=True)
def teacher(
    data: Path,
    workdir: Path,
    seed: int,
    threads: int,
    size: str,
    device: str,
    kimg: float,
    batch: int,
    label_dropout: float,
) -> None:
    """Train the EDM teacher (Karras et al. 2022), class-conditional with label dropout.

    A longer second run with more dropout brings the unconditional model, which zero labels ask for,
    up to the conditional one; the learning rate follows the new length.
    """
    torch.set_num_threads(threads)
    workdir.mkdir(parents=True, exist_ok=True)
    images, labels = load_images(data, workdir)
    torch.manual_seed(seed)
    network = EDMPrecond(
        img_resolution=32,
        img_channels=SIZES[size].img_channels,
        label_dim=NUM_CLASSES,
        model_type="SongUNet",
        label_dropout=label_dropout,
        **SIZES[size].teacher,
    ).to(device)
    network = network.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
    average = copy.deepcopy(network).eval().requires_grad_(False)
    optimizer = torch.optim.Adam(network.parameters(), lr=1e-3, betas=(0.9, 0.99))
    path = workdir / "teacher.pt"
    state = {"network": network, "average": average, "optimizer": optimizer}
    seen = load_state(path, state)
    stream = batches(images, labels, batch, seed=seed, start=seen, device=device)
    progress = Progress(seen)
    while seen < kimg * 1000:
        torch.manual_seed(seed * 1_000_003 + seen)
        x_0, c = next(stream)
        sigma = (torch.randn([batch], device=device) * 1.2 - 0.8).exp()
        x = x_0 + sigma[:, None, None, None] * torch.randn_like(x_0)
        weight = (sigma**2 + 0.25) / (0.5 * sigma) ** 2
        error = (network(x, sigma, c) - x_0).square().mean(dim=[1, 2, 3])
        loss = (weight * error).mean()
        # Warm up, hold, and let the rate fall to zero over the last 40 %.
        fraction = seen / (kimg * 1000)
        rate = 2e-3 * min(seen / 5000, 1) * min(1, (1 - fraction) / 0.4)
        for group in optimizer.param_groups:
            group["lr"] = rate
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimizer.step()
        seen += batch
        follow(average, network, batch, min(20_000, max(seen / 10, 1)))
        progress(seen, loss.item())
        if seen // SAVE_EVERY != (seen - batch) // SAVE_EVERY or seen >= kimg * 1000:
            save_state(path, state, seen)
    teachers.save(average.cpu(), workdir / "teacher.pkl")
    print(f"{workdir / 'teacher.pkl'} after {seen} images")


@main.command()
@stage
@click.option("--kimg", type=float, default=60, show_default=True)
@click.option("--batch", type=int, default=32, show_default=True)
def student(
    data: Path,
    workdir: Path,
    seed: int,
    threads: int,
    size: str,
    device: str,
    kimg: float,
    batch: int,
) -> None:
    """Train the StyleGAN2 generator: logistic loss with R1 (Karras et al. 2020), stopped early."""
    torch.set_num_threads(threads)
    workdir.mkdir(parents=True, exist_ok=True)
    images, labels = load_images(data, workdir)
    torch.manual_seed(seed)
    width: dict[str, Any] = dict(SIZES[size].student)
    z_dim, channels = SIZES[size].z_dim, SIZES[size].img_channels
    sizes: dict[str, Any] = {"c_dim": 0, "img_resolution": 32, "img_channels": channels}
    generator = Generator(
        z_dim=z_dim, w_dim=z_dim, mapping_kwargs={"num_layers": 2}, synthesis_kwargs=width, **sizes
    ).to(device)
    discriminator = Discriminator(**width, **sizes).to(device)
    average = copy.deepcopy(generator).eval().requires_grad_(False)
    lazy = 16 / 17  # R1 every 16 steps: rate and decay scaled as in Karras et al. 2020, appendix B
    g_opt = torch.optim.Adam(generator.parameters(), lr=2e-3, betas=(0.0, 0.99))
    d_opt = torch.optim.Adam(discriminator.parameters(), lr=2e-3 * lazy, betas=(0.0, 0.99**lazy))
    path = workdir / "student.pt"
    state = {
        "generator": generator,
        "discriminator": discriminator,
        "average": average,
        "g_opt": g_opt,
        "d_opt": d_opt,
    }
    seen = load_state(path, state)
    stream = batches(images, labels, batch, seed=seed, start=seen, device=device)
    progress = Progress(seen)
    while seen < kimg * 1000:
        torch.manual_seed(seed * 1_000_003 + seen)
        discriminator.requires_grad_(False)
        z = torch.randn([batch, z_dim], device=device)
        g_loss = F.softplus(-discriminator(generator(z))).mean()
        g_opt.zero_grad()
        g_loss.backward()
        g_opt.step()

        discriminator.requires_grad_(True)
        real = next(stream)[0].requires_grad_(seen // batch % 16 == 0)
        with torch.no_grad():
            fake = generator(torch.randn([batch, z_dim], device=device))
        logits = discriminator(real)
        d_loss = F.softplus(discriminator(fake)).mean() + F.softplus(-logits).mean()
        if real.requires_grad:
            (slope,) = torch.autograd.grad(logits.sum(), real, create_graph=True)
            d_loss = d_loss + 16 * 0.5 * slope.square().sum(dim=[1, 2, 3]).mean()
        d_opt.zero_grad()
        d_loss.backward()
        d_opt.step()

        seen += batch
        follow(average, generator, 1, AVERAGE_HALF_LIFE)
        progress(seen, g_loss.item())
        if seen // SAVE_EVERY != (seen - batch) // SAVE_EVERY or seen >= kimg * 1000:
            save_state(path, state, seen)
    networks = {"G": generator.cpu(), "D": discriminator.cpu(), "G_ema": average.cpu()}
    records = {
        name: originals.describe(network.eval().requires_grad_(False))
        for name, network in networks.items()
    }
    file = {"training_set_kwargs": {}, **records, "augment_pipe": None}
    checkpoints.write(file, workdir / "student.pkl")
    print(f"{workdir / 'student.pkl'} after {seen} images")


@main.command()
@click.option("--workdir", type=click.Path(exists=True, path_type=Path), required=True)
def pack(workdir: Path) -> None:
    """Copy the finished files beside this script."""
    for name in ("features.npz", "teacher.pkl", "student.pkl"):
        shutil.copyfile(workdir / name, HERE / name)
        print(f"{name} {(HERE / name).stat().st_size / 2**20:.2f} MiB")


if __name__ == "__main__":
    main()
