"""Take the same steps with our loop and with the official networks and losses, and compare.

    python -m benchmarks.agreement --official DIR [--steps 10] [--seed 0]

DIR is a checkout of the official Diff-Instruct repository. Both sides begin with the same small
DDPM++ (random weights, no dropout) as teacher, student and auxiliary, and draw from one random
stream; the official loop's second batch of images is given the noise of its first, as ours makes
one. Printed is the error in norm, relative: of all parameters together, and of the worst tensor.
"""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import click
import torch

from benchmarks.published import (
    PublishedLoop,
    official_denoiser,
    published_settings,
    without_cuda_streams,
)
from refiners import Refinement
from refiners.diff_instruct import DiffInstruct
from refiners.training.optimiser import random_stream
from students.adapters.one_step import OneStep
from teachers.edm import EDMPrecond

BATCH, RATE, INIT_SIGMA, RESOLUTION = 8, 1e-3, 1.0, 8


def small_denoiser() -> EDMPrecond:
    """Return a DDPM++ whose last layers are not the zeros of a new network."""
    network = EDMPrecond(
        RESOLUTION, 1, model_type="SongUNet", model_channels=8, channel_mult=[1], num_blocks=1,
        augment_dim=9, dropout=0.0,
    )  # fmt: skip
    for parameter in network.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    return network


class NoiseTwice:
    """Generates from new noise and then from the same again, in turn."""

    def __init__(self) -> None:
        self.z: torch.Tensor | None = None

    def __call__(self, student: Any, batch: int) -> torch.Tensor:
        """Return images [batch, 1, h, w]."""
        z = torch.randn([batch, RESOLUTION**2]) if self.z is None else self.z
        self.z = z if self.z is None else None
        x = INIT_SIGMA * z.reshape(batch, 1, RESOLUTION, RESOLUTION)
        return student(x, torch.full([batch], INIT_SIGMA), None)


def errors(official: Path, *, steps: int, seed: int) -> dict[str, tuple[float, float]]:
    """Return the relative errors of each network, and how far ours moved."""
    torch.manual_seed(seed)
    teacher = small_denoiser()
    settings = published_settings(batch=BATCH, rate=RATE, seed=seed)
    student = OneStep(copy.deepcopy(teacher), sigma_init=INIT_SIGMA)
    ours = Refinement(student, teacher, DiffInstruct(), settings)
    network, loss = official_denoiser(official, teacher)
    theirs = PublishedLoop(
        copy.deepcopy(network), NoiseTwice(), network, loss, batch=BATCH, rate=RATE
    )
    for step in range(steps):
        ours.advance()
        with random_stream(seed * 1_000_003 + step, ours.device), without_cuda_streams():
            theirs.advance()
    return {
        "student": relative(ours.student.denoiser, theirs.student),
        "its average": relative(ours.average.denoiser, theirs.average),
        "auxiliary": relative(ours.auxiliary, theirs.auxiliary),
        "for scale, student to teacher": relative(ours.student.denoiser, teacher),
    }


def relative(ours: torch.nn.Module, theirs: torch.nn.Module) -> tuple[float, float]:
    """Return the relative error in norm of all parameters together, and of the worst tensor."""
    pairs = list(zip(ours.parameters(), theirs.parameters(), strict=True))
    error = torch.stack([(a - b).norm() for a, b in pairs])
    size = torch.stack([b.norm() for _, b in pairs])
    return (error.norm() / size.norm()).item(), (error / size).max().item()


@click.command()
@click.option(
    "--official", metavar="DIR", type=click.Path(path_type=Path, exists=True), required=True
)
@click.option("--steps", metavar="INT", type=click.IntRange(min=1), default=10, show_default=True)
@click.option("--seed", metavar="INT", type=int, default=0, show_default=True)
def main(official: Path, steps: int, seed: int) -> None:
    """Compare our parameters with those of the official networks and losses after some steps."""
    click.echo(f"{'':30} {'all':>8} {'worst':>8}")
    for name, (whole, worst) in errors(official, steps=steps, seed=seed).items():
        click.echo(f"{name:30} {whole:8.1e} {worst:8.1e}")


if __name__ == "__main__":
    main()
