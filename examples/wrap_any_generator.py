"""Refine any generator inside a training script of your own.

    python -m examples.wrap_any_generator TEACHER OUTDIR KIMG

The generator here is a toy; yours is any module (z, labels) -> images about [-1, 1].
"""

import sys

import torch

import refiners
import students
import teachers


class MyGenerator(torch.nn.Sequential):
    """A toy: two linear layers."""

    def __init__(self, z_dim: int, channels: int, size: int):
        hidden = torch.nn.Linear(z_dim, 64)
        images = torch.nn.Linear(64, channels * size**2)
        unflatten = torch.nn.Unflatten(1, (channels, size, size))
        super().__init__(hidden, torch.nn.ReLU(), images, unflatten, torch.nn.Tanh())

    def forward(self, z: torch.Tensor, labels: torch.Tensor | None = None) -> torch.Tensor:
        """Return images [n, channels, size, size]; this toy has no classes."""
        return super().forward(z)


if __name__ == "__main__":
    path, outdir, kimg = sys.argv[1], sys.argv[2], float(sys.argv[3])
    teacher = teachers.load(path)  # a file of EDM's or EDM2's, or a folder of diffusers
    channels, size = teacher.img_channels, teacher.img_resolution
    mine = MyGenerator(16, channels, size)
    student = students.wrap(mine, z_dim=16, img_resolution=size, img_channels=channels)
    settings = refiners.Settings(warmup_kimg=kimg / 4)  # in which the auxiliary network learns
    refined = refiners.refine(student, teacher, kimg=kimg, settings=settings, outdir=outdir)
    torch.save(refined.state_dict(), f"{outdir}/generator.pt")
