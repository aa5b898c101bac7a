"""Pictures of a comparison, none of them picked by hand: rules and seeds choose.

largest improvements   images that came nearest to a real one, before above after
largest regressions    images that moved away the most, before above after
latent interpolation   the way between the latents of images 0 and 1, before above after; of two
                       students only
nearest real images    the first images after, above the real image nearest to each
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from jaxtyping import UInt8
from PIL import Image
from torch import Tensor

import image_sets
from metrics.compare import Comparison
from metrics.distances.changes import SHOWN
from metrics.distances.neighbours import nearest
from metrics.reference import Reference, extract, sample_indices
from metrics.sampling import draw_between
from metrics.sides import FoundImages, Side, part_of, some_of


def draw_gallery(before: Side, after: Side, comparison: Comparison) -> dict[str, np.ndarray]:
    """Pictures by caption, uint8 [h, w] or [h, w, 3], of the sides that were compared.

    Those that pair images are left out where the sides have no pairs or not one size, and those
    that need the features of real images, or the images themselves, are left out where the
    reference has none.
    """
    options = {"seed": comparison.seed, "label": comparison.label}
    shown = {**options, "noise_mode": comparison.noise_mode}
    pair = [part_of(side, comparison.num_images) for side in (before, after)]
    firsts = [some_of(side, range(SHOWN), **shown) for side in pair]
    one_size = firsts[0].shape == firsts[1].shape
    rows: dict[str, list[Tensor]] = {}
    changes = comparison.images
    for caption, chosen in (
        ("largest improvements", changes.improved() if changes else []),
        ("largest regressions", changes.worsened() if changes else []),
    ):
        if chosen and one_size:
            rows[caption] = [some_of(side, chosen, **shown) for side in pair]
    students = [side for side in pair if not isinstance(side, FoundImages)]
    if len(students) == 2 and one_size:
        rows["latent interpolation"] = [
            draw_between(student, steps=SHOWN, **options) for student in students
        ]
    real = _nearest_real(firsts[1], comparison.reference)
    if real is not None:
        rows["nearest real images"] = [firsts[1], real]
    return {
        caption: image_sets.image_grid(torch.cat(two).numpy(), len(two[0]))
        for caption, two in rows.items()
    }


def _nearest_real(
    images: UInt8[Tensor, "n c h w"], reference: Reference
) -> UInt8[Tensor, "n c h w"] | None:
    """The image of the reference nearest to each of images, in their size; None without any."""
    sample, source = reference.rows, Path(reference.source)
    if sample is None or not (source.is_dir() or source.suffix == ".zip"):
        return None
    features, _ = extract(reference.extractor, images)
    _, rows = nearest(features, sample)
    folder = image_sets.ImageFolder(source)
    indices = sample_indices(len(folder))
    found = [_fitted(folder[indices[int(row)]][0], tuple(images.shape[1:])) for row in rows]
    folder.close()
    return torch.from_numpy(np.stack(found))


def _fitted(image: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """A real image in the size and channels of the student's, to stand beside them."""
    if image.shape == shape:
        return image
    c, h, w = shape
    pixels = image[0] if len(image) == 1 else image.transpose(1, 2, 0)
    picture = Image.fromarray(np.ascontiguousarray(pixels)).convert("L" if c == 1 else "RGB")
    resized = np.asarray(picture.resize((w, h), Image.Resampling.LANCZOS))
    return resized[None] if c == 1 else np.ascontiguousarray(resized.transpose(2, 0, 1))
