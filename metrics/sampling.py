"""Images of a student that depend on a seed and their index alone.

Before and after a refinement are compared image by image: the same latent, label and noise on both
sides, so that most of the sampling error cancels. Latents could be seeded one by one, but the noise
inside a StyleGAN layer is drawn from torch's global generator for all images of a call at once.
Images therefore come in blocks of BLOCK, each with its own seeds and always evaluated whole: image
i is the same image whatever the number of images, and whichever batch its features are taken in.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor, nn

from metrics.features import to_uint8

# Part of the protocol: another size gives other noise. A block at 1024 x 1024 takes a few GB.
BLOCK = 25


class Student(Protocol):
    """What is sampled: (z [n, z_dim], labels [n, c_dim] or None) to images [n, c, h, w] in [-1, 1].

    A student that takes `noise_mode` is given it. Noise that it draws is seeded through torch's
    global generators.
    """

    z_dim: int
    c_dim: int

    def sample_latents(self, n: int, *, generator: torch.Generator | None = None) -> Tensor:
        """Draw n latents [n, z_dim]."""
        ...

    def __call__(self, z: Tensor, c: Tensor | None = None, **options: Any) -> Tensor:
        """Images of latents and labels."""
        ...


def draw_images(
    student: Student,
    num_images: int,
    *,
    seed: int = 0,
    label: int | None = None,
    noise_mode: str = "random",
) -> Iterator[Tensor]:
    """Yield images 0 to num_images - 1 of a seed as uint8 [n, c, h, w] on the CPU, n at most BLOCK.

    A conditional student gets the class `label`, or one drawn uniformly for each image. The student
    is evaluated in eval mode; its modes and torch's random states are afterwards what they were.
    ValueError on a class that it does not have, and on images that are not finite.
    """
    if num_images < 1 or seed < 0:
        raise ValueError(
            f"{num_images} images of seed {seed}: allowed are 1 or more, and 0 or more"
        )
    if label is not None and not 0 <= label < student.c_dim:
        allowed = f"0 to {student.c_dim - 1}" if student.c_dim else "none, it is unconditional"
        raise ValueError(f"class {label} of a student with {student.c_dim}; allowed: {allowed}")
    for block, start in enumerate(range(0, num_images, BLOCK)):
        x = _draw_block(student, block, seed=seed, label=label, noise_mode=noise_mode)
        if not x.isfinite().all():
            raise ValueError(
                f"images {start} to {start + BLOCK - 1} of seed {seed} hold NaN or infinity: "
                "its weights have diverged, go back to an earlier snapshot"
            )
        yield to_uint8(x[: num_images - start]).cpu()


@torch.no_grad()
def _draw_block(
    student: Student, block: int, *, seed: int, label: int | None, noise_mode: str
) -> Tensor:
    device = _device(student)
    options = {"noise_mode": noise_mode} if _takes_noise_mode(student) else {}
    # Two streams: noise from the latents' own seed would repeat the latents' numbers.
    latent_seed, noise_seed = np.random.SeedSequence([seed, block]).generate_state(2).tolist()
    generator = torch.Generator().manual_seed(latent_seed)
    z = student.sample_latents(BLOCK, generator=generator).to(device)
    c = None
    if student.c_dim:
        classes = torch.randint(student.c_dim, [BLOCK], generator=generator)
        classes = classes if label is None else torch.full_like(classes, label)
        c = nn.functional.one_hot(classes, student.c_dim).float().to(device)
    with _seeded(noise_seed, device), _eval_mode(student):
        return student(z, c, **options)


@contextmanager
def _seeded(seed: int, device: torch.device) -> Iterator[None]:
    """Torch's global generators seeded inside, and afterwards in the states they were in."""
    # torch.manual_seed reaches every CUDA device, and so must what puts the states back.
    on_cpu = device.type == "cpu"
    others = [] if on_cpu else list(range(torch.cuda.device_count()))
    with torch.random.fork_rng(devices=others):
        (torch.default_generator if on_cpu else torch).manual_seed(seed)
        yield


@contextmanager
def _eval_mode(student: Student) -> Iterator[None]:
    """Eval mode inside, and afterwards every module's own mode again."""
    modules = list(student.modules()) if isinstance(student, nn.Module) else []
    modes = [module.training for module in modules]
    for module in modules:
        module.training = False
    try:
        yield
    finally:
        for module, mode in zip(modules, modes, strict=True):
            module.training = mode


def _device(student: Student) -> torch.device:
    if isinstance(student, nn.Module):
        for tensor in (*student.parameters(), *student.buffers()):
            return tensor.device
    return torch.device("cpu")


def _takes_noise_mode(student: Student) -> bool:
    function = student.forward if isinstance(student, nn.Module) else student
    parameters = inspect.signature(function).parameters.values()
    return any(p.name == "noise_mode" or p.kind is p.VAR_KEYWORD for p in parameters)
