"""How a teacher fares on images that it does not see: its loss over the noise levels.

The images, the levels and the noise are the same at every call. The same is measured on as many of
the images that it is trained on: where their loss goes on falling and that of the others does not,
the network begins to learn the images instead of their law.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import cast

import torch

from refiners.denoising import Denoising
from refiners.runs.training_images import TrainingImages
from refiners.training.inputs import ImageSet
from refiners.training.pieces import JUDGE, seed_of
from roles import Denoiser
from roles.streams import random_stream

NUM_IMAGES = 250  # of each part
NUM_LEVELS = 8  # parts of the law of sigma of equal weight, one level in each for every image
BATCH = 125
FILE = "metric-validation.jsonl"


class Validation:
    """Measures a denoiser on both parts of a data set.

    Args:
        images: the data set.
        method: whose loss it is.
        seed: of the images that are taken, their levels and their noise.
        device: where the denoisers are.
    """

    def __init__(
        self, images: TrainingImages, method: Denoising, *, seed: int, device: torch.device
    ):
        self.method, self.seed, self.device = method, seed, device
        self.parts = {"held_out": images.held_out, "seen": images.seen}

    @property
    def levels(self) -> list[float]:
        """The noise level in the middle of each part of the law."""
        quantiles = (torch.arange(NUM_LEVELS, dtype=torch.float64) + 0.5) / NUM_LEVELS
        return self.method.levels(quantiles).tolist()

    @torch.no_grad()
    def losses(self, denoiser: Denoiser, part: str) -> list[float]:
        """Return the mean loss of a part ("held_out", "seen") at each of the levels."""
        images, device = self.parts[part], self.device
        count = min(NUM_IMAGES, len(self.parts["held_out"].images))
        with random_stream(seed_of(self.seed, JUDGE, 2), device):
            chosen = torch.randperm(len(images.images))[:count]
            within = torch.rand([NUM_LEVELS, count], dtype=torch.float64)
            found = []
            for level in range(NUM_LEVELS):
                sigma = self.method.levels((level + within[level]) / NUM_LEVELS).float().to(device)
                errors = [
                    self._errors(denoiser, images, some, sigma[at])
                    for some, at in zip(
                        chosen.split(BATCH), torch.arange(count).split(BATCH), strict=True
                    )
                ]
                found.append(torch.cat(errors).mean().item())
        return found

    def _errors(
        self, denoiser: Denoiser, images: ImageSet, chosen: torch.Tensor, sigma: torch.Tensor
    ) -> torch.Tensor:
        x_0, labels = images.at(chosen)
        x_0 = x_0.to(self.device)
        labels = None if labels is None or not denoiser.label_dim else labels.to(self.device)
        x = x_0 + sigma[:, None, None, None] * torch.randn_like(x_0)
        return self.method.errors(denoiser(x, sigma, labels), x_0, sigma)

    def line(self, denoiser: Denoiser, kimg: float) -> dict[str, object]:
        """Return a line of FILE: both parts' losses, in all and at each level."""
        line: dict[str, object] = {"kimg": kimg}
        over = {part: self.losses(denoiser, part) for part in self.parts}
        line |= {part: sum(values) / NUM_LEVELS for part, values in over.items()}
        line["sigma"] = [round(level, 4) for level in self.levels]
        return line | {f"{part}_over_sigma": values for part, values in over.items()}


def mean_of(line: Mapping[str, object], part: str) -> float:
    """Return a part's loss over all levels, of a line."""
    return cast("float", line[part])
