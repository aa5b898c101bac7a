"""The door for generators of other makers: any module (z, c) -> images as a student."""

from __future__ import annotations

import torch
from jaxtyping import Float

from students.base import StudentModule, check_labels, check_latents, check_noise_mode


class WrappedStudent(StudentModule):
    """Any module (z, c) -> images as a student; made by `wrap`."""

    def __init__(
        self,
        module: torch.nn.Module,
        *,
        z_dim: int,
        c_dim: int,
        img_resolution: int,
        img_channels: int,
        img_shape: tuple[int, int] | None = None,
    ):
        super().__init__()
        self._img_shape = img_shape
        self.module = module
        self.z_dim = z_dim
        self.c_dim = c_dim
        self.img_resolution = img_resolution
        self.img_channels = img_channels

    def forward(
        self,
        z: Float[torch.Tensor, "n z_dim"],
        c: Float[torch.Tensor, "n c_dim"] | None = None,
        *,
        truncation_psi: float = 1.0,
        truncation_cutoff: int | None = None,
        noise_mode: str = "random",
    ) -> Float[torch.Tensor, "n c h w"]:
        """Return the module's images [n, c, h, w]; its noise, if it has any, is its own affair.

        Raises:
            ValueError: latents or labels of another shape, a truncation, an unknown noise_mode,
                images of another shape than was declared.
        """
        z = check_latents(z, self.z_dim)
        c = check_labels(c, self.c_dim, len(z)) if self.c_dim else None
        if truncation_psi != 1 or truncation_cutoff is not None:
            raise ValueError("a wrapped module has no truncation; leave truncation_psi at 1")
        check_noise_mode(noise_mode)
        x = self.module(z, c)
        shape = [len(z), self.img_channels, *self.img_shape]
        if list(x.shape) != shape:
            raise ValueError(
                f"the wrapped module returned {list(x.shape)}; it was declared {shape}"
            )
        return x


def wrap(
    module: torch.nn.Module,
    *,
    z_dim: int,
    c_dim: int = 0,
    img_resolution: int,
    img_channels: int,
    img_shape: tuple[int, int] | None = None,
) -> WrappedStudent:
    """Make a student of any module (z [n, z_dim], c one-hot [n, c_dim] or None) -> images.

    Args:
        module: returns float [n, img_channels, h, w], about [-1, 1].
        z_dim: length of a latent, at least 1.
        c_dim: number of classes; 0 hands the module None as labels.
        img_resolution: height and width of the images, or the longer of them.
        img_channels: channels of the images.
        img_shape: height and width where they differ; None means a square.

    Raises:
        ValueError: a size below its least value, or an img_shape with another longer side.
    """
    for name, value, least in (
        ("z_dim", z_dim, 1),
        ("c_dim", c_dim, 0),
        ("img_resolution", img_resolution, 1),
        ("img_channels", img_channels, 1),
    ):
        if value < least:
            raise ValueError(f"{name} is {value}; it must be at least {least}")
    if img_shape is not None and (min(img_shape) < 1 or max(img_shape) != img_resolution):
        raise ValueError(
            f"img_shape is {img_shape} and img_resolution {img_resolution}; the longer side of the "
            "one is the other"
        )
    return WrappedStudent(
        module,
        z_dim=z_dim,
        c_dim=c_dim,
        img_resolution=img_resolution,
        img_channels=img_channels,
        img_shape=img_shape,
    )
