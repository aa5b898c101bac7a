"""What is written is read by stock pickle and by us alike, and an old file is never lost."""

from __future__ import annotations

import io
import pickletools
import subprocess
import sys
from collections import OrderedDict
from typing import Any, cast

import numpy as np
import pytest
import torch

import checkpoints
from checkpoints import EasyDict, Record, atomic


def globals_of(raw: bytes) -> set[str]:
    """The names that a protocol 4 pickle of ours refers to."""
    memo: list[Any] = []
    stack: list[Any] = []
    found = set()
    for opcode, argument, _ in pickletools.genops(raw):
        if "UNICODE" in opcode.name:
            stack.append(argument)
        elif opcode.name in ("BINGET", "LONG_BINGET"):
            stack.append(memo[int(argument or 0)])
        elif opcode.name == "MEMOIZE":
            memo.append(stack[-1] if stack else None)
            continue
        elif opcode.name == "STACK_GLOBAL":
            found.add(f"{stack[-2]}.{stack[-1]}")
            stack.append(None)
        else:
            stack.append(None)
    return found


def test_stock_pickle_reads_what_was_written(original, snapshot, assert_same, tmp_path):
    path = tmp_path / "a.pkl"
    checkpoints.write(snapshot, path)
    assert_same(snapshot, original.load(path))
    pickletools.dis(path.read_bytes(), out=io.StringIO())


def test_reading_what_was_written_gives_the_same_data(original, snapshot, tmp_path, assert_same):
    path = tmp_path / "a.pkl"
    checkpoints.write(snapshot, path)
    assert_same(checkpoints.read(path), original.form(snapshot))


def test_writing_again_gives_the_same_bytes(snapshot, tmp_path):
    first, second = tmp_path / "a.pkl", tmp_path / "b.pkl"
    checkpoints.write(snapshot, first)
    checkpoints.write(checkpoints.read(first), second)
    assert first.read_bytes() == second.read_bytes()


def test_only_names_that_every_reader_knows_are_written(snapshot, tmp_path):
    path = tmp_path / "a.pkl"
    checkpoints.write(snapshot, path)
    raw = path.read_bytes()
    assert raw[:2] == b"\x80\x04"
    assert b"numpy._core" not in raw
    assert globals_of(raw) == {
        "collections.OrderedDict",
        "dnnlib.util.EasyDict",
        "numpy.core.multiarray._reconstruct",
        "numpy.core.multiarray.scalar",
        "numpy.dtype",
        "numpy.ndarray",
        "torch.Size",
        "torch._utils._rebuild_parameter",
        "torch._utils._rebuild_tensor_v2",
        "torch.bfloat16",
        "torch.nn.modules.container.ModuleDict",
        "torch.storage._load_from_bytes",
        "torch_utils.persistence._reconstruct_persistent_obj",
    }


def test_source_text_and_shared_objects_are_written_once(snapshot, tmp_path):
    path = tmp_path / "a.pkl"
    checkpoints.write(snapshot, path)
    raw = path.read_bytes()
    assert raw.count(b"os.system") == 1
    networks = len(checkpoints.tensors(snapshot["G"]))
    assert raw.count(b"little_endian") == networks


def test_tensors_are_written_without_gradient_and_without_the_rest_of_their_storage(
    original, tmp_path
):
    base = torch.nn.Parameter(torch.arange(1000.0))
    path = tmp_path / "a.pkl"
    checkpoints.write({"view": base[3:5], "weight": base, "graph": base * 2}, path)
    loaded = original.load(path)
    assert [tensor.requires_grad for tensor in loaded.values()] == [False] * 3
    assert loaded["view"].untyped_storage().nbytes() == 8
    assert torch.equal(loaded["graph"], base.detach() * 2)


@pytest.mark.parametrize(
    "value",
    [
        object(),
        print,
        {1, 2}.__iter__(),
        np.zeros(1, dtype=object),
        np.zeros(1, dtype=">f4"),
        torch.zeros(1, dtype=torch.complex64),
        1 << 600,
        {(1, 2): 3},
        {0.5: 1},
        Record("Popen", None, None, {}, module="subprocess"),
    ],
)
def test_what_could_not_be_read_back_is_not_written(value, tmp_path):
    with pytest.raises(ValueError, match=r"cannot be written|as a key"):
        checkpoints.write({"G": value}, tmp_path / "a.pkl")
    assert not list(tmp_path.iterdir())


def test_data_that_hold_themselves_are_not_written(tmp_path):
    data: list[object] = []
    data.append(data)
    with pytest.raises(ValueError, match="hold themselves"):
        checkpoints.write(data, tmp_path / "a.pkl")


def test_a_failure_leaves_the_old_file_and_no_other(snapshot, tmp_path):
    path = tmp_path / "a.pkl"
    path.write_bytes(b"old")
    with pytest.raises(ValueError, match="cannot be written"):
        checkpoints.write({**snapshot, "last": object()}, path)
    assert [file.name for file in tmp_path.iterdir()] == ["a.pkl"]
    assert path.read_bytes() == b"old"


@pytest.mark.parametrize("step", ["fsync", "replace"])
def test_a_failing_disk_leaves_the_old_file_and_no_other(step, snapshot, tmp_path, monkeypatch):
    path = tmp_path / "a.pkl"
    path.write_bytes(b"old")

    def fail(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(atomic.os, step, fail)
    with pytest.raises(OSError, match="No space"):
        checkpoints.write(snapshot, path)
    assert [file.name for file in tmp_path.iterdir()] == ["a.pkl"]
    assert path.read_bytes() == b"old"


def test_a_killed_writer_leaves_the_old_file(tmp_path):
    path = tmp_path / "a.pkl"
    path.write_bytes(b"old")
    code = (
        "import os, runpy, sys; replacing = runpy.run_path(sys.argv[2])['replacing']\n"
        "with replacing(sys.argv[1]) as file:\n"
        "    file.write(b'new' * 100000); file.flush(); os._exit(9)\n"
    )
    command = [sys.executable, "-c", code, str(path), atomic.__file__]
    done = subprocess.run(command, check=False)
    assert done.returncode == 9
    assert path.read_bytes() == b"old"


def test_a_file_may_be_written_over_the_one_its_tensors_came_from(snapshot, tmp_path):
    path = tmp_path / "a.pkl"
    checkpoints.write(snapshot, path)
    before = path.read_bytes()
    data = cast("Any", checkpoints.read(path))
    checkpoints.write(data, path)
    assert path.read_bytes() == before


def test_dicts_keep_their_kind_and_order(original, tmp_path):
    path = tmp_path / "a.pkl"
    data = [OrderedDict(b=1, a=2), EasyDict(z=1, y=EasyDict()), {2: "two", "one": 1, None: 0}]
    checkpoints.write(data, path)
    for got in (cast("Any", checkpoints.read(path)), original.load(path)):
        assert [type(item).__name__ for item in got] == ["OrderedDict", "EasyDict", "dict"]
        assert [list(item.items()) for item in got] == [list(item.items()) for item in data]


def test_a_record_names_either_a_module_or_a_source():
    with pytest.raises(ValueError, match="either"):
        Record("G", (), {}, {})
    with pytest.raises(ValueError, match="either"):
        Record("G", (), {}, {}, module="a", source="b")
