"""Our training step of a teacher beside the official EDM code's: how fast, and how near.

    python -m benchmarks.teach --official DIR [--data ZIP] [--size small] [--net KEY=VALUE ...]
                               [--batch 32] [--steps 20] [--channels-last]

--official is a checkout of the official EDM repository, whose network and loss are the other side;
its loop's body, Adam and average, is written anew here. Both sides have the same weights, images,
noise levels and noise; dropout and augmentation are off, as each would draw its own. Every step is
timed on both in turn, so that a machine that slows down slows both; the losses are of the same
images. Without --data the images are noise, whose loss says nothing but whether they agree.
"""

from __future__ import annotations

import copy
import importlib
import sys
from pathlib import Path
from typing import Any

import click
import torch

from benchmarks import machine
from refiners import ImageSet, Settings
from refiners.denoising import Denoising
from refiners.runs.recipes import TEACHER_SIZES
from refiners.runs.teacher_sampler import TeacherSampler
from refiners.runs.training_images import read_training_images
from refiners.training.inputs import source_stream
from refiners.training.optimiser import follow, half_life_of
from refiners.training.pieces import seed_of
from refiners.training.teaching import Teaching
from roles.streams import random_stream
from teachers.sizes import SIZES, new_teacher, parse_changes


class OfficialStep:
    """The body of the official loop: loss, gradients without NaN, Adam, average.

    Args:
        network: of the checkout, in place.
        loss: of the checkout.
        images: source of images.
        settings: of ours.
    """

    def __init__(self, network: Any, loss: Any, images: ImageSet, settings: Settings):
        self.network = network.train().requires_grad_(True)
        self.average = copy.deepcopy(network).eval().requires_grad_(False)
        self.loss, self.images, self.settings, self.step = loss, images, settings, 0
        betas = (settings.beta1, settings.beta2)
        self.adam = torch.optim.Adam(network.parameters(), lr=settings.lr, betas=betas, eps=1e-8)

    def advance(self) -> float:
        """Do one step and return its loss."""
        settings = self.settings
        seen = self.step * settings.batch
        with random_stream(seed_of(settings.seed, self.step), torch.device("cpu")):
            torch.manual_seed(seed_of(settings.seed, self.step, 0))
            x_0, labels = self.images(settings.batch, source_stream())
            self.adam.zero_grad(set_to_none=True)
            loss = self.loss(net=self.network, images=x_0, labels=labels)
            loss.sum().mul(1 / settings.batch).backward()
        for group in self.adam.param_groups:
            group["lr"] = settings.rate_after(seen + settings.batch, settings.lr)
        for parameter in self.network.parameters():
            if parameter.grad is not None:
                torch.nan_to_num_(parameter.grad, nan=0, posinf=1e5, neginf=-1e5)
        self.adam.step()
        follow(self.average, self.network, settings.batch, half_life_of(settings, seen))
        self.step += 1
        return loss.mean().item()


def two_sides(
    official: Path,
    data: str | None,
    *,
    size: str,
    net: tuple[str, ...],
    batch: int,
    steps: int,
    channels_last: bool,
) -> dict[str, Any]:
    """Return both sides' seconds and losses of each step, after one that warms up."""
    if data is None:
        pixels = torch.randint(0, 256, [500, 3, 32, 32], dtype=torch.uint8)
        images, label_dim = ImageSet(pixels), 0
    else:
        found = read_training_images(data, seed=0)
        images, label_dim = found.seen, found.label_dim
    changes = {**parse_changes(net), "dropout": 0.0, "label_dropout": 0.0}
    c, r = images.images.shape[1:3]
    torch.manual_seed(0)
    network = new_teacher(
        size, img_resolution=r, img_channels=c, label_dim=label_dim, changes=changes
    )
    row = {
        **TEACHER_SIZES[size],
        "clip": 0.0,
        "batch": batch,
        "rampup_kimg": 0.0,
        "kimg": steps * batch / 1000,
    }
    settings = Settings(**row, channels_last=channels_last)
    ours = Teaching(
        network,
        Denoising(augment=0.0),
        settings,
        real_images=images,
        sampler=lambda denoiser: TeacherSampler(denoiser, num_steps=2),
    )
    # Its classes ask for their modules by name whenever one is made or copied.
    sys.path.insert(0, str(official))
    loss = importlib.import_module("training.loss").EDMLoss()
    made = importlib.import_module("training.networks").EDMPrecond(**network.init_kwargs)
    made.load_state_dict(network.state_dict())
    theirs = OfficialStep(made, loss, images, settings)
    sys.path.remove(str(official))
    for known in [n for n in sys.modules if n.split(".")[0] in ("training", "torch_utils")]:
        del sys.modules[known]  # names that other checkouts have too
    losses: dict[str, list[float]] = {"official": [], "ours": []}
    ways = {
        "official": lambda: losses["official"].append(theirs.advance()),
        "ours": lambda: losses["ours"].append(ours.advance()["Loss/loss"]),
    }
    return {"seconds": machine.in_turn(ways, steps - 1), "losses": losses}


def table(found: dict[str, Any], batch: int) -> str:
    """Return times, ratio and losses as text."""
    lines = [f"{'step':10} {'s':>8} {'min':>8} {'max':>8} {'images/s':>9} {'loss':>9}"]
    for name, taken in found["seconds"].items():
        of, losses = machine.spread(taken), found["losses"][name]
        last = losses[len(losses) // 2 :]
        lines.append(
            f"{name:10} {of['median']:8.3f} {of['min']:8.3f} {of['max']:8.3f} "
            f"{batch / of['median']:9.1f} {sum(last) / len(last):9.4f}"
        )
    ratios = [a / b for a, b in zip(*found["seconds"].values(), strict=True)]
    of = machine.spread(ratios)
    apart = max(abs(a / b - 1) for a, b in zip(*found["losses"].values(), strict=True))
    lines += [
        "",
        f"ours is {of['median']:.2f} times as fast, by step {of['min']:.2f} to {of['max']:.2f}",
        f"the losses of {len(losses)} steps differ by at most {apart:.1e} of their value; "
        "those above are of the second half",
    ]
    return "\n".join(lines)


@click.command()
@machine.official_option(of="the official EDM repository", required=True)
@click.option("--data", metavar="ZIP|DIR", help="Images to train on.")
@click.option("--size", type=click.Choice(tuple(SIZES)), default="small", show_default=True)
@click.option("--net", metavar="KEY=VALUE", multiple=True, help="As for refine.py teach.")
@click.option("--channels-last", is_flag=True, help="Keep our network's weights channels last.")
@machine.number_option("--batch", 32)
@machine.number_option("--steps", 20, least=2)
@machine.threads_option
@machine.json_option
def main(
    official: Path,
    data: str | None,
    size: str,
    net: tuple[str, ...],
    channels_last: bool,
    batch: int,
    steps: int,
    json_file: Path | None,
) -> None:
    """Time our step of a teacher's training against the official code's on the same images."""
    found = two_sides(
        official, data, size=size, net=net, batch=batch, steps=steps, channels_last=channels_last
    )
    told = f"size {size} {' '.join(net)}, batch {batch}, {steps} steps in turn, {data or 'noise'}"
    machine.report(f"{told}\n\n{table(found, batch)}", found, json_file)


if __name__ == "__main__":
    main()
