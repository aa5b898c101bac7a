"""Data sets as they are found: class folders, MNIST, CIFAR-10; and convert() from any of them."""

from __future__ import annotations

import os
import zipfile
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import numpy as np
from PIL import Image

from image_sets.originals import read_cifar10, read_mnist
from image_sets.pictures import FORMATS, MODES, decode_image, to_chw, to_hwc
from image_sets.stylegan import ImageFiles, ImageFolder, describe, write_zip
from image_sets.tar import TarFiles
from roles.budget import file_size
from roles.shown import shown

MNIST_SUFFIX = "-images-idx3-ubyte.gz"
FILTERS = {"lanczos": Image.Resampling.LANCZOS, "box": Image.Resampling.BOX}
TRANSFORMS = ("center-crop", "stretch")
FIXES = ("rgb", "resize")


MAX_ARRAY_BYTES = 2**29  # Of all images of class folders at once; CIFAR-10 has 2**27.5.
MAX_SHOWN = 5  # Broken images that one message names.
MAX_CLASSES_SHOWN = 12
# Folders that divide a set, and are no classes where all lie in such ones.
SPLITS = ("train", "training", "test", "testing", "val", "valid", "validation")


class UnusableImages(ValueError):
    """Some images of a source cannot be used; `reasons` has a line for each, naming the file.

    The message names the first MAX_SHOWN.
    """

    def __init__(self, reasons: Sequence[str], num_images: int) -> None:
        self.reasons = tuple(reasons)
        first = "; ".join(reasons[:MAX_SHOWN])
        more = f"; and {len(reasons) - MAX_SHOWN} more" if len(reasons) > MAX_SHOWN else ""
        super().__init__(f"{len(reasons)} of {num_images} images cannot be used: {first}{more}")


@dataclass(frozen=True)
class Source:
    """n images, decoded one by one: read(i, channels) -> uint8 [c, h, w].

    names say in messages which image is meant; labels are int64 [n], float32 [n, k] or None.
    remarks say what was taken for classes, and what was passed over.
    """

    names: Sequence[str]
    labels: np.ndarray | None
    read: Callable[[int, int | None], np.ndarray]
    remarks: tuple[str, ...] = ()


def read_class_folders(
    source: str | os.PathLike[str], *, split: str | None = None, pad_to: int | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Images that lie in one folder a class, from a folder, zip or tar (.tar.xz, .tar.gz, .tar).

    The class is the outermost folder in which the images differ, as in EDM's tool; below train,
    test and the like it is the next one. Classes are numbered in string order. split keeps what
    lies below a folder of that name ("train"). pad_to centres the images on black of that size.
    Returns uint8 [n, c, h, w] and labels int64 [n], in the order of the sorted paths.
    """
    found = _image_files(Path(source), split, use_json=False)
    if found.labels is None:
        raise ValueError(f"{source}: the images lie in one folder, expected one folder a class")
    first = _padded(found.read(0, None), pad_to, found.names[0])
    if len(found.names) * first.nbytes > MAX_ARRAY_BYTES:
        raise ValueError(
            f"{source}: {len(found.names)} images of {describe(first.shape)}; an array of at most "
            f"{MAX_ARRAY_BYTES >> 20} MiB is read"
        )
    images = np.empty((len(found.names), *first.shape), dtype=np.uint8)
    for index, name in enumerate(found.names):
        image = _padded(found.read(index, None), pad_to, name)
        _require_shape(image, first.shape, name)
        images[index] = image
    return images, found.labels


def convert(
    source: str | os.PathLike[str],
    dest: str | os.PathLike[str],
    *,
    split: str | None = None,
    max_images: int | None = None,
    resolution: int | None = None,
    transform: str | None = None,
    resize_filter: str = "lanczos",
    fix: Collection[str] = (),
    pad_to: int | None = None,
    channels: int | None = None,
    progress: Callable[[int, int], None] | None = None,
    remark: Callable[[str], None] | None = None,
) -> ImageFolder:
    """Write a source as a zip in the StyleGAN layout and return it opened.

    source         a folder, zip or tar of images (labels: dataset.json, else one folder a class),
                   train-images-idx3-ubyte.gz (MNIST; padded from 28 to 32), cifar-10-python.tar.gz
    dest           a .zip that does not exist yet
    split          keeps what lies below a folder of that name; for CIFAR-10 "train" or "test"
    max_images     so many: of each class as many as can be, in the order of the source
    resolution     the side in pixels of what is written
    transform      "center-crop" takes the central square and resizes it, "stretch" resizes the
                   whole; None is center-crop
    resize_filter  "lanczos" (EDM's) or "box" (StyleGAN2-ADA's published FFHQ-256): a Frechet
                   distance to data resized otherwise is off by about 1
    fix            repairs: "rgb" converts palettes, alpha, CMYK and gray to RGB; "resize" brings
                   images that are no squares of the first one's size to that size, or to the
                   largest power of two in it. What is damaged stays an error.
    pad_to         centre on black instead of resizing
    channels       1 or 3 converts every image; None takes grayscale and RGB as stored
    progress       called with (images done, images in all)
    remark         called with what was taken for classes and what was passed over, before any work

    Every image is tried before UnusableImages, a ValueError, tells of all those that cannot be
    used, each with its reason; dest is not written then.
    """
    source, dest = Path(source), Path(dest)
    _check_options(dest, max_images, resolution, pad_to, channels)
    resizes = resolution is not None or "resize" in fix
    _check_choices(transform, resize_filter, fix, resizes=resizes)
    found = _open_source(source, split)
    if remark is not None:
        for line in found.remarks:
            remark(line)
    if max_images is not None and max_images < len(found.names):
        found = _part(found, _across_classes(found.labels, len(found.names), max_images))
    count = len(found.names)
    if source.name.endswith(MNIST_SUFFIX) and resolution is None and pad_to is None:
        pad_to = 32

    channels = 3 if "rgb" in fix and channels is None else channels
    side = resolution
    if side is None and pad_to is None and "resize" in fix:
        side = _largest_side(found, count, channels)

    def prepare(index: int) -> np.ndarray:
        image = _resized(
            found.read(index, channels), side, stretch=transform == "stretch", by=resize_filter
        )
        return _padded(image, pad_to, found.names[index])

    write_zip(dest, _all_usable(found.names, prepare, progress), found.labels)
    return ImageFolder(dest)


def _across_classes(labels: np.ndarray | None, num_images: int, wanted: int) -> np.ndarray:
    """Indices, rising: the first of each class, then the second, until there are so many."""
    if labels is None or labels.ndim > 1:
        return np.arange(wanted)
    turn = np.zeros(num_images, dtype=np.int64)
    for label in np.unique(labels):
        own = labels == label
        turn[own] = np.arange(own.sum())
    return np.sort(np.argsort(turn, kind="stable")[:wanted])


def _part(source: Source, kept: np.ndarray) -> Source:
    labels = None if source.labels is None else source.labels[kept]
    names = [source.names[int(i)] for i in kept]
    return Source(names, labels, lambda index, channels: source.read(int(kept[index]), channels))


def _all_usable(
    names: Sequence[str],
    prepare: Callable[[int], np.ndarray],
    progress: Callable[[int, int], None] | None,
) -> Iterator[np.ndarray]:
    """Yield every image that can be used; at the end ValueError if one could not."""
    shape: tuple[int, ...] | None = None
    broken: list[str] = []
    for index, name in enumerate(names):
        try:
            image = prepare(index)
            shape = shape or _usable_shape(image, name)
            _require_shape(image, shape, name)
        except ValueError as error:
            broken.append(str(error))
        else:
            yield image
        if progress is not None:
            progress(index + 1, len(names))
    if broken:
        raise UnusableImages(broken, len(names))


def _check_choices(
    transform: str | None, resize_filter: str, fix: Collection[str], *, resizes: bool
) -> None:
    if transform is not None and not resizes:
        raise ValueError(f"got transform {transform!r} and nothing to resize to; give a resolution")
    if transform is not None and transform not in TRANSFORMS:
        raise ValueError(f"transform is {transform!r}; allowed are {', '.join(TRANSFORMS)}")
    if resize_filter not in FILTERS:
        raise ValueError(f"resize filter is {resize_filter!r}; allowed are {', '.join(FILTERS)}")
    if unknown := sorted(set(fix) - set(FIXES)):
        raise ValueError(f"fix is {unknown[0]!r}; allowed are {', '.join(FIXES)}")


def _largest_side(found: Source, count: int, channels: int | None) -> int:
    """The largest power of two within the first image that can be read."""
    for index in range(count):
        try:
            _, h, w = found.read(index, channels).shape
        except ValueError:
            continue  # It is named, with all others, when every image is tried.
        return 1 << (min(h, w).bit_length() - 1)
    return 1


def _check_options(
    dest: Path,
    max_images: int | None,
    resolution: int | None,
    pad_to: int | None,
    channels: int | None,
) -> None:
    if dest.suffix.lower() != ".zip":
        raise ValueError(f"destination {dest}: expected a file name that ends in .zip")
    if dest.exists():
        raise ValueError(f"destination {dest} exists; choose another name or remove it first")
    if resolution is not None and pad_to is not None:
        raise ValueError("got both a resolution and a size to pad to; give one of them")
    if channels is not None and channels not in MODES:
        raise ValueError(f"got {channels} channels, expected 1 (grayscale) or 3 (RGB)")
    for name, value in (("max_images", max_images), ("resolution", resolution), ("pad_to", pad_to)):
        if value is not None and value < 1:
            raise ValueError(f"got {name} = {value}, expected at least 1")


def _open_source(path: Path, split: str | None) -> Source:
    if path.name == "cifar-10-python.tar.gz":
        return _array_source(*read_cifar10(path, split or "train"), path.name)
    if path.name.endswith(MNIST_SUFFIX):
        if split is not None:
            raise ValueError(f"{path}: got split {split!r}; name the t10k file for the test images")
        return _array_source(*read_mnist(path), path.name)
    return _image_files(path, split)


def _image_files(path: Path, split: str | None, *, use_json: bool = True) -> Source:
    """The images of a folder, zip or tar; labels of dataset.json, else by folder if several."""
    if path.exists() and not path.is_dir():
        file_size(path)
    if path.is_dir() or not path.exists() or zipfile.is_zipfile(path):
        files = ImageFiles(path)
    else:
        files = TarFiles(path)
    parents = [PurePosixPath(name).parts[:-1] for name in files.names]
    kept = [i for i, folders in enumerate(parents) if split is None or split in folders]
    if not kept:
        raise ValueError(f"{path}: no images below a folder {split!r}")
    names = [files.names[i] for i in kept]
    if use_json and isinstance(files, ImageFiles) and files.labels_file:
        all_labels = files.labels(whole=True)
        labels = None if all_labels is None else all_labels[kept]
        remarks = [_of_json(labels, files.class_names)]
    else:
        labels, remarks = _classes_of_folders(names, split)
    if isinstance(files, ImageFiles) and files.skipped:
        endings = ", ".join(f"{count} {ending}" for ending, count in files.skipped.most_common(8))
        remarks.append(
            f"passed over {sum(files.skipped.values())} files that are none of "
            f"{', '.join(FORMATS)}: {endings}"
        )

    where = [f"{path}: {shown(name, quoted=False)}" for name in names]

    def read(index: int, channels: int | None) -> np.ndarray:
        return decode_image(files.read(names[index]), where[index], channels=channels)

    return Source(where, labels, read, tuple(remarks))


def _of_json(labels: np.ndarray | None, names: Sequence[str]) -> str:
    if labels is None:
        return "labels: none, as dataset.json says"
    if labels.ndim > 1:
        return f"labels: vectors of {labels.shape[1]} numbers from dataset.json"
    classes, counts = np.unique(labels, return_counts=True)
    called = [names[int(c)] if names else str(c) for c in classes]
    return f"labels: from dataset.json, {_counted(called, counts)}"


def _classes_of_folders(
    names: Sequence[str], split: str | None
) -> tuple[np.ndarray | None, list[str]]:
    """int64 [n] or None by the outermost folder in which the images differ, and a line on it."""
    folders = [PurePosixPath(name).parts[:-1] for name in names]
    if split is not None:
        folders = [parts[parts.index(split) + 1 :] for parts in folders]
    while len({parts[:1] for parts in folders}) == 1 and folders[0]:
        folders = [parts[1:] for parts in folders]
    if all(parts and parts[0].lower() in SPLITS for parts in folders):
        folders = [parts[1:] for parts in folders]
    tops = [parts[0] if parts else "" for parts in folders]
    classes, inverse, counts = np.unique(tops, return_inverse=True, return_counts=True)
    if len(classes) < 2:
        return None, ["labels: none, as there is no dataset.json and no folder a class"]
    counted = _counted([name or "(no folder)" for name in classes], counts)
    return inverse.astype(np.int64), [f"labels: from folders, {counted}"]


def _counted(classes: Sequence[str], counts: np.ndarray) -> str:
    """The number of classes, and how many images the first of them have."""
    first = [
        f"{i} {shown(name, quoted=False)} ({n})"
        for i, (name, n) in enumerate(zip(classes, counts, strict=True))
    ]
    more = f" and {len(first) - MAX_CLASSES_SHOWN} more" if len(first) > MAX_CLASSES_SHOWN else ""
    return f"{len(classes)} classes: {', '.join(first[:MAX_CLASSES_SHOWN])}{more}"


def _array_source(images: np.ndarray, labels: np.ndarray, name: str) -> Source:
    def read(index: int, channels: int | None) -> np.ndarray:
        image = images[index]
        if channels is None or channels == len(image):
            return image
        return to_chw(np.array(Image.fromarray(to_hwc(image)).convert(MODES[channels])))

    names = [f"{name}[{index}]" for index in range(len(images))]
    return Source(names, labels, read)


def _padded(image: np.ndarray, size: int | None, name: str) -> np.ndarray:
    if size is None:
        return image
    _, h, w = image.shape
    if max(h, w) > size:
        raise ValueError(f"{name}: {describe(image.shape)}, too large to pad to {size} x {size}")
    top, left = (size - h) // 2, (size - w) // 2
    return np.pad(image, [(0, 0), (top, size - h - top), (left, size - w - left)])


def _resized(
    image: np.ndarray, size: int | None, *, stretch: bool = False, by: str = "lanczos"
) -> np.ndarray:
    _, h, w = image.shape
    if size is None or (h, w) == (size, size):
        return image
    if not stretch:
        side = min(h, w)
        top, left = (h - side) // 2, (w - side) // 2
        image = image[:, top : top + side, left : left + side]
    resized = Image.fromarray(to_hwc(image)).resize((size, size), FILTERS[by])
    return to_chw(np.array(resized))


def _usable_shape(image: np.ndarray, name: str) -> tuple[int, ...]:
    _, h, w = image.shape
    if h != w or h & (h - 1):
        raise ValueError(
            f"{name}: {describe(image.shape)}, expected a square whose side is a power of 2; "
            "give a resolution, or a size to pad to"
        )
    return image.shape


def _require_shape(image: np.ndarray, shape: tuple[int, ...], name: str) -> None:
    if image.shape != shape:
        raise ValueError(f"{name}: {describe(image.shape)}, the first is {describe(shape)}")
