"""The table of published teachers: facts that agree with each other and with our networks."""

from __future__ import annotations

from collections import Counter

import pytest
import torch

from checkpoints import ADDRESSES, is_hub_id
from teachers.catalogue import BY_HAND, BY_NAME, DATA, HUB, KINDS, LAYOUTS, TEACHERS
from teachers.edm import EDMPrecond
from teachers.edm2 import Precond

VE = {
    "embedding_type": "fourier",
    "encoder_type": "residual",
    "channel_mult_noise": 2,
    "resample_filter": [1, 3, 3, 1],
}
# The published configurations, from the networks' files.
CALLS = {
    "edm-cifar10-32x32-uncond-vp": {"channel_mult": [2, 2, 2]},
    "edm-cifar10-32x32-uncond-ve": {"channel_mult": [2, 2, 2], **VE},
    "edm-cifar10-32x32-cond-vp": {"channel_mult": [2, 2, 2]},
    "edm-ffhq-64x64-uncond-vp": {"channel_mult": [1, 2, 2, 2]},
    "edm-ffhq-64x64-uncond-ve": {"channel_mult": [1, 2, 2, 2], **VE},
}
EDM2_WIDTHS = {"xs": 128, "s": 192, "m": 256, "l": 320, "xl": 384}
ROWS = {teacher.name: teacher for teacher in TEACHERS}


def count(network: torch.nn.Module) -> float:
    return round(sum(p.numel() for p in network.parameters()) / 1e6, 1)


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
def test_weights_of_edms_rows_are_those_of_its_networks(name):
    row = ROWS[name]
    with torch.device("meta"):
        network = EDMPrecond(
            img_resolution=row.size,
            img_channels=row.channels,
            label_dim=row.classes,
            model_type="SongUNet",
            augment_dim=9,
            **CALLS[name],
        )
    assert count(network) == row.weights


@pytest.mark.parametrize("size", EDM2_WIDTHS)
def test_weights_of_edm2s_rows_are_those_of_its_networks(size):
    (row,) = (row for name, row in ROWS.items() if name.startswith(f"edm2-img64-{size}-"))
    with torch.device("meta"):
        network = Precond(
            img_resolution=row.size,
            img_channels=3,
            label_dim=row.classes,
            model_channels=EDM2_WIDTHS[size],
        )
    assert count(network) == row.weights


def test_a_latent_model_is_not_said_to_be_read():
    assert not any(teacher.is_read for teacher in TEACHERS if teacher.layout == "latent")
    assert ROWS["edm-ffhq-64x64-uncond-vp"].is_read
