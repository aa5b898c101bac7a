"""Images of a student that depend on a seed and their index alone.

Before and after a refinement are compared image by image: the same latent, label and noise on both
sides, so that most of the sampling error cancels. Latents could be seeded one by one, but the noise
inside a StyleGAN layer is drawn from torch's global generator for all images of a call at once.
Images therefore come in blocks of BLOCK, each with its own seeds and always evaluated whole: image
i is the same image whatever the number of images, and whichever batch its features are taken in.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import numpy as np
import torch
from jaxtyping import Float, Int64, UInt8
from torch import Tensor, nn

from roles import Processes, Student
from roles.pixels import to_uint8
from roles.streams import random_stream

# Part of the protocol: another size gives other noise. A block at 1024 x 1024 takes a few GB.
BLOCK = 25


def draw_images(
    student: Student,
    num_images: int,
    *,
    seed: int = 0,
    label: int | None = None,
    noise_mode: str = "random",
    processes: Processes | None = None,
) -> Iterator[UInt8[Tensor, "n c h w"]]:
    """Yield images 0 to num_images - 1 of a seed on the CPU, n at most BLOCK.

    Of several processes, each gets those from `first_image` on that are its share.

    A conditional student gets the class `label`, or one drawn uniformly for each image. The student
    is evaluated in eval mode, with `noise_mode` where it takes one; its modes and torch's random
    states are afterwards what they were. ValueError on a class that it does not have, and on images
    that are not finite.
    """
    if num_images < 1 or seed < 0:
        raise ValueError(
            f"{num_images} images of seed {seed}: allowed are 1 or more, and 0 or more"
        )
    if label is not None and not 0 <= label < student.c_dim:
        allowed = f"0 to {student.c_dim - 1}" if student.c_dim else "none, it is unconditional"
        raise ValueError(f"class {label} of a student with {student.c_dim}; allowed: {allowed}")
    for block in _blocks(num_images, processes or Processes()):
        start = block * BLOCK
        x = _draw_block(student, block, seed=seed, label=label, noise_mode=noise_mode)
        if not x.isfinite().all():
            raise ValueError(
                f"images {start} to {start + BLOCK - 1} of seed {seed} hold NaN or infinity: "
                "its weights have diverged, go back to an earlier snapshot"
            )
        yield to_uint8(x[: num_images - start]).cpu()


def first_image(num_images: int, processes: Processes) -> int:
    """Number of the first image of `draw_images` that this process draws."""
    return _blocks(num_images, processes).start * BLOCK


def _blocks(num_images: int, processes: Processes) -> range:
    return processes.share(-(-num_images // BLOCK))


def draw_some(
    student: Student,
    indices: Sequence[int],
    *,
    seed: int = 0,
    label: int | None = None,
    noise_mode: str = "random",
) -> UInt8[Tensor, "n c h w"]:
    """Images of these indices, as `draw_images` makes them, in their order."""
    blocks = {
        block: to_uint8(_draw_block(student, block, seed=seed, label=label, noise_mode=noise_mode))
        for block in sorted({i // BLOCK for i in indices})
    }
    return torch.stack([blocks[i // BLOCK][i % BLOCK].cpu() for i in indices])


def draw_classes(
    student: Student, num_images: int, *, seed: int = 0, label: int | None = None
) -> Int64[Tensor, " num_images"] | None:
    """Class of each image of `draw_images`; None for an unconditional student."""
    if not student.c_dim:
        return None
    blocks = range(-(-num_images // BLOCK))
    classes = [_draw_inputs(student, block, seed=seed, label=label)[1] for block in blocks]
    return torch.cat([c for c in classes if c is not None])[:num_images]


def draw_between(
    student: Student, *, steps: int, seed: int = 0, label: int | None = None
) -> UInt8[Tensor, "steps c h w"]:
    """Images on the way between the latents of images 0 and 1 of a seed.

    On the arc between them: the straight line would pass too near zero for Gaussian latents. The
    class is `label` or that of image 0, and noise inside layers is the network's constant one.
    """
    z, classes = _draw_inputs(student, 0, seed=seed, label=label)
    a, b = z[0].double(), z[1].double()
    cosine = (a @ b / (a.norm() * b.norm())).clamp(-1, 1)
    angle, share = torch.acos(cosine), torch.linspace(0, 1, steps, dtype=torch.float64)[:, None]
    on_arc = torch.sin((1 - share) * angle) * a + torch.sin(share * angle) * b
    path = (on_arc / torch.sin(angle)).to(z.dtype)
    classes = None if classes is None else classes[:1].expand(steps)
    noise_seed = _seeds(seed, 0)[1]
    images = _images(student, path, classes, noise_seed=noise_seed, noise_mode="const")
    return to_uint8(images).cpu()


def _draw_inputs(
    student: Student, block: int, *, seed: int, label: int | None
) -> tuple[Float[Tensor, "n z_dim"], Int64[Tensor, " n"] | None]:
    """Latents and classes (or None) of a block, on the CPU."""
    generator = torch.Generator().manual_seed(_seeds(seed, block)[0])
    z = student.sample_latents(BLOCK, generator=generator)
    if not student.c_dim:
        return z, None
    classes = torch.randint(student.c_dim, [BLOCK], generator=generator)
    return z, classes if label is None else torch.full_like(classes, label)


def _draw_block(
    student: Student, block: int, *, seed: int, label: int | None, noise_mode: str
) -> Float[Tensor, "n c h w"]:
    z, classes = _draw_inputs(student, block, seed=seed, label=label)
    noise_seed = _seeds(seed, block)[1]
    return _images(student, z, classes, noise_seed=noise_seed, noise_mode=noise_mode)


def _seeds(seed: int, block: int) -> tuple[int, int]:
    # Two streams: noise from the latents' own seed would repeat the latents' numbers.
    latents, noise = np.random.SeedSequence([seed, block]).generate_state(2).tolist()
    return latents, noise


@torch.no_grad()
def _images(
    student: Student,
    z: Float[Tensor, "n z_dim"],
    classes: Int64[Tensor, " n"] | None,
    *,
    noise_seed: int,
    noise_mode: str,
) -> Float[Tensor, "n c h w"]:
    device = _device(student)
    options = {"noise_mode": noise_mode} if _takes_noise_mode(student) else {}
    c = None
    if classes is not None:
        c = nn.functional.one_hot(classes, student.c_dim).float().to(device)
    with _seeded(noise_seed, device), _eval_mode(student):
        x = student(z.to(device), c, **options)
    if x.ndim != 4 or len(x) != len(z):
        raise ValueError(
            f"the student gives {tuple(x.shape)} for {len(z)} latents; allowed is one image "
            "[c, h, w] for each"
        )
    return x


@contextmanager
def _seeded(seed: int, device: torch.device) -> Iterator[None]:
    """Torch's global generators seeded inside, and afterwards in the states they were in."""
    if device.type not in ("cpu", "cuda"):
        with random_stream(seed, device):
            yield
        return
    # torch.manual_seed reaches every CUDA device, and so must what puts the states back.
    on_cpu = device.type == "cpu"
    others = [] if on_cpu else list(range(torch.cuda.device_count()))
    with torch.random.fork_rng(devices=others):
        (torch.default_generator if on_cpu else torch).manual_seed(seed)
        yield


@contextmanager
def _eval_mode(student: Student) -> Iterator[None]:
    """Eval mode inside, and afterwards every module's own mode again."""
    modules = list(student.modules())
    modes = [module.training for module in modules]
    for module in modules:
        module.training = False
    try:
        yield
    finally:
        for module, mode in zip(modules, modes, strict=True):
            module.training = mode


def _device(student: Student) -> torch.device:
    for tensor in (*student.parameters(), *student.buffers()):
        return tensor.device
    return torch.device("cpu")


def _takes_noise_mode(student: Student) -> bool:
    function = student.forward if isinstance(student, nn.Module) else student
    parameters = inspect.signature(function).parameters.values()
    return any(p.name == "noise_mode" or p.kind is p.VAR_KEYWORD for p in parameters)
