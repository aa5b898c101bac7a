"""Whatever bytes a file holds, reading gives data or a ValueError that says what is wrong."""

from __future__ import annotations

import io
import os
import random
from collections import OrderedDict
from pathlib import Path

import pytest
import torch

import checkpoints
from benchmarks.fuzz import change, check, explore, mutated, opcodes
from checkpoints.pickles.reader import read_stream

CORPUS = Path(__file__).parent / "corpus"


def torch_file(*, is_zip: bool) -> bytes:
    """A small file of torch.save, in the format of today or in the one before."""
    file = io.BytesIO()
    state = OrderedDict(weight=torch.randn(3, 2), half=torch.ones(2).half())
    data = {"g_ema": state, "args": {"size": 32}, "view": torch.randn(4, 4).t()}
    torch.save(data, file, _use_new_zipfile_serialization=is_zip)
    return file.getvalue()


@pytest.fixture
def pickles(original, snapshot) -> list[bytes]:
    return [original.dump(snapshot, protocol) for protocol in (2, 3, 4, 5)]


@pytest.fixture
def raws(pickles) -> list[bytes]:
    return [*pickles, torch_file(is_zip=True), torch_file(is_zip=False)]


def fuzz(count: int, seed: int, raws: list[bytes]) -> int:
    """Read that many mutated files; how many loaded."""
    rng = random.Random(seed)
    return sum(check(mutated(rng.choice(raws), rng.choice(raws), rng)) for _ in range(count))


def test_mutated_files_load_or_are_refused(raws, tmp_path, monkeypatch, runs_nothing):
    monkeypatch.chdir(tmp_path)
    loaded = fuzz(1500, int(os.environ.get("REFINE_FUZZ_SEED", "0")), raws)
    assert 0 < loaded < 1500
    assert not list(tmp_path.iterdir())


def test_what_loads_from_a_mutated_file_can_be_written_and_read(pickles, tmp_path):
    rng = random.Random(1)
    path = tmp_path / "a.pkl"
    written = 0
    for _ in range(300):
        raw = mutated(rng.choice(pickles), rng.choice(pickles), rng)
        try:
            value = read_stream(io.BytesIO(raw), len(raw))
        except ValueError:
            continue
        checkpoints.write(value, path)
        first = path.read_bytes()
        checkpoints.write(checkpoints.read(path), path)
        assert path.read_bytes() == first
        written += 1
    assert written > 10


def test_mutated_safetensors_load_or_are_refused(snapshot, tmp_path):
    path = tmp_path / "a.safetensors"
    checkpoints.write_safetensors(snapshot["G_ema"], path, network="G_ema", card="")
    whole = {file: file.read_bytes() for file in (path, tmp_path / "config.json")}
    rng, loaded = random.Random(0), 0
    for _ in range(150):
        file, raw = rng.choice(tuple(whole.items()))
        data = bytearray(raw)
        change(data, raw, rng)
        file.write_bytes(bytes(data))
        try:
            checkpoints.read(path)
        except ValueError as error:
            assert str(error)
        else:
            loaded += 1
        file.write_bytes(raw)
    assert 0 < loaded < 150


def test_opcodes_are_cut_apart_and_nothing_is_lost(raws):
    for raw in (*raws, b"", b"x", raws[0][:50]):
        assert b"".join(opcodes(raw)) == raw
    assert len(opcodes(raws[2])) > 200


def test_the_guided_search_keeps_what_reaches_new_lines(raws, capsys):
    assert list(explore(raws[2:3], count=60, seed=0)) == []
    count, kept = capsys.readouterr().out.split(" files, ")
    assert count == "60" and int(kept.split(" kept")[0]) > 3


@pytest.mark.parametrize("path", sorted(CORPUS.glob("*.bin")), ids=lambda path: path.name)
def test_a_file_that_once_failed_loads_or_is_refused(path, runs_nothing):
    check(path.read_bytes())


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(10))
def test_two_hundred_thousand_mutated_files_load_or_are_refused(seed, raws, runs_nothing):
    assert 0 < fuzz(20_000, 100 + seed, raws) < 20_000
