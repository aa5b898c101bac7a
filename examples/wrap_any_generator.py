"""Refine any generator inside a training script of your own.

    python -m examples.wrap_any_generator TEACHER OUTDIR

The generator here is a toy; yours is any module (z, labels) -> images about [-1, 1].
"""

import sys

import torch

import refiners
import students
import teachers


class MyGenerator(torch.nn.Module):
    """A toy."""

    def __init__(self, z_dim: int, channels: int, resolution: int):
        super().__init__()
        self.shape = (channels, resolution, resolution)
        self.net = torch.nn.Sequential(
            torch.nn.Linear(z_dim, 64),
            torch.nn.Linear(64, channels * resolution**2),
        )

    def forward(self, z: torch.Tensor, c: torch.Tensor | None = None) -> torch.Tensor:
        """Return images [n, channels, resolution, resolution]."""
        return self.net(z).unflatten(1, self.shape).tanh()


if __name__ == "__main__":
    teacher = teachers.load(sys.argv[1])
    channels, size = teacher.img_channels, teacher.img_resolution
    mine = MyGenerator(16, channels, size)
    student = students.wrap(mine, z_dim=16, img_resolution=size, img_channels=channels)
    refined = refiners.refine(student, teacher, kimg=0.064, batch=8, outdir=sys.argv[2])
    torch.save(refined.state_dict(), f"{sys.argv[2]}/generator.pt")
