"""The table of published teachers: facts that agree with each other and with our networks."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest
import torch

import checkpoints
import teachers
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
from teachers.networks.guided_unet import GuidedUNet, Heads
from teachers.published_facts import GUIDED, of_score

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
RAW = ("guided-diffusion", "consistency")
ROWS = {teacher.name: teacher for teacher in TEACHERS}


def file_of(row: PublishedTeacher) -> str:
    return row.name if row.place == BY_HAND else ADDRESSES[row.name].rpartition("/")[2]


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


@pytest.mark.parametrize("published", GUIDED, ids=lambda row: row.files[0])
def test_files_without_all_facts_are_known_by_the_name_of_their_row(published):
    rows = {file_of(row): row for row in ROWS.values() if row.layout in RAW}
    found = [rows[file] for file in published.files if file in rows]
    assert found
    mc, mult, blocks, factors, classes, scale_shift, updown, ndim = published.shape
    outputs = 3 if ndim == 4 else 6  # those of the guided-diffusion layout learned variances
    for row in found[:1]:
        check_row(
            row,
            lambda: GuidedUNet(
                3,
                outputs,
                model_channels=mc,
                channel_mult=mult,
                num_res_blocks=[blocks] * len(mult) if isinstance(blocks, int) else blocks,
                attention_levels=[2**i in factors for i in range(len(mult))],
                num_classes=classes,
                use_scale_shift_norm=scale_shift,
                resblock_updown=updown,
                qkv_ndim=ndim,
                heads=Heads(num_heads=4),
            ),
        )
    for row in found:
        assert (row.size, row.classes) == (published.facts["image_size"], classes)
        assert (row.weights, row.memory_mib) == (found[0].weights, found[0].memory_mib)


def test_no_row_of_these_layouts_is_without_facts():
    known = {file for published in GUIDED for file in published.files}
    for name, row in ROWS.items():
        if row.layout in RAW:
            assert file_of(row) in known, name
        if row.layout == "score-sde":
            assert of_score(f"{name}/checkpoint_1.pth")["image_size"] == row.size


def test_a_published_network_is_loaded_by_its_files_own_name(monkeypatch, tmp_path):
    seen = []
    monkeypatch.setattr(checkpoints, "read", lambda source: seen.append(source) or {})
    with pytest.raises(ValueError, match="no network"):
        teachers.load("lsun_bedroom")
    assert seen == [ADDRESSES["lsun_bedroom"]]


def test_a_latent_model_is_not_said_to_be_read():
    assert not any(teacher.is_read for teacher in TEACHERS if teacher.layout == "latent")
    assert ROWS["edm-ffhq-64x64-uncond-vp"].is_read
