"""The teacher's images that a run compares with, as bytes in a zip."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

import image_sets
from refiners.runs.teacher_images import make_teacher_images
from teachers.gaussian import Gaussian


@pytest.mark.parametrize(("mean", "byte"), [(1.5, 255), (-1.5, 0), (0.5, 191)])
def test_a_teachers_pixels_beyond_the_range_are_at_its_end_and_do_not_wrap(
    tmp_path: Path, mean: float, byte: int
) -> None:
    teacher = Gaussian(torch.full([1, 4, 4], mean), 1e-3)
    teacher.register_parameter("weight", torch.nn.Parameter(torch.zeros(1)))  # which has a device
    path = make_teacher_images(
        tmp_path / "images.zip", teacher, 3, seed=0, steps=4, progress=lambda *at: None
    )
    images = image_sets.ImageFolder(path)
    found = [pixels for pixels, _ in images.batches(3)]
    assert len(found) == 1
    assert found[0].shape == (3, 1, 4, 4)
    # Four steps leave a little noise; a byte that wraps is 60 levels off.
    assert abs(found[0].astype(int) - byte).max() <= 6
