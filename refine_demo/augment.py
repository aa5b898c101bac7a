"""Differentiable augmentations for the discriminator of a GAN with little data.

Zhao et al. 2020, "Differentiable Augmentation for Data-Efficient GAN Training" (arXiv:2006.10738):
real and generated images pass the same random changes before the discriminator sees them, and the
generator's gradient passes through them. Colour (brightness, saturation, contrast), translation and
cutout, section 3.2 there, with that section's ranges as defaults. Written from the paper.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Augmentation:
    """Random changes of images [n, c, h, w], drawn for each image; a range of 0 changes nothing.

    Draws are from torch's own stream on the images' device.

    Attributes:
        brightness: width of the uniform range, about 0, of what is added; white is 1, black -1.
        saturation: that, about 1, of the factor on each pixel's distance to its gray.
        contrast: that, about 1, of the factor on each pixel's distance to its image's mean.
        translation: largest shift along each axis, as a share of it; what comes in is zero.
        cutout: side of the square that becomes zero, as a share of the image's; its centre is drawn
            over the whole image, beyond whose edge it ends.
    """

    brightness: float = 1.0
    saturation: float = 2.0
    contrast: float = 1.0
    translation: float = 0.125
    cutout: float = 0.5

    def __call__(self, x: Tensor) -> Tensor:
        """Return the images changed, in their type and size."""
        if self.brightness:
            x = x + self.brightness * _centred(x)
        if self.saturation:
            x = x.mean(1, keepdim=True).lerp(x, 1 + self.saturation * _centred(x))
        if self.contrast:
            x = x.mean([1, 2, 3], keepdim=True).lerp(x, 1 + self.contrast * _centred(x))
        if self.translation:
            x = shifted(x, round(self.translation * x.shape[-1]))
        return x * self._kept(x) if self.cutout else x

    def _kept(self, x: Tensor) -> Tensor:
        """Return [n, 1, h, w], 0 in the square that is cut out of each image and 1 elsewhere."""
        inside = torch.ones([len(x), 1, 1, 1], dtype=torch.bool, device=x.device)
        for axis in (2, 3):
            length = x.shape[axis]
            side = round(self.cutout * length)
            centre = torch.randint(length + 1 - side % 2, [len(x)], device=x.device)
            place = torch.arange(length, device=x.device) - (centre - side // 2)[:, None]
            line = (place >= 0) & (place < side)
            inside = inside & line.reshape(len(x), 1, *((length, 1) if axis == 2 else (1, length)))
        return (~inside).to(x.dtype)


def shifted(x: Tensor, most: int) -> Tensor:
    """Move each image [c, h, w] of x by a whole number of pixels, drawn from -most to most.

    Along each axis on its own; what comes in is zero.
    """
    for axis in (2, 3):
        n, length = len(x), x.shape[axis]
        step = torch.randint(-most, most + 1, [n], device=x.device)
        source = torch.arange(length, device=x.device) + step[:, None] + most
        padding = [0, 0, most, most] if axis == 2 else [most, most]
        padded = torch.nn.functional.pad(x, padding)
        shape = [n, 1, length, 1] if axis == 2 else [n, 1, 1, length]
        x = padded.gather(axis, source.reshape(shape).expand(*x.shape))
    return x


def _centred(x: Tensor) -> Tensor:
    """Draw a number in [-1/2, 1/2) for each image, [n, 1, 1, 1]."""
    return torch.rand([len(x), 1, 1, 1], dtype=x.dtype, device=x.device) - 0.5
