"""What every student is: a module that maps (z, labels) to images."""

from __future__ import annotations

from collections.abc import Sequence

import torch


class Student(torch.nn.Module):
    """A generator with its sizes.

    Attributes:
        z_dim: length of a latent.
        c_dim: number of classes; 0 means unconditional.
        img_resolution: height and width of the images.
        img_channels: 1 or 3.
    """

    z_dim: int
    c_dim: int
    img_resolution: int
    img_channels: int

    def sample_latents(self, n: int, *, generator: torch.Generator | None = None) -> torch.Tensor:
        """Draw n latents [n, z_dim] from N(0, I), on the generator's device (CPU without one)."""
        device = "cpu" if generator is None else generator.device
        return torch.randn([n, self.z_dim], generator=generator, device=device)

    def check_inputs(self, z: torch.Tensor, c: torch.Tensor | None) -> torch.Tensor | None:
        """Return labels of the right shape, or raise ValueError saying what was got and what is allowed."""
        if z.ndim != 2 or z.shape[1] != self.z_dim:
            raise ValueError(f"z is {list(z.shape)}; this student takes [n, {self.z_dim}]")
        if not self.c_dim:
            return None
        if c is None:
            raise ValueError(
                f"this student has {self.c_dim} classes; give labels as one-hot [n, {self.c_dim}]"
            )
        if list(c.shape) != [len(z), self.c_dim]:
            raise ValueError(f"labels are {list(c.shape)}; allowed: [{len(z)}, {self.c_dim}]")
        return c


class WrappedStudent(Student):
    """Any module (z, c) -> images as a student; see students.wrap."""

    def __init__(
        self,
        module: torch.nn.Module,
        *,
        z_dim: int,
        c_dim: int,
        img_resolution: int,
        img_channels: int,
    ):
        super().__init__()
        self.module = module
        self.z_dim = z_dim
        self.c_dim = c_dim
        self.img_resolution = img_resolution
        self.img_channels = img_channels

    def forward(
        self,
        z: torch.Tensor,
        c: torch.Tensor | None = None,
        *,
        truncation_psi: float = 1.0,
        truncation_cutoff: int | None = None,
        noise_mode: str = "random",
    ) -> torch.Tensor:
        """Return the module's images [n, c, h, w]; it has no truncation, and its noise is its own."""
        c = self.check_inputs(z, c)
        if truncation_psi != 1 or truncation_cutoff is not None:
            raise ValueError("a wrapped module has no truncation; leave truncation_psi at 1")
        if noise_mode not in NOISE_MODES:
            raise ValueError(f"noise_mode is {noise_mode!r}; allowed are {', '.join(NOISE_MODES)}")
        x = self.module(z, c)
        shape = [len(z), self.img_channels, self.img_resolution, self.img_resolution]
        if list(x.shape) != shape:
            raise ValueError(
                f"the wrapped module returned {list(x.shape)}; it was declared {shape}"
            )
        return x


NOISE_MODES: Sequence[str] = ("random", "const", "none")
