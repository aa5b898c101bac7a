"""Networks of real sizes with random weights, to run benchmarks on without any download.

Sizes are those of the published CIFAR-10 files: StyleGAN2-ADA's configuration "cifar" (Karras et
al. 2020, arXiv:2006.06676) and EDM's DDPM++ (Karras et al. 2022, arXiv:2206.00364).
"""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import torch

import checkpoints
import teachers
from students import originals
from students.stylegan2.discriminator import Discriminator
from students.stylegan2.generator import Generator
from teachers.edm import EDMPrecond

SIZES: dict[str, Any] = {"img_resolution": 32, "img_channels": 3}
WIDTH: dict[str, Any] = {
    "channel_base": 32768,
    "channel_max": 512,
    "num_fp16_res": 4,
    "conv_clamp": 256,
}


def cifar_student(*, channels: int = 512, resolution: int = 32) -> Generator:
    """Return an unconditional StyleGAN2 generator: 512 channels wide, 19.9 M parameters."""
    generator = Generator(
        z_dim=512,
        c_dim=0,
        w_dim=512,
        mapping_kwargs={"num_layers": 2},
        synthesis_kwargs={**WIDTH, "channel_max": channels},
        **{**SIZES, "img_resolution": resolution},
    )
    return generator.eval().requires_grad_(False)


def cifar_teacher(*, channels: int = 128, resolution: int = 32) -> EDMPrecond:
    """Return an unconditional DDPM++ denoiser: twice 128 channels wide, 55.7 M parameters."""
    denoiser = EDMPrecond(
        **{**SIZES, "img_resolution": resolution},
        model_type="SongUNet",
        model_channels=channels,
        channel_mult=[2, 2, 2],
        augment_dim=9,
        dropout=0.13,
    )
    return denoiser.eval().requires_grad_(False)


def write_cifar_files(folder: Path) -> list[Path]:
    """Write the student's pickle (G, D and G_ema, 242 MB) and the teacher's (223 MB)."""
    student, teacher = folder / "student.pkl", folder / "teacher.pkl"
    generator = cifar_student()
    discriminator = Discriminator(c_dim=0, architecture="orig", **WIDTH, **SIZES)
    networks: dict[str, torch.nn.Module] = {
        "G": generator,
        "D": discriminator.eval().requires_grad_(False),
        "G_ema": copy.deepcopy(generator),
    }
    records = {name: originals.describe(net) for name, net in networks.items()}
    checkpoints.write({"training_set_kwargs": {}, **records, "augment_pipe": None}, student)
    teachers.save(cifar_teacher(), teacher)
    return [student, teacher]
