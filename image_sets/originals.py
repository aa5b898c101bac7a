"""MNIST and CIFAR-10 as their authors publish them, read as data: nothing in the files runs."""

from __future__ import annotations

import gzip
import math
import pickletools
import struct
import zlib
from pathlib import Path, PurePosixPath

import numpy as np

from image_sets.tar import tar_members
from roles.budget import check_unpacked, file_size

MAX_IDX_BYTES = 2**30  # the largest known, EMNIST by class, has 2**29


def read_mnist(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """uint8 [n, 1, 28, 28] and int64 [n] of an -images-idx3-ubyte.gz and the labels beside it.

    Both files as in LeCun et al. 1998, "Gradient-based learning applied to document recognition".
    """
    labels_path = path.with_name(path.name.replace("-images-idx3-", "-labels-idx1-"))
    images = _read_idx(path, dimensions=3)
    labels = _read_idx(labels_path, dimensions=1)
    if len(images) != len(labels):
        raise ValueError(f"{path}: {len(images)} images, but {len(labels)} in {labels_path.name}")
    return images[:, None], labels.astype(np.int64)


def _read_idx(path: Path, *, dimensions: int) -> np.ndarray:
    """uint8 array of an IDX file: magic number, sizes, bytes."""
    packed = file_size(path)
    try:
        with gzip.open(path, "rb") as stream:
            header = stream.read(4 * (1 + dimensions))
            magic, *shape = struct.unpack(f">{1 + dimensions}I", header)
            size = math.prod(shape)
            if magic != 0x800 + dimensions or not 0 < size <= MAX_IDX_BYTES:
                raise ValueError(f"magic number {magic}, sizes {shape}")
            check_unpacked(size, packed, f"sizes {shape}")
            data = stream.read(size + 1)
    except (gzip.BadGzipFile, EOFError, zlib.error, struct.error, ValueError) as error:
        raise ValueError(f"{path}: not an IDX file of MNIST: {error}") from error
    if len(data) != math.prod(shape):
        raise ValueError(f"{path}: not the {math.prod(shape)} bytes that its header declares")
    return np.frombuffer(data, dtype=np.uint8).reshape(shape)


def read_cifar10(path: Path, split: str) -> tuple[np.ndarray, np.ndarray]:
    """uint8 [n, 3, 32, 32] and int64 [n] of cifar-10-python.tar.gz (Krizhevsky 2009).

    split is "train" (batches 1 to 5, in order) or "test".
    """
    wanted = {"train": [f"data_batch_{i}" for i in range(1, 6)], "test": ["test_batch"]}
    if split not in wanted:
        raise ValueError(f"{path}: got split {split!r}, expected train or test")
    batches = {}
    for name, data in tar_members(path, lambda name: PurePosixPath(name).name in wanted[split]):
        batches[PurePosixPath(name).name] = _cifar10_batch(data, f"{path}: {name}")
    missing = [name for name in wanted[split] if name not in batches]
    if missing:
        raise ValueError(f"{path}: {', '.join(missing)} missing; download the archive again")
    images, labels = zip(*(batches[name] for name in wanted[split]), strict=True)
    return np.concatenate(images), np.concatenate(labels)


def _cifar10_batch(data: bytes, name: str) -> tuple[np.ndarray, np.ndarray]:
    """uint8 [n, 3, 32, 32] and int64 [n] of one batch.

    A batch is a pickle. Its opcodes are only listed, never executed: the longest string is the
    pixels, the integers after the key "labels" are the labels.
    """
    pixels: str | bytes = b""
    labels: list[int] = []
    key: str | bytes = b""
    try:
        for opcode, argument, _ in pickletools.genops(data):
            if isinstance(argument, str | bytes):
                key = argument
                pixels = max(pixels, argument, key=len)
            elif key in ("labels", b"labels") and opcode.name.startswith("BININT"):
                labels.append(int(argument or 0))
    except ValueError as error:
        raise ValueError(f"{name}: not a CIFAR-10 batch: {error}") from error
    # Python 2 wrote bytes as str; pickletools shows them as Latin-1.
    raw = pixels.encode("latin-1", "replace") if isinstance(pixels, str) else pixels
    if not labels or len(raw) != 3072 * len(labels) or not all(0 <= y < 10 for y in labels):
        raise ValueError(f"{name}: {len(labels)} labels and {len(raw)} bytes of 3072 an image")
    return np.frombuffer(raw, np.uint8).reshape(-1, 3, 32, 32), np.array(labels, dtype=np.int64)
