"""Augmentation: what the label says was done, and nothing else."""

from __future__ import annotations

import math

import pytest
import torch

from refiners.training.augmentation import (
    AUGMENT_DIM,
    SHIFT,
    SPREAD,
    augmented,
    resampled,
    source_of,
)

SIDE = 32


def waves(n: int = 1) -> torch.Tensor:
    """Smooth periodic images [n, 3, 32, 32]: sums of waves of at most six periods."""
    at = torch.arange(SIDE) / SIDE * 2 * math.pi
    generator = torch.Generator().manual_seed(0)
    x = torch.zeros(n, 3, SIDE, SIDE)
    for k, m in [(1, 2), (3, 1), (4, 5), (2, 6)]:
        phase = torch.rand([n, 3, 1, 1], generator=generator) * 2 * math.pi
        x += torch.cos(k * at[:, None] + m * at + phase) / 4
    return x


def source(**changes: float) -> torch.Tensor:
    names = ("scale", "turn", "stretch", "axis", "right", "down")
    return source_of(*(torch.tensor([changes.get(name, 0.0)]) for name in names))


INSIDE = (..., slice(6, -6), slice(6, -6))  # what the border, mirrored there, does not reach


def test_no_change_is_no_change() -> None:
    torch.testing.assert_close(
        resampled(waves(), source())[INSIDE], waves()[INSIDE], atol=0.02, rtol=0
    )


def test_shifts_are_shares_of_the_side_to_the_right_and_down() -> None:
    pixels = {"right": 3, "down": -2}
    found = resampled(waves(), source(**{k: v / SIDE / SHIFT for k, v in pixels.items()}))
    expected = waves().roll((-2, 3), dims=(2, 3))
    torch.testing.assert_close(found[INSIDE], expected[INSIDE], atol=0.02, rtol=0)


def test_a_quarter_turn_is_one() -> None:
    found = resampled(waves(), source(turn=math.pi / 2))
    torch.testing.assert_close(found[INSIDE], waves().rot90(1, (2, 3))[INSIDE], atol=0.02, rtol=0)


def test_scaling_makes_the_image_larger_about_its_middle() -> None:
    # A wave of two periods becomes one of a period where the image is twice as large.
    at = (torch.arange(SIDE) + 0.5) / SIDE * 2 - 1
    image = torch.cos(2 * math.pi * at).expand(1, 1, SIDE, SIDE).contiguous()
    found = resampled(image, source(scale=1 / SPREAD))
    expected = torch.cos(math.pi * at).expand(1, 1, SIDE, SIDE)
    torch.testing.assert_close(found[INSIDE], expected[INSIDE], atol=0.02, rtol=0)


def test_stretching_keeps_the_area_and_goes_along_its_axis() -> None:
    for axis in (0.0, 0.7):
        linear = source(stretch=1 / SPREAD, axis=axis)[0, :, :2]
        assert torch.linalg.det(linear).item() == pytest.approx(1)
        along = torch.tensor([math.cos(axis), -math.sin(axis)])  # y points down in an image
        torch.testing.assert_close(linear @ along, along / 2, atol=1e-6, rtol=0)


def test_an_image_whose_label_is_zero_is_untouched_and_half_are_mirrored() -> None:
    torch.manual_seed(0)
    images = torch.randn(2000, 1, 8, 8)
    found, label = augmented(images, 0.12)
    assert label.shape == (2000, AUGMENT_DIM)
    still = (label == 0).all(dim=1)
    assert torch.equal(found[still], images[still])
    mirrored = (label[:, 0] == 1) & (label[:, 1:] == 0).all(dim=1)
    assert torch.equal(found[mirrored], images[mirrored].flip(3))
    # 0.94 of the images are not upside down, 0.88 each not scaled, turned, stretched, shifted.
    expected = 0.5 * 0.94 * 0.88**4
    for chosen in (still, mirrored):
        assert chosen.float().mean().item() == pytest.approx(expected, abs=0.04)


def test_the_label_says_all_that_was_done() -> None:
    torch.manual_seed(1)
    images = waves(64)
    found, label = augmented(images, 0.5)
    scale, axis_part = label[:, 2], label[:, 5:7]
    turn = torch.atan2(label[:, 4], label[:, 3] + 1)
    stretch, axis = axis_part.norm(dim=1), torch.atan2(axis_part[:, 1], axis_part[:, 0])
    again = torch.where(label[:, 0, None, None, None] == 1, images.flip(3), images)
    again = torch.where(label[:, 1, None, None, None] == 1, again.flip(2), again)
    # Of a stretch the published labels do not say whether it is along an axis, or a squeeze.
    errors = [
        (resampled(again, source_of(scale, turn, way, axis, label[:, 7], label[:, 8])) - found)
        .abs()
        .amax(dim=(1, 2, 3))
        for way in (stretch, -stretch)
    ]
    moved = (label[:, 2:] != 0).any(dim=1)
    assert moved.sum() > 50
    assert torch.minimum(*errors)[moved].max() < 1e-3


def test_probability_zero_only_mirrors() -> None:
    images = waves(32)
    found, label = augmented(images, 0.0)
    assert torch.equal(label[:, 1:], torch.zeros(32, AUGMENT_DIM - 1))
    assert torch.equal(found[label[:, 0] == 0], images[label[:, 0] == 0])
