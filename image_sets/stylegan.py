"""The data set layout of StyleGAN and EDM: a folder or zip of images, labels in dataset.json.

Every image file below the root counts, in the string order of its path relative to the root. All
have one size and channel count. dataset.json is {"labels": [["00000/img00000000.png", 6], ...]},
{"labels": null} or absent; a label is a class index or a vector of numbers. It may also lie in the
folder that holds everything, as zipping a folder makes it. Where all labels are names, their
classes are in string order.
"""

from __future__ import annotations

import json
import math
import os
import re
import zipfile
import zlib
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Sequence
from pathlib import Path, PurePosixPath

import numpy as np

from image_sets.pictures import FORMATS, decode_image, encode_png, replacing, require_images, to_hwc
from roles.budget import check_json, check_unpacked, file_size
from roles.shown import shown

MAX_FILE_BYTES = 2**28  # One image or one dataset.json (5 million labels).
MAX_IMAGES = 2**24
MAX_BATCH_BYTES = 2**27  # Of pixels at a time, or those of one image.
MAX_CLASSES = 2**16  # A class index is a one-hot vector this long.
# What zipfile raises on archives that are cut, encrypted, or packed in a way it does not know.
BROKEN_ZIP = (zipfile.BadZipFile, zlib.error, EOFError, RuntimeError, NotImplementedError)


def is_image_name(name: str) -> bool:
    """Whether a file of this name counts as an image; hidden files ("._a.png") do not."""
    path = PurePosixPath(name)
    return path.suffix.lower() in FORMATS and not path.name.startswith(".")


def _name(name: str) -> str:
    """The name of a file, for a message."""
    return shown(name, quoted=False)


class ImageFiles:
    """The encoded images of a folder or zip: .names in the layout's order, and read(name)."""

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)
        self._zip: zipfile.ZipFile | None = None
        self._zip_owner = 0
        if not self.path.exists():
            raise FileNotFoundError(f"{self.path}: no such file or folder")
        everything = self._folder_names() if self.path.is_dir() else self._zip_names()
        self.names = sorted(filter(is_image_name, everything))
        if not 0 < len(self.names) <= MAX_IMAGES:
            raise ValueError(
                f"{self.path}: {len(self.names)} images, expected 1 to {MAX_IMAGES} "
                f"({', '.join(FORMATS)})"
            )
        self.skipped = Counter(
            PurePosixPath(name).suffix.lower() or "no suffix"
            for name in everything
            if not is_image_name(name)
            and PurePosixPath(name).name != "dataset.json"
            and not name.endswith("/")
        )
        shared = shared_folders(self.names)
        where = [PurePosixPath(*shared[:depth]) for depth in range(len(shared) + 1)]
        found = [path for path in where if (path / "dataset.json").as_posix() in everything]
        # The folder of dataset.json, to which its names are relative; the outermost counts.
        self._labels_in = found[0] if found else None
        self.class_names: list[str] = []  # of labels that are names, once they are read
        self.labels_file = (found[0] / "dataset.json").as_posix() if found else None

    def _folder_names(self) -> set[str]:
        return {
            (Path(folder) / file).relative_to(self.path).as_posix()
            for folder, _, files in os.walk(self.path)
            for file in files
        }

    def _zip_names(self) -> set[str]:
        members = self._archive().infolist()
        for member in members:
            where = f"{self.path}: {_name(member.filename)}"
            check_unpacked(member.file_size, member.compress_size, where)
            if member.file_size > MAX_FILE_BYTES or member.compress_type not in (
                zipfile.ZIP_STORED,
                zipfile.ZIP_DEFLATED,
            ):
                raise ValueError(
                    f"{where}: {member.file_size} bytes by compression "
                    f"method {member.compress_type}, expected at most {MAX_FILE_BYTES}, stored or "
                    "deflated; write the zip again"
                )
        return {member.filename for member in members}

    def _archive(self) -> zipfile.ZipFile:
        # Processes that share a descriptor share its position, so each opens the zip itself.
        if self._zip is None or self._zip_owner != os.getpid():
            try:
                file_size(self.path)
                self._zip = zipfile.ZipFile(self.path)
            except BROKEN_ZIP as error:
                raise ValueError(
                    f"{self.path}: not a readable zip ({error}); expected a folder or a zip"
                ) from error
            self._zip_owner = os.getpid()
        return self._zip

    def read(self, name: str) -> bytes:
        """The bytes of one file; at most MAX_FILE_BYTES, ValueError beyond."""
        try:
            if self.path.is_dir():
                file_size(self.path / name)
                with (self.path / name).open("rb") as stream:
                    data = stream.read(MAX_FILE_BYTES + 1)
            else:
                with self._archive().open(name) as stream:
                    data = stream.read(MAX_FILE_BYTES + 1)
        except BROKEN_ZIP as error:
            raise ValueError(f"{self.path}: {_name(name)}: damaged in the zip: {error}") from error
        if len(data) > MAX_FILE_BYTES:
            raise ValueError(f"{self.path}: {_name(name)}: larger than {MAX_FILE_BYTES} bytes")
        return data

    def labels(self, *, whole: bool = False) -> np.ndarray | None:
        """Of dataset.json, in the order of names: int64 [n], float32 [n, k], or None.

        Labels of files that are not there do not count, as in the originals; `whole` refuses them.
        """
        file = self.labels_file
        if file is None or self._labels_in is None:
            return None
        where = f"{self.path}: {shown(file, quoted=False)}"
        text = self.read(file)
        check_json(text, where)
        try:
            content = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise ValueError(f"{where}: not valid JSON: {error}") from error
        if not isinstance(content, dict):
            raise ValueError(f'{where}: expected {{"labels": [[name, label], ...]}} or null')
        entries = content.get("labels")
        if entries is None:
            return None
        found, self.class_names = _ordered_labels(
            entries, self.names, self._labels_in, where, whole
        )
        return found

    def __getstate__(self) -> dict[str, object]:
        return {**self.__dict__, "_zip": None}

    def close(self) -> None:
        """Close the zip; reading again opens it again."""
        if self._zip is not None and self._zip_owner == os.getpid():
            self._zip.close()
        self._zip = None


def shared_folders(names: Sequence[str]) -> tuple[str, ...]:
    """The folders, outermost first, below which all of these names lie."""
    folders = [PurePosixPath(name).parts[:-1] for name in names]
    first, last = min(folders), max(folders)
    same = [a == b for a, b in zip(first, last, strict=False)]
    return first[: (*same, False).index(False)]


def _as_listed(entry: str, names: Collection[str], folder: PurePosixPath) -> str:
    """The image that an entry of dataset.json in this folder means, else the entry cleaned.

    Tools write names with backslashes, with "./" before them, relative to the root of the set, or
    with the folders of the machine that they were written on.
    """
    parts = PurePosixPath(entry.replace("\\", "/")).parts
    meant = [(folder / PurePosixPath(*parts)).as_posix()]
    if PurePosixPath(*parts).is_absolute() or (parts[:1] and parts[0].endswith(":")):
        meant += [(folder / PurePosixPath(*parts[i:])).as_posix() for i in range(1, len(parts))]
    meant.append(PurePosixPath(*parts).as_posix())
    return next((name for name in meant if name in names), meant[0])


def _ordered_labels(
    entries: object, names: Sequence[str], folder: PurePosixPath, where: str, whole: bool
) -> tuple[np.ndarray | None, list[str]]:
    """Labels for names, and what the classes are called where labels are names, in their order.

    `whole` refuses entries of files that are not there.
    """
    if not isinstance(entries, list):
        raise ValueError(f'{where}: "labels" is no list; expected [[name, label], ...] or null')
    table: dict[str, object] = {}
    there = set(names)
    for entry in entries:
        if not isinstance(entry, list) or len(entry) != 2 or not isinstance(entry[0], str):
            raise ValueError(f"{where}: entry {shown(entry)}, expected [name, label]")
        name = _as_listed(entry[0], there, folder)
        if table.setdefault(name, entry[1]) != entry[1]:
            raise ValueError(
                f"{where}: {_name(name)} is listed twice, with the labels {shown(table[name])} and "
                f"{shown(entry[1])}; give an image of several classes one vector, as [1, 0, 1]"
            )
    missing = [name for name in names if name not in table]
    if missing:
        raise ValueError(
            f"{where}: no label for {_name(missing[0])} ({len(missing)} of {len(names)} images "
            "lack one); "
            'give every image a label, or write {"labels": null}'
        )
    if whole and (absent := table.keys() - there):
        raise ValueError(
            f"{where}: labels for {len(absent)} images that are not there, the first "
            f"{_name(min(absent))}; put them back, or take them out of dataset.json"
        )
    given = [_whole(table[name]) for name in names]
    if all(label is None for label in given):
        return None, []
    classes = sorted({label for label in given if isinstance(label, str)})
    if all(isinstance(label, str) and re.fullmatch(r"\d{1,9}", label) for label in given):
        given, classes = [int(str(label)) for label in given], []  # numbers as text
    if classes and all(isinstance(label, str) for label in given):
        numbers = {name: number for number, name in enumerate(classes)}
        given = [numbers[str(label)] for label in given]
    else:
        classes = []
    return _label_array(given, names, where), classes


def _whole(label: object) -> object:
    """A class written as 3.0 is class 3."""
    return int(label) if isinstance(label, float) and label.is_integer() else label


def _label_array(labels: Sequence[object], names: Sequence[str], where: str) -> np.ndarray:
    if all(type(label) is int and 0 <= label < MAX_CLASSES for label in labels):
        return np.array(labels, dtype=np.int64)
    lengths = {len(label) if isinstance(label, list) else 0 for label in labels}
    if len(lengths) != 1 or 0 in lengths or not all(map(_is_vector, labels)):
        kinds = [type(label) is int and 0 <= label < MAX_CLASSES for label in labels]
        vectors = not kinds[0] and _is_vector(labels[0])
        odd = next(
            (
                i
                for i, label in enumerate(labels)
                if not (_is_vector(label) if vectors else kinds[i])
            ),
            len(labels) - 1,
        )
        raise ValueError(
            f"{where}: labels must be all class indices from 0 to {MAX_CLASSES - 1}, "
            "or all vectors of finite numbers of one length; that of "
            f"{names[odd]} is {str(labels[odd])[:80]!r}"
        )
    return np.array(labels, dtype=np.float32)


def _is_vector(label: object) -> bool:
    largest = float(np.finfo(np.float32).max)
    return isinstance(label, list) and all(
        type(value) in (int, float) and abs(value) <= largest for value in label
    )


class ImageFolder:
    """A folder or zip in the StyleGAN layout: item i is (image, label).

    image is uint8 [c, h, w]; label is float32 [num_classes], one-hot for class indices, and has
    length 0 where there are none. Images are read when asked for, and checked then against the
    first one: ValueError names the image that is damaged or of another size. Safe to read from
    several processes (torch.utils.data.DataLoader). dataset.json may have labels of files that are
    not there, as the originals allow; with `whole` that is a ValueError: images are missing.

    names       paths below the root, in order
    shape       (c, h, w) of every image
    labels      int64 [n], float32 [n, num_classes], or None
    num_classes largest class index + 1, or the length of a label vector; 0 without labels
    """

    def __init__(self, path: str | os.PathLike[str], *, whole: bool = False) -> None:
        self._files = ImageFiles(path)
        self.path = self._files.path
        self.names = self._files.names
        self.labels = self._files.labels(whole=whole)
        c, h, w = self._decode(self.names[0]).shape
        self.shape = (c, h, w)
        self.num_classes = 0
        if self.labels is not None:
            vectors = self.labels.ndim == 2
            self.num_classes = self.labels.shape[1] if vectors else int(self.labels.max()) + 1

    def _decode(self, name: str) -> np.ndarray:
        return decode_image(self._files.read(name), f"{self.path}: {_name(name)}")

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        image = self._decode(self.names[index])
        if image.shape != self.shape:
            raise ValueError(
                f"{self.path}: {_name(self.names[index])}: {describe(image.shape)}, but "
                f"{_name(self.names[0])} is {describe(self.shape)}; convert the data set to one "
                "size"
            )
        return image, self.label(index)

    def label(self, index: int) -> np.ndarray:
        """float32 [num_classes] of one image, without reading the image."""
        if self.labels is None:
            return np.zeros(0, dtype=np.float32)
        if self.labels.ndim == 2:
            return self.labels[index]
        one_hot = np.zeros(self.num_classes, dtype=np.float32)
        one_hot[self.labels[index]] = 1
        return one_hot

    def batches(
        self, batch: int, part: range | None = None
    ) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Everything once, in order: uint8 [b, c, h, w], float32 [b, num_classes], b <= batch.

        Or the images of these indices only. Of large images there are fewer at a time.
        """
        if batch < 1:
            raise ValueError(f"got a batch of {batch}, expected at least 1")
        indices = range(len(self)) if part is None else part
        batch = max(1, min(batch, MAX_BATCH_BYTES // math.prod(self.shape)))
        for start in range(0, len(indices), batch):
            chosen = indices[start : start + batch]
            images = np.empty((len(chosen), *self.shape), dtype=np.uint8)
            for row, index in enumerate(chosen):
                images[row] = self[index][0]
            yield images, np.stack([self.label(index) for index in chosen])

    def close(self) -> None:
        """Close the zip; reading again opens it again."""
        self._files.close()


def describe(shape: tuple[int, ...]) -> str:
    """A shape [c, h, w] in words."""
    c, h, w = shape
    return f"{w} x {h} with {c} channel{'s' if c > 1 else ''}"


def write_zip(
    path: str | os.PathLike[str], images: Iterable[np.ndarray], labels: np.ndarray | None = None
) -> None:
    """Write images, each uint8 [c, h, w], and labels (int64 [n], float [n, k] or None) as a zip.

    Uncompressed, as the originals' dataset_tool writes it, so that reading is cheap; equal data
    gives equal bytes. Atomic. ValueError if an image differs from the first in size, or the counts
    of images and labels differ.
    """
    rows = None if labels is None else iter(np.asarray(labels).tolist())
    entries: list[list[object]] = []
    first: tuple[int, ...] | None = None
    with replacing(path) as stream, zipfile.ZipFile(stream, "w", zipfile.ZIP_STORED) as archive:
        for index, image in enumerate(images):
            image = np.asarray(image)
            require_images(image, ndim=3)
            first = first or image.shape
            if image.shape != first:
                raise ValueError(
                    f"image {index} is {describe(image.shape)}, the first {describe(first)}"
                )
            name = f"{index:08d}"
            name = f"{name[:5]}/img{name}.png"
            # A ZipInfo of its own has a fixed date: the bytes depend on the data alone.
            archive.writestr(zipfile.ZipInfo(name), encode_png(to_hwc(image), compress_level=0))
            if rows is not None:
                entries.append([name, next(rows, None)])
        if first is None:
            raise ValueError("got no images to write")
        if rows is not None and (entries[-1][1] is None or next(rows, None) is not None):
            raise ValueError(f"got {len(entries)} images, but {len(np.asarray(labels))} labels")
        content = json.dumps({"labels": None if rows is None else entries})
        archive.writestr(zipfile.ZipInfo("dataset.json"), content)
