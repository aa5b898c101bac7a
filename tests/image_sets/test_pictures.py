"""Pixels survive encoding, grids are permutations of pixels, damage is one clear line."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

import image_sets
from image_sets import pictures


def noise(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def encoded(pixels: np.ndarray, kind: str = "PNG", mode: str | None = None) -> bytes:
    image = Image.fromarray(pixels)
    buffer = io.BytesIO()
    (image.convert(mode) if mode else image).save(buffer, format=kind)
    return buffer.getvalue()


@pytest.mark.parametrize("shape", [(5, 7), (5, 7, 3)])
def test_a_png_decodes_to_its_pixels_with_and_without_pyspng(
    shape: tuple[int, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    pixels = noise(*shape)
    expected = pixels.reshape(5, 7, -1).transpose(2, 0, 1)
    np.testing.assert_array_equal(image_sets.decode_image(encoded(pixels), "a.png"), expected)
    monkeypatch.setattr(pictures, "pyspng", None)
    np.testing.assert_array_equal(image_sets.decode_image(encoded(pixels), "a.png"), expected)


@pytest.mark.parametrize("kind", ["JPEG", "WEBP", "BMP"])
def test_other_formats_decode_as_pillow_decodes_them(kind: str) -> None:
    data = encoded(noise(8, 8, 3), kind)
    expected = np.array(Image.open(io.BytesIO(data))).transpose(2, 0, 1)
    np.testing.assert_array_equal(image_sets.decode_image(data, "a"), expected)


@pytest.mark.parametrize("mode", ["P", "RGBA", "LA", "CMYK"])
def test_an_image_of_another_mode_is_taken_only_when_channels_are_named(mode: str) -> None:
    data = encoded(noise(4, 4, 3), "JPEG" if mode == "CMYK" else "PNG", mode)
    with pytest.raises(ValueError, match=rf"^a.png: pixels of the mode {mode}, expected 8-bit"):
        image_sets.decode_image(data, "a.png")
    assert image_sets.decode_image(data, "a.png", channels=3).shape == (3, 4, 4)
    assert image_sets.decode_image(data, "a.png", channels=1).shape == (1, 4, 4)


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "BMP"])
@settings(max_examples=40)
@given(data=st.data())
def test_a_damaged_image_is_an_image_or_one_line_that_names_it(
    kind: str, data: st.DataObject
) -> None:
    whole = bytearray(encoded(noise(6, 6, 3), kind))
    for position in data.draw(st.lists(st.integers(0, len(whole) - 1), max_size=3)):
        whole[position] = data.draw(st.integers(0, 255))
    damaged = bytes(whole[: data.draw(st.integers(0, len(whole)))])
    try:
        image = image_sets.decode_image(damaged, "a.png")
    except ValueError as error:
        assert str(error).startswith("a.png: not a usable image: ")
        assert "\n" not in str(error)
    else:
        assert image.dtype == np.uint8 and image.shape[0] in (1, 3)


def test_what_is_no_image_at_all_is_told_the_formats() -> None:
    with pytest.raises(
        ValueError, match=r"^a\.png: not a usable image: none of BMP, GIF, JPEG, PNG"
    ):
        image_sets.decode_image(b"hello", "a.png")


def test_a_header_that_declares_too_many_pixels_is_refused_before_they_take_memory() -> None:
    data = bytearray(encoded(noise(4, 4)))
    data[16:24] = (60_000).to_bytes(4, "big") * 2
    with pytest.raises(ValueError, match=r"^a.png: not a usable image"):
        image_sets.decode_image(bytes(data), "a.png")


@pytest.mark.parametrize("c", [1, 3])
@pytest.mark.parametrize(("n", "columns"), [(1, 1), (6, 3), (7, 3), (2, 5)])
def test_a_grid_holds_image_i_at_row_i_over_columns(c: int, n: int, columns: int) -> None:
    images = noise(n, c, 4, 6)
    grid = image_sets.image_grid(images, columns)
    rows = -(-n // columns)
    assert grid.shape == (rows * 4, columns * 6, *([3] if c == 3 else []))
    for i in range(n):
        top, left = i // columns * 4, i % columns * 6
        cell = grid[top : top + 4, left : left + 6].reshape(4, 6, c)
        np.testing.assert_array_equal(cell.transpose(2, 0, 1), images[i])


def test_what_the_last_row_lacks_is_black() -> None:
    grid = image_sets.image_grid(np.full((3, 1, 2, 2), 255, np.uint8), 2)
    np.testing.assert_array_equal(grid[2:, 2:], 0)
    assert grid.sum(dtype=np.int64) == 3 * 4 * 255


def test_a_grid_of_no_images_or_of_floats_is_refused() -> None:
    with pytest.raises(ValueError, match="got 0 images in 2 columns"):
        image_sets.image_grid(np.zeros((0, 1, 2, 2), np.uint8), 2)
    with pytest.raises(ValueError, match=r"got float64 \[1, 1, 2, 2\], expected uint8"):
        image_sets.image_grid(np.zeros((1, 1, 2, 2)), 2)


@pytest.mark.parametrize("shape", [(5, 7), (5, 7, 3)])
def test_a_saved_png_reads_back_equal(tmp_path: Path, shape: tuple[int, ...]) -> None:
    pixels = noise(*shape)
    image_sets.save_png(tmp_path / "a.png", pixels)
    np.testing.assert_array_equal(np.array(Image.open(tmp_path / "a.png")), pixels)
    assert [path.name for path in tmp_path.iterdir()] == ["a.png"]


def test_a_failed_write_leaves_the_old_file_and_nothing_beside_it(tmp_path: Path) -> None:
    path = tmp_path / "a.bin"
    path.write_bytes(b"old")
    with pytest.raises(KeyError), pictures.replacing(path) as stream:
        stream.write(b"new")
        raise KeyError
    assert path.read_bytes() == b"old"
    assert [path.name for path in tmp_path.iterdir()] == ["a.bin"]


def test_writing_into_a_missing_folder_names_the_file_that_was_asked_for(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"no.a\.png: its folder does not exist"):
        image_sets.save_png(tmp_path / "no" / "a.png", noise(2, 2))
