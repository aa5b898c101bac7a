"""Files of torch.save hold what was saved, and no more; what else they ask for is refused."""

from __future__ import annotations

import argparse
import io
import os
import struct
import zipfile
from collections import OrderedDict
from typing import Any

import pytest
import torch

import checkpoints
from checkpoints import UnsafeCheckpoint
from checkpoints.pickles.reader import read_stream

DTYPES = (
    torch.float32,
    torch.float16,
    torch.bfloat16,
    torch.float64,
    torch.int64,
    torch.int32,
    torch.uint8,
    torch.bool,
)


def saved(data: Any, *, is_zip: bool = True) -> bytes:
    file = io.BytesIO()
    torch.save(data, file, _use_new_zipfile_serialization=is_zip)
    return file.getvalue()


def read_bytes(raw: bytes) -> Any:
    return read_stream(io.BytesIO(raw), len(raw))


def training_state() -> dict[str, Any]:
    """What a training script saves: state dicts, an optimizer, options, numbers."""
    net = torch.nn.Sequential(torch.nn.Conv2d(2, 3, 3), torch.nn.BatchNorm2d(3))
    moments = {"step": torch.tensor(1.0), "exp_avg": torch.randn(3, 2, 3, 3)}
    groups = [{"lr": 0.002, "betas": (0.0, 0.99), "foreach": None, "params": [0, 1, 2, 3]}]
    base = torch.randn(4, 6)
    return {
        "g_ema": net.state_dict(),
        "g_optim": {"state": {0: moments}, "param_groups": groups},
        "args": argparse.Namespace(size=32, path="x", mixing=0.9, names=["a"]),
        "types": [torch.ones(3).to(dtype) for dtype in DTYPES],
        "views": (base.t(), base[1:, ::2], base),
        "empty": torch.zeros(0, 3),
        "p": 0.25,
    }


def assert_equal(ours: Any, theirs: Any) -> None:
    if isinstance(theirs, torch.Tensor):
        assert ours.dtype == theirs.dtype and torch.equal(ours, theirs)
    elif isinstance(theirs, dict):
        assert type(ours) is type(theirs) and list(ours) == list(theirs)
        for key in theirs:
            assert_equal(ours[key], theirs[key])
    elif isinstance(theirs, list | tuple):
        for one, other in zip(ours, theirs, strict=True):
            assert_equal(one, other)
    elif isinstance(theirs, argparse.Namespace):
        ours = ours.state if isinstance(ours, checkpoints.Record) else vars(ours)
        assert_equal(ours, vars(theirs))
    else:
        assert ours == theirs


@pytest.mark.parametrize("is_zip", [True, False])
def test_what_was_saved_is_read_and_nothing_is_run(is_zip, runs_nothing_while):
    state = training_state()
    raw = saved(state, is_zip=is_zip)
    with runs_nothing_while():
        data = read_bytes(raw)
    assert_equal(data, state)
    for one, other in zip(data["views"], state["views"], strict=True):
        assert one.untyped_storage().nbytes() == other.numel() * 4


def test_what_was_written_is_read_by_torch_and_by_us(tmp_path):
    state = training_state()
    data = read_bytes(saved(state))
    path = tmp_path / "new.pt"
    checkpoints.write_torch_file(data, path)
    assert_equal(torch.load(path, weights_only=False), state)
    assert_equal(checkpoints.read(path), state)
    checkpoints.write_torch_file({"g_ema": data["g_ema"]}, path)
    assert_equal(torch.load(path, weights_only=True), {"g_ema": OrderedDict(state["g_ema"])})


def test_what_is_no_plain_data_is_not_written(tmp_path):
    path = tmp_path / "new.pt"
    path.write_bytes(b"kept")
    record = checkpoints.Record("Generator", (), {}, {}, source="")
    for bad in (record, object(), [{"a": record}]):
        with pytest.raises(ValueError, match="cannot be written to a torch file"):
            checkpoints.write_torch_file(bad, path)
    shared: Any = ()
    for _ in range(60):
        shared = (shared, shared)
    checkpoints.write_torch_file(shared, tmp_path / "shared.pt")
    assert path.read_bytes() == b"kept"


class Reduces:
    def __init__(self, function: Any, *args: Any) -> None:
        self.parts = function, args

    def __reduce__(self) -> Any:
        return self.parts


@pytest.mark.parametrize("is_zip", [True, False])
@pytest.mark.parametrize(("function", "args"), [(os.system, ("touch pwned",)), (eval, ("1",))])
def test_a_call_of_anything_else_is_named(is_zip, function, args, runs_nothing_while):
    raw = saved({"g": torch.ones(2), "x": Reduces(function, *args)}, is_zip=is_zip)
    with runs_nothing_while():
        data = read_bytes(raw)
    assert f".{function.__name__}, a name that no network" in data["x"].foreign
    assert data["g"].tolist() == [1, 1]


def repacked(
    members: dict[str, bytes], *, method: int = zipfile.ZIP_STORED, twice: str = ""
) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", method) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
        if twice:
            with pytest.warns(UserWarning, match="Duplicate"):
                archive.writestr(twice, members[twice])
    return file.getvalue()


def members_of(raw: bytes) -> dict[str, bytes]:
    with zipfile.ZipFile(io.BytesIO(raw)) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def test_an_archive_of_another_zip_writer_is_read():
    members = members_of(saved({"w": torch.arange(5.0)}))
    assert torch.equal(read_bytes(repacked(members))["w"], torch.arange(5.0))


def test_archives_that_torch_does_not_write_are_refused(monkeypatch):
    monkeypatch.setattr("checkpoints.pickles.zips.MAX_MEMBERS", 20)
    members = members_of(saved({"w": torch.zeros(1000)}))
    (root,) = {name.split("/")[0] for name in members if name.endswith("data.pkl")}
    pickle, weights = f"{root}/data.pkl", f"{root}/data/0"
    cases = (
        (repacked(members, method=zipfile.ZIP_DEFLATED), "compressed"),
        (repacked(members, twice=weights), "two members"),
        (repacked({**members, f"{root}/constants.pkl": b""}), "TorchScript"),
        (repacked({**members, "b/data.pkl": b""}), "the one data.pkl"),
        (repacked({**members, f"{root}/byteorder": b"big"}), "little endian"),
        (repacked({**members, weights: bytes(3996)}), "1000 elements in 3996 bytes"),
        (repacked({**members, pickle: members[pickle] + b"x"}), "after the end"),
        (repacked({n: c for n, c in members.items() if n != weights}), "without the member"),
        (repacked({f"{root}/x{i}": b"" for i in range(21)}), "members; 20 are the most"),
    )
    for raw, message in cases:
        with pytest.raises(ValueError, match=message):
            read_bytes(raw)


def test_a_small_archive_cannot_take_much_memory():
    """A directory that promises more than the file has, and one member read again and again."""
    members = members_of(saved({"w": torch.zeros(2**20)}))
    raw = repacked(members)
    end = raw.rfind(b"PK\x05\x06")
    for layout, place in (("<L", end + 12), ("<L", end + 16), ("<H", end + 10)):
        bad = bytearray(raw)
        struct.pack_into(layout, bad, place, 0x7FFFFFF0 if layout == "<L" else 0x7FFF)
        with pytest.raises(ValueError, match=r"zip archive|ends too early"):
            read_bytes(bytes(bad))
    one = torch.zeros(2**20, dtype=torch.uint8)
    with pytest.raises(UnsafeCheckpoint, match="unpacks to more"):
        read_bytes(saved([one[: 2**20 - i] for i in range(60)]))


@pytest.mark.parametrize("is_zip", [True, False])
def test_a_cut_or_changed_file_loads_or_raises_a_value_error(is_zip):
    raw = saved({"g": OrderedDict(w=torch.arange(6.0)), "n": 3}, is_zip=is_zip)
    for end in range(0, len(raw), 7):
        with pytest.raises(ValueError, match=r"\w"):
            read_bytes(raw[:end])
    stream = torch.Generator().manual_seed(0)
    for _ in range(1500):
        bad = bytearray(raw)
        place, value = (int(torch.randint(n, [1], generator=stream)) for n in (len(raw), 256))
        bad[place] = value
        try:
            read_bytes(bytes(bad))
        except ValueError as error:
            assert str(error)


def test_storages_of_the_old_format_must_be_the_declared_ones():
    raw = saved({"w": torch.arange(6.0)}, is_zip=False)
    assert torch.equal(read_bytes(raw)["w"], torch.arange(6.0))
    with pytest.raises(ValueError, match="after its last storage"):
        read_bytes(raw + b"x")
    place = len(raw) - 32
    with pytest.raises(ValueError, match="holds 7 elements of a storage that should have 6"):
        read_bytes(raw[:place] + struct.pack("<q", 7) + raw[place + 8 :])
