"""Pairs are functions of teacher and seed, whatever stopped their making."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import teachers
from teachers.gaussian import Gaussian, KernelDensity
from teachers.pairs import PairFolder, fingerprint, make_pairs, read_pairs

SMALL: Any = {"num_pairs": 10, "num_steps": 4, "shard_size": 4, "batch": 3}


def conditional() -> KernelDensity:
    images = torch.linspace(-1, 1, 4).reshape(4, 1, 1, 1).expand(4, 1, 2, 2)
    return KernelDensity(images, 0.1, labels=torch.eye(2)[[0, 1, 0, 1]])


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


def test_pairs_are_latents_with_the_images_that_the_sampler_makes_of_them(tmp_path):
    denoiser = conditional()
    shards = list(read_pairs(make_pairs(denoiser, tmp_path, **SMALL)))
    assert [len(shard.latents) for shard in shards] == [4, 4, 2]
    assert torch.cat([s.seeds for s in shards]).tolist() == list(range(10))
    for shard in shards:
        latents = shard.latents.reshape(-1, 1, 2, 2)
        expected = teachers.sample(denoiser, latents, labels=shard.labels, num_steps=4)
        torch.testing.assert_close(shard.images, expected)
        stream = torch.Generator().manual_seed(int(shard.seeds[0]))
        torch.testing.assert_close(latents[0], torch.randn([1, 2, 2], generator=stream))


def test_a_stopped_run_continues_to_the_same_files(tmp_path):
    make_pairs(conditional(), tmp_path / "whole", **SMALL)

    class Stop(Exception):
        pass

    def stop(done: int, total: int) -> None:
        if done > 6:
            raise Stop

    with pytest.raises(Stop):
        make_pairs(conditional(), tmp_path / "stopped", **SMALL, progress=stop)
    kept = contents(tmp_path / "stopped")
    assert list(kept) == ["manifest.json", "shard-000000.npz"]
    seen: list[tuple[int, int]] = []
    make_pairs(conditional(), tmp_path / "stopped", **SMALL, progress=lambda *at: seen.append(at))
    assert seen == [(4, 10), (7, 10), (8, 10), (10, 10)]
    ours = [shard.images for shard in read_pairs(tmp_path / "stopped")]
    whole = [shard.images for shard in read_pairs(tmp_path / "whole")]
    assert all(torch.equal(a, b) for a, b in zip(ours, whole, strict=True))
    assert contents(tmp_path / "stopped")["shard-000000.npz"] == kept["shard-000000.npz"]


def test_more_pairs_are_added_and_the_ones_there_are_stay(tmp_path):
    make_pairs(conditional(), tmp_path, **{**SMALL, "num_pairs": 6})
    before = list(read_pairs(tmp_path))
    make_pairs(conditional(), tmp_path, **SMALL)
    after = torch.cat([shard.images for shard in read_pairs(tmp_path)])
    torch.testing.assert_close(after[:6], torch.cat([shard.images for shard in before]))
    assert len(after) == 10


def test_a_folder_made_otherwise_is_refused(tmp_path):
    make_pairs(conditional(), tmp_path, **SMALL)
    before = contents(tmp_path)
    other = conditional()
    other.images = other.images + 1e-6
    for denoiser, options, word in (
        (other, {}, "teacher_sha256"),
        (conditional(), {"num_steps": 5}, "num_steps 4 -> 5"),
        (conditional(), {"first_seed": 1}, "first_seed 0 -> 1"),
    ):
        with pytest.raises(ValueError, match=f"made otherwise .*{word}.*give another folder"):
            make_pairs(denoiser, tmp_path, **{**SMALL, **options})
    assert contents(tmp_path) == before


def test_the_fingerprint_knows_weights_options_and_nothing_else():
    gaussian = Gaussian(torch.zeros(1, 2, 2), 0.5)
    assert fingerprint(gaussian) == fingerprint(Gaussian(torch.zeros(1, 2, 2), 0.5).eval())
    others = [Gaussian(torch.ones(1, 2, 2), 0.5), Gaussian(torch.zeros(1, 2, 2), 0.6)]
    others.append(Gaussian(torch.zeros(1, 2, 2).double(), 0.5))
    guided = [teachers.classifier_free(conditional(), weight=w) for w in (1.5, 2.0)]
    assert len({fingerprint(d) for d in (gaussian, *others, *guided)}) == 6


def test_a_folder_is_a_source_whose_draws_come_from_the_generator(tmp_path):
    make_pairs(conditional(), tmp_path, **SMALL)
    source = PairFolder(tmp_path)
    stored = {
        tuple(p.tolist()): i for s in read_pairs(tmp_path) for p, i in zip(*s[:2], strict=True)
    }
    drawn = set()
    for seed in range(60):
        latents, labels, images = source(2, torch.Generator().manual_seed(seed))
        again = source(2, torch.Generator().manual_seed(seed))
        torch.testing.assert_close(again, (latents, labels, images), rtol=0, atol=0)
        for latent, image in zip(latents, images, strict=True):
            torch.testing.assert_close(stored[tuple(latent.tolist())], image, rtol=0, atol=0)
            drawn.add(tuple(latent.tolist()))
    assert drawn == stored.keys()


@pytest.mark.parametrize("option", ["num_pairs", "batch", "shard_size"])
def test_sizes_below_one_are_refused(tmp_path, option):
    with pytest.raises(ValueError, match=f"{option} is 0; it must be in 1 to"):
        make_pairs(conditional(), tmp_path, **{**SMALL, option: 0})


def test_folders_and_shards_that_are_none_are_refused(tmp_path):
    with pytest.raises(ValueError, match=r"has no manifest.json; give a folder"):
        PairFolder(tmp_path)
    make_pairs(conditional(), tmp_path, **SMALL)
    shard = tmp_path / "shard-000000.npz"
    shard.write_bytes(shard.read_bytes()[:100])
    with pytest.raises(ValueError, match=re.escape(f"{shard} cannot be read as pairs")):
        list(read_pairs(tmp_path))
    zeros = np.zeros([4, 4], np.float32)
    with open(shard, "wb") as file:
        np.savez(file, latents=zeros, images=zeros, seeds=np.zeros(4, np.int64), labels=zeros)
    with pytest.raises(ValueError, match=r"images is float32 \[4, 4\] instead of float32 \[4, 1"):
        list(read_pairs(tmp_path))
    with open(shard, "wb") as file:
        np.savez(file, latents=zeros.astype(object))
    with pytest.raises(ValueError, match="latents is object"):
        list(read_pairs(tmp_path))
    manifest = tmp_path / "manifest.json"
    manifest.write_text(json.dumps({"format": 1, "num_pairs": "many"}))
    with pytest.raises(ValueError, match="has no proper num_pairs"):
        list(read_pairs(tmp_path))
