"""A teacher's own features of clean images, as a space to measure in where there is no data.

The encoder of a denoiser tells images apart well enough that distances in its features rank
generators as an image classifier's do (docs/experiments.md). Numbers made here compare only with
each other, and only under the same teacher; they are no FID.
"""

from __future__ import annotations

import hashlib

import torch
from jaxtyping import Float, UInt8

from roles import Denoiser, Network, WithFeatures
from roles.pixels import from_uint8

SIGMAS = (0.2, 0.6)


class EncoderFeatures:
    """Of uint8 images [n, c, h, w]: means over the quarters of the encoder's lowest resolution.

    Taken at two noise levels, with one pattern of noise for all images, so that an image's features
    depend on nothing but the image.

    Args:
        teacher: a Denoiser with features(), such as those of teachers.edm.

    Raises:
        ValueError: the teacher gives no features.
    """

    def __init__(self, teacher: Denoiser):
        if not isinstance(teacher, WithFeatures):
            raise ValueError(
                f"a {type(teacher).__name__} gives no features; choose a U-Net teacher"
            )
        self.teacher = teacher
        shape = [teacher.img_channels, teacher.img_resolution, teacher.img_resolution]
        eps = torch.randn(shape, generator=torch.Generator().manual_seed(0))
        self.eps = eps.to(next(teacher.parameters()).device)
        self.name = f"the teacher's encoder at sigma {', '.join(map(str, SIGMAS))}"
        self.sha256 = _hash(teacher)
        self.dim = self(torch.zeros([1, *shape], dtype=torch.uint8))[0].shape[1]

    @torch.no_grad()
    def __call__(
        self, images: UInt8[torch.Tensor, "n c h w"]
    ) -> tuple[Float[torch.Tensor, "n d"], None]:
        """Return features in float32 and no class probabilities."""
        x_0 = from_uint8(images.to(self.eps.device))
        found = []
        for sigma in SIGMAS:
            level = torch.full([len(x_0)], sigma, device=x_0.device)
            lowest = self.teacher.features(x_0 + sigma * self.eps, level)[-1]
            found.append(torch.nn.functional.adaptive_avg_pool2d(lowest.float(), 2).flatten(1))
        return torch.cat(found, dim=1), None


def _hash(network: Network) -> str:
    """Return the SHA-256 of a network's tensors, in hexadecimal."""
    digest = hashlib.sha256()
    for name, tensor in network.state_dict().items():
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().contiguous().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()
