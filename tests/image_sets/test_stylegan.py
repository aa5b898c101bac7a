"""What is written is read back; order and labels follow the layout; bad input is one clear line."""

from __future__ import annotations

import json
import pickle
import zipfile
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import torch

import image_sets
from image_sets import stylegan


def noise(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def folder_of(root: Path, *names: str, size: int = 4, labels: object = "absent") -> Path:
    """Grayscale images under these names, image i filled with i, and a dataset.json."""
    for i, name in enumerate(names):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        image_sets.save_png(root / name, np.full((size, size), i, np.uint8))
    if labels != "absent":
        (root / "dataset.json").write_text(json.dumps({"labels": labels}))
    return root


def zipped(path: Path, folder: Path, method: int = zipfile.ZIP_STORED) -> Path:
    with zipfile.ZipFile(path, "w", method) as archive:
        for file in folder.rglob("*"):
            if file.is_file():
                archive.write(file, file.relative_to(folder).as_posix())
    return path


@pytest.mark.parametrize("c", [1, 3])
@pytest.mark.parametrize("labels", [None, [2, 0, 1], [[0.5, 1.0], [0.0, -2.0], [3.0, 4.0]]])
def test_what_is_written_is_read_back(tmp_path: Path, c: int, labels: list | None) -> None:
    images = noise(3, c, 8, 8)
    given = None if labels is None else np.array(labels)
    image_sets.write_zip(tmp_path / "a.zip", images, given)
    read = image_sets.ImageFolder(tmp_path / "a.zip")
    assert (len(read), read.shape) == (3, (c, 8, 8))
    np.testing.assert_array_equal(np.stack([image for image, _ in read]), images)
    if given is None:
        assert read.labels is None and read.num_classes == 0 and read[0][1].shape == (0,)
    else:
        expected = np.eye(3)[given] if given.ndim == 1 else given
        np.testing.assert_array_equal(np.stack([label for _, label in read]), expected)
        np.testing.assert_array_equal(read.labels, given)


def test_equal_data_gives_equal_bytes_stored_under_the_names_of_the_originals(
    tmp_path: Path,
) -> None:
    for name in ("a.zip", "b.zip"):
        image_sets.write_zip(tmp_path / name, noise(2, 3, 4, 4), np.array([1, 0]))
    assert (tmp_path / "a.zip").read_bytes() == (tmp_path / "b.zip").read_bytes()
    with zipfile.ZipFile(tmp_path / "a.zip") as archive:
        assert {member.compress_type for member in archive.infolist()} == {zipfile.ZIP_STORED}
        assert archive.namelist()[:2] == ["00000/img00000000.png", "00000/img00000001.png"]
        labels = json.loads(archive.read("dataset.json"))["labels"]
    assert labels == [["00000/img00000000.png", 1], ["00000/img00000001.png", 0]]


def test_images_come_in_the_string_order_of_their_paths_from_folder_and_zip(tmp_path: Path) -> None:
    names = [
        "a/b.png",
        "a-c/x.png",
        "B.png",
        "a/b/c.png",
        "10.png",
        "9.png",
        ".hidden.png",
        "t.txt",
    ]
    folder = folder_of(tmp_path / "set", *names)
    expected = ["10.png", "9.png", "B.png", "a-c/x.png", "a/b.png", "a/b/c.png"]
    for path in (folder, zipped(tmp_path / "set.zip", folder)):
        read = image_sets.ImageFolder(path)
        assert read.names == expected
        assert [int(image[0, 0, 0]) for image, _ in read] == [names.index(n) for n in expected]


def test_labels_belong_to_names_and_those_of_absent_files_do_not_count(tmp_path: Path) -> None:
    labels = [["gone.png", 7], ["b.png", 1], ["a.png", 2]]
    read = image_sets.ImageFolder(folder_of(tmp_path, "a.png", "b.png", labels=labels))
    np.testing.assert_array_equal(read.labels, [2, 1])
    assert read.num_classes == 3
    np.testing.assert_array_equal(read.label(0), [0, 0, 1])


def test_a_set_that_must_be_whole_has_no_labels_of_absent_files(tmp_path: Path) -> None:
    folder_of(tmp_path, "a.png", labels=[["a.png", 2], ["gone.png", 7], ["far.png", 1]])
    with pytest.raises(ValueError, match=r"labels for 2 images .* the first far\.png; put them"):
        image_sets.ImageFolder(tmp_path, whole=True)
    with pytest.raises(ValueError, match=r"labels for 2 images"):
        image_sets.convert(tmp_path, tmp_path / "a.zip")
    assert not (tmp_path / "a.zip").exists()


def test_batches_are_everything_once_in_order(tmp_path: Path) -> None:
    images = noise(5, 1, 4, 4)
    image_sets.write_zip(tmp_path / "a.zip", images, np.arange(5))
    batches = list(image_sets.ImageFolder(tmp_path / "a.zip").batches(2))
    assert [len(batch) for batch, _ in batches] == [2, 2, 1]
    np.testing.assert_array_equal(np.concatenate([batch for batch, _ in batches]), images)
    np.testing.assert_array_equal(np.concatenate([label for _, label in batches]), np.eye(5))


def test_other_processes_read_the_same_images(tmp_path: Path) -> None:
    images = noise(8, 1, 4, 4)
    image_sets.write_zip(tmp_path / "a.zip", images)
    read = image_sets.ImageFolder(tmp_path / "a.zip")
    # A data loader takes any sequence, whatever its annotation says.
    loader = torch.utils.data.DataLoader(cast(Any, read), batch_size=2, num_workers=2)
    np.testing.assert_array_equal(np.concatenate([batch for batch, _ in loader]), images)
    copied = pickle.loads(pickle.dumps(read))
    np.testing.assert_array_equal(copied[3][0], images[3])


def test_an_image_of_another_size_is_named_when_it_is_read(tmp_path: Path) -> None:
    folder_of(tmp_path, "a.png")
    folder_of(tmp_path, "b.png", size=8)
    read = image_sets.ImageFolder(tmp_path)
    with pytest.raises(ValueError, match=r"b\.png: 8 x 8 with 1 channel, but a\.png is 4 x 4"):
        read[1]


@pytest.mark.parametrize(
    ("labels", "complaint"),
    [
        ([["a.png", 0]], r"no label for b\.png \(1 of 2 images lack one\)"),
        ([["a.png", 0], ["b.png", -1]], "labels must be all class indices"),
        ([["a.png", 0], ["b.png", 10**9]], "labels must be all class indices"),
        ([["a.png", 0], ["b.png", True]], "labels must be all class indices"),
        ([["a.png", 0], ["b.png", [1.0]]], "labels must be all class indices"),
        ([["a.png", [1, 2]], ["b.png", [1]]], "labels must be all class indices"),
        ([["a.png", [float("nan")]], ["b.png", [1]]], "labels must be all class indices"),
        ([["a.png", []], ["b.png", []]], "labels must be all class indices"),
        ([["a.png", 0], "b.png"], r"entry 'b\.png', expected \[name, label\]"),
        ({"a.png": 0}, '"labels" is no list'),
    ],
)
def test_labels_that_do_not_fit_are_one_clear_line(
    tmp_path: Path, labels: object, complaint: str
) -> None:
    folder_of(tmp_path, "a.png", "b.png", labels=labels)
    with pytest.raises(ValueError, match=f"dataset.json: {complaint}") as caught:
        image_sets.ImageFolder(tmp_path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("text", ["{", "[" * 100_000, "\x00", "[]", "9" * 5000])
def test_a_dataset_json_that_is_no_table_is_one_clear_line(tmp_path: Path, text: str) -> None:
    folder_of(tmp_path, "a.png")
    (tmp_path / "dataset.json").write_text(text)
    with pytest.raises(ValueError, match=r"dataset\.json: (not valid JSON|expected)"):
        image_sets.ImageFolder(tmp_path)


def test_a_path_that_is_no_data_set_is_one_clear_line(tmp_path: Path) -> None:
    (tmp_path / "a.zip").write_bytes(b"PK\x03\x04 this is no zip")
    with pytest.raises(ValueError, match=r"a\.zip: not a readable zip .* expected a folder or"):
        image_sets.ImageFolder(tmp_path / "a.zip")
    with pytest.raises(ValueError, match="0 images, expected 1 to"):
        image_sets.ImageFolder(tmp_path)
    with pytest.raises(FileNotFoundError, match="gone: no such file or folder"):
        image_sets.ImageFolder(tmp_path / "gone")


def test_a_zip_with_a_damaged_image_names_it(tmp_path: Path) -> None:
    image_sets.write_zip(tmp_path / "a.zip", noise(2, 1, 16, 16))
    data = bytearray((tmp_path / "a.zip").read_bytes())
    data[data.index(b"IDAT", data.index(b"IDAT") + 1) + 20] ^= 255
    (tmp_path / "a.zip").write_bytes(data)
    read = image_sets.ImageFolder(tmp_path / "a.zip")
    with pytest.raises(ValueError, match=r"00000/img00000001\.png: damaged in the zip: Bad CRC"):
        read[1]


def test_a_member_that_declares_too_much_or_another_compression_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = folder_of(tmp_path / "set", "a.png")
    bzip2 = zipped(tmp_path / "b.zip", folder, zipfile.ZIP_BZIP2)
    with pytest.raises(ValueError, match=r"a\.png: \d+ bytes by compression method 12"):
        image_sets.ImageFolder(bzip2)
    deflated = zipped(tmp_path / "d.zip", folder, zipfile.ZIP_DEFLATED)
    assert len(image_sets.ImageFolder(deflated)) == 1
    monkeypatch.setattr(stylegan, "MAX_FILE_BYTES", 40)
    for path in (folder, deflated):
        with pytest.raises(ValueError, match=r"a\.png: (larger than 40|\d+ bytes by)"):
            image_sets.ImageFolder(path)


@pytest.mark.parametrize(
    ("images", "labels", "complaint"),
    [
        (np.zeros((0, 1, 4, 4), np.uint8), None, "got no images"),
        (np.zeros((2, 1, 4, 4), np.float32), None, r"got float32 \[1, 4, 4\], expected uint8"),
        (np.zeros((2, 2, 4, 4), np.uint8), None, r"got uint8 \[2, 4, 4\], expected uint8"),
        (np.zeros((2, 1, 4, 4), np.uint8), np.arange(3), "got 2 images, but 3 labels"),
        (np.zeros((2, 1, 4, 4), np.uint8), np.arange(1), "got 2 images, but 1 label"),
        ([noise(1, 4, 4), noise(3, 4, 4)], None, "image 1 is 4 x 4 with 3 channels, the first"),
    ],
)
def test_a_zip_is_written_whole_or_not_at_all(
    tmp_path: Path, images: np.ndarray, labels: np.ndarray | None, complaint: str
) -> None:
    with pytest.raises(ValueError, match=complaint):
        image_sets.write_zip(tmp_path / "a.zip", images, labels)
    assert list(tmp_path.iterdir()) == []
