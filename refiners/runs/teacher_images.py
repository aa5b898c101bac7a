"""The images that a run compares the student's with: a data set's, or samples of the teacher."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import torch

import checkpoints
import image_sets
import teachers
from refiners.training.inputs import ImageSet
from roles import Denoiser
from roles.pixels import images_at_a_time, to_uint8

BATCH = 250  # images of one stream of noise
DOUBTED = 8  # images that show whether a teacher denoises
PART = 50  # of them at a time; what a run that is ended may have to make again


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

    What is made is kept part by part in a folder beside, until all are there: a run that was ended
    meanwhile continues with the first part that is missing. An image depends on seed, number and
    steps alone.

    A teacher with classes is asked for each equally often: guided by its label it draws better than
    without, and the mixture is the unconditional law where the classes are equally frequent.
    """
    parts = path.with_suffix(".parts")
    if path.exists():
        shutil.rmtree(parts, ignore_errors=True)  # of a run that was killed in between
        return path
    parts.mkdir(exist_ok=True)
    labels = np.arange(num_images) % teacher.label_dim if teacher.label_dim else None
    files: list[Path] = []
    for first in range(0, num_images, BATCH):
        last = min(first + BATCH, num_images)
        shape = [last - first, *shape_of(teacher)]
        drawn = torch.randn(shape, generator=torch.Generator().manual_seed(seed + first))
        for i, latents in enumerate(drawn.split(PART)):
            start = first + i * PART
            file = parts / f"{start:08d}.uint8"
            if not file.exists() or file.stat().st_size != latents.numel():
                classes = None if labels is None else labels[start : start + len(latents)]
                made = sample(teacher, latents, classes, steps=steps)
                with checkpoints.replacing(file) as stream:
                    stream.write(made.tobytes())
            files.append(file)
            progress(start + len(latents), num_images)

    def images() -> Iterator[np.ndarray]:
        for file in files:
            yield from np.frombuffer(file.read_bytes(), np.uint8).reshape(-1, *shape_of(teacher))

    image_sets.write_zip(path, images(), labels)
    shutil.rmtree(parts)
    return path


def doubt_of(teacher: Denoiser, images: ImageSet) -> str:
    """Return in one line that a teacher denoises badly, where so; else "".

    Asked are those whose files do not hold all of them: what was told of one may be wrong.

    Args:
        teacher: without guidance.
        images: real ones or its samples, with its labels.
    """
    told = any(isinstance(part, teachers.ConvertedDenoiser) for part in teacher.modules())
    shown, labels = images.at(torch.arange(min(DOUBTED, len(images.images))))
    if not told or (teacher.label_dim and labels is None):
        return ""
    device = next(teacher.parameters()).device
    labels = labels.to(device) if labels is not None and teacher.label_dim else None
    found = teachers.faults(teacher, shown.to(device), labels)
    return teachers.told(found) if found else ""


def shape_of(teacher: Denoiser) -> tuple[int, int, int]:
    """Return channels, height and width of a teacher's images."""
    return teacher.img_channels, teacher.img_resolution, teacher.img_resolution


def sample(
    teacher: Denoiser, latents: torch.Tensor, classes: np.ndarray | None, *, steps: int
) -> np.ndarray:
    """Return the teacher's images of latents [n, c, h, w] as uint8, of classes if it has any."""
    device = next(teacher.parameters()).device
    labels = None
    if classes is not None:
        labels = torch.eye(teacher.label_dim)[torch.as_tensor(classes)].to(device)
    part = images_at_a_time(teacher.img_resolution, most=PART)
    made = []
    for first in range(0, len(latents), part):
        rows = slice(first, first + part)
        x_0 = teachers.sample(
            teacher,
            latents[rows].to(device),
            labels=None if labels is None else labels[rows],
            num_steps=steps,
        )
        made.append(to_uint8(x_0).cpu())
    return torch.cat(made).numpy()


def read_images(path: Path | str, teacher: Denoiser) -> ImageSet:
    """Return a folder or zip of images as a source for refiners, kept in memory as uint8.

    Raises:
        ValueError: the images are not of the teacher's size, or have other classes.
        OSError: they cannot be read.
    """
    folder = image_sets.ImageFolder(checkpoints.local_data(path))
    shape = shape_of(teacher)
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
