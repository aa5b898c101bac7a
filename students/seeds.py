"""Images by seed: one whole number stands for one image."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence

import numpy as np
import torch
from jaxtyping import Float

from roles import Student
from roles.pixels import to_uint8
from roles.streams import random_stream
from students.base import check_noise_mode


@torch.no_grad()
def generate(
    student: Student,
    seeds: Sequence[int],
    *,
    truncation_psi: float = 1.0,
    label: int | Sequence[int] | None = None,
    noise_mode: str = "const",
) -> Iterator[np.ndarray]:
    """Yield one uint8 image [c, h, w] per seed; everything random about it comes from that seed.

    Torch's random state is afterwards what it was.

    Args:
        student: a generator in eval mode.
        seeds: non-negative integers.
        truncation_psi: 1 is no truncation.
        label: the class of a conditional student, or one for each seed; None draws it from the
            seed.
        noise_mode: "const", "random" or "none".

    Raises:
        ValueError: a class that the student does not have, classes for other seeds, a negative
            seed, an unknown noise_mode, truncation of a student that has none or by no number, an
            image that is not finite.
    """
    check_noise_mode(noise_mode)
    labels = labels_of(student, label, len(seeds))
    if not math.isfinite(truncation_psi):
        raise ValueError(f"truncation_psi is {truncation_psi}; it must be a number, 1 for none")
    if any(seed < 0 for seed in seeds):
        raise ValueError(f"a seed is {min(seeds)}; it must be at least 0")
    tensor = next(itertools.chain(student.parameters(), student.buffers()), torch.empty(0))
    device = tensor.device
    for seed, label in zip(seeds, labels, strict=True):
        with random_stream(seed, device):
            z, c = _latent(student, label, device)
            image = student(z, c, truncation_psi=truncation_psi, noise_mode=noise_mode)[0]
        yield drawn(image, f"image of seed {seed}")


def labels_of(
    student: Student, label: int | Sequence[int] | None, count: int
) -> Sequence[int | None]:
    """The class of each of so many images; ValueError on one that the student does not have."""
    labels = [label] * count if label is None or isinstance(label, int) else list(label)
    for each in [label for label in labels if label is not None]:
        if not 0 <= each < student.c_dim:
            allowed = f"0 to {student.c_dim - 1}" if student.c_dim else "none, as it has no classes"
            raise ValueError(f"the class is {each}; this student takes {allowed}")
    if len(labels) != count:
        raise ValueError(f"{len(labels)} classes for {count} seeds; give one, or one for each")
    return labels


def draw_latent(
    student: Student, seed: int, label: int | None, device: torch.device
) -> tuple[Float[torch.Tensor, "1 z_dim"], Float[torch.Tensor, "1 c_dim"] | None]:
    """The latent and the one-hot class of a seed; torch's random state is as before."""
    with random_stream(seed, device):
        return _latent(student, label, device)


def _latent(
    student: Student, label: int | None, device: torch.device
) -> tuple[Float[torch.Tensor, "1 z_dim"], Float[torch.Tensor, "1 c_dim"] | None]:
    z = student.sample_latents(1).to(device)
    if not student.c_dim:
        return z, None
    k = torch.randint(student.c_dim, [1]) if label is None else torch.tensor([label])
    return z, torch.nn.functional.one_hot(k, student.c_dim).float().to(device)


def drawn(image: Float[torch.Tensor, "c h w"], what: str) -> np.ndarray:
    """An image as uint8 [c, h, w]; ValueError where it is not finite."""
    if not bool(image.isfinite().all()):
        raise ValueError(
            f"the {what} holds numbers that are not finite, though the weights are; the network is "
            "damaged, or computes beyond the range of float32"
        )
    return to_uint8(image).cpu().numpy()
