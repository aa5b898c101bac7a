"""Images to features: what a distance between image sets is measured in.

A feature extractor is any callable that takes uint8 images [n, c, h, w] and gives (features [n, d]
float, class probabilities [n, k] or None), with a `name` that goes on every number made with it.
Numbers of different feature spaces cannot be compared: only the Inception network of 2015 gives
FID.
"""

from __future__ import annotations

import dataclasses
import hashlib
import os
from collections.abc import Callable, Mapping
from typing import Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor, nn

from metrics.statistics import Statistics
from metrics.storage import Arrays, read_arrays, text, write_arrays
from roles.pixels import from_uint8


@runtime_checkable
class FeatureExtractor(Protocol):
    """A feature space. An extractor of the 2015 Inception network may set `is_inception = True`."""

    @property
    def name(self) -> str:
        """What reports call the space, such as "MNIST classifier (64-d, demo)"."""
        ...

    @property
    def dim(self) -> int:
        """Number of features, d."""
        ...

    @property
    def sha256(self) -> str:
        """Hash of the weights, in hexadecimal."""
        ...

    def __call__(
        self, images: UInt8[Tensor, "n c h w"]
    ) -> tuple[Float[Tensor, "n d"], Float[Tensor, "n k"] | None]:
        """Features and class probabilities (or None) of images."""
        ...


# A plain function of images will do: it is called by its own name, and may return features alone.
AnyExtractor = FeatureExtractor | Callable[[Tensor], Tensor | tuple[Tensor, Tensor | None]]


class Classifier(nn.Module):
    """Three stride-2 3x3 convolutions, a layer of features, a layer of class logits; ReLU between.

    `num_classes=None` leaves the logits out. The attribute `c` and its numbering are the names in
    the file.
    """

    def __init__(
        self,
        *,
        img_resolution: int = 32,
        img_channels: int = 1,
        widths: tuple[int, int, int] = (16, 32, 64),
        num_features: int = 64,
        num_classes: int | None = 10,
    ) -> None:
        super().__init__()
        self.img_channels = img_channels
        self.num_features = num_features
        self.grid = _halved_three_times(img_resolution)
        layers: list[nn.Module] = []
        for before, after in zip((img_channels, *widths[:2]), widths, strict=True):
            layers += [nn.Conv2d(before, after, 3, stride=2, padding=1), nn.ReLU()]
        layers += [nn.Flatten(), nn.Linear(widths[2] * self.grid**2, num_features), nn.ReLU()]
        if num_classes is not None:
            layers.append(nn.Linear(num_features, num_classes))
        self.c = nn.Sequential(*layers)

    def forward(
        self, x: Float[Tensor, "n c h w"]
    ) -> tuple[Float[Tensor, "n d"], Float[Tensor, "n k"] | None]:
        """Features and class logits (or None) of x in [-1, 1]."""
        features = self.c[:9](x)
        return features, self.c[9](features) if len(self.c) > 9 else None


class ClassifierFeatures:
    """A trained `Classifier` as feature extractor, by its penultimate layer.

    Puts the classifier into eval mode and takes its gradients away. Without a name it is called by
    the hash of its weights.
    """

    def __init__(self, classifier: Classifier, *, name: str | None = None) -> None:
        self.classifier = classifier.eval().requires_grad_(False)
        self.dim = classifier.num_features
        self.sha256 = _hash_arrays(_classifier_arrays(classifier))
        self.name = name or f"classifier {self.sha256[:8]} ({self.dim}-d)"

    def to(self, device: str | torch.device) -> ClassifierFeatures:
        """Move the classifier; images follow it."""
        self.classifier.to(device)
        return self

    @torch.no_grad()
    def __call__(self, images: Tensor) -> tuple[Float[Tensor, "n d"], Float[Tensor, "n k"] | None]:
        """Features and class probabilities of uint8 [n, c, h, w]; ValueError on other images."""
        channels, grid = self.classifier.img_channels, self.classifier.grid
        if images.dtype != torch.uint8 or images.ndim != 4:
            raise ValueError(
                f"images are {images.dtype} {tuple(images.shape)}: give uint8 [n, c, h, w]"
            )
        grids = {_halved_three_times(size) for size in images.shape[2:]}
        if images.shape[1] != channels or grids != {grid}:
            got = " x ".join(str(size) for size in images.shape[1:])
            raise ValueError(
                f"images are {got}, and the features of {self.name!r} need {channels} x "
                f"{8 * grid} x {8 * grid}: choose features made for these images"
            )
        device = next(self.classifier.parameters()).device
        features, logits = self.classifier(from_uint8(images.to(device)))
        return features, None if logits is None else logits.softmax(1)


def load_features(path: str | os.PathLike[str]) -> ClassifierFeatures:
    """The feature extractor of an .npz of `save_features`, its sizes taken from the arrays.

    ValueError, naming the file, when the arrays are missing, do not fit together or are not finite.
    """
    return features_of_arrays(read_arrays(path), path=path)


def save_features(
    path: str | os.PathLike[str], classifier: Classifier, statistics: Statistics, *, name: str
) -> None:
    """Write a feature space and what to measure against in it, the statistics of real images."""
    named = dataclasses.replace(statistics, space=name)
    write_arrays(path, _classifier_arrays(classifier) | named.arrays())


def holds_features(arrays: Mapping[str, np.ndarray]) -> bool:
    """Whether the arrays of a file are meant as a classifier (and not as statistics alone)."""
    return any(key.startswith("c.") for key in arrays)


def features_of_arrays(arrays: Arrays, *, path: str | os.PathLike[str]) -> ClassifierFeatures:
    """The extractor among the arrays of a file, checked; `path` is for messages."""
    weights = {key: value for key, value in arrays.items() if key.startswith("c.")}
    layers = [0, 2, 4, 7, *([9] if "c.9.weight" in weights else [])]
    names = {f"c.{i}.{part}" for i in layers for part in ("weight", "bias")}
    if weights.keys() != names:
        odd = min(weights.keys() ^ names)
        raise ValueError(
            f"{path}: array {odd!r} is {'missing' if odd in names else 'unknown'}; "
            f"a classifier has {', '.join(sorted(names))}"
        )
    for i in layers:
        w, b = weights[f"c.{i}.weight"], weights[f"c.{i}.bias"]
        form = (3, 3) if i < 7 else ()
        if w.shape[2:] != form or w.ndim != 2 + len(form) or b.shape != w.shape[:1]:
            raise ValueError(
                f"{path}: 'c.{i}' has weight {w.shape} and bias {b.shape}; "
                f"allowed: weight (out, in{', 3, 3' if form else ''}), bias (out,)"
            )
        if not all(a.dtype.kind == "f" and a.size and np.isfinite(a).all() for a in (w, b)):
            raise ValueError(f"{path}: 'c.{i}' must hold finite floating-point numbers")
    shapes = [weights[f"c.{i}.weight"].shape for i in layers]
    grid = max(1, round((shapes[3][1] / shapes[2][0]) ** 0.5))
    inputs = [shapes[0][1], shapes[0][0], shapes[1][0], shapes[2][0] * grid**2, shapes[3][0]]
    for i, shape, width in zip(layers, shapes, inputs, strict=False):
        if shape[1] != width:
            raise ValueError(
                f"{path}: 'c.{i}' takes {shape[1]} inputs and gets {width} from the layer before"
            )
    classifier = Classifier(
        img_resolution=8 * grid,
        img_channels=shapes[0][1],
        widths=(shapes[0][0], shapes[1][0], shapes[2][0]),
        num_features=shapes[3][0],
        num_classes=shapes[4][0] if len(shapes) > 4 else None,
    )
    # Whatever float type and byte order the file has, torch takes float32 in native order.
    classifier.load_state_dict(
        {k: torch.from_numpy(v.astype(np.float32)) for k, v in weights.items()}
    )
    return ClassifierFeatures(classifier, name=text(arrays, "name", path=path))


def _halved_three_times(size: int) -> int:
    return -(-size // 8)


def _classifier_arrays(classifier: Classifier) -> Arrays:
    return {key: value.detach().cpu().numpy() for key, value in classifier.state_dict().items()}


def _hash_arrays(arrays: Arrays) -> str:
    digest = hashlib.sha256()
    for key in sorted(arrays):
        digest.update(f"{key} {arrays[key].shape}\n".encode())
        digest.update(np.ascontiguousarray(arrays[key], np.float32).tobytes())
    return digest.hexdigest()
