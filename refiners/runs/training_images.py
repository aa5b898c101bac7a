"""The images that a teacher is trained on: read once, checked, and a tenth of them held out."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass

import numpy as np
import torch

import checkpoints
import image_sets
from refiners.training.inputs import ImageSet
from teachers.sizes import SIDES

LEAST_IMAGES = 100  # below, a held-out tenth says nothing, and a network repeats what it was shown
HELD_OUT = 10  # one image in so many
BATCH = 500  # of images that are decoded at a time
IN_MEMORY = 2**31  # bytes of images; beyond, they are in a file of pixels that the system pages


@dataclass(frozen=True)
class TrainingImages:
    """A data set in two parts, drawn by a seed; images are uint8 [n, c, r, r].

    Attributes:
        seen: what is trained on.
        held_out: one image in HELD_OUT, which is not.
        label_dim: number of classes, or length of a label vector; 0 where there are none.
        remark: what was found, for people.
    """

    seen: ImageSet
    held_out: ImageSet
    label_dim: int
    remark: str

    @property
    def img_resolution(self) -> int:
        """Height and width of the images."""
        return self.seen.images.shape[-1]

    @property
    def img_channels(self) -> int:
        """Channels of the images."""
        return self.seen.images.shape[1]


def read_training_images(source: str, *, seed: int) -> TrainingImages:
    """Decode a folder or zip once and return it in two parts.

    Raises:
        ValueError: too few images, a size that no teacher here has, images of several sizes,
            labels that some lack.
        OSError: they cannot be read.
    """
    folder = image_sets.ImageFolder(checkpoints.local_data(source))
    n, (c, h, w) = len(folder), folder.shape
    if n < LEAST_IMAGES:
        raise ValueError(
            f"{source} has {n} images; a teacher takes at least {LEAST_IMAGES}, and is worth "
            "little below 500"
        )
    if h != w or h not in SIDES or c not in (1, 3):
        sides = ", ".join(map(str, SIDES))
        raise ValueError(
            f"{source} has images of {h} x {w} with {c} channels; a teacher takes squares of "
            f"{sides} pixels, gray or RGB: 'refine.py dataset --source {source} --dest NEW.zip "
            f"--resolution {min(max(SIDES), max(min(SIDES), 1 << (min(h, w).bit_length() - 1)))}' "
            "makes them, and 'gan --adapt area' brings a larger generator to such a teacher"
        )
    # Those to train on come first, in the order of the set, then those held out: no copy of any.
    drawn = torch.randperm(n, generator=torch.Generator().manual_seed(seed))
    held = torch.zeros(n, dtype=torch.bool)
    held[drawn[: n // HELD_OUT]] = True
    order = torch.cat([(~held).nonzero()[:, 0], held.nonzero()[:, 0]])
    place = order.argsort()
    images = _pixels((n, c, h, w))
    done = 0
    for part, _ in folder.batches(BATCH):
        images[place[done : done + len(part)]] = torch.from_numpy(part)
        done += len(part)
    labels = None
    if folder.labels is not None and folder.num_classes > 1:
        labels = torch.from_numpy(np.stack([folder.label(int(i)) for i in order]))
    count = n - n // HELD_OUT
    classes = f"of {folder.num_classes} classes" if labels is not None else "without classes"
    return TrainingImages(
        ImageSet(images[:count], None if labels is None else labels[:count]),
        ImageSet(images[count:], None if labels is None else labels[count:]),
        label_dim=0 if labels is None else labels.shape[1],
        remark=f"{n} images of {h} x {w}, {c} channels, {classes}: "
        f"{count} to train on, {n - count} held out",
    )


def _pixels(shape: tuple[int, int, int, int]) -> torch.Tensor:
    """Return room for images, uint8, in memory or in a file that goes with the process."""
    count = int(np.prod(shape))
    if count <= IN_MEMORY:
        return torch.empty(shape, dtype=torch.uint8)
    with tempfile.TemporaryFile() as file:  # closed, it stays as long as it is mapped
        return torch.from_numpy(np.memmap(file, dtype=np.uint8, mode="w+", shape=shape))
