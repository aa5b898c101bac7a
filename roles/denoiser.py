"""The denoiser: (x, sigma, labels) -> D(x; sigma), in the roles of teacher and of auxiliary."""

from __future__ import annotations

from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float

from roles.network import Network

# A number, [] or one for each image.
Sigma = float | Float[torch.Tensor, ""] | Float[torch.Tensor, "#n"]


@runtime_checkable
class Denoiser(Network, Protocol):
    """D(x; sigma) = E[x_0 | x_0 + sigma eps = x] (Karras et al. 2022, arXiv:2206.00364, Section 2).

    Attributes:
        img_resolution: height and width of the images.
        img_channels: channels of the images.
        label_dim: number of classes; 0 is unconditional.
        sigma_min: lowest noise level that it knows.
        sigma_max: highest noise level that it knows.
    """

    img_resolution: int
    img_channels: int
    label_dim: int
    sigma_min: float
    sigma_max: float

    def __call__(
        self,
        x: Float[torch.Tensor, "n c h w"],
        sigma: Sigma,
        labels: Float[torch.Tensor, "#n label_dim"] | None = None,
    ) -> Float[torch.Tensor, "n c h w"]:
        """Return D(x; sigma), the mean of the clean image in about [-1, 1].

        Args:
            x: clean images plus sigma times unit Gaussian noise.
            sigma: noise level, a number, [] or [n].
            labels: one-hot; None is all zero, which is the unconditional model where the denoiser
                was trained with label dropout.
        """
        ...


@runtime_checkable
class WithFeatures(Denoiser, Protocol):
    """A denoiser that also shows what its encoder makes of a noised image."""

    def features(
        self,
        x: Float[torch.Tensor, "n c h w"],
        sigma: Sigma,
        labels: Float[torch.Tensor, "#n label_dim"] | None = None,
    ) -> list[torch.Tensor]:
        """Return [n, width, r, r] for each resolution r, from the highest down."""
        ...
