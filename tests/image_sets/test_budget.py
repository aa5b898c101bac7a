"""Small files that declare much, and files that are none, are refused before they cost anything."""

from __future__ import annotations

import gzip
import json
import os
import struct
import tarfile
import time
import tracemalloc
import zipfile
from pathlib import Path

import numpy as np
import pytest

import image_sets
from image_sets import originals, sources, stylegan
from image_sets.pictures import encode_png


@pytest.fixture(autouse=True)
def is_cheap():
    """Within 5 s of the processor and 1 GB, of which Python and torch have a third."""
    tracemalloc.start()
    start = time.process_time()
    yield
    seconds, peak = time.process_time() - start, tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert seconds < 5 and peak < 600 * 2**20


def zip_of(path: Path, members: dict[str, bytes]) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    return path


SMALL = encode_png(np.zeros((4, 4), np.uint8), compress_level=9)


def test_a_dataset_json_of_empty_lists_is_refused_by_what_it_unpacks_to(tmp_path):
    text = b'{"labels": [' + b"[]," * (40 * 2**20 // 3) + b"[]]}"
    path = zip_of(tmp_path / "a.zip", {"a.png": SMALL, "dataset.json": text})
    assert path.stat().st_size < 100_000
    with pytest.raises(ValueError, match=r"dataset\.json: \d+ bytes that unpack to 41943"):
        image_sets.ImageFolder(path)


def test_a_dataset_json_that_costs_more_than_its_size_is_refused_before_it_is_parsed(tmp_path):
    (tmp_path / "a.png").write_bytes(SMALL)
    (tmp_path / "dataset.json").write_bytes(b'{"labels": [' + b"[]," * 2**24 + b"[]]}")
    with pytest.raises(ValueError, match=r"parsing it takes about 1\d+ MiB; 1024 are allowed"):
        image_sets.ImageFolder(tmp_path)


def test_a_label_is_shown_in_short_and_without_escapes(tmp_path):
    (tmp_path / "a.png").write_bytes(SMALL)
    (tmp_path / "dataset.json").write_text(json.dumps({"labels": [["\x1b[31m", 1, [2] * 10**5]]}))
    with pytest.raises(ValueError, match=r"entry a list of 3 items, expected"):
        image_sets.ImageFolder(tmp_path)


def test_digits_that_declare_gigabytes_are_refused_by_the_size_of_their_file(tmp_path):
    for count, message in ((2**32 // 784, "sizes"), (2**29 // 784, "unpack to 536870")):
        path = tmp_path / "train-images-idx3-ubyte.gz"
        path.write_bytes(gzip.compress(struct.pack(">4I", 0x803, count, 28, 28) + bytes(2**20)))
        with pytest.raises(ValueError, match=message):
            originals.read_mnist(path)


def test_a_tar_that_unpacks_to_much_more_than_its_size_is_refused(tmp_path):
    with tarfile.open(tmp_path / "a.tar.gz", "w:gz") as archive:
        member = tarfile.TarInfo("a.png")
        member.size = 2**26
        with open("/dev/zero", "rb") as zeros:
            archive.addfile(member, zeros)
    with pytest.raises(ValueError, match=r"a\.png.: \d+ bytes that unpack to 67108864"):
        sources.convert(tmp_path / "a.tar.gz", tmp_path / "b.zip")


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="a FIFO is POSIX's")
def test_a_fifo_is_no_image_and_no_data_set(tmp_path):
    folder = tmp_path / "images"
    folder.mkdir()
    os.mkfifo(folder / "0.png")
    os.mkfifo(tmp_path / "a.zip")
    with pytest.raises(ValueError, match=r"0\.png: no regular file"):
        image_sets.ImageFolder(folder)
    with pytest.raises(ValueError, match="no regular file"):
        image_sets.ImageFolder(tmp_path / "a.zip")
    with pytest.raises(ValueError, match=r"no regular file|0\.png"):
        sources.convert(folder, tmp_path / "b.zip")
    with pytest.raises(ValueError, match="no regular file"):
        sources.convert(tmp_path / "a.zip", tmp_path / "b.zip")


def test_batches_of_large_images_are_bounded_by_bytes(tmp_path, monkeypatch):
    side = 64
    monkeypatch.setattr(stylegan, "MAX_BATCH_BYTES", 3 * side * side)
    image = encode_png(np.zeros((side, side), np.uint8), compress_level=9)
    folder = image_sets.ImageFolder(zip_of(tmp_path / "a.zip", {f"{i}.png": image for i in "0123"}))
    assert [images.shape[0] for images, _ in folder.batches(250)] == [3, 1]
    monkeypatch.setattr(stylegan, "MAX_BATCH_BYTES", 1)
    assert [images.shape[0] for images, _ in folder.batches(250)] == [1] * 4


def test_seventy_images_of_8192_pixels_square_come_one_by_one(tmp_path):
    large = encode_png(np.zeros((8192, 8192), np.uint8), compress_level=9)
    path = zip_of(tmp_path / "a.zip", {f"{i:02d}.png": large for i in range(70)})
    assert path.stat().st_size < 100_000
    images, _ = next(image_sets.ImageFolder(path).batches(250))
    assert len(images) <= 2


def test_class_folders_that_make_a_huge_array_are_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(sources, "MAX_ARRAY_BYTES", 31)
    path = zip_of(tmp_path / "a.zip", {"a/0.png": SMALL, "b/1.png": SMALL})
    with pytest.raises(ValueError, match="2 images of 4 x 4 with 1 channel; an array of at most"):
        image_sets.read_class_folders(path)
