"""`refine.py dataset` as a command line: exit codes, and originals that become zips."""

from __future__ import annotations

import gzip
import struct
from pathlib import Path

import numpy as np

import image_sets


def write_idx(path: Path, array: np.ndarray) -> None:
    header = struct.pack(f">{1 + array.ndim}I", 0x800 + array.ndim, *array.shape)
    path.write_bytes(gzip.compress(header + array.astype(np.uint8).tobytes()))


def test_mnist_becomes_a_zip_with_the_labels_beside_it(refine_py, tmp_path):
    digits = np.random.default_rng(0).integers(0, 256, (5, 28, 28))
    write_idx(tmp_path / "train-images-idx3-ubyte.gz", digits)
    write_idx(tmp_path / "train-labels-idx1-ubyte.gz", np.array([3, 1, 4, 1, 5]))
    source, dest = tmp_path / "train-images-idx3-ubyte.gz", tmp_path / "mnist.zip"
    done = refine_py("dataset", "--source", source, "--dest", dest)
    assert done.exit_code == 0, done.output
    assert "5 images of 32 x 32, 1 channels, 6 classes" in done.output
    written = image_sets.ImageFolder(dest)
    np.testing.assert_array_equal(written.labels, [3, 1, 4, 1, 5])
    np.testing.assert_array_equal(written[2][0][0, 2:30, 2:30], digits[2])


def test_fewer_images_than_asked_for_are_said_to_be_all(refine_py, tmp_path):
    image_sets.write_zip(tmp_path / "set.zip", np.zeros((3, 1, 8, 8), dtype=np.uint8))
    for count, is_short in ((3, False), (4, True)):
        dest = tmp_path / f"{count}.zip"
        call = ("dataset", "--source", tmp_path / "set.zip", "--dest", dest)
        done = refine_py(*call, "--max-images", count)
        assert done.exit_code == 0, done.output
        assert "3 images of 8 x 8" in done.output
        assert ("has no more: 4 were asked for" in done.output) == is_short


def test_images_that_cannot_be_used_are_listed_and_end_with_one_line_and_exit_code_2(
    refine_py, tmp_path
):
    folder = tmp_path / "set"
    folder.mkdir()
    image_sets.save_png(folder / "a.png", np.zeros((16, 16), dtype=np.uint8))
    image_sets.save_png(folder / "b.png", np.zeros((20, 16), dtype=np.uint8))
    (folder / "c.png").write_bytes(b"no image")
    done = refine_py("dataset", "--source", folder, "--dest", tmp_path / "a.zip")
    assert done.exit_code == 2
    b, c, last = done.stderr.strip().splitlines()
    assert "b.png: 16 x 20" in b
    assert "c.png: not a usable image" in c
    assert last.startswith("Error: 2 images of")
    assert not (tmp_path / "a.zip").exists()


def test_a_source_that_is_not_there_is_one_line_and_exit_code_2(refine_py, tmp_path):
    done = refine_py("dataset", "--source", tmp_path / "gone", "--dest", tmp_path / "a.zip")
    assert done.exit_code == 2
    assert len(done.stderr.strip().splitlines()) == 1
    assert "gone" in done.stderr
