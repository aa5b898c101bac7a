"""Data sets as people have them: a table of layouts and labels, and of the modes of images."""

from __future__ import annotations

import io
import json
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import image_sets

LAYOUTS = {
    "class/images": ["a/images/0.png", "a/images/1.png", "b/images/0.png", "b/images/1.png"],
    "class/batch": ["a/batch1/0.png", "a/batch2/0.png", "b/batch1/0.png", "b/batch2/0.png"],
    "train/class": ["train/a/0.png", "train/a/1.png", "train/b/0.png", "train/b/1.png"],
    "both splits": ["test/a/0.png", "train/a/0.png", "test/b/1.png", "train/b/1.png"],
    "flat": ["0.png", "1.png", "2.png", "3.png"],
}
BY_FOLDER = {
    "class/images": [0, 0, 1, 1],
    "class/batch": [0, 0, 1, 1],
    "train/class": [0, 0, 1, 1],
    "both splits": [0, 0, 1, 1],
    "flat": None,
}
# How dataset.json names an image, and how it writes the class 2.
SPELLINGS = {
    "as it is": (lambda name: name, 2),
    "backslash": (lambda name: name.replace("/", "\\"), 2.0),
    "dot": (lambda name: f"./{name}", 2),
    "absolute": (lambda name: f"/home/me/set/{name}", 2.0),
    "drive": (lambda name: f"C:\\set\\{name}".replace("/", "\\"), 2),
}


def png(image: Image.Image, **options: object) -> bytes:
    stream = io.BytesIO()
    image.save(stream, "PNG", **options)
    return stream.getvalue()


def level(value: int) -> bytes:
    return png(Image.new("L", (4, 4), value))


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("spelling", [None, *SPELLINGS])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_labels_are_those_of_dataset_json_else_of_the_outermost_folder_that_differs(
    tmp_path: Path, layout: str, spelling: str | None, packed: bool
) -> None:
    files = {name: level(i) for i, name in enumerate(LAYOUTS[layout])}
    expected = BY_FOLDER[layout]
    if spelling is not None:
        written, two = SPELLINGS[spelling]
        entries = [[written(name), [two, 0][i % 2]] for i, name in enumerate(files)]
        files["dataset.json"] = json.dumps({"labels": entries}).encode()
        expected = [2, 0, 2, 0]
    source = tmp_path / ("set.zip" if packed else "set")
    if packed:
        with zipfile.ZipFile(source, "w") as archive:
            for name, data in files.items():
                archive.writestr(name, data)
    for name, data in ({} if packed else files).items():
        (source / name).parent.mkdir(parents=True, exist_ok=True)
        (source / name).write_bytes(data)
    said: list[str] = []
    read = image_sets.convert(source, tmp_path / "out.zip", remark=said.append)
    assert len(said) == 1 and said[0].startswith("labels: ")
    if expected is None:
        assert read.labels is None and "none" in said[0]
        return
    assert read.labels is not None
    # An image's level says which one it is, whatever order it came in.
    found = {int(read[i][0][0, 0, 0]): int(read.labels[i]) for i in range(len(read))}
    assert found == dict(enumerate(expected))
    assert "2 classes" in said[0]


def test_dataset_json_counts_in_the_folder_that_holds_everything(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "set.zip", "w") as archive:
        for i in range(3):
            archive.writestr(f"set/0000{i}/a.png", level(i))
        entries = [[f"0000{i}/a.png", 7 - i] for i in range(3)]
        archive.writestr("set/dataset.json", json.dumps({"labels": entries}))
    np.testing.assert_array_equal(image_sets.ImageFolder(tmp_path / "set.zip").labels, [7, 6, 5])


@pytest.mark.parametrize("label", ["0", None, -1, 0.5])
def test_a_label_that_is_none_names_its_file(tmp_path: Path, label: object) -> None:
    for name in ("a.png", "b.png", "c.png"):
        (tmp_path / name).write_bytes(level(0))
    entries = [["a.png", 0], ["b.png", label], ["c.png", 1]]
    (tmp_path / "dataset.json").write_text(json.dumps({"labels": entries}))
    with pytest.raises(ValueError, match=r"dataset\.json: .* that of b\.png is "):
        image_sets.ImageFolder(tmp_path)


def test_labels_that_are_all_null_are_no_labels(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(level(0))
    (tmp_path / "dataset.json").write_text(json.dumps({"labels": [["a.png", None]]}))
    assert image_sets.ImageFolder(tmp_path).labels is None


def test_fewer_images_are_drawn_from_each_class_alike(tmp_path: Path) -> None:
    for name in ("a", "b", "c"):
        (tmp_path / "set" / name).mkdir(parents=True)
        for i in range(5 if name != "c" else 1):
            (tmp_path / "set" / name / f"{i}.png").write_bytes(level(i))
    read = image_sets.convert(tmp_path / "set", tmp_path / "out.zip", max_images=6)
    np.testing.assert_array_equal(read.labels, [0, 0, 0, 1, 1, 2])
    assert [int(image[0, 0, 0]) for image, _ in read] == [0, 1, 2, 0, 1, 0]


def test_what_is_passed_over_is_counted_and_other_types_are_read(tmp_path: Path) -> None:
    source = tmp_path / "set"
    source.mkdir()
    for ending in ("tif", "gif", "ppm", "pgm", "png", "bmp"):
        Image.new("L", (4, 4), 50).save(source / f"a.{ending}")
    (source / "notes.txt").write_text("mine")
    (source / "b.avif").write_bytes(b"")
    said: list[str] = []
    read = image_sets.convert(source, tmp_path / "out.zip", channels=1, remark=said.append)
    assert len(read) == 6
    assert all((image == 50).all() for image, _ in read)
    assert "passed over 2 files" in said[1] and "1 .avif" in said[1] and "1 .txt" in said[1]


def palette_with_a_hole() -> Image.Image:
    image = Image.new("P", (4, 4), 0)
    image.putpalette([10, 20, 30])
    image.info["transparency"] = 0
    return image


MODES = {
    "16-bit gray": (png(Image.fromarray(np.full((4, 4), 0x8042, np.uint16))), [128] * 3),
    "alpha": (png(Image.new("RGBA", (4, 4), (255, 0, 0, 51))), [255, 204, 204]),
    "gray and alpha": (png(Image.new("LA", (4, 4), (0, 0))), [255] * 3),
    "palette with a hole": (png(palette_with_a_hole(), transparency=0), [255] * 3),
    "one bit": (png(Image.new("1", (4, 4), 1)), [255] * 3),
    "gray": (level(77), [77] * 3),
}


@pytest.mark.parametrize("mode", MODES)
def test_every_mode_becomes_the_rgb_that_a_viewer_shows_on_white(mode: str) -> None:
    data, expected = MODES[mode]
    image = image_sets.decode_image(data, mode, channels=3)
    np.testing.assert_array_equal(
        image, np.broadcast_to(np.reshape(expected, (3, 1, 1)), (3, 4, 4))
    )


def test_an_image_is_upright_by_its_exif(tmp_path: Path) -> None:
    image = Image.fromarray(np.repeat(np.arange(0, 256, 8).astype(np.uint8)[:, None], 32, axis=1))
    exif = Image.Exif()
    exif[0x0112] = 6  # turn by 90 degrees, clockwise, to show it
    stream = io.BytesIO()
    image.save(stream, "JPEG", quality=100, exif=exif)
    found = image_sets.decode_image(stream.getvalue(), "a.jpg")[0].astype(int)
    assert np.abs(found - np.rot90(np.asarray(image), -1)).max() < 8


def test_labels_that_are_names_are_classes_in_their_order(tmp_path: Path) -> None:
    for name in ("0.png", "1.png", "2.png"):
        (tmp_path / name).write_bytes(level(0))
    given = {"0.png": "dog", "1.png": "cat", "2.png": "dog"}
    (tmp_path / "dataset.json").write_text(json.dumps({"labels": list(given.items())}))
    said: list[str] = []
    made = image_sets.convert(tmp_path, tmp_path / "a.zip", remark=said.append)
    np.testing.assert_array_equal(made.labels, [1, 0, 1])
    assert said == ["labels: from dataset.json, 2 classes: 0 cat (1), 1 dog (2)"]
    given = {"0.png": "10", "1.png": "2", "2.png": "2"}
    (tmp_path / "dataset.json").write_text(json.dumps({"labels": list(given.items())}))
    np.testing.assert_array_equal(image_sets.ImageFolder(tmp_path).labels, [10, 2, 2])
