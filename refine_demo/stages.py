"""What the stages of refine_demo.train share: images, states, progress, options."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar

import click
import numpy as np
import torch
import torch.nn.functional as F

import checkpoints
import image_sets
from refine_demo.sizes import SIZES

NUM_CLASSES = 10
Command = TypeVar("Command", bound=Callable[..., object])


def load_images(data: Path, workdir: Path) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the training images, uint8 [n, c, 32, 32], and labels int64 [n]; cached."""
    cache = workdir / "images32.npz"
    if not cache.exists():
        images, labels = image_sets.read_class_folders(data, split="train", pad_to=32)
        np.savez(cache, images=images, labels=labels)
    with np.load(cache) as arrays:
        return torch.from_numpy(arrays["images"]), torch.from_numpy(arrays["labels"])


def batches(
    images: torch.Tensor,
    labels: torch.Tensor,
    batch: int,
    *,
    seed: int,
    start: int,
    device: str = "cpu",
) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Yield float images in [-1, 1] and one-hot labels; a draw depends on seed and step alone."""
    step = start // batch
    while True:
        generator = torch.Generator().manual_seed(seed * 1_000_003 + step)
        pick = torch.randint(len(images), [batch], generator=generator)
        x = images[pick].to(device).float() / 127.5 - 1
        yield x, F.one_hot(labels[pick], NUM_CLASSES).float().to(device)
        step += 1


def save_state(path: Path, modules: Mapping[str, Any], num_images: int) -> None:
    """Write the modules' states and the number of images seen, as a whole or not at all."""
    state = {name: module.state_dict() for name, module in modules.items()}
    with checkpoints.replacing(path) as file:
        torch.save(state | {"num_images": num_images}, file)


def load_state(path: Path, modules: Mapping[str, Any]) -> int:
    """Restore modules from a state file if there is one; return the number of images seen."""
    if not path.exists():
        return 0
    state = torch.load(path, weights_only=True, map_location="cpu")
    for name, module in modules.items():
        module.load_state_dict(state[name])
    print(f"continuing {path} at {state['num_images']} images", flush=True)
    return state["num_images"]


class Progress:
    """Print images, rate and a running loss every few seconds."""

    def __init__(self, start: int):
        self.time, self.images, self.losses = time.time(), start, []

    def __call__(self, num_images: int, loss: float) -> None:
        """Take the loss of a step; print when it is time."""
        self.losses.append(loss)
        passed = time.time() - self.time
        if passed > 20:
            rate = (num_images - self.images) / passed
            mean = sum(self.losses) / len(self.losses)
            print(f"{num_images / 1000:8.1f} kimg  {rate:6.1f} img/s  loss {mean:.4f}", flush=True)
            self.time, self.images, self.losses = time.time(), num_images, []


def stage(function: Command) -> Command:
    """Add the options that every training stage takes."""
    for option in (
        click.option("--data", type=click.Path(exists=True, path_type=Path), required=True),
        click.option("--workdir", type=click.Path(path_type=Path), required=True),
        click.option("--seed", type=int, default=0, show_default=True),
        click.option("--threads", type=int, default=1, show_default=True),
        click.option("--size", type=click.Choice(tuple(SIZES)), default="mnist", show_default=True),
        click.option("--device", type=click.Choice(["cpu", "cuda"]), default="cpu"),
    ):
        function = option(function)
    return function
