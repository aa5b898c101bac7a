"""The table of published teachers: facts that agree with each other and with our networks."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest
import torch

from checkpoints import ADDRESSES, is_hub_id
from refiners.runs.held import holdings
from teachers.catalogue import (
    BY_HAND,
    BY_NAME,
    DATA,
    HUB,
    KINDS,
    LAYOUTS,
    TEACHERS,
    PublishedTeacher,
)
from teachers.edm import EDMPrecond
from teachers.edm2 import Precond

VE = {
    "embedding_type": "fourier",
    "encoder_type": "residual",
    "channel_mult_noise": 2,
    "resample_filter": [1, 3, 3, 1],
}
# The published configurations, from the networks' files.
CALLS: dict[str, dict[str, Any]] = {
    "edm-cifar10-32x32-uncond-vp": {"channel_mult": [2, 2, 2]},
    "edm-cifar10-32x32-uncond-ve": {"channel_mult": [2, 2, 2], **VE},
    "edm-cifar10-32x32-cond-vp": {"channel_mult": [2, 2, 2]},
    "edm-ffhq-64x64-uncond-vp": {"channel_mult": [1, 2, 2, 2]},
    "edm-ffhq-64x64-uncond-ve": {"channel_mult": [1, 2, 2, 2], **VE},
    "edm-imagenet-64x64-cond-adm": {
        "model_type": "DhariwalUNet",
        "augment_dim": 0,
        "model_channels": 192,
        "channel_mult": [1, 2, 3, 4],
    },
}
EDM2_WIDTHS = {"xs": 128, "s": 192, "m": 256, "l": 320, "xl": 384}
ROWS = {teacher.name: teacher for teacher in TEACHERS}


def check_row(row: PublishedTeacher, build: Callable[[], torch.nn.Module]) -> None:
    """The row's weights and memory are those of a network, which takes none on this device."""
    with torch.device("meta"):
        network = build().eval().requires_grad_(False)
        x = torch.empty(1, row.channels, row.size, row.size)
        labels = torch.empty(1, row.classes) if row.classes else None
        with torch.no_grad(), holdings({"teacher": [network]}, []) as held:
            network(x, torch.ones([1]), labels)
    num_weights = sum(p.numel() for p in network.parameters())
    assert round(num_weights / 1e6, 1) == row.weights
    memory = 4 * num_weights + sum(held.peak().values())
    assert row.memory_mib == pytest.approx(memory / 2**20, rel=0.05)


def test_every_row_leads_somewhere_and_no_name_is_there_twice():
    assert max(Counter(teacher.name for teacher in TEACHERS).values()) == 1
    for teacher in TEACHERS:
        assert teacher.data in DATA and teacher.layout in LAYOUTS
        assert teacher.source.startswith("https://")
        assert (teacher.name in ADDRESSES) == (teacher.place == BY_NAME)
        assert is_hub_id(teacher.name) or teacher.place != HUB
        assert bool(teacher.page) == (teacher.place == BY_HAND)
        assert teacher.size & (teacher.size - 1) == 0
        assert str(teacher.size) in teacher.name or teacher.size in (32, 64, 256), teacher


def test_a_word_names_one_set_of_images_and_kinds_are_of_those():
    words = [word for group in DATA.values() for word in group]
    assert max(Counter(words).values()) == 1
    assert all(word.isalpha() and word.islower() for word in words)
    kinds = [data for kind in KINDS for data in kind]
    assert max(Counter(kinds).values()) == 1 and set(kinds) <= DATA.keys()


@pytest.mark.parametrize("name", CALLS)
def test_weights_and_memory_of_edms_rows_are_those_of_its_networks(name):
    row = ROWS[name]
    check_row(
        row,
        lambda: EDMPrecond(
            img_resolution=row.size,
            img_channels=row.channels,
            label_dim=row.classes,
            **{"model_type": "SongUNet", "augment_dim": 9, **CALLS[name]},
        ),
    )


@pytest.mark.parametrize("size", EDM2_WIDTHS)
def test_weights_and_memory_of_edm2s_rows_are_those_of_its_networks(size):
    (row,) = (row for name, row in ROWS.items() if name.startswith(f"edm2-img64-{size}-"))
    check_row(
        row,
        lambda: Precond(
            img_resolution=row.size,
            img_channels=3,
            label_dim=row.classes,
            model_channels=EDM2_WIDTHS[size],
        ),
    )


def test_a_latent_model_is_not_said_to_be_read():
    assert not any(teacher.is_read for teacher in TEACHERS if teacher.layout == "latent")
    assert ROWS["edm-ffhq-64x64-uncond-vp"].is_read
