"""The discriminator: (images, labels) -> logits, above 0 for real ones."""

from __future__ import annotations

from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float

from roles.network import Network


@runtime_checkable
class Discriminator(Network, Protocol):
    """Tells real images from generated ones (Goodfellow et al. 2014, arXiv:1406.2661).

    Attributes:
        c_dim: number of classes; 0 means unconditional.
    """

    c_dim: int

    def __call__(
        self,
        images: Float[torch.Tensor, "n c h w"],
        labels: Float[torch.Tensor, "n c_dim"] | None = None,
    ) -> Float[torch.Tensor, "n 1"]:
        """Return a logit of each image, in about [-1, 1], above 0 for those taken for real."""
        ...
