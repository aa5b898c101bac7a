"""What a file says of other programs is kept and written back, and never done."""

from __future__ import annotations

import datetime
import io
import os
import pathlib
import pickle
from collections import defaultdict
from typing import Any

import pytest
import torch

import checkpoints
import students
from checkpoints import Record, UnsafeCheckpoint
from students import originals
from students.stylegan2.generator import Generator


class Calls:
    """Pickles as a call of any importable function, with a state and items."""

    def __init__(self, *parts: Any) -> None:
        self.parts = parts

    def __reduce__(self):
        return self.parts


def network() -> Record:
    kinds: Any = {"mapping_kwargs": {"num_layers": 1}, "synthesis_kwargs": {"channel_max": 4}}
    sizes = {"z_dim": 4, "c_dim": 0, "w_dim": 4, "img_resolution": 8, "img_channels": 3}
    return originals.describe(Generator(**sizes, **kinds).eval())


def beside(value: object, path: pathlib.Path) -> pathlib.Path:
    """A file of {"G_ema": a network, "more": value}, the value as stock pickle writes it."""
    checkpoints.write({"G_ema": network()}, path)
    body = path.read_bytes()[2:-1]
    # Stock pickle of the value without memo, after the dict that ours left on the stack.
    stream = io.BytesIO()
    pickler = pickle.Pickler(stream, 4)
    pickler.fast = True
    pickler.dump(value)
    raw = stream.getvalue()
    inner = raw[2:-1] if raw[2:3] != b"\x95" else raw[11:-1]
    key = b"\x8c\x04more"
    path.write_bytes(b"\x80\x04" + body + key + inner + b"s.")
    return path


PARTS = [
    datetime.datetime(2026, 11, 29),
    datetime.timedelta(3),
    pathlib.PurePosixPath("/a/b"),
    1 + 2j,
    torch.device("cpu"),
    Calls(os.system, ("touch pwned",)),
    Calls(getattr, (3, "x"), {"a": 1}),
    Calls(defaultdict, (dict,), None, None, iter([("a", 1), (2, [3])])),
    [{"deep": (datetime.date(2026, 1, 1),)}],
    slice(1, 2),
    range(3),
]


@pytest.mark.parametrize("part", PARTS, ids=[f"{type(p).__name__}{i}" for i, p in enumerate(PARTS)])
def test_a_network_loads_beside_any_object_and_the_object_is_written_back(
    part, tmp_path, monkeypatch, runs_nothing_while
):
    monkeypatch.chdir(tmp_path)
    path = beside(part, tmp_path / "a.pkl")
    students.load(path)  # which imports what is imported on first use
    with runs_nothing_while():
        data: Any = checkpoints.read(path)
        again = tmp_path / "b.pkl"
        checkpoints.write(data, again)
        twice: Any = checkpoints.read(again)
    student = students.load(path)
    assert student.img_resolution == 8
    students.save(student, tmp_path / "c.pkl", like=path)
    assert not (tmp_path / "pwned").exists()
    checkpoints.write(twice, tmp_path / "d.pkl")
    assert (
        again.read_bytes() == (tmp_path / "d.pkl").read_bytes() == (tmp_path / "c.pkl").read_bytes()
    )
    if not isinstance(part, Calls):
        checkpoints.write({"more": data["more"]}, again)
        assert pickle.loads(again.read_bytes())["more"] == part


def test_an_optimiser_beside_the_network_does_no_harm(tmp_path):
    layer = torch.nn.Linear(2, 2)
    optimiser = torch.optim.Adam(layer.parameters())
    layer(torch.ones(1, 2)).sum().backward()
    optimiser.step()
    part: Any = beside(
        Calls(type(optimiser), ([],), {"defaults": optimiser.defaults}), tmp_path / "a"
    )
    assert students.load(part).z_dim == 4


@pytest.mark.parametrize("where", ["state", "hook", "buffer", "module"])
def test_the_wanted_network_itself_must_be_clean(where, tmp_path):
    bad: Any = Record("system", None, None, {}, module="os", foreign="refers to os.system, a name")
    bad = bad.result(b"R", ("touch pwned",))
    record = network()
    mapping: Any = record.modules["mapping"]
    if where == "state":
        mapping.state["note"] = bad
    elif where == "hook":
        mapping.state["_forward_hooks"] = {0: bad}
    elif where == "buffer":
        mapping.state["_buffers"] = {"w_avg": bad}
    else:
        record.modules["more"] = bad
    checkpoints.write({"G": network(), "G_ema": record}, tmp_path / "a.pkl")
    with pytest.raises(UnsafeCheckpoint, match=r"a\.pkl: its G_ema \(Generator\) is of an unsup"):
        students.load(tmp_path / "a.pkl")
    assert students.load(tmp_path / "a.pkl", network="G").z_dim == 4


def test_a_foreign_name_in_a_tensors_storage_is_refused_wherever_it_is(tmp_path):
    raw = pickle.dumps(Calls(os.system, ("touch pwned",)), 2)
    path = beside(Calls(torch.storage._load_from_bytes, (raw,)), tmp_path / "a.pkl")
    with pytest.raises(UnsafeCheckpoint, match=r"system"):
        checkpoints.read(path)
