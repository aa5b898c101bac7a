"""A teacher and its sampler as a student: what a distilled one is compared with."""

from __future__ import annotations

import torch

import teachers
from roles import Denoiser


class TeacherSampler(torch.nn.Module):
    """Unit noise and labels -> images, by Heun's method in num_steps; it takes no gradient.

    Args:
        teacher: a denoiser; it is used, not copied.
        num_steps: noise levels visited.
        has_classes: whether a teacher with classes is asked by label.
    """

    def __init__(self, teacher: Denoiser, *, num_steps: int, has_classes: bool = True):
        super().__init__()
        self.teacher = teacher
        self.num_steps = num_steps
        self.img_resolution: int = teacher.img_resolution
        self.img_channels: int = teacher.img_channels
        self.c_dim: int = teacher.label_dim if has_classes else 0
        self.z_dim = self.img_channels * self.img_resolution**2

    @property
    def num_evaluations(self) -> int:
        """Calls of the teacher that an image takes."""
        return 2 * self.num_steps - 1

    def sample_latents(self, n: int, *, generator: torch.Generator | None = None) -> torch.Tensor:
        """Draw unit Gaussian noise [n, z_dim]."""
        device = "cpu" if generator is None else generator.device
        return torch.randn([n, self.z_dim], generator=generator, device=device)

    def forward(self, z: torch.Tensor, c: torch.Tensor | None = None) -> torch.Tensor:
        """Return images [n, c, h, w], about [-1, 1]."""
        r = self.img_resolution
        latents = z.reshape(-1, self.img_channels, r, r)
        return teachers.sample(self.teacher, latents, labels=c, num_steps=self.num_steps)
