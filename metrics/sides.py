"""What may stand on a side of a comparison: a student, or images that are there already."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path, PurePosixPath

import numpy as np
import torch
from jaxtyping import UInt8
from torch import Tensor

import checkpoints
import image_sets
from metrics.reference import ImageArray, is_image_batch
from metrics.sampling import BLOCK, draw_images, draw_some, first_image
from metrics.storage import read_arrays
from roles import Processes, Student

ORDER_SEED = 0
SUFFIXES = (".zip", ".npz")  # of files that hold images; networks have others


class FoundImages:
    """Images where a student may stand.

    A part of them is taken at an even stride, so that of a set that lies class by class it has of
    every class, and in a random order that is always the same: the jackknife's groups are every
    K-th image, which must not be a class. `names` are the paths of the
    images without their suffix, [] where they have none.
    """

    def __init__(
        self,
        images: image_sets.ImageFolder | ImageArray,
        source: str,
        *,
        indices: Sequence[int] | None = None,
    ) -> None:
        self._images = images
        self._indices = range(len(images)) if indices is None else indices
        self.source = source
        names = images.names if isinstance(images, image_sets.ImageFolder) else []
        self.names = [PurePosixPath(names[i]).with_suffix("") for i in self._indices if names]

    def __len__(self) -> int:
        return len(self._indices)

    def part(self, num_images: int) -> FoundImages:
        """So many of them, in their order; ValueError where there are fewer."""
        if not 0 < num_images <= len(self):
            raise ValueError(f"{self.source} has {len(self)} images; {num_images} were asked for")
        order = np.random.default_rng(ORDER_SEED).permutation(num_images).tolist()
        kept = [self._indices[i * len(self) // num_images] for i in order]
        return FoundImages(self._images, self.source, indices=kept)

    def some(self, chosen: Sequence[int]) -> UInt8[Tensor, "n c h w"]:
        """These images, in this order; ValueError names one that is damaged or of another size."""
        return torch.from_numpy(np.stack([self._one(self._indices[i]) for i in chosen]))

    def _one(self, index: int) -> np.ndarray:
        if isinstance(self._images, ImageArray):
            return self._images.images[index]
        return self._images[index][0]

    def draw(self, share: range) -> Iterator[UInt8[Tensor, "n c h w"]]:
        """The images of these numbers, at most BLOCK at a time."""
        for start in range(share.start, share.stop, BLOCK):
            yield self.some(range(start, min(start + BLOCK, share.stop)))


Side = Student | FoundImages


def are_images(source: str | os.PathLike[str]) -> bool:
    """Whether a path or address is one of images: a folder, a zip, or an .npz."""
    return os.fspath(source).lower().endswith(SUFFIXES) or Path(source).is_dir()


def open_images(source: str | os.PathLike[str]) -> FoundImages:
    """The images of a folder or zip, or of guided-diffusion's .npz (uint8 [n, h, w, c] in arr_0).

    ValueError or OSError, naming the file, on what holds none.
    """
    path = checkpoints.local_data(os.fspath(source))
    if path.suffix.lower() != ".npz":
        return FoundImages(image_sets.ImageFolder(path), str(source))
    arrays = read_arrays(path)
    if not is_image_batch(arrays):
        held = ", ".join(list(arrays)[:5]) or "nothing"
        raise ValueError(
            f"{path}: holds {held}; a side of a comparison is images, as uint8 [n, h, w, c] in "
            "arr_0, a folder or zip of them, or a generator"
        )
    array = ImageArray(np.ascontiguousarray(arrays["arr_0"].transpose(0, 3, 1, 2)))
    return FoundImages(array, str(source))


def part_of(side: Side, num_images: int) -> Side:
    """The side of a comparison of so many images."""
    return side.part(num_images) if isinstance(side, FoundImages) else side


def images_of(
    side: Side,
    num_images: int,
    *,
    seed: int,
    label: int | None,
    noise_mode: str,
    processes: Processes,
) -> tuple[Iterator[UInt8[Tensor, "n c h w"]], int]:
    """This process's share of the images of a side, and the number of the first of them."""
    if isinstance(side, FoundImages):
        share = processes.share(num_images)
        return side.draw(share), share.start
    drawn = draw_images(
        side, num_images, seed=seed, label=label, noise_mode=noise_mode, processes=processes
    )
    return drawn, first_image(num_images, processes)


def some_of(
    side: Side, chosen: Sequence[int], *, seed: int, label: int | None, noise_mode: str
) -> UInt8[Tensor, "n c h w"]:
    """Images of a side by their numbers."""
    if isinstance(side, FoundImages):
        return side.some(chosen)
    return draw_some(side, chosen, seed=seed, label=label, noise_mode=noise_mode)


def pairing_of(before: Side, after: Side) -> str:
    """What image i of both sides has in common, in words; "" where it has nothing."""
    found = [side for side in (before, after) if isinstance(side, FoundImages)]
    if not found:
        return "the same latents, labels and noise"
    same = len(found) == 2 and found[0].names == found[1].names and found[0].names
    return "the same file names" if same else ""
