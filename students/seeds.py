"""Images by seed: one whole number stands for one image."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence

import numpy as np
import torch

from roles import Student
from roles.pixels import to_uint8
from students.base import check_noise_mode


@torch.no_grad()
def generate(
    student: Student,
    seeds: Sequence[int],
    *,
    truncation_psi: float = 1.0,
    label: int | None = None,
    noise_mode: str = "const",
) -> Iterator[np.ndarray]:
    """Yield one uint8 image [c, h, w] per seed; everything random about it comes from that seed.

    Torch's random state is afterwards what it was.

    Args:
        student: a generator in eval mode.
        seeds: non-negative integers.
        truncation_psi: 1 is no truncation.
        label: the class of a conditional student; None draws it from the seed.
        noise_mode: "const", "random" or "none".

    Raises:
        ValueError: a class that the student does not have, a negative seed, an unknown noise_mode,
            truncation of a student that has none or by no number, an image that is not finite.
    """
    check_noise_mode(noise_mode)
    if label is not None and not 0 <= label < student.c_dim:
        allowed = f"0 to {student.c_dim - 1}" if student.c_dim else "none, as it has no classes"
        raise ValueError(f"the class is {label}; this student takes {allowed}")
    if not math.isfinite(truncation_psi):
        raise ValueError(f"truncation_psi is {truncation_psi}; it must be a number, 1 for none")
    if any(seed < 0 for seed in seeds):
        raise ValueError(f"a seed is {min(seeds)}; it must be at least 0")
    tensor = next(itertools.chain(student.parameters(), student.buffers()), torch.empty(0))
    device = tensor.device
    for seed in seeds:
        with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
            torch.manual_seed(seed)
            z = student.sample_latents(1).to(device)
            c = None
            if student.c_dim:
                k = torch.randint(student.c_dim, [1]) if label is None else torch.tensor([label])
                c = torch.nn.functional.one_hot(k, student.c_dim).float().to(device)
            image = student(z, c, truncation_psi=truncation_psi, noise_mode=noise_mode)[0]
        if not bool(image.isfinite().all()):
            raise ValueError(
                f"the image of seed {seed} holds numbers that are not finite, though the weights "
                "are; the network is damaged, or computes beyond the range of float32"
            )
        yield to_uint8(image).cpu().numpy()
