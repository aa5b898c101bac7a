"""Differentiable distances of image pairs in a trained network's features, for regression losses.

LPIPS (Zhang et al. 2018, arXiv:1801.03924, Eq. 1): features of several layers, each place's vector
divided by its length, their squared differences weighted by channel and averaged over places.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

import checkpoints
from checkpoints.web import cache
from metrics.spaces.choice import lite0_network
from metrics.spaces.inception import required
from metrics.spaces.lite0 import Lite0

# VGG16 (Simonyan and Zisserman 2014, arXiv:1409.1556, Table 1, D): widths of each stage.
VGG16 = ((64, 64), (128, 128), (256, 256, 256), (512, 512, 512), (512, 512, 512))
# What LPIPS's weights were fitted with, on colours in [-1, 1].
SHIFT = (-0.030, -0.088, -0.188)
SCALE = (0.458, 0.448, 0.450)


class Lpips(nn.Module):
    """LPIPS with VGG16's features, from the two public weights files.

    Args:
        vgg: torchvision's VGG16 state dict (features.0.weight, ...).
        linear: LPIPS's own weights (lin0.model.1.weight, ...), version 0.1.
        size: width and height to which images are resampled first, as DMD does with 224; None
            leaves them as they are.

    Attributes:
        name: what logs call it.

    Raises:
        ValueError: a weight is missing or of another shape.
    """

    def __init__(
        self, vgg: Mapping[str, Tensor], linear: Mapping[str, Tensor], *, size: int | None = 224
    ) -> None:
        super().__init__()
        self.size = size
        self.name = "LPIPS-VGG"
        self.stages = nn.ModuleList()
        self.weights = nn.ParameterList()
        number, before = 0, 3
        for k, widths in enumerate(VGG16):
            convolutions = []
            for width in widths:
                convolution = nn.Conv2d(before, width, 3, padding=1)
                weight = required(vgg, f"features.{number}.weight", (width, before, 3, 3))
                bias = required(vgg, f"features.{number}.bias", (width,))
                convolution.load_state_dict({"weight": weight, "bias": bias})
                convolutions += [convolution, nn.ReLU()]
                number, before = number + 2, width
            number += 1  # a pooling layer
            self.stages.append(nn.Sequential(*convolutions))
            weight = required(linear, f"lin{k}.model.1.weight", (1, before, 1, 1))
            self.weights.append(nn.Parameter(weight.reshape(-1).clone()))
        self.eval().requires_grad_(False)

    def forward(
        self, x: Float[Tensor, "n c h w"], y: Float[Tensor, "n c h w"]
    ) -> Float[Tensor, " n"]:
        """Return the distance of gray or colour images in [-1, 1]."""
        a, b = (self._prepared(images) for images in (x, y))
        total = x.new_zeros(len(x))
        for k, (stage, weight) in enumerate(zip(self.stages, self.weights, strict=True)):
            if k:
                a, b = F.max_pool2d(a, 2), F.max_pool2d(b, 2)
            a, b = stage(a), stage(b)
            total = total + layer_distance(a, b, weight)
        return total

    def _prepared(self, images: Tensor) -> Tensor:
        images = in_colour(images)
        if self.size is not None and images.shape[-1] != self.size:
            images = F.interpolate(images, [self.size, self.size], mode="bilinear")
        shift, scale = (images.new_tensor(v)[:, None, None] for v in (SHIFT, SCALE))
        return (images - shift) / scale


class Lite0Distance(nn.Module):
    """The same form in EfficientNet-Lite0's blocks, all channels of a block weighted equally.

    It has no weights fitted to human judgement, and needs no download beyond the package.

    Args:
        network: with its weights.

    Attributes:
        name: what logs call it.
    """

    def __init__(self, network: Lite0) -> None:
        super().__init__()
        self.network = network
        self.name = "EfficientNet-Lite0 features"

    def forward(
        self, x: Float[Tensor, "n c h w"], y: Float[Tensor, "n c h w"]
    ) -> Float[Tensor, " n"]:
        """Return the distance of gray or colour images in [-1, 1]."""
        total = x.new_zeros(len(x))
        # The network's own scaling of levels 0 to 255: (level - 127) / 128.
        a, b = ((in_colour(images) * 127.5 + 0.5) / 128 for images in (x, y))
        a, b = (F.relu6(self.network.stem(images)) for images in (a, b))
        for block in self.network.blocks:
            a, b = block(a), block(b)
            total = total + layer_distance(a, b, None) / len(self.network.blocks)
        return total


def layer_distance(
    a: Float[Tensor, "n c h w"], b: Float[Tensor, "n c h w"], weight: Float[Tensor, " c"] | None
) -> Float[Tensor, " n"]:
    """Return one layer's part of the distance of features (Eq. 1); no weight is 1 everywhere."""
    difference = (F.normalize(a, dim=1, eps=1e-10) - F.normalize(b, dim=1, eps=1e-10)).square()
    if weight is not None:
        difference = difference * weight[:, None, None]
    return difference.sum(dim=1).mean(dim=[1, 2])


def in_colour(images: Float[Tensor, "n c h w"]) -> Float[Tensor, "n 3 h w"]:
    """Return images [n, 3, h, w]; gray has its channel three times.

    Raises:
        ValueError: another number of channels.
    """
    if images.shape[1] not in (1, 3):
        raise ValueError(f"images are {list(images.shape)}; give [n, 1 or 3, h, w]")
    return images.expand(-1, 3, -1, -1)


def load_lpips(vgg: str | Path, linear: str | Path, *, size: int | None = 224) -> Lpips:
    """Read LPIPS's two weights files: torchvision's VGG16, and vgg.pth of LPIPS 0.1.

    Their hashes go into the distance's name, and so into a run's log.

    Raises:
        ValueError: they are not those.
        OSError: one cannot be read.
    """
    found = []
    for path in (vgg, linear):
        weights = checkpoints.read(path)
        if not checkpoints.is_state_dict(weights):
            raise ValueError(f"{path}: holds no table of weights; give the state dict file")
        found.append(weights)
    lpips = Lpips(*found, size=size)
    hashes = [cache.sha256(Path(path))[:8] for path in (vgg, linear)]
    lpips.name = f"LPIPS-VGG of {' and '.join(hashes)}"
    return lpips


def choose_distance(text: str) -> nn.Module | None:
    """Return the distance of a name; None is pseudo-Huber, the refiners' own.

    Args:
        text: pseudo-huber, efficientnet-lite0, or lpips=VGG16,LINEAR with two files.

    Raises:
        ValueError: another text, or files that hold something else.
        OSError: a file or package is missing.
    """
    if text == "pseudo-huber":
        return None
    if text == "efficientnet-lite0":
        return Lite0Distance(lite0_network())
    name, _, files = text.partition("=")
    vgg, comma, linear = files.partition(",")
    if name == "lpips" and comma:
        return load_lpips(vgg, linear)
    raise ValueError(
        f"--distance is {text!r}; allowed are pseudo-huber, efficientnet-lite0, and "
        "lpips=VGG16.pth,LINEAR.pth"
    )
