"""Images as numbers: float in [-1, 1] inside, uint8 in [0, 255] at metrics and files."""

from __future__ import annotations

import torch
from jaxtyping import Float, UInt8


def to_uint8(images: Float[torch.Tensor, "*s"]) -> UInt8[torch.Tensor, "*s"]:
    """Return images of about [-1, 1] as bytes, as the published programs round them."""
    return (images.float() * 127.5 + 128).clamp(0, 255).to(torch.uint8)


def from_uint8(
    images: UInt8[torch.Tensor, "*s"], dtype: torch.dtype = torch.float32
) -> Float[torch.Tensor, "*s"]:
    """Return bytes as numbers in [-1, 1]."""
    return images.to(dtype) / 127.5 - 1
