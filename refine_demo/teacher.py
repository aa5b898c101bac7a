"""The stage that trains the diffusion teacher."""

from __future__ import annotations

import copy
from pathlib import Path

import click
import torch

import teachers
from refine_demo.sizes import SIZES, Recipe
from refine_demo.stages import (
    NUM_CLASSES,
    Progress,
    Training,
    batches,
    continued,
    load_images,
    stage,
)
from refiners.denoising import Denoising
from refiners.training.optimiser import follow
from teachers.edm import EDMPrecond


@click.command()
@stage
@continued("teacher")
@click.option("--kimg", type=float, default=190, show_default=True)
@click.option("--batch", type=int, help="Images of a step; the size has its own.")
@click.option("--label-dropout", type=float, default=0.3, show_default=True)
def teacher(
    data: Path,
    workdir: Path,
    seed: int,
    threads: int,
    size: str,
    device: str,
    name: str,
    restart_file: Path | None,
    kimg: float,
    batch: int | None,
    label_dropout: float,
) -> None:
    """Train the EDM teacher (Karras et al. 2022), class-conditional with label dropout.

    The loss is that of `refine.py teach`, whose runs are for any images; this one stays for what
    was begun with it, its restart files and curves.

    A longer second run with more dropout brings the unconditional model, which zero labels ask for,
    up to the conditional one; where the size's learning rate falls, it follows the new length.
    """
    torch.set_num_threads(threads)
    workdir.mkdir(parents=True, exist_ok=True)
    images, labels = load_images(data, workdir)
    torch.manual_seed(seed)
    sizes, recipe = SIZES[size], SIZES[size].recipe
    batch = batch or recipe.teacher_batch
    network = EDMPrecond(
        img_resolution=32,
        img_channels=sizes.img_channels,
        label_dim=NUM_CLASSES,
        model_type="SongUNet",
        label_dropout=label_dropout,
        **sizes.teacher,
    ).to(device)
    network = network.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
    average = copy.deepcopy(network).eval().requires_grad_(False)
    optimizer = torch.optim.Adam(network.parameters(), lr=1e-3, betas=(0.9, 0.99))
    modules = {"network": network, "average": average, "optimizer": optimizer}
    training = Training.begin(workdir, name, modules, restart_file)
    flips = recipe.flips
    stream = batches(
        images, labels, batch, seed=seed, start=training.seen, device=device, flips=flips
    )
    progress = Progress(training.seen, training)
    mean, deviation = recipe.sigma
    method = Denoising(p_mean=mean, p_std=deviation, augment=0.0)
    while training.seen < kimg * 1000:
        torch.manual_seed(seed * 1_000_003 + training.seen)
        loss = method.loss(*next(stream), network=network)
        rate = recipe.teacher_rate * training.ramp * _fall(training.seen / (kimg * 1000), recipe)
        for group in optimizer.param_groups:
            group["lr"] = rate
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimizer.step()
        training.seen += batch
        half_life = min(recipe.average_most, max(training.seen * recipe.average, 1))
        follow(average, network, batch, half_life)
        progress(training.seen, loss.item())
        if training.is_due(batch) or training.seen >= kimg * 1000:
            training.save()
            teachers.save(average, workdir / f"{name}.pkl")
    print(f"{workdir / name}.pkl after {training.seen} images")


def _fall(fraction: float, recipe: Recipe) -> float:
    """Factor on the learning rate: 1, and to zero over the last part where the recipe has one."""
    return min(1, (1 - fraction) / recipe.decay) if recipe.decay else 1.0
