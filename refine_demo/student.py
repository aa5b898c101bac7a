"""The stage that trains the StyleGAN2 student."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import click
import torch
import torch.nn.functional as F
from torch import Tensor

import checkpoints
import students
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
from refiners.training.optimiser import follow
from students import originals
from students.stylegan2.discriminator import Discriminator
from students.stylegan2.generator import Generator

RATE = 2e-3
R1_EVERY = 16  # steps
# Rate and decay are scaled for R1 at some steps alone as in Karras et al. 2020, appendix B.
LAZY = R1_EVERY / (R1_EVERY + 1)


@click.command()
@stage
@continued("student")
@click.option("--kimg", type=float, default=60, show_default=True)
@click.option("--batch", type=int, help="Images of a step; the size has its own.")
@click.option("--conditional", is_flag=True, help="Give both networks the classes.")
@click.option("--snapshots", default="", help="Kimg at which a copy is kept: 100,300.")
@click.option(
    "--start",
    type=click.Path(exists=True, path_type=Path),
    help="Pickle whose networks a new training goes on from, with fresh optimisers.",
)
@click.option("--start-kimg", type=float, default=60, show_default=True, help="Of that pickle.")
def student(
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
    conditional: bool,
    snapshots: str,
    start: Path | None,
    start_kimg: float,
) -> None:
    """Train the StyleGAN2 generator: logistic loss with R1 (Karras et al. 2020), stopped early."""
    torch.set_num_threads(threads)
    workdir.mkdir(parents=True, exist_ok=True)
    strengths = [float(text) for text in snapshots.split(",") if text]
    images, labels = load_images(data, workdir)
    torch.manual_seed(seed)
    recipe = SIZES[size].recipe
    batch = batch or recipe.student_batch
    generator, discriminator = _networks(size, conditional=conditional, device=device)
    average = copy.deepcopy(generator).eval().requires_grad_(False)
    g_opt = torch.optim.Adam(generator.parameters(), lr=RATE, betas=(0.0, 0.99))
    d_opt = torch.optim.Adam(discriminator.parameters(), lr=RATE * LAZY, betas=(0.0, 0.99**LAZY))
    modules = {
        "generator": generator,
        "discriminator": discriminator,
        "average": average,
        "g_opt": g_opt,
        "d_opt": d_opt,
    }
    training = Training.begin(workdir, name, modules, restart_file)
    if start is not None and not training.seen:
        held = {"G": generator, "D": discriminator, "G_ema": average}
        for key, network in held.items():
            network.load_state_dict(students.load(start, network=key, device=device).state_dict())
        training.seen = training.seam = round(start_kimg * 1000)
    flips = recipe.flips
    stream = batches(
        images, labels, batch, seed=seed, start=training.seen, device=device, flips=flips
    )
    progress = Progress(training.seen, training)
    while training.seen < kimg * 1000:
        torch.manual_seed(seed * 1_000_003 + training.seen)
        if training.seam:
            g_opt.param_groups[0]["lr"] = RATE * training.ramp
            d_opt.param_groups[0]["lr"] = RATE * LAZY * training.ramp
        g_loss = _generator_step(generator, discriminator, g_opt, batch, recipe)
        is_lazy = training.seen // batch % R1_EVERY == 0
        d_loss = _discriminator_step(
            generator, discriminator, d_opt, next(stream), recipe, with_r1=is_lazy
        )
        training.seen += batch
        if recipe.student_average is None:
            half_life = min(recipe.average_most, training.seen * recipe.average)
            follow(average, generator, batch, half_life)
        else:
            follow(average, generator, 1, recipe.student_average)
        progress(training.seen, g_loss, d_loss=d_loss)
        if training.is_due(batch) or training.seen >= kimg * 1000:
            training.save()
            _write(workdir / f"{name}.pkl", generator, discriminator, average)
        for strength in strengths:
            if training.seen - batch < strength * 1000 <= training.seen:
                path = workdir / f"{name}-{round(strength):06d}.pkl"
                _write(path, generator, discriminator, average)
    print(f"{workdir / name}.pkl after {training.seen} images")


def _networks(size: str, *, conditional: bool, device: str) -> tuple[Generator, Discriminator]:
    sizes = SIZES[size]
    width: dict[str, Any] = dict(sizes.student)
    common: dict[str, Any] = {
        "c_dim": NUM_CLASSES if conditional else 0,
        "img_resolution": 32,
        "img_channels": sizes.img_channels,
    }
    generator = Generator(
        z_dim=sizes.z_dim,
        w_dim=sizes.z_dim,
        mapping_kwargs={"num_layers": 2},
        synthesis_kwargs=width,
        **common,
    )
    # The classes' own mapping, eight layers by default, would outweigh a small network.
    mapping: dict[str, Any] = {"mapping_kwargs": {"num_layers": 2}} if conditional else {}
    discriminator = Discriminator(**width, **common, **mapping)
    return generator.to(device), discriminator.to(device)


def draw(generator: Generator, n: int) -> tuple[Tensor, Tensor | None]:
    """Draw latents, and classes where the generator has them, on its device."""
    device = next(generator.parameters()).device
    z = torch.randn([n, generator.z_dim], device=device)
    if not generator.c_dim:
        return z, None
    classes = torch.randint(generator.c_dim, [n], device=device)
    return z, F.one_hot(classes, generator.c_dim).float()


def _generator_step(
    generator: Generator,
    discriminator: Discriminator,
    optimizer: torch.optim.Optimizer,
    batch: int,
    recipe: Recipe,
) -> float:
    """Make the generator's images likelier to be taken for real; return the loss."""
    discriminator.requires_grad_(False)
    z, c = draw(generator, batch)
    loss = F.softplus(-discriminator(_seen(generator(z, c), recipe), c)).mean()
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    return loss.item()


def _discriminator_step(
    generator: Generator,
    discriminator: Discriminator,
    optimizer: torch.optim.Optimizer,
    drawn: tuple[Tensor, Tensor],
    recipe: Recipe,
    *,
    with_r1: bool,
) -> float:
    """Tell real images from generated ones, at times with R1; return the loss."""
    discriminator.requires_grad_(True)
    real = drawn[0].requires_grad_(with_r1)
    with torch.no_grad():
        z, c = draw(generator, len(real))
        fake = generator(z, c)
    logits = discriminator(_seen(real, recipe), drawn[1] if generator.c_dim else None)
    told = F.softplus(discriminator(_seen(fake, recipe), c)).mean() + F.softplus(-logits).mean()
    loss = told
    if with_r1:
        (slope,) = torch.autograd.grad(logits.sum(), real, create_graph=True)
        penalty = slope.square().sum(dim=[1, 2, 3]).mean()
        loss = told + recipe.r1 * R1_EVERY * 0.5 * penalty
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    return told.item()


def _seen(images: Tensor, recipe: Recipe) -> Tensor:
    """Return what the discriminator sees of images, real or generated."""
    return images if recipe.augmentation is None else recipe.augmentation(images)


def _write(
    path: Path, generator: Generator, discriminator: Discriminator, average: Generator
) -> None:
    """Write the networks in the layout of StyleGAN2-ADA pickles."""
    networks = {"G": generator, "D": discriminator, "G_ema": average}
    records = {
        name: originals.describe(copy.deepcopy(network).cpu().eval().requires_grad_(False))
        for name, network in networks.items()
    }
    file = {"training_set_kwargs": {}, **records, "augment_pipe": None}
    checkpoints.write(file, path)
