"""Teachers by size, and teachers that start from others."""

from __future__ import annotations

from typing import Any

import pytest
import torch

import teachers
from teachers.edm import EDMPrecond, Precond, VPPrecond
from teachers.sizes import SIDES, SIZES, new_teacher, parse_changes
from teachers.starting import started_from


def small(kind: type[Precond] = EDMPrecond, **options: Any) -> Precond:
    usual: dict[str, Any] = {
        "img_resolution": 16, "img_channels": 3, "label_dim": 4, "dropout": 0.1,
        "channel_mult": [1, 2], "model_channels": 8, "num_blocks": 1, "attn_resolutions": [8],
        "model_type": "SongUNet", "label_dropout": 0.1,
    }  # fmt: skip
    torch.manual_seed(5)
    network = kind(**{**usual, **options}).eval()
    for p in network.parameters():  # its last layers start near zero
        p.data += 0.1 * torch.randn_like(p)
    return network


def started(teacher: Any, **changes: Any) -> tuple[Precond, str]:
    usual = {"img_resolution": 16, "img_channels": 3, "label_dim": 4, "augment_dim": 0}
    network, said = started_from(teacher, **{**usual, **changes}, label_dropout=0.1)
    return network.eval(), said


def noisy(channels: int = 3, side: int = 16) -> torch.Tensor:
    return torch.randn(2, channels, side, side, generator=torch.Generator().manual_seed(0))


ONE_HOT = torch.eye(4)[:2]


@pytest.mark.parametrize("kind", [EDMPrecond, VPPrecond])
def test_what_fits_starts_as_the_teacher_and_says_nothing(kind: type[Precond]) -> None:
    teacher = small(kind)
    network, said = started(teacher)
    assert said == ""
    assert torch.equal(network(noisy(), 0.7, ONE_HOT), teacher(noisy(), 0.7, ONE_HOT))


def test_new_classes_and_augmentations_begin_as_nothing() -> None:
    teacher = small(label_dim=0)
    network, said = started(teacher, augment_dim=9)
    assert said == "its no classes become 4, unlearned; augmentations are new to it"
    found = network(noisy(), 0.7, ONE_HOT, augment_labels=torch.ones(2, 9))
    torch.testing.assert_close(found, teacher(noisy(), 0.7))


def test_without_classes_it_starts_as_the_teacher_without_a_label() -> None:
    teacher = small()
    teacher.model.map_label.bias.data.zero_()  # type: ignore[union-attr]
    network, said = started(teacher, label_dim=0)
    assert said == "its 4 classes become none, unlearned"
    torch.testing.assert_close(network(noisy(), 0.7), teacher(noisy(), 0.7))


def test_gray_images_are_to_it_what_they_were_in_rgb() -> None:
    teacher = small()
    network, said = started(teacher, img_channels=1)
    assert said == "RGB becomes gray"
    gray = noisy(1)
    expected = teacher(gray.expand(-1, 3, -1, -1), 0.7, ONE_HOT).mean(dim=1, keepdim=True)
    torch.testing.assert_close(network(gray, 0.7, ONE_HOT), expected)


def test_rgb_from_gray_denoises_a_gray_image_in_each_channel() -> None:
    teacher = small(img_channels=1)
    network, said = started(teacher)
    assert said == "gray becomes RGB"
    gray = noisy(1)
    expected = teacher(gray, 0.7, ONE_HOT).expand(-1, 3, -1, -1)
    torch.testing.assert_close(network(gray.expand(-1, 3, -1, -1), 0.7, ONE_HOT), expected)


def test_another_size_keeps_every_layer() -> None:
    teacher = small()
    network, said = started(teacher, img_resolution=32)
    assert said == "levels of 16 x 16 serve 32 x 32"
    theirs, mine = list(teacher.parameters()), list(network.parameters())
    assert all(torch.equal(a, b) for a, b in zip(theirs, mine, strict=True))
    # Without attention a network of convolutions does to a periodic image what it did to a period,
    # but for its border.
    assert network(noisy(side=32), 0.7, ONE_HOT).shape == (2, 3, 32, 32)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"img_resolution": 4}, "would have 2 pixels a side of images of 4 x 4; give images of 8"),
        ({"img_channels": 4}, "of 3 channels, the images have 4; only gray and RGB"),
    ],
)
def test_layers_that_do_not_allow_it_are_named(changes: dict[str, int], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        started(small(), **changes)


def test_a_network_of_another_kind_is_refused_in_a_line() -> None:
    exact = teachers.KernelDensity(torch.zeros(2, 3, 16, 16), bandwidth=0.1)
    with pytest.raises(ValueError, match="--from is a KernelDensity"):
        started(exact)


def test_large_is_the_published_network_of_cifar10() -> None:
    with torch.device("meta"):
        network = new_teacher("large", img_resolution=32, img_channels=3, augment_dim=9)
    # NVIDIA's edm-cifar10-32x32-uncond-vp.pkl has so many weights, its augmentation's included.
    assert sum(p.numel() for p in network.parameters()) == 55_733_891


@pytest.mark.parametrize("side", SIDES)
@pytest.mark.parametrize("size", SIZES)
def test_every_size_attends_where_pixels_are_few_and_ends_at_eight(size: str, side: int) -> None:
    with torch.device("meta"):
        network = new_teacher(size, img_resolution=side, img_channels=1, label_dim=2)
    levels = network.model.init_kwargs["channel_mult"]
    assert isinstance(levels, list) and side >> (len(levels) - 1) == 8
    assert network.label_dropout > 0


def test_changes_are_parsed_and_refused_by_name() -> None:
    given = ["model_channels=16", "channel_mult=1,2", "attn_resolutions=", "dropout=0.1"]
    assert parse_changes(given) == {
        "model_channels": 16, "channel_mult": [1, 2], "attn_resolutions": [], "dropout": 0.1,
    }  # fmt: skip
    for text, said in (
        ("width=3", "--net is 'width=3'; allowed are model_channels"),
        ("model_channels=1.5", "must be a whole number"),
        ("num_blocks=1,2", "must be one number"),
        ("dropout=a", "give numbers"),
        ("dropout=2", "must be a number from 0 to 1"),
    ):
        with pytest.raises(ValueError, match=said):
            parse_changes([text])
    with pytest.raises(ValueError, match="widths that are multiples of 32"):
        new_teacher("small", img_resolution=32, img_channels=1, changes={"model_channels": 30})
