"""Dropout in the passes that train, as the official one-step distillations have it.

A network's blocks drop features where it is asked for and nowhere else. Where teacher and auxiliary
both drop, they do so by one mask, or their difference would be that of the masks.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from jaxtyping import Float

from roles import Denoiser, Network
from roles.streams import random_stream


def blocks_of(network: Network) -> list[torch.nn.Module]:
    """Return the modules of a network that can drop features."""
    return [m for m in network.modules() if isinstance(getattr(m, "dropout", None), (float, int))]


@contextmanager
def dropping(networks: Sequence[Network], p: float) -> Iterator[None]:
    """Let the blocks of networks drop features with probability p inside; 0 changes nothing."""
    blocks = [block for network in networks for block in blocks_of(network)] if p else []
    before = [(block.training, block.dropout) for block in blocks]
    try:
        for block in blocks:
            block.training = True
            block.dropout = p  # pyright: ignore[reportArgumentType]
        yield
    finally:
        for block, (training, dropout) in zip(blocks, before, strict=True):
            block.training, block.dropout = training, dropout


class OneMask(torch.nn.Module):
    """A denoiser whose every pass draws from the stream of one seed: two of them drop alike."""

    def __init__(self, denoiser: Denoiser, seed: int, device: torch.device):
        super().__init__()
        self.denoiser, self.seed, self.device = denoiser, seed, device
        self.img_resolution, self.img_channels = denoiser.img_resolution, denoiser.img_channels
        self.label_dim = denoiser.label_dim
        self.sigma_min, self.sigma_max = denoiser.sigma_min, denoiser.sigma_max

    def forward(
        self,
        x: Float[torch.Tensor, "n c h w"],
        sigma: Float[torch.Tensor, " n"],
        labels: Float[torch.Tensor, "n k"] | None = None,
    ) -> Float[torch.Tensor, "n c h w"]:
        """Return D(x; sigma)."""
        with random_stream(self.seed, self.device):
            return self.denoiser(x, sigma, labels)
