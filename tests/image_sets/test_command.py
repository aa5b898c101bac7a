"""`refine.py dataset`: what it writes, what it repairs, and how it says what it cannot use."""

from __future__ import annotations

import zipfile
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image

import image_sets
from refine_commands.dataset import dataset, parse_resolution


def run(*arguments: object):
    return CliRunner().invoke(dataset, [str(argument) for argument in arguments])


def picture(path: Path, size: tuple[int, int], mode: str = "RGB") -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(len(path.name))
    image = Image.fromarray(rng.integers(0, 256, (*size[::-1], 3), dtype=np.uint8))
    image.convert(mode).save(path)


def test_training_folders_become_a_zip_of_squares_with_classes(tmp_path):
    # As ImageNet lies on disk: one folder a class, JPEG and gray among them, any shape.
    for name in ("n01/a.JPEG", "n01/b.JPEG", "n02/c.JPEG"):
        picture(tmp_path / "train" / name, (40, 30))
    done = run(
        *("--source", tmp_path / "train", "--dest", tmp_path / "a.zip"),
        *("--resolution", "16x16", "--transform", "center-crop"),
    )
    assert done.exit_code == 0, done.output
    assert "3 images of 16 x 16, 3 channels, 2 classes" in done.output
    written = image_sets.ImageFolder(tmp_path / "a.zip")
    np.testing.assert_array_equal(written.labels, [0, 0, 1])
    square = Image.open(tmp_path / "train/n01/a.JPEG").crop((5, 0, 35, 30))
    want = np.asarray(square.resize((16, 16), Image.Resampling.LANCZOS)).transpose(2, 0, 1)
    np.testing.assert_array_equal(written[0][0], want)


def test_box_and_stretch_are_other_pixels_than_lanczos_and_crop(tmp_path):
    picture(tmp_path / "set/a.png", (40, 32))
    image = Image.open(tmp_path / "set/a.png")
    box = image.crop((4, 0, 36, 32)).resize((16, 16), Image.Resampling.BOX)
    stretched = image.resize((16, 16), Image.Resampling.LANCZOS)
    for name, want, options in (
        ("b.zip", box, ("--resize-filter", "box")),
        ("s.zip", stretched, ("--transform", "stretch")),
    ):
        common = ("--source", tmp_path / "set", "--dest", tmp_path / name, "--resolution", "16")
        assert run(*common, *options).exit_code == 0
        got = image_sets.ImageFolder(tmp_path / name)[0][0]
        np.testing.assert_array_equal(got, np.asarray(want).transpose(2, 0, 1))


def test_every_image_that_cannot_be_used_is_listed_with_its_reason(tmp_path):
    source = tmp_path / "set"
    for i in range(3):
        picture(source / f"good{i}.png", (16, 16))
    picture(source / "mode.png", (16, 16), "P")
    picture(source / "size.png", (20, 16))
    (source / "torn.png").write_bytes((source / "good0.png").read_bytes()[:60])
    done = run("--source", source, "--dest", tmp_path / "a.zip")
    assert isinstance(done.exception, ValueError)
    assert "3 images of" in str(done.exception)
    assert "--fix rgb,resize" in str(done.exception)
    lines = [line for line in done.stderr.splitlines() if "set: " in line]
    assert [name in line for name, line in zip(("mode", "size", "torn"), lines, strict=True)] == [
        True
    ] * 3
    assert not (tmp_path / "a.zip").exists()


def test_fix_repairs_modes_and_sizes_and_not_what_is_damaged(tmp_path):
    source = tmp_path / "set"
    picture(source / "a.png", (20, 17))
    picture(source / "b.png", (16, 16), "P")
    picture(source / "c.png", (64, 40), "L")
    done = run("--source", source, "--dest", tmp_path / "a.zip", "--fix", "rgb,resize")
    assert done.exit_code == 0, done.output
    assert image_sets.ImageFolder(tmp_path / "a.zip").shape == (3, 16, 16)
    (source / "d.png").write_bytes(b"no image")
    done = run("--source", source, "--dest", tmp_path / "b.zip", "--fix", "rgb,resize")
    assert "1 images of" in str(done.exception)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--resolution", "16x8"), "--resolution is '16x8'; allowed is a square"),
        (("--fix", "rgb,colour"), "fix is 'colour'; allowed are rgb, resize"),
        (("--transform", "stretch"), "nothing to resize to; give a resolution"),
    ],
)
def test_options_that_do_not_fit_are_one_line(tmp_path, options, message):
    picture(tmp_path / "set/a.png", (16, 16))
    done = run("--source", tmp_path / "set", "--dest", tmp_path / "a.zip", *options)
    assert isinstance(done.exception, ValueError)
    assert message in str(done.exception)


def test_a_resolution_is_a_side_once_or_twice():
    assert (parse_resolution("64"), parse_resolution("64x64")) == (64, 64)


def test_a_data_sets_fingerprint_is_of_its_content_in_folder_and_zip(tmp_path):
    images = np.random.default_rng(0).integers(0, 256, (3, 1, 8, 8), dtype=np.uint8)
    image_sets.write_zip(tmp_path / "a.zip", images, np.arange(3))
    image_sets.write_zip(tmp_path / "other.zip", images, np.arange(3)[::-1])
    with zipfile.ZipFile(tmp_path / "a.zip") as archive:
        archive.extractall(tmp_path / "folder")
    same = [image_sets.fingerprint(tmp_path / name) for name in ("a.zip", "folder")]
    assert same[0] == same[1]
    assert image_sets.fingerprint(tmp_path / "other.zip") != same[0]
