"""Whether a teacher repeats the images that it was trained on.

A sample is taken for a near copy where its distance to the nearest training image is less than a
third of that to the second nearest, the criterion of Yoon et al. 2023 and of Gu et al. 2023
(arXiv:2310.02664), with the mean square over pixels. Images that were held out are looked up
likewise: what share of them a data set of repeated or very plain images would have called copies.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from refiners.training.inputs import ImageSet, draw_inputs
from refiners.training.pieces import JUDGE, seed_of
from roles import Student
from roles.streams import random_stream

NUM_SAMPLES = 64
NEAR = 1 / 3
BLOCK = 2**26  # numbers of the training images that are compared with at a time
SHOWN = 8  # samples in the picture
BATCH = 16


@dataclass(frozen=True)
class Copies:
    """What was found.

    Attributes:
        share: of the samples that are near copies.
        usual: of held-out images that the same rule calls so.
        pictures: samples above the training images nearest to them, float [2 SHOWN, c, h, w].
    """

    share: float
    usual: float
    pictures: torch.Tensor

    def line(self) -> dict[str, float]:
        """Return its numbers by name."""
        return {"near_copies": self.share, "held_out_near_copies": self.usual}


class Memory:
    """Looks samples up among the training images.

    Args:
        seen: the training images.
        held_out: others of the same law.
        xflip: whether a sample may repeat an image's mirror image.
        seed: of the samples.
    """

    def __init__(self, seen: ImageSet, held_out: ImageSet, *, xflip: bool, seed: int):
        self.seen, self.xflip, self.seed = seen.images, xflip, seed
        others = held_out.at(torch.arange(min(NUM_SAMPLES, len(held_out.images))))[0]
        self.usual = self._share(self.nearest(others)[0])

    @torch.no_grad()
    def look(self, student: Student) -> Copies:
        """Draw samples and return how many of them are near copies."""
        device = next(student.parameters()).device
        with random_stream(seed_of(self.seed, JUDGE, 3), device):
            z, labels = draw_inputs(student, NUM_SAMPLES, device)
            drawn = [
                student(z[i : i + BATCH], None if labels is None else labels[i : i + BATCH])
                for i in range(0, len(z), BATCH)
            ]
        samples = torch.cat(drawn).float().cpu().clamp(-1, 1)
        distances, which = self.nearest(samples)
        # The nearest first: whether the picture shows copies does not hang on the draw.
        order = (distances[:, 0] / distances[:, 1].clamp(min=1e-12)).argsort()[:SHOWN]
        originals = self.seen[which[order]].float() / 127.5 - 1
        return Copies(self._share(distances), self.usual, torch.cat([samples[order], originals]))

    def _share(self, distances: torch.Tensor) -> float:
        near = distances[:, 0].sqrt() < NEAR * distances[:, 1].sqrt()
        return near.float().mean().item()

    @torch.no_grad()
    def nearest(self, samples: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return square distances [n, 2] to the two nearest training images; which is nearest."""
        x = samples.flatten(1)
        norms = x.square().sum(dim=1, keepdim=True)
        best = torch.full([len(x), 2], torch.inf)
        which = torch.zeros(len(x), dtype=torch.long)
        count = max(2, BLOCK // x.shape[1])
        for first in range(0, len(self.seen), count):
            block = self.seen[first : first + count].float() / 127.5 - 1
            squares = block.square().sum(dim=[1, 2, 3])
            across = x @ block.flatten(1).T
            if self.xflip:
                across = torch.maximum(across, x @ block.flip(3).flatten(1).T)
            distances = (norms + squares - 2 * across).clamp(min=0)
            found, at = distances.topk(min(2, len(block)), dim=1, largest=False)
            which = torch.where(found[:, 0] < best[:, 0], at[:, 0] + first, which)
            best = torch.cat([best, found], dim=1).topk(2, dim=1, largest=False).values
        return best, which
