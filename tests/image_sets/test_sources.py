"""Every source gives its pixels, labels and order; conversion keeps them; bad input is one line."""

from __future__ import annotations

import gzip
import io
import json
import pickle
import struct
import tarfile
from pathlib import Path
from typing import Literal

import numpy as np
import pytest

import image_sets
from image_sets import sources, tar
from image_sets.pictures import encode_png, to_hwc

TAR_MODES: dict[str, Literal["w", "w:gz", "w:xz"]] = {".tar": "w", ".gz": "w:gz", ".xz": "w:xz"}


def noise(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def add(archive: tarfile.TarFile, name: str, data: bytes) -> None:
    member = tarfile.TarInfo(name)
    member.size = len(data)
    archive.addfile(member, io.BytesIO(data))


def class_folders(path: Path, images: dict[str, np.ndarray]) -> Path:
    """A folder, or a tar by the ending of its name, with these uint8 [c, h, w] images."""
    files = {name: encode_png(to_hwc(image), compress_level=1) for name, image in images.items()}
    if path.suffix in TAR_MODES:
        with tarfile.open(path, TAR_MODES[path.suffix]) as archive:
            for name, data in files.items():
                add(archive, name, data)
        return path
    for name, data in files.items():
        (path / name).parent.mkdir(parents=True, exist_ok=True)
        (path / name).write_bytes(data)
    return path


def gzipped_idx(path: Path, array: np.ndarray) -> None:
    header = struct.pack(f">{1 + array.ndim}I", 0x800 + array.ndim, *array.shape)
    with gzip.open(path, "wb") as stream:
        stream.write(header + array.astype(np.uint8).tobytes())


def python2_pickle(pixels: bytes, labels: list[int]) -> bytes:
    """A batch as Python 2 pickled it: byte strings by BINSTRING, which Python 3 cannot write."""

    def text(value: bytes) -> bytes:
        return b"U" + bytes([len(value)]) + value

    items = b"(" + b"".join(b"K" + bytes([label]) for label in labels) + b"e"
    data = b"T" + struct.pack("<i", len(pixels)) + pixels
    return b"\x80\x02}q\x01(" + text(b"data") + data + text(b"labels") + b"]q\x02" + items + b"u."


def cifar10(path: Path, batches: dict[str, tuple[np.ndarray, np.ndarray]]) -> Path:
    with tarfile.open(path, "w:gz") as archive:
        for name, (images, labels) in batches.items():
            data = python2_pickle(images.tobytes(), labels.tolist())
            add(archive, f"cifar-10-batches-py/{name}", data)
    return path


NAMES = ["train/b/1.png", "train/a/2.png", "test/a/0.png", "train/b/0.png", "train/10/0.png"]
IMAGES = {name: noise(1, 4, 4, seed=i) for i, name in enumerate(NAMES)}


@pytest.mark.parametrize("ending", ["", ".tar", ".tar.gz", ".tar.xz"])
def test_class_folders_give_sorted_paths_and_classes_in_string_order(
    tmp_path: Path, ending: str
) -> None:
    source = class_folders(tmp_path / f"set{ending}", IMAGES)
    images, labels = image_sets.read_class_folders(source, split="train")
    expected = sorted(name for name in NAMES if name.startswith("train/"))
    np.testing.assert_array_equal(images, np.stack([IMAGES[name] for name in expected]))
    np.testing.assert_array_equal(labels, [0, 1, 2, 2])
    assert (images.dtype, labels.dtype) == (np.uint8, np.int64)


def test_without_a_split_all_images_count_and_classes_are_their_own_folders(
    tmp_path: Path,
) -> None:
    images, labels = image_sets.read_class_folders(class_folders(tmp_path, IMAGES))
    np.testing.assert_array_equal(images[0], IMAGES["test/a/0.png"])
    np.testing.assert_array_equal(labels, [1, 0, 1, 2, 2])


def test_padding_centres_the_image_on_black(tmp_path: Path) -> None:
    source = class_folders(tmp_path, IMAGES)
    plain, _ = image_sets.read_class_folders(source)
    padded, _ = image_sets.read_class_folders(source, pad_to=8)
    np.testing.assert_array_equal(padded[:, :, 2:6, 2:6], plain)
    assert padded.sum(dtype=np.int64) == plain.sum(dtype=np.int64)
    with pytest.raises(ValueError, match=r"a/0\.png: 4 x 4 with 1 channel, too large to pad to 3"):
        image_sets.read_class_folders(source, pad_to=3)


@pytest.mark.parametrize(
    ("images", "split", "complaint"),
    [
        ({"a/0.png": noise(1, 4, 4), "b/0.png": noise(1, 8, 8)}, None, "b/0.png: 8 x 8 with 1"),
        ({"a/0.png": noise(1, 4, 4), "b/0.png": noise(3, 4, 4)}, None, "b/0.png: 4 x 4 with 3"),
        ({"a/0.png": noise(1, 4, 4)}, None, "expected one folder a class"),
        ({"a/0.png": noise(1, 4, 4)}, "train", "no images below a folder 'train'"),
        ({}, None, "0 images|no images"),
    ],
)
@pytest.mark.parametrize("ending", ["", ".tar.gz"])
def test_class_folders_that_do_not_fit_are_one_clear_line(
    tmp_path: Path, ending: str, images: dict, split: str | None, complaint: str
) -> None:
    (tmp_path / "set").mkdir()
    source = class_folders(tmp_path / f"set{ending}", images)
    with pytest.raises(ValueError, match=complaint) as caught:
        image_sets.read_class_folders(source, split=split)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("ending", [".tar", ".tar.gz", ".tar.xz", ".rar"])
@pytest.mark.parametrize("content", [b"", b"no archive", b"\x1f\x8b\x08", b"\xfd7zXZ\x00\x00"])
def test_a_file_that_is_no_archive_is_one_clear_line(
    tmp_path: Path, ending: str, content: bytes
) -> None:
    path = tmp_path / f"set{ending}"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"set.*: not a zip or tar, or a damaged one") as caught:
        image_sets.read_class_folders(path)
    assert "\n" not in str(caught.value)


def test_a_truncated_archive_is_one_clear_line(tmp_path: Path) -> None:
    whole = class_folders(tmp_path / "set.tar.xz", IMAGES).read_bytes()
    (tmp_path / "cut.tar.xz").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ValueError, match=r"cut\.tar\.xz: not a zip or tar, or a damaged one"):
        image_sets.read_class_folders(tmp_path / "cut.tar.xz")


def test_a_tar_that_declares_huge_members_or_names_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tar, "MAX_FILE_BYTES", 2**16)
    huge_member, huge_name = tmp_path / "member.tar.gz", tmp_path / "name.tar.gz"
    with tarfile.open(huge_member, "w:gz") as archive:
        add(archive, "a/0.png", bytes(2**16 + 1))
    with tarfile.open(huge_name, "w:gz", format=tarfile.GNU_FORMAT) as archive:
        add(archive, "a" * 2**17, b"")
    for path in (huge_member, huge_name):
        with pytest.raises(ValueError, match=r"at most 65536 allowed|has 65537 bytes"):
            image_sets.read_class_folders(path)


def test_mnist_files_become_32_pixels_with_their_labels(tmp_path: Path) -> None:
    images, labels = noise(3, 28, 28), np.array([7, 0, 2])
    source = tmp_path / "train-images-idx3-ubyte.gz"
    gzipped_idx(source, images)
    gzipped_idx(tmp_path / "train-labels-idx1-ubyte.gz", labels)
    read = image_sets.convert(source, tmp_path / "mnist.zip")
    assert read.shape == (1, 32, 32)
    np.testing.assert_array_equal(read.labels, labels)
    found = np.stack([image[0] for image, _ in read])
    np.testing.assert_array_equal(found[:, 2:30, 2:30], images)
    assert found.sum(dtype=np.int64) == images.sum(dtype=np.int64)


@pytest.mark.parametrize("damage", ["magic", "short", "long", "not gzip", "count"])
def test_a_broken_mnist_file_is_one_clear_line(tmp_path: Path, damage: str) -> None:
    source = tmp_path / "train-images-idx3-ubyte.gz"
    content = struct.pack(">4I", 0x803, 2, 4, 4) + bytes(32)
    content = {
        "magic": b"\x01" + content[1:],
        "short": content[:-1],
        "long": content + b"\x00",
    }.get(damage, content)
    source.write_bytes(content if damage == "not gzip" else gzip.compress(content))
    labels = np.zeros(3 if damage == "count" else 2)
    gzipped_idx(tmp_path / "train-labels-idx1-ubyte.gz", labels)
    with pytest.raises(ValueError, match=r"idx3-ubyte\.gz: (not an IDX|not the 32|2 images, but)"):
        image_sets.convert(source, tmp_path / "a.zip")


def test_cifar10_is_its_five_training_batches_in_order_or_the_test_batch(tmp_path: Path) -> None:
    batches = {
        f"data_batch_{i}": (noise(2, 3, 32, 32, seed=i), np.array([i, 9])) for i in range(5, 0, -1)
    }
    batches["test_batch"] = (noise(3, 3, 32, 32, seed=9), np.array([3, 4, 5]))
    source = cifar10(tmp_path / "cifar-10-python.tar.gz", batches)
    train = image_sets.convert(source, tmp_path / "train.zip")
    test = image_sets.convert(source, tmp_path / "test.zip", split="test")
    ordered = [batches[f"data_batch_{i}"] for i in range(1, 6)]
    for read, wanted in ((train, ordered), (test, [batches["test_batch"]])):
        found = np.stack([image for image, _ in read])
        np.testing.assert_array_equal(found, np.concatenate([images for images, _ in wanted]))
        np.testing.assert_array_equal(read.labels, np.concatenate([labels for _, labels in wanted]))


def test_a_cifar10_batch_is_never_executed(tmp_path: Path) -> None:
    class Attack:
        def __reduce__(self) -> tuple:
            return (Path.touch, (tmp_path / "ran",))

    source = tmp_path / "cifar-10-python.tar.gz"
    with tarfile.open(source, "w:gz") as archive:
        for i in range(1, 6):
            add(archive, f"b/data_batch_{i}", pickle.dumps({"labels": [1], "data": Attack()}))
    with pytest.raises(ValueError, match=r"data_batch_1: 1 labels and \d+ bytes of 3072 an image"):
        image_sets.convert(source, tmp_path / "a.zip")
    assert not (tmp_path / "ran").exists()


def test_a_cifar10_archive_without_all_batches_names_those_it_lacks(tmp_path: Path) -> None:
    batch = (noise(1, 3, 32, 32), np.array([1]))
    source = cifar10(tmp_path / "cifar-10-python.tar.gz", {"data_batch_2": batch})
    with pytest.raises(ValueError, match=r"data_batch_1, data_batch_3, .* missing"):
        image_sets.convert(source, tmp_path / "a.zip")
    with pytest.raises(ValueError, match="got split 'val', expected train or test"):
        image_sets.convert(source, tmp_path / "a.zip", split="val")


def test_converting_a_converted_set_again_changes_nothing(tmp_path: Path) -> None:
    source = class_folders(tmp_path / "set", IMAGES)
    image_sets.convert(source, tmp_path / "a.zip")
    image_sets.convert(tmp_path / "a.zip", tmp_path / "b.zip")
    assert (tmp_path / "a.zip").read_bytes() == (tmp_path / "b.zip").read_bytes()


def test_dataset_json_decides_over_folders_and_the_first_images_are_taken(tmp_path: Path) -> None:
    source = class_folders(tmp_path / "set", IMAGES)
    by_folder = image_sets.convert(source, tmp_path / "a.zip", max_images=2)
    np.testing.assert_array_equal(by_folder.labels, [1, 0])
    (source / "dataset.json").write_text(json.dumps({"labels": [[n, 5] for n in NAMES]}))
    by_json = image_sets.convert(source, tmp_path / "b.zip", split="train")
    np.testing.assert_array_equal(by_json.labels, [5] * 4)
    (source / "dataset.json").write_text('{"labels": null}')
    assert image_sets.convert(source, tmp_path / "c.zip").labels is None


def test_resizing_keeps_the_central_square_and_a_constant_image_constant(tmp_path: Path) -> None:
    image = np.zeros((3, 8, 16), np.uint8)
    image[:, :, 4:12] = np.array([10, 20, 30]).reshape(3, 1, 1)
    source = class_folders(tmp_path / "set", {"0.png": image})
    read = image_sets.convert(source, tmp_path / "a.zip", resolution=4)
    expected = np.broadcast_to(np.array([10, 20, 30]).reshape(3, 1, 1), (3, 4, 4))
    np.testing.assert_array_equal(read[0][0], expected)


@pytest.mark.parametrize("channels", [1, 3])
def test_mixed_images_become_the_channels_that_are_named(tmp_path: Path, channels: int) -> None:
    gray = noise(1, 4, 4)
    images = {"0.png": gray, "1.png": np.repeat(gray, 3, axis=0)}
    source = class_folders(tmp_path / "set", images)
    read = image_sets.convert(source, tmp_path / "a.zip", channels=channels)
    for image, _ in read:
        np.testing.assert_array_equal(image, np.repeat(gray, channels, axis=0))


def test_one_message_names_every_image_that_cannot_be_used(tmp_path: Path) -> None:
    source = class_folders(tmp_path / "set", {f"{i}.png": noise(1, 4, 4) for i in range(9)})
    for i in range(1, 8):
        (source / f"{i}.png").write_bytes(b"no image")
    seen: list[tuple[int, int]] = []
    with pytest.raises(ValueError, match=r"^7 of 9 images cannot be used: ") as caught:
        image_sets.convert(source, tmp_path / "a.zip", progress=lambda *done: seen.append(done))
    assert str(caught.value).count("not a usable image") == sources.MAX_SHOWN
    assert str(caught.value).endswith("; and 2 more") and "\n" not in str(caught.value)
    assert seen == [(i, 9) for i in range(1, 10)]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["set"]


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        ({"resolution": 4, "pad_to": 8}, "both a resolution and a size"),
        ({"channels": 2}, "got 2 channels, expected 1"),
        ({"max_images": 0}, "got max_images = 0, expected at least 1"),
        ({"resolution": 6}, r"0\.png: 6 x 6 with 1 channel, expected a square .* power of 2"),
    ],
)
def test_options_that_do_not_fit_are_one_clear_line(
    tmp_path: Path, options: dict, complaint: str
) -> None:
    source = class_folders(tmp_path / "set", {"0.png": noise(1, 4, 4)})
    with pytest.raises(ValueError, match=complaint):
        image_sets.convert(source, tmp_path / "a.zip", **options)


def test_a_destination_that_exists_or_is_no_zip_is_refused(tmp_path: Path) -> None:
    source = class_folders(tmp_path / "set", {"0.png": noise(1, 4, 4)})
    with pytest.raises(ValueError, match=r"set, expected|expected a file name that ends in \.zip"):
        image_sets.convert(source, source)
    (tmp_path / "a.zip").write_bytes(b"mine")
    with pytest.raises(ValueError, match=r"a\.zip exists; choose another name"):
        image_sets.convert(source, tmp_path / "a.zip")
    assert (tmp_path / "a.zip").read_bytes() == b"mine"
