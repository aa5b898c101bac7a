"""What a student is measured against: statistics of real images, in a feature space."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, Float64
from torch import Tensor

import checkpoints
import image_sets
from metrics.distances.moments import Moments
from metrics.spaces.features import AnyExtractor, features_of_arrays, holds_features
from metrics.statistics import Statistics, load_statistics, save_statistics
from metrics.storage import read_arrays
from roles import Processes
from roles.shown import shown

# Progress of a stage: (steps done, steps in all), of which nearly all are images.
Progress = Callable[[int, int], None]

# Images whose features are kept, for metrics that need those of single ones: 2000 x 2000 pairs.
SAMPLE = 2000

# Below, no image has the three neighbours that precision and recall go by (see least_rows).
LEAST_ROWS = 4

# Part of every cached file's key: raise it when the same images would give other statistics.
PROTOCOL = 1


@dataclass(frozen=True)
class Reference:
    """Statistics of real images and the extractor of the feature space that they are in.

    `source` is where they come from, for people.
    """

    statistics: Statistics
    extractor: AnyExtractor
    source: str

    @property
    def space(self) -> str:
        """Name of the feature space, for every number measured in it."""
        return space_name(self.extractor)

    @property
    def rows(self) -> Float64[Tensor, "m d"] | None:
        """Features of single real images; None where there are none."""
        sample = self.statistics.features
        return None if sample is None else torch.from_numpy(sample).double()

    @property
    def sha256(self) -> str:
        """Hash of mu and sigma in float64, whatever file they were in."""
        mu, sigma = self.statistics.mu, self.statistics.sigma
        return hashlib.sha256(mu.tobytes() + sigma.tobytes()).hexdigest()


AnyReference = str | os.PathLike[str] | Moments | Statistics | Reference


def open_reference(
    reference: AnyReference,
    features: AnyExtractor | None = None,
    *,
    batch: int = 250,
    cache: str | os.PathLike[str] | None = None,
    progress: Progress | None = None,
    processes: Processes | None = None,
) -> Reference:
    """The reference of a file of statistics, of a folder or zip of images, or of given moments.

    A file of statistics is an .npz with mu and sigma (ours, EDM's, pytorch-fid's) or m and s
    (TTUR's), a .pt with mu and sigma (torch-fidelity's), or a .pkl of EDM2, of which the part for
    these features is taken. An .npz of guided-diffusion, uint8 [n, h, w, c] in arr_0, is images.

    `features` is the extractor, any callable of that protocol. An .npz of `save_features` brings
    its own; everything else needs one. Images are read `batch` at a time. `cache` is a folder where
    statistics of images are kept, found again by the content of the images, the hash of the
    features' weights, and the protocol; features without a `sha256` are measured every time. Of
    several processes each measures a share of the images.
    ValueError or OSError, naming the file, on what cannot be used.
    """
    processes = processes or Processes()
    if isinstance(reference, Reference):
        return reference
    if isinstance(reference, Moments):
        reference = Statistics.of(reference)
    if isinstance(reference, Statistics):
        return _with_statistics(reference, features, "statistics given by the caller")
    path = checkpoints.local_data(os.fspath(reference))
    if not path.exists():
        raise FileNotFoundError(
            f"{path}: no such file; give an .npz, .pkl or .pt, or a folder or zip of images"
        )
    if path.suffix == ".npz":
        arrays = read_arrays(path)
        if is_image_batch(arrays):
            if features is None:
                raise ValueError(f"{path}: holds images, so name their --features")
            batches = ImageArray(arrays["arr_0"].transpose(0, 3, 1, 2))
            statistics = _measure_images(path, batches, features, batch, progress, processes)
            return Reference(statistics, features, str(path))
        if features is None and holds_features(arrays):
            features = features_of_arrays(arrays, path=path)
        dim = getattr(features, "dim", None)
        statistics = Statistics.from_arrays(arrays, path=path, dim=dim)
        return _with_statistics(statistics, features, str(path))
    if path.suffix in (".pkl", ".pt", ".pth"):
        return _with_statistics(_read_edm2(path, features), features, str(path))
    if not path.is_dir() and path.suffix != ".zip":
        raise ValueError(
            f"{path}: not a reference; give an .npz, .pkl or .pt, or a folder or zip of images"
        )
    if features is None:
        raise ValueError(
            f"{path}: holds images, so name the features to measure them in by --features"
        )
    kept = _cache_file(path, features, cache)
    missing = kept is None or not kept.exists()
    if not processes.any(missing, "the cache of statistics") and kept is not None:
        return _with_statistics(load_statistics(kept), features, str(path))
    folder = image_sets.ImageFolder(path, whole=True)
    statistics = _measure_images(path, folder, features, batch, progress, processes)
    if kept is not None and processes.is_first:
        kept.parent.mkdir(parents=True, exist_ok=True)
        save_statistics(kept, statistics)
    return Reference(statistics, features, str(path))


def is_image_batch(arrays: Mapping[str, np.ndarray]) -> bool:
    """Whether an .npz is a batch of images as guided-diffusion writes it: uint8 [n, h, w, c]."""
    images = arrays.get("arr_0")
    return (
        "mu" not in arrays
        and images is not None
        and images.dtype == np.uint8
        and images.ndim == 4
        and images.shape[3] in (1, 3)
    )


@dataclass(frozen=True)
class ImageArray:
    """Images in memory, uint8 [n, c, h, w], where a folder of them may stand."""

    images: np.ndarray
    labels: None = None

    def __len__(self) -> int:
        return len(self.images)

    def batches(self, batch: int, part: range) -> Iterator[tuple[np.ndarray, None]]:
        """The images of these indices in order, at most `batch` at a time."""
        for start in range(part.start, part.stop, batch):
            yield np.ascontiguousarray(self.images[start : min(start + batch, part.stop)]), None

    def close(self) -> None:
        """Nothing is open."""


def space_name(features: AnyExtractor) -> str:
    """What a feature space is called: its `name`, or a plain function's own."""
    return getattr(features, "name", None) or getattr(features, "__name__", type(features).__name__)


def extract(
    features: AnyExtractor, images: Tensor
) -> tuple[Float64[Tensor, "n d"], Float[Tensor, "n k"] | None]:
    """Features and class probabilities (or None) of images on the CPU, checked to be finite.

    A plain function may return the features alone.
    """
    result = features(images)
    values, probabilities = result if isinstance(result, tuple) else (result, None)
    for what, tensor in (("features", values), ("probabilities", probabilities)):
        if tensor is not None and (tensor.ndim != 2 or len(tensor) != len(images)):
            raise ValueError(
                f"{space_name(features)!r} gives {what} of shape {tuple(tensor.shape)} for "
                f"{len(images)} images; allowed is [{len(images)}, any]"
            )
        if tensor is not None and not tensor.isfinite().all():
            raise ValueError(f"{space_name(features)!r} gives {what} that are NaN or infinite")
    values = values.detach().cpu().double()
    return values, None if probabilities is None else probabilities.detach().cpu()


def _with_statistics(
    statistics: Statistics, features: AnyExtractor | None, source: str
) -> Reference:
    if features is None:
        raise ValueError(
            f"{source}: statistics without their feature extractor; name the features by --features"
        )
    space = space_name(features)
    if statistics.space is not None and statistics.space != space:
        raise ValueError(
            f"{source}: statistics are in the feature space {statistics.space!r}, and the features "
            f"are {space!r}; use one for both"
        )
    dim = getattr(features, "dim", len(statistics.mu))
    if dim != len(statistics.mu):
        raise ValueError(
            f"{source}: statistics of {len(statistics.mu)} features, and {space!r} has {dim}; "
            "use one feature space for both"
        )
    rows = statistics.features
    if rows is not None and len(rows) < LEAST_ROWS:
        raise ValueError(
            f"{source}: has features of {len(rows)} single images, and the metrics of those need "
            f"{LEAST_ROWS}; give more, or mu and sigma alone"
        )
    return Reference(statistics, features, source)


# The keys of EDM2's files, by the beginning of the names of our feature spaces.
EDM2_KEYS = {"Inception 2015 (tf1 resize)": "fid", "DINOv2 ViT-L/14": "fd_dinov2"}


def _read_edm2(path: Path, features: AnyExtractor | None) -> Statistics:
    """Statistics of {"fid": {"mu", "sigma"}, "fd_dinov2": ..., "num_images"}; no code is run."""
    content = checkpoints.read(path)
    if isinstance(content, checkpoints.Record):
        checkpoints.check_clean(content, path, "object")
    if features is None:
        raise ValueError(
            f"{path}: statistics without their feature extractor; name the features by --features"
        )
    if isinstance(content, dict) and {"mu", "sigma"} <= content.keys():  # torch-fidelity's
        return Statistics.from_arrays(
            {name: _array(content[name], f"{path}: {name}") for name in ("mu", "sigma")},
            path=path,
            dim=getattr(features, "dim", None),
        )
    space = space_name(features)
    key = next((key for name, key in EDM2_KEYS.items() if space.startswith(name)), None)
    found = content.get(key) if isinstance(content, dict) and key else None
    if not isinstance(found, dict):
        keys = content if isinstance(content, dict) else ()
        held = ", ".join(shown(str(key), quoted=False) for key in list(keys)[:8]) or "no table"
        raise ValueError(
            f"{path}: has no statistics in the feature space {space!r}; it holds {held}, and "
            f"allowed spaces are {', '.join(EDM2_KEYS)}"
        )
    arrays = {
        name: _array(found[name], f"{path}: {name}") for name in ("mu", "sigma") if name in found
    }
    if isinstance(content, dict) and "num_images" in content:
        num = content["num_images"]
        if not isinstance(num, (int, np.integer)) or not 0 <= num < 2**63:
            raise ValueError(f"{path}: num_images is {shown(num)}; it must be a whole number")
        arrays["n"] = np.asarray(num)
    return Statistics.from_arrays(arrays, path=path, dim=getattr(features, "dim", None))


def _array(value: object, where: str) -> np.ndarray:
    """An array of a pickle; lists, which can share their parts a million times, are none."""
    if isinstance(value, np.ndarray):
        return value
    if isinstance(value, Tensor):
        return value.detach().double().numpy()
    raise ValueError(f"{where} is {shown(value)}; statistics are NumPy arrays or tensors")


def _cache_file(
    path: Path, features: AnyExtractor, cache: str | os.PathLike[str] | None
) -> Path | None:
    weights = getattr(features, "sha256", None)
    if cache is None or weights is None:
        return None
    key = f"{PROTOCOL} {SAMPLE} {image_sets.fingerprint(path)} {space_name(features)} {weights}"
    return Path(cache) / f"statistics-{hashlib.sha256(key.encode()).hexdigest()[:32]}.npz"


def sample_indices(num_images: int) -> range:
    """Which images of a folder the rows of `Statistics.features` are of."""
    # Class folders come class by class: an even stride keeps every class in the sample.
    return range(0, num_images, -(-num_images // SAMPLE))


def _measure_images(
    path: Path,
    folder: image_sets.ImageFolder | ImageArray,
    features: AnyExtractor,
    batch: int,
    progress: Progress | None,
    processes: Processes,
) -> Statistics:
    if len(folder) < LEAST_ROWS:
        raise ValueError(f"{path}: {len(folder)} images; a reference needs at least {LEAST_ROWS}")
    share, indices = processes.share(len(folder)), sample_indices(len(folder))
    moments, sample, done = Moments.empty(0), torch.zeros(0, 0), share.start
    for images, _ in folder.batches(batch, share):
        values, _ = extract(features, torch.from_numpy(images))
        if not moments.num:
            moments = Moments.empty(values.shape[1])
            sample = torch.zeros(len(indices), values.shape[1])
        moments.update(values)
        rows = [i for i in range(done, done + len(values)) if i % indices.step == 0]
        sample[[i // indices.step for i in rows]] = values[[i - done for i in rows]].float()
        done += len(values)
        if progress and (done - share.start) * processes.size < len(folder):
            progress((done - share.start) * processes.size, len(folder))
    folder.close()
    # Each row is zero in all processes but the one that has it.
    processes.sum(sample, phase="the features")
    if progress:
        progress(len(folder), len(folder))
    labels = folder.labels
    return Statistics.of(
        moments.over(processes),
        space=space_name(features),
        features=sample,
        labels=None if labels is None or labels.ndim > 1 else labels[:: indices.step],
    )
