"""The differentiable augmentations of the student's training."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from refine_demo.augment import Augmentation, shifted

NOTHING = Augmentation(brightness=0, saturation=0, contrast=0, translation=0, cutout=0)
EACH = [field.name for field in dataclasses.fields(Augmentation)]


def alone(name):
    return dataclasses.replace(NOTHING, **{name: getattr(Augmentation(), name)})


@pytest.fixture
def images():
    return torch.rand([16, 3, 32, 32]) * 2 - 1


def test_ranges_of_zero_change_nothing(images):
    assert torch.equal(NOTHING(images), images)


@pytest.mark.parametrize("name", EACH)
def test_each_changes_images_and_passes_gradients(name, images):
    # Of four pixels the usual eighth would be none.
    augment = dataclasses.replace(alone(name), translation=0.25 * (name == "translation"))
    torch.manual_seed(1)
    assert not torch.equal(augment(images), images)
    few = images[:2, :, :4, :4].double().requires_grad_()

    def again(x):
        torch.manual_seed(1)
        return augment(x)

    assert torch.autograd.gradcheck(again, few)
    assert torch.autograd.gradgradcheck(again, few)  # for R1


def test_the_same_draws_change_real_and_generated_images_alike(images):
    augment = Augmentation()
    torch.manual_seed(1)
    real = augment(images)
    torch.manual_seed(1)
    assert torch.equal(augment(images.clone()), real)


def test_brightness_moves_an_image_as_a_whole(images):
    moved = alone("brightness")(images) - images
    assert torch.allclose(moved, moved[:, :1, :1, :1].expand_as(moved), atol=1e-6)
    assert moved.abs().max() <= 0.5 and moved.abs().max() > 0.3


def test_saturation_keeps_gray_and_contrast_keeps_the_mean(images):
    gray = images[:, :1].expand(-1, 3, -1, -1)
    assert torch.allclose(alone("saturation")(gray), gray, atol=1e-6)
    means = alone("contrast")(images).mean([1, 2, 3])
    assert torch.allclose(means, images.mean([1, 2, 3]), atol=1e-6)


def test_translation_moves_pixels_and_brings_zeros_in(images):
    whole = images + 2  # nowhere zero
    moved = alone("translation")(whole)
    for x, y in zip(whole, moved, strict=True):
        rows = (y[0] != 0).any(1).nonzero()[:, 0]
        columns = (y[0] != 0).any(0).nonzero()[:, 0]
        h, w = len(rows), len(columns)
        assert h >= 28 and w >= 28
        top, left = 0 if rows[0] else 32 - h, 0 if columns[0] else 32 - w
        inside = y[:, rows[0] : rows[0] + h, columns[0] : columns[0] + w]
        assert torch.equal(inside, x[:, top : top + h, left : left + w])


def test_every_shift_is_drawn_as_often():
    x = torch.zeros([9000, 1, 9, 9])
    x[:, :, 4, 4] = 1
    share = shifted(x, 1).mean(0)[0, 3:6, 3:6]
    # Three standard deviations of a share of 1 / 9 of 9000 draws.
    assert torch.allclose(share, torch.full([3, 3], 1 / 9), atol=3 * (8 / 81 / 9000) ** 0.5)


def test_cutout_takes_a_square_no_larger_than_asked(images):
    cut = alone("cutout")(images + 2) == 0
    for mask in cut.all(1):
        rows, columns = mask.any(1).sum().item(), mask.any(0).sum().item()
        assert mask.sum() == rows * columns
        assert 8 <= rows <= 16 and 8 <= columns <= 16
    assert torch.equal(cut.all(1), cut.any(1))
