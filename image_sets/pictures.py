"""One encoded image to pixels and back; grids of samples; files that appear whole or not at all."""

from __future__ import annotations

import io
import math
import os
import struct
import warnings
import zlib
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

try:
    import pyspng
except ImportError:  # No wheel for this platform: Pillow decodes the same pixels, only slower.
    pyspng = None

FORMATS = {
    **{".png": "PNG", ".jpg": "JPEG", ".jpeg": "JPEG", ".webp": "WEBP", ".bmp": "BMP"},
    **{".tif": "TIFF", ".tiff": "TIFF", ".gif": "GIF"},  # the first picture of several
    **{".ppm": "PPM", ".pgm": "PPM", ".pbm": "PPM", ".pnm": "PPM"},
}
MAX_PIXELS = 2**26  # 8192 x 8192; more is a broken header or a decompression bomb.
MODES = {1: "L", 3: "RGB"}
SAVED = (1, 3, 4)  # Channels of pictures that are written: a generator may make alpha too.
# Beside OSError and Pillow's bomb error: ValueError and SyntaxError by Pillow's decoders,
# RuntimeError by pyspng.
DAMAGE = (OSError, EOFError, SyntaxError, ValueError, RuntimeError, struct.error, zlib.error)


class _OtherMode(ValueError):
    """A sound image, but neither 8-bit gray nor RGB."""


def decode_image(data: bytes, name: str, *, channels: int | None = None) -> np.ndarray:
    """Pixels of an encoded image as uint8 [c, h, w].

    channels None takes the image as stored, which must be 8-bit grayscale (c = 1) or RGB (c = 3);
    1 or 3 converts any other mode to it: alpha is laid over white, 16-bit gray keeps its upper 8
    bits. Either way the image is turned upright by its EXIF. ValueError names the image if it is
    damaged, larger than 2^26 pixels, or in another mode.
    """
    try:
        pixels = _decode_plain_png(data) if channels is None else None
        pixels = _decode_any(data, channels) if pixels is None else pixels
    except _OtherMode as error:
        raise ValueError(f"{name}: {error}") from None
    except UnidentifiedImageError:
        # Pillow's own message names a buffer by its address.
        raise ValueError(
            f"{name}: not a usable image: none of {', '.join(sorted(set(FORMATS.values())))}"
        ) from None
    except (*DAMAGE, Image.DecompressionBombError) as error:
        raise ValueError(f"{name}: not a usable image: {error}") from error
    return to_chw(pixels)


def _decode_plain_png(data: bytes) -> np.ndarray | None:
    """8-bit grayscale or RGB by pyspng, eight times as fast as Pillow; None for all else."""
    if pyspng is None or len(data) < 26 or not data.startswith(b"\x89PNG\r\n\x1a\n"):
        return None
    width, height, depth, color_type = struct.unpack(">IIBB", data[16:26])
    if depth != 8 or color_type not in (0, 2) or width * height > MAX_PIXELS:
        return None
    return pyspng.load(data)


def _decode_any(data: bytes, channels: int | None) -> np.ndarray:
    with warnings.catch_warnings():
        # Pillow warns of large images; here they are an error, by a lower limit.
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)
        opened = Image.open(io.BytesIO(data), formats=sorted(set(FORMATS.values())))
    with opened as image:
        if image.width * image.height > MAX_PIXELS:
            raise ValueError(f"{image.width} x {image.height} pixels, at most {MAX_PIXELS} allowed")
        if channels is not None:
            return np.array(_flat(_upright(image)).convert(MODES[channels]))
        if image.mode not in MODES.values():
            raise _OtherMode(
                f"pixels of the mode {image.mode}, expected 8-bit gray (L) or RGB; refine.py "
                "dataset --fix rgb converts them"
            )
        return np.array(_upright(image))


def _upright(image: Image.Image) -> Image.Image:
    return ImageOps.exif_transpose(image)


def _flat(image: Image.Image) -> Image.Image:
    """An image without alpha and of 8 bits, which Pillow's own conversion drops and clips."""
    if image.mode.startswith("I"):
        levels = np.asarray(image)
        if levels.min() < 0 or levels.max() > 0xFFFF:
            raise ValueError(f"levels from {levels.min()} to {levels.max()}, expected 16 bits")
        return Image.fromarray((levels >> 8).astype(np.uint8))
    if image.mode == "F":
        raise ValueError("levels are floating-point numbers; save it with 8 or 16 bits")
    if not image.has_transparency_data:
        return image
    layer = image.convert("RGBA")
    return Image.alpha_composite(Image.new("RGBA", layer.size, "white"), layer)


def to_chw(pixels: np.ndarray) -> np.ndarray:
    """[h, w] or [h, w, c] as contiguous [c, h, w]."""
    return pixels[None] if pixels.ndim == 2 else np.ascontiguousarray(pixels.transpose(2, 0, 1))


def to_hwc(pixels: np.ndarray) -> np.ndarray:
    """[1, h, w] as [h, w] and [3, h, w] as contiguous [h, w, 3]: how Pillow takes them."""
    return pixels[0] if pixels.shape[0] == 1 else np.ascontiguousarray(pixels.transpose(1, 2, 0))


def require_images(
    images: np.ndarray, *, ndim: int, channels: Collection[int] = tuple(MODES)
) -> None:
    """ValueError unless uint8 with 1 or 3 channels, [c, h, w] (ndim 3) or [n, c, h, w] (4)."""
    if images.dtype != np.uint8 or images.ndim != ndim or images.shape[-3] not in channels:
        wanted = "[c, h, w]" if ndim == 3 else "[n, c, h, w]"
        raise ValueError(
            f"got {images.dtype} {list(images.shape)}, expected uint8 {wanted} with c = "
            f"{' or '.join(map(str, channels))}"
        )


def image_grid(images: np.ndarray, columns: int) -> np.ndarray:
    """Tile uint8 [n, c, h, w] row by row into uint8 [H, W] (c = 1) or [H, W, c] (c = 3 or 4).

    The fourth channel is how opaque a pixel is.

    H = ceil(n / columns) * h, W = columns * w; what the last row lacks is black.
    """
    images = np.asarray(images)
    require_images(images, ndim=4, channels=SAVED)
    if columns < 1 or len(images) == 0:
        raise ValueError(f"got {len(images)} images in {columns} columns, expected at least 1 each")
    n, c, h, w = images.shape
    rows = math.ceil(n / columns)
    cells = np.zeros((rows * columns, c, h, w), dtype=np.uint8)
    cells[:n] = images
    grid = cells.reshape(rows, columns, c, h, w).transpose(2, 0, 3, 1, 4)
    return to_hwc(grid.reshape(c, rows * h, columns * w))


def encode_png(pixels: np.ndarray, *, compress_level: int) -> bytes:
    """uint8 [h, w] or [h, w, 3] as the bytes of a PNG file; compress_level 0 (none) to 9."""
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, format="PNG", compress_level=compress_level)
    return buffer.getvalue()


def save_png(path: str | os.PathLike[str], pixels: np.ndarray) -> None:
    """Write uint8 [h, w], [h, w, 3] or with alpha [h, w, 4] as a PNG file, atomically."""
    pixels = np.asarray(pixels)
    if pixels.dtype != np.uint8 or (pixels.ndim != 2 and pixels.shape[2:] not in ((3,), (4,))):
        raise ValueError(
            f"got {pixels.dtype} {list(pixels.shape)}, expected uint8 [h, w] or [h, w, 3 or 4]"
        )
    with replacing(path) as stream:
        stream.write(encode_png(pixels, compress_level=6))


@contextmanager
def replacing(path: str | os.PathLike[str]) -> Iterator[BinaryIO]:
    """A binary file that takes the place of path on success and leaves no trace on an error."""
    path = Path(path)
    if not path.parent.is_dir():
        raise FileNotFoundError(f"{path}: its folder does not exist; create it first")
    aside = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with aside.open("wb") as stream:
            yield stream
            stream.flush()
            os.fsync(stream.fileno())
        aside.replace(path)
    except OSError as error:
        if error.errno is not None and error.filename is None:
            error.filename = str(path)  # a full disk does not say which file it was
        raise
    finally:
        aside.unlink(missing_ok=True)
