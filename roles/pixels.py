"""Images as numbers: float in [-1, 1] inside, uint8 in [0, 255] at metrics and files."""

from __future__ import annotations

import torch
from jaxtyping import Float, UInt8

# Of images that a denoiser sees at a time without a gradient: 16 of 256 x 256, for which ADM's
# U-Net of 94 M weights holds 4 GB, that of 553 M 9 GB (measured, refiners/runs/held.py).
MOST_PIXELS = 2**20


def to_uint8(images: Float[torch.Tensor, "*s"]) -> UInt8[torch.Tensor, "*s"]:
    """Return images of about [-1, 1] as bytes, as the published programs round them."""
    return (images.float() * 127.5 + 128).clamp(0, 255).to(torch.uint8)


def from_uint8(
    images: UInt8[torch.Tensor, "*s"], dtype: torch.dtype = torch.float32
) -> Float[torch.Tensor, "*s"]:
    """Return bytes as numbers in [-1, 1]."""
    return images.to(dtype) / 127.5 - 1


def images_at_a_time(img_resolution: int, *, most: int) -> int:
    """Return how many images of a size a denoiser sees at a time where nobody keeps a gradient."""
    return max(1, min(most, MOST_PIXELS // img_resolution**2))
