"""The images that a run compares the student's with: a data set's, or samples of the teacher."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import torch

import image_sets
import teachers
from refiners.training.inputs import ImageSet
from roles import Denoiser
from roles.pixels import to_uint8

BATCH = 250


def make_teacher_images(
    path: Path,
    teacher: Denoiser,
    num_images: int,
    *,
    seed: int,
    steps: int,
    progress: Callable[[int, int], None],
) -> Path:
    """Write samples of the teacher as a data set in the StyleGAN layout; a finished one is kept.

    A teacher with classes is asked for each equally often: guided by its label it draws better than
    without, and the mixture is the unconditional law where the classes are equally frequent.
    """
    if path.exists():
        return path
    labels = np.arange(num_images) % teacher.label_dim if teacher.label_dim else None

    def images() -> Iterator[np.ndarray]:
        for first in range(0, num_images, BATCH):
            n = min(BATCH, num_images - first)
            classes = None if labels is None else labels[first : first + n]
            yield from sample(teacher, n, classes, seed=seed + first, steps=steps)
            progress(first + n, num_images)

    image_sets.write_zip(path, images(), labels)
    return path


def sample(
    teacher: Denoiser, n: int, classes: np.ndarray | None, *, seed: int, steps: int
) -> np.ndarray:
    """Return n samples of the teacher as uint8 [n, c, h, w], of these classes if it has any."""
    device = next(teacher.parameters()).device
    generator = torch.Generator().manual_seed(seed)
    shape = [n, teacher.img_channels, teacher.img_resolution, teacher.img_resolution]
    labels = None
    if classes is not None:
        labels = torch.eye(teacher.label_dim)[torch.as_tensor(classes)].to(device)
    latents = torch.randn(shape, generator=generator).to(device)
    x_0 = teachers.sample(teacher, latents, labels=labels, num_steps=steps)
    return to_uint8(x_0).cpu().numpy()


def read_images(path: Path | str, teacher: Denoiser) -> ImageSet:
    """Return a folder or zip of images as a source for refiners, kept in memory as uint8.

    Raises:
        ValueError: the images are not of the teacher's size, or have other classes.
        OSError: they cannot be read.
    """
    folder = image_sets.ImageFolder(path)
    shape = (teacher.img_channels, teacher.img_resolution, teacher.img_resolution)
    if folder.shape != shape:
        raise ValueError(
            f"{path} has images of {list(folder.shape)}, the teacher of {list(shape)}; "
            "convert them with 'refine.py dataset'"
        )
    images, labels = zip(*folder.batches(BATCH), strict=True)
    one_hot = torch.from_numpy(np.concatenate(labels)) if teacher.label_dim else None
    if one_hot is not None and one_hot.shape[1] != teacher.label_dim:
        one_hot = None
    return ImageSet(torch.from_numpy(np.concatenate(images)), one_hot)
