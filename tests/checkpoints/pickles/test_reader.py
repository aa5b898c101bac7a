"""What is read equals, bit by bit, what stock pickle and torch read, and nothing is run for it."""

from __future__ import annotations

import io
import json
import os
import pickletools
import struct
import tracemalloc
from collections import OrderedDict
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import torch

import checkpoints
from checkpoints.pickles.machine import OPCODES
from checkpoints.pickles.reader import NAMES, read_stream


def read_bytes(raw: bytes) -> Any:
    return read_stream(io.BytesIO(raw), len(raw))


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_a_file_of_any_protocol_reads_as_stock_pickle_reads_it(
    protocol, original, snapshot, assert_same, tmp_path
):
    path = tmp_path / "a.pkl"
    path.write_bytes(original.dump(snapshot, protocol))
    assert_same(checkpoints.read(path), original.load(path))


def test_reading_runs_compiles_and_imports_nothing(original, snapshot, tmp_path, runs_nothing):
    path = tmp_path / "a.pkl"
    checkpoints.write(snapshot, path)
    data = cast("Any", checkpoints.read(path))
    assert data["G"].source == snapshot["G"].source


def test_samples_equal_their_manifests(samples):
    files = sorted(samples.glob("*.pkl"))
    assert files
    for path in files:
        data = cast("Any", checkpoints.read(path))
        manifest = json.loads(path.with_name(path.stem + ".manifest.json").read_text())
        for name, network in manifest.items():
            if isinstance(data, tuple):
                continue  # TensorFlow: the manifest is of the converted network
            record = data[name]
            assert isinstance(record, checkpoints.Record)
            assert record.class_name == network["cls"]
            for group, found in (
                ("parameters", checkpoints.parameters(record)),
                ("buffers", checkpoints.buffers(record)),
            ):
                rows = [
                    [key, list(t.shape), str(t.dtype), list(t.stride())] for key, t in found.items()
                ]
                assert rows == network[group], f"{path.name} {name} {group}"
            if record.source is not None:
                assert plain(record.init_kwargs) == network["init_kwargs"], f"{path.name} {name}"


def plain(value):
    """The value as JSON gives it back."""
    return json.loads(json.dumps(value))


def test_each_tensor_owns_writable_memory_without_gradient(original, snapshot):
    data = read_bytes(original.dump(snapshot))
    found = list(checkpoints.tensors(data["G"]).values())
    for tensor in found:
        assert not tensor.requires_grad
        tensor.fill_(1)
    places = [t.untyped_storage().data_ptr() for t in found if t.numel()]
    assert len(set(places)) == len(places)


def test_weights_reach_their_tensors_without_a_copy_on_the_way(tmp_path):
    path = tmp_path / "a.pkl"
    weights = {str(i): torch.full([2**20], float(i)) for i in range(8)}  # 32 MiB
    checkpoints.write(weights, path)
    tracemalloc.start()  # sees what Python and NumPy allocate, and not torch
    data = cast("Any", checkpoints.read(path))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 2**20
    assert all(torch.equal(data[name], weights[name]) for name in weights)


def test_a_shared_object_of_the_file_is_one_object(original, snapshot):
    data = read_bytes(original.dump(snapshot))
    assert data["G"] is data["G_ema"]
    layers = data["G"].modules["layers"].modules
    assert layers["a"] is layers["again"]


def test_a_view_becomes_contiguous_and_keeps_its_values(original):
    base = torch.arange(24.0).reshape(4, 6)
    views = [base[1:3, ::2], base[:, 2], base.t()[2:4], base[0, 0], base.t(), base[:1].expand(3, 6)]
    read = read_bytes(original.dump(views))
    for got, view in zip(read, views, strict=True):
        assert torch.equal(got, view)
        assert got.untyped_storage().nbytes() == view.numel() * 4
    assert read[4].stride() == (1, 6)
    assert read[5].is_contiguous()


def test_plain_data_without_a_network_can_be_read(original):
    data = {"mu": np.zeros(3), "list": [1, 2.5, "a", None, True], "t": ((), (1,), (1, 2, 3, 4))}
    got = read_bytes(original.dump(data, 4))
    assert got.keys() == data.keys()
    assert got["list"] == data["list"]
    assert got["t"] == data["t"]


def test_numpy_of_both_spellings_and_of_dill_reads_the_same(original):
    array = np.arange(6, dtype=np.float64).reshape(2, 3)
    state = b"(K\x01K\x02K\x03\x86cnumpy\ndtype\nX\x02\x00\x00\x00f8\x89\x88\x87R"
    state += b"(K\x03X\x01\x00\x00\x00<"
    state += b"NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb\x89B" + struct.pack("<I", 48)
    state += array.tobytes() + b"t"
    for core in (b"core", b"_core"):
        function = b"cnumpy." + core + b".multiarray\n_reconstruct\n"
        parts = b"cnumpy\nndarray\nK\x00\x85C\x01b\x87"
        stock = b"\x80\x03" + function + parts + b"R" + state + b"b."
        dill = b"\x80\x03cdill._dill\n_create_array\n(" + function + parts + state + b"NtR."
        for raw in (stock, dill):
            got = read_bytes(raw)
            assert got.dtype == array.dtype
            assert np.array_equal(got, array)


def test_tensorflow_networks_are_records_of_arrays():
    make = (
        b"\x80\x03cdnnlib.tflib.network\nNetwork\n)\x81}X\x04\x00\x00\x00nameX\x01\x00\x00\x00Gsb."
    )
    record = read_bytes(make)
    assert (record.module, record.class_name) == ("dnnlib.tflib.network", "Network")
    assert record.state == {"name": "G"}
    assert (record.init_args, record.init_kwargs) == ((), {})


def test_old_containers_and_missing_hook_entries_are_accepted(original):
    groups = ("_parameters", "_buffers", "_modules")
    state: dict[str, checkpoints.Value] = {name: OrderedDict() for name in groups}
    record = checkpoints.Record("Old", (), {"z_dim": 4}, state, source="")
    got = read_bytes(original.dump(record, 3))
    assert list(got.state) == [*state, "_init_args", "_init_kwargs"]
    assert type(got.modules) is OrderedDict
    assert got.init_kwargs == {"z_dim": 4}


def test_a_location_on_a_gpu_is_ignored(original):
    # So long that its bytes never fit the opcode for less than 256, whatever else is in them.
    raw = original.dump(torch.arange(100.0), 3)
    header = b"X\x03\x00\x00\x00cpu"
    moved = raw.replace(header, b"X\x06\x00\x00\x00cuda:0")
    size = raw.index(b"B", raw.index(b"_load_from_bytes")) + 1
    assert header in raw
    length = struct.unpack("<I", raw[size : size + 4])[0] + 3
    moved = moved[:size] + struct.pack("<I", length) + moved[size + 4 :]
    assert torch.equal(read_bytes(moved), torch.arange(100.0))


def test_the_table_of_opcodes_agrees_with_pickletools():
    known = {opcode.code.encode("latin-1"): opcode.name for opcode in pickletools.opcodes}
    assert {code: row[0] for code, row in OPCODES.items()} == {
        code: known[code] for code in OPCODES
    }


def test_no_name_in_the_table_is_dotted_or_from_a_dangerous_module():
    assert not [name for _, name in NAMES if "." in name]
    dangerous = {"os", "posix", "nt", "sys", "subprocess", "io", "importlib", "runpy", "pickle"}
    assert not {module.partition(".")[0] for module, _ in NAMES} & dangerous
    builtins = {name for module, name in NAMES if module in ("builtins", "__builtin__")}
    assert builtins == {"set"}


def test_a_missing_file_a_folder_a_pipe_and_an_unknown_scheme_give_one_line(tmp_path):
    with pytest.raises(FileNotFoundError, match="no-such"):
        checkpoints.read(tmp_path / "no-such.pkl")
    os.mkfifo(tmp_path / "pipe")
    for place in (tmp_path, tmp_path / "pipe", "/dev/zero"):
        with pytest.raises(ValueError, match="is not a file"):
            checkpoints.read(place)
    with pytest.raises(ValueError, match="give an http"):
        checkpoints.read("ftp://127.0.0.1/a.pkl")


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        (b"", "is empty"),
        (b"PK\x03\x04....", "zip archive"),
        (b"hello world", "not a network pickle"),
        (b"\x80\x01K\x01.", "protocol 1"),
        (b"\x80\x04K\x01.K", "after the end"),
        (b"\x80\x04", "truncated"),
    ],
)
def test_what_is_no_network_pickle_is_named(raw, message, tmp_path):
    path = Path(tmp_path / "a.pkl")
    path.write_bytes(raw)
    with pytest.raises(ValueError, match=message) as error:
        checkpoints.read(path)
    assert str(path) in str(error.value)
    assert "\n" not in str(error.value)


def test_a_file_cut_off_anywhere_is_refused(original):
    raw = original.dump({"G": torch.arange(50.0), "kwargs": {"a": [1, 2]}}, 4)
    for length in range(len(raw)):
        with pytest.raises(ValueError, match=r"\w"):
            read_bytes(raw[:length])
