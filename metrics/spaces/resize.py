"""How images reach a network's input size: the largest hidden difference between two FIDs.

tf1         TensorFlow 1's bilinear filter: place i of the output is i * in / out of the input, no
            half-pixel shift, no antialiasing. What published FIDs use.
half_pixel  bilinear with half-pixel centres, no antialiasing, as pytorch-fid does it
clean       Pillow's antialiased bicubic filter in float, clipped to 0..255, not rounded
            (Parmar et al. 2022, arXiv:2104.11222)
antialiased bicubic by torch, clipped to 0..255: for networks that are not Inception's
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

Resize = Callable[[Tensor, int], Tensor]


def resize_tf1(x: Tensor, size: int) -> Tensor:
    """[n, c, h, w] to float32 [n, c, size, size]."""
    for dim in (3, 2):
        length = x.shape[dim]
        places = torch.arange(size, device=x.device) * torch.tensor(length / size)
        low = places.long()
        high = (low + 1).clamp(max=length - 1)
        share = (places - low).view(-1, *[1] * (3 - dim))
        x = x.float()
        below = x.index_select(dim, low)
        x = below + (x.index_select(dim, high) - below) * share
    return x


def resize_half_pixel(x: Tensor, size: int) -> Tensor:
    """[n, c, h, w] to float32 [n, c, size, size]."""
    return F.interpolate(x.float(), size=(size, size), mode="bilinear", align_corners=False)


def resize_clean(x: Tensor, size: int) -> Tensor:
    """[n, c, h, w] to float32 [n, c, size, size]."""
    planes = x.float().cpu().numpy().reshape(-1, *x.shape[2:])
    resized = [
        np.asarray(Image.fromarray(plane).resize((size, size), Image.Resampling.BICUBIC))
        for plane in planes
    ]
    result = torch.from_numpy(np.stack(resized)).clamp(0, 255)
    return result.view(*x.shape[:2], size, size).to(x.device)


def resize_antialiased(x: Tensor, size: int) -> Tensor:
    """[n, c, h, w] to float32 [n, c, size, size]."""
    resized = F.interpolate(
        x.float(), size=(size, size), mode="bicubic", antialias=True, align_corners=False
    )
    return resized.clamp(0, 255)


# Those that Inception's features are known by.
RESIZE: dict[str, Resize] = {
    "tf1": resize_tf1,
    "half_pixel": resize_half_pixel,
    "clean": resize_clean,
}
