"""Processes that share the teacher's weights make the steps of those that hold it whole."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from refiners.training.memory_saving import CPUStream, check_shard_teacher

HERE = Path(__file__).parent


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Run two processes, and return the folder with what they reached."""
    if not hasattr(CPUStream, "record_event"):
        pytest.skip(f"FSDP2 of torch {torch.__version__} knows GPUs alone")
    folder = tmp_path_factory.mktemp("sharded")
    launcher = ("-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2", "--")
    ended = subprocess.run(
        [sys.executable, *launcher, str(HERE / "sharded_worker.py"), str(folder)],
        capture_output=True,
        text=True,
        timeout=300,
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(HERE.parents[1])},
    )
    assert ended.returncode == 0, ended.stderr
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("case", ["guided", "sid", "moments"])
def test_a_teacher_in_shards_leads_where_the_whole_one_does(folder: Path, case: str) -> None:
    first, second = (torch.load(folder / f"{rank}.pt") for rank in (0, 1))
    whole, sharded = (first["ends"][case, shard] for shard in (False, True))
    assert not torch.equal(whole["widen.weight"], first["start"]["widen.weight"])
    for key, value in whole.items():
        torch.testing.assert_close(sharded[key], value, rtol=1e-8, atol=1e-8)
    assert len(first["ends"][case, True].pop("judged")) == 2
    assert not len(second["ends"][case, True].pop("judged"))
    a, b = (found["ends"][case, True].values() for found in (first, second))
    assert all(map(torch.equal, a, b))


@pytest.mark.slow
def test_each_process_holds_its_share_of_the_teacher_alone(folder: Path) -> None:
    for rank in (0, 1):
        found = torch.load(folder / f"{rank}.pt")["bytes"]
        # What lies outside of the blocks stays a while.
        assert 0.4 * found["whole"] < found["share"] < 0.65 * found["whole"]
        assert found["stays"] == 0


def test_one_process_has_none_to_share_the_teacher_with(settings: Any, refinement: Any) -> None:
    with pytest.raises(ValueError, match=r"shares the teacher among .*, and there is one; start"):
        refinement(shard_teacher=True)
    check_shard_teacher(settings(shard_teacher=True), 2, torch.device("cuda"))


@pytest.mark.parametrize("other", ["compile", "channels_last", "offload_teacher"])
def test_a_teacher_in_shards_excludes(settings: Any, other: str) -> None:
    with pytest.raises(ValueError, match=rf"{other}.* both set; .*: leave one out"):
        settings(shard_teacher=True, **{other: True})


def test_a_torch_that_shards_on_gpus_alone_is_said(
    settings: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("refiners.training.memory_saving.CPUStream", object)
    with pytest.raises(ValueError, match=r"FSDP2 of torch .* knows GPUs alone; leave it out"):
        check_shard_teacher(settings(shard_teacher=True), 2, torch.device("cpu"))
