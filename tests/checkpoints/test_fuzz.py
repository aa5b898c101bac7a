"""Whatever bytes a file holds, reading gives data or a ValueError that says what is wrong."""

from __future__ import annotations

import io
import os
import random
import time

import pytest

import checkpoints
from checkpoints.machine import OPCODES
from checkpoints.reader import NAMES, read_stream

NUMBERS = (b"\x00", b"\x01", b"\x7f", b"\x80", b"\xff", b"\xff\xff\xff\xff", b"\xff\xff\xff\x7f")


def mutated(raw: bytes, other: bytes, rng: random.Random) -> bytes:
    """The bytes with a few random changes."""
    data = bytearray(raw)
    for _ in range(rng.choice((1, 1, 1, 2, 3, 8))):
        at = rng.randrange(len(data) + 1)
        length = rng.choice((1, 1, 2, 4, 8, 40))
        kind = rng.randrange(8)
        if kind == 0 and at < len(data):
            data[at] ^= 1 << rng.randrange(8)
        elif kind == 1:
            data[at : at + 1] = rng.randbytes(1)
        elif kind == 2:
            data[at : at + length] = b""
        elif kind == 3:
            start = rng.randrange(len(other))
            data[at : at + rng.choice((0, length))] = other[start : start + length]
        elif kind == 4:
            data[at:at] = rng.choice(tuple(OPCODES))
        elif kind == 5:
            number = rng.choice(NUMBERS)
            data[at : at + len(number)] = number
        elif kind == 6:
            module, name = rng.choice(tuple(NAMES))
            data[at:at] = f"c{module}\n{name}\n".encode()
        elif rng.random() < 0.2:
            del data[at:]
        if not data:
            break
    return bytes(data)


def check(raw: bytes) -> bool:
    """Read the bytes; True if they load. What loads can be walked, written and read again."""
    start = time.process_time()
    try:
        value = read_stream(io.BytesIO(raw), len(raw))
    except ValueError as error:
        assert str(error)
        value = None
    assert time.process_time() - start < 10
    for record in value.values() if type(value) is dict else ():
        if type(record) is checkpoints.Record:
            checkpoints.nonfinite(record)
            assert checkpoints.with_tensors(record, checkpoints.tensors(record))
    return value is not None


def fuzz(count: int, seed: int, raws: list[bytes]) -> int:
    """Read that many mutated files; how many loaded."""
    rng = random.Random(seed)
    return sum(check(mutated(rng.choice(raws), rng.choice(raws), rng)) for _ in range(count))


@pytest.fixture
def raws(original, snapshot) -> list[bytes]:
    return [original.dump(snapshot, protocol) for protocol in (2, 3, 4, 5)]


def test_mutated_files_load_or_are_refused(raws, tmp_path, monkeypatch, runs_nothing):
    monkeypatch.chdir(tmp_path)
    loaded = fuzz(3000, int(os.environ.get("REFINE_FUZZ_SEED", "0")), raws)
    assert 0 < loaded < 3000
    assert not list(tmp_path.iterdir())


def test_what_loads_from_a_mutated_file_can_be_written_and_read(raws, tmp_path):
    rng = random.Random(1)
    path = tmp_path / "a.pkl"
    written = 0
    for _ in range(300):
        raw = mutated(rng.choice(raws), rng.choice(raws), rng)
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


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(10))
def test_two_hundred_thousand_mutated_files_load_or_are_refused(seed, raws, runs_nothing):
    assert 0 < fuzz(20_000, 100 + seed, raws) < 20_000
