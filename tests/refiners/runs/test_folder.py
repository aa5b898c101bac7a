"""Run folders and states: nothing is overwritten, nothing in a file runs."""

from __future__ import annotations

import io
import json
import os
import pickle
import re
import subprocess
import sys
import zipfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch

from refiners import RunFolder, read_state


def test_a_run_gets_the_next_free_number_and_never_a_folder_that_exists(tmp_path: Path) -> None:
    (tmp_path / "00007-older").mkdir()
    (tmp_path / "notes").mkdir()
    (tmp_path / "00009-a-file").write_text("not a run")
    made = [RunFolder.create(tmp_path, desc).path for desc in ("a", "a", "b")]
    assert [path.name for path in made] == ["00010-a", "00011-a", "00012-b"]
    assert all(path.is_dir() for path in made)


def test_the_first_run_makes_its_parent_folders(tmp_path: Path) -> None:
    assert RunFolder.create(tmp_path / "x" / "y", "a").path == tmp_path / "x" / "y" / "00000-a"


def test_an_output_folder_that_cannot_be_written_is_refused_by_name(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match=f"{re.escape(str(tmp_path / 'file'))}.*give a folder"):
        RunFolder.create(tmp_path / "file", "a")


def test_the_latest_run_is_the_newest_that_has_a_state(tmp_path: Path) -> None:
    runs = [RunFolder.create(tmp_path, "a") for _ in range(3)]
    for folder in runs[:2]:
        folder.write_state("000000", {"num_images": 0})
    assert RunFolder.latest(tmp_path).path == runs[1].path
    assert RunFolder.latest(runs[0].path).path == runs[0].path


@pytest.mark.parametrize("outdir", ["", "missing"])
def test_where_no_run_can_be_continued_the_message_says_what_is_looked_for(
    tmp_path: Path, outdir: str
) -> None:
    with pytest.raises(ValueError, match=r"no training-state-\*\.pt under .*outdir"):
        RunFolder.latest(tmp_path / outdir)


def test_states_are_in_the_order_of_training_and_all_but_the_newest_can_be_dropped(
    tmp_path: Path,
) -> None:
    folder = RunFolder(tmp_path)
    kimg = [2, 0, 1_000_000, 999_999, 10]
    for k in kimg:
        folder.write_state(f"{k:06d}", {"num_images": k * 1000})
    (tmp_path / "training-state-000011.pt.tmp").write_text("half a file")
    found = [read_state(path)["num_images"] // 1000 for path in folder.states()]
    assert found == sorted(kimg)
    folder.drop_states(keep=2)
    assert [path.name for path in folder.states()] == [
        "training-state-999999.pt",
        "training-state-1000000.pt",
    ]


def test_a_state_comes_back_as_it_was(tmp_path: Path) -> None:
    state = {
        "num_images": 3,
        "settings": {"train": "all", "lr": 0.1},
        "weights": {"a": torch.randn(3)},
    }
    back = read_state(RunFolder(tmp_path).write_state("000000_003", state))
    assert back.keys() == state.keys()
    assert back["settings"] == state["settings"]
    assert torch.equal(back["weights"]["a"], state["weights"]["a"])


def test_a_state_that_cannot_be_written_leaves_the_one_before(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    path = folder.write_state("000000", {"num_images": 0, "generation": 1})
    with pytest.raises(pickle.PicklingError):
        folder.write_state("000000", {"num_images": 0, "generation": Unpicklable()})
    assert read_state(path)["generation"] == 1
    assert [p.name for p in tmp_path.iterdir()] == [path.name]


class Unpicklable:
    def __reduce__(self) -> Any:
        raise pickle.PicklingError("cannot be written")


class RunsOnLoad:
    """A pickle of this calls os.system when it is read by pickle itself."""

    def __init__(self, command: str):
        self.command = command

    def __reduce__(self) -> Any:
        return os.system, (self.command,)


def hostile_files(command: str) -> dict[str, bytes]:
    payload = {"num_images": 0, "settings": RunsOnLoad(command)}
    as_zip = io.BytesIO()
    torch.save(payload, as_zip)
    as_old = io.BytesIO()
    torch.save(payload, as_old, _use_new_zipfile_serialization=False)
    return {"pickle": pickle.dumps(payload), "zip": as_zip.getvalue(), "old": as_old.getvalue()}


@pytest.mark.parametrize("kind", ["pickle", "zip", "old"])
def test_a_state_that_would_run_code_is_refused_and_nothing_runs(tmp_path: Path, kind: str) -> None:
    trace = tmp_path / "it-ran"
    content = hostile_files(f"touch {trace}")[kind]
    path = tmp_path / "training-state-000000.pt"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"training-state-000000\.pt cannot be read"):
        read_state(path)
    assert not trace.exists()
    if kind == "pickle":  # the file is dangerous indeed
        pickle.loads(content)
        assert trace.exists()


def good_state() -> bytes:
    buffer = io.BytesIO()
    torch.save({"num_images": 0, "weights": torch.arange(1000.0)}, buffer)
    return buffer.getvalue()


@pytest.mark.parametrize(
    "content",
    [
        *(b"", b"\0", b"not a state", b"PK\x03\x04"),
        *(b"\x80\x02.", b"\x80\x04N.", b"\x80\x02}q\x00."),
        *(good_state()[:100], good_state()[:-1], good_state()[: len(good_state()) // 2]),
    ],
    ids=repr,
)  # fmt: skip
def test_a_file_that_is_no_state_is_refused_in_one_line(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "training-state-000000.pt"
    path.write_bytes(content)
    with pytest.raises(ValueError) as caught:
        read_state(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_missing_state_is_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"nowhere\.pt cannot be read"):
        read_state(tmp_path / "nowhere.pt")


@pytest.mark.parametrize("data", [[1, 2], {"weights": torch.zeros(1)}, torch.zeros(1)])
def test_other_data_of_torch_are_no_state(tmp_path: Path, data: Any) -> None:
    path = tmp_path / "weights.pt"
    torch.save(data, path)
    with pytest.raises(ValueError, match=r"is no training state; give a training-state-\*\.pt"):
        read_state(path)


def test_statistics_are_one_json_object_a_line_and_options_one_file(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    for kimg in (0, 1):
        folder.append("stats.jsonl", {"Progress/kimg": kimg})
    folder.write_json("training_options.json", {"batch": 16})
    lines = (tmp_path / "stats.jsonl").read_text().splitlines()
    assert [json.loads(line)["Progress/kimg"] for line in lines] == [0, 1]
    assert json.loads((tmp_path / "training_options.json").read_text()) == {"batch": 16}


def test_the_log_is_printed_and_kept(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = RunFolder(tmp_path)
    folder.log("first")
    folder.log("second")
    assert (tmp_path / "log.txt").read_text() == capsys.readouterr().out == "first\nsecond\n"


def test_runs_that_start_at_once_get_numbers_of_their_own_whatever_they_are_called(
    tmp_path: Path,
) -> None:
    with ThreadPoolExecutor(8) as pool:
        made = list(pool.map(lambda i: RunFolder.create(tmp_path, f"run{i % 3}").path, range(24)))
    assert sorted(int(path.name[:5]) for path in made) == list(range(24))
    assert sorted(path.name for path in made) == sorted(path.name for path in tmp_path.iterdir())


def test_a_number_that_another_run_is_taking_is_passed_over(tmp_path: Path) -> None:
    (tmp_path / ".00000").mkdir()
    assert RunFolder.create(tmp_path, "run").path.name == "00001-run"


def test_a_folder_is_one_runs_until_that_lets_go_of_it(tmp_path: Path) -> None:
    first, second = RunFolder(tmp_path), RunFolder(tmp_path)
    first.lock()
    with pytest.raises(ValueError, match="is in use by another run; wait for that to end, or end"):
        second.lock()
    first.unlock()
    second.lock()
    second.unlock()


def test_a_lock_ends_with_its_process(tmp_path: Path) -> None:
    script = (
        "import sys, time; from pathlib import Path; from refiners.runs.folder import RunFolder\n"
        "run = RunFolder(Path(sys.argv[1])); run.lock()\n"
        "print('locked', flush=True); time.sleep(60)"
    )
    command = [sys.executable, "-c", script, str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout is not None and other.stdout.readline() == "locked\n"
        try:
            with pytest.raises(ValueError, match="in use by another run"):
                RunFolder(tmp_path).lock()
        finally:
            other.kill()
    folder = RunFolder(tmp_path)
    folder.lock()
    folder.unlock()


def flipped(path: Path, at: int) -> None:
    content = bytearray(path.read_bytes())
    content[at] ^= 0x10
    path.write_bytes(content)


def test_a_bit_that_flips_anywhere_in_a_tensor_is_found(tmp_path: Path) -> None:
    path = tmp_path / "training-state-000000.pt"
    weights = torch.arange(1000.0)
    start = good_state().index(weights.numpy().tobytes())
    for at in range(start, start + 4000, 397):
        path.write_bytes(good_state())
        assert torch.equal(read_state(path)["weights"], weights)
        flipped(path, at)
        with pytest.raises(ValueError, match="checksum is wrong"):
            read_state(path)


def test_a_bit_that_flips_anywhere_is_found_or_changes_nothing(tmp_path: Path) -> None:
    path = tmp_path / "training-state-000000.pt"
    whole = good_state()
    found = 0
    for at in range(0, len(whole), 23):
        path.write_bytes(whole)
        flipped(path, at)
        try:
            state = read_state(path)
        except ValueError as error:
            assert "\n" not in str(error)
            found += 1
        else:
            assert torch.equal(state["weights"], torch.arange(1000.0))
    assert found > len(whole) // 23 // 2


def test_a_state_whose_entries_are_compressed_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "training-state-000000.pt"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/data.pkl", bytes(1000))
    with pytest.raises(ValueError, match="entries are compressed"):
        read_state(path)


def test_the_newest_whole_state_is_taken_and_the_damaged_one_is_said(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = RunFolder(tmp_path)
    for k in (1, 2, 3):
        folder.write_state(f"{k:06d}", {"num_images": k * 1000, "weights": torch.randn(100)})
    assert folder.newest_state()["num_images"] == 3000
    assert capsys.readouterr().out == ""
    damaged = tmp_path / "training-state-000003.pt"
    damaged.write_bytes(damaged.read_bytes()[:-200])
    flipped(tmp_path / "training-state-000002.pt", 700)
    assert folder.newest_state()["num_images"] == 1000
    said = capsys.readouterr().out.splitlines()
    assert [line.split(" cannot be read")[0] for line in said] == [
        str(tmp_path / f"training-state-00000{k}.pt") for k in (3, 2)
    ]
    assert all(line.endswith("continuing from training-state-000001.pt") for line in said)


def test_where_no_state_is_whole_the_newest_is_complained_of(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    for k in (1, 2):
        (tmp_path / f"training-state-00000{k}.pt").write_bytes(b"gone")
    with pytest.raises(ValueError, match=r"training-state-000002\.pt cannot be read"):
        folder.newest_state()
