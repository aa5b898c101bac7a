"""What the stages of refine_demo.train share: images, states, curves, options."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import click
import numpy as np
import torch
import torch.nn.functional as F

import checkpoints
import image_sets
from refine_demo import restart
from refine_demo.sizes import SIZES

NUM_CLASSES = 10
Command = TypeVar("Command", bound=Callable[..., object])
SAVE_EVERY = 20_000  # images
SAVE_SECONDS = 600  # at the latest: on a busy machine 20,000 images take an hour
LINE_EVERY = 5_000  # images, of the curve
RAMP_IMAGES = 5_000  # in which the learning rate rises at first
SEAM_RAMP_IMAGES = 10_000  # and after a restart, whose optimiser knows nothing


def load_images(data: Path, workdir: Path) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the training images, uint8 [n, c, 32, 32], and labels int64 [n]; cached."""
    cache = workdir / "images32.npz"
    if not cache.exists():
        images, labels = image_sets.read_class_folders(data, split="train", pad_to=32)
        with checkpoints.replacing(cache) as file:
            np.savez(file, images=images, labels=labels)
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
    flips: bool = False,
) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Yield float images in [-1, 1] and one-hot labels; a draw depends on seed and step alone.

    With `flips`, half of the images are mirrored.
    """
    step = start // batch
    while True:
        generator = torch.Generator().manual_seed(seed * 1_000_003 + step)
        pick = torch.randint(len(images), [batch], generator=generator)
        x = images[pick].to(device).float() / 127.5 - 1
        if flips:
            mirrored = torch.rand([batch], generator=generator) < 0.5
            x = torch.where(mirrored.to(device)[:, None, None, None], x.flip(3), x)
        yield x, F.one_hot(labels[pick], NUM_CLASSES).float().to(device)
        step += 1


@dataclass
class Training:
    """Where a training stands, and its files in the work folder.

    Attributes:
        path: the state, NAME.pt; the curve is NAME.jsonl beside it.
        modules: what the state is of: networks under the names of the restart file, optimisers.
        seen: images seen.
        seam: images seen when the optimiser was made: 0, or where a restart file was continued.
        core_seconds: of this process and those before, without what a lost state had cost.
        saved: when the state was written, on time.monotonic.
    """

    path: Path
    modules: Mapping[str, Any]
    seen: int = 0
    seam: int = 0
    core_seconds: float = 0.0
    saved: float = field(default_factory=time.monotonic)

    @classmethod
    def begin(
        cls, workdir: Path, name: str, modules: Mapping[str, Any], restart_file: Path | None
    ) -> Training:
        """Continue the state in the work folder, else a restart file with its curve, else begin.

        Raises:
            ValueError: the restart file does not fit the networks.
        """
        training = cls(workdir / f"{name}.pt", modules)
        if training.path.exists():
            training._load()
        elif restart_file is not None:
            counts = restart.load(restart_file, modules)
            training.seen = training.seam = counts["num_images"]
            training.core_seconds = counts["core_seconds"] - time.process_time()
            kept = restart.curve_of(restart_file)
            if kept.exists():
                shutil.copyfile(kept, training.curve)
            training.write({"seam": "restart file, fresh optimiser"})
            print(f"continuing {restart_file} at {training.seen} images", flush=True)
        else:
            training.curve.unlink(missing_ok=True)
        return training

    @property
    def curve(self) -> Path:
        """The file of the curve's lines."""
        return self.path.with_suffix(".jsonl")

    @property
    def ramp(self) -> float:
        """Factor on the learning rate, which rises from 0 to 1 after the beginning and a seam."""
        if self.seam:
            return min((self.seen - self.seam) / SEAM_RAMP_IMAGES, 1)
        return min(self.seen / RAMP_IMAGES, 1)

    def is_due(self, batch: int) -> bool:
        """Whether the step of `batch` images that led to `seen` is one to save after."""
        late = time.monotonic() - self.saved > SAVE_SECONDS
        return late or self.seen // SAVE_EVERY != (self.seen - batch) // SAVE_EVERY

    def save(self) -> None:
        """Write the modules' states and the counts, as a whole or not at all."""
        state = {name: module.state_dict() for name, module in self.modules.items()}
        counts = {
            "num_images": self.seen,
            "seam": self.seam,
            "core_seconds": self.core_seconds + time.process_time(),
        }
        with checkpoints.replacing(self.path) as file:
            torch.save(state | counts, file)
        self.saved = time.monotonic()

    def _load(self) -> None:
        state = torch.load(self.path, weights_only=True, map_location="cpu")
        for name, module in self.modules.items():
            module.load_state_dict(state[name])
        self.seen = state["num_images"]
        self.seam = state.get("seam", 0)
        self.core_seconds = state.get("core_seconds", 0.0) - time.process_time()
        # What the curve knows beyond the state was lost with the process, and comes again.
        kept = [line for line in read_curve(self.curve) if line["kimg"] <= self.seen / 1000]
        with checkpoints.replacing(self.curve) as file:
            file.writelines(json.dumps(line).encode() + b"\n" for line in kept)
        print(f"continuing {self.path} at {self.seen} images", flush=True)

    def write(self, facts: Mapping[str, Any]) -> None:
        """Append a line to the curve."""
        append_line(self.curve, {"kimg": self.seen / 1000} | dict(facts))


def read_curve(path: Path) -> list[dict[str, Any]]:
    """Return the lines of a curve, none where there is no file; one cut short is left out."""
    if not path.exists():
        return []
    lines = path.read_text(encoding="utf-8").split("\n")[:-1]
    return [json.loads(line) for line in lines]


def append_line(path: Path, facts: Mapping[str, Any]) -> None:
    """Append a line to a curve."""
    rounded = {k: round(v, 4) if isinstance(v, float) else v for k, v in facts.items()}
    with open(path, "a", encoding="utf-8") as file:
        file.write(json.dumps(rounded) + "\n")


class Progress:
    """Print images, rate and a running loss every few seconds, and give a training its curve."""

    def __init__(self, start: int, training: Training | None = None):
        self.training = training
        self.time, self.images, self.losses = time.time(), start, []
        self.line_time, self.line_images, self.sums = time.time(), start, {}

    def __call__(self, num_images: int, loss: float, **more: float) -> None:
        """Take the losses of a step; print and write when it is time."""
        self.losses.append(loss)
        passed = time.time() - self.time
        if passed > 20:
            rate = (num_images - self.images) / passed
            mean = sum(self.losses) / len(self.losses)
            print(f"{num_images / 1000:8.1f} kimg  {rate:6.1f} img/s  loss {mean:.4f}", flush=True)
            self.time, self.images, self.losses = time.time(), num_images, []
        if self.training is not None:
            for name, value in {"loss": loss, **more}.items():
                self.sums.setdefault(name, []).append(value)
            if num_images // LINE_EVERY > self.line_images // LINE_EVERY:
                self._line(num_images)

    def _line(self, num_images: int) -> None:
        assert self.training is not None
        rate = (num_images - self.line_images) / (time.time() - self.line_time)
        hours = (self.training.core_seconds + time.process_time()) / 3600
        means = {name: sum(values) / len(values) for name, values in self.sums.items()}
        self.training.write({"images_per_s": rate, "core_hours": hours} | means)
        self.line_time, self.line_images, self.sums = time.time(), num_images, {}


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


def continued(name: str) -> Callable[[Command], Command]:
    """Add the options of a stage that can be stopped; `name` is what it calls its files."""
    options = (
        click.option("--name", default=name, show_default=True, help="Name of its files."),
        click.option(
            "--restart",
            "restart_file",
            type=click.Path(exists=True, path_type=Path),
            help="Restart file to continue where the work folder has no state.",
        ),
    )

    def add(function: Command) -> Command:
        for option in options:
            function = option(function)
        return function

    return add
