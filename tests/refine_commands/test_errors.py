"""What goes wrong is one line that says what, with the exit code of whose fault it is."""

from __future__ import annotations

import errno
import io
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

import checkpoints
import image_sets
from refine import in_one_line, say_anything
from refiners.runs.measuring import last_health, read_curve

REFINE = Path(__file__).resolve().parents[2] / "refine.py"


def test_an_error_without_a_text_shows_its_type_and_a_name_cannot_steer_the_terminal():
    assert in_one_line(MemoryError()) == "Error: MemoryError without a message"
    assert in_one_line(ValueError("a\x1b[2J\nb é")) == "Error: a\\x1b[2J b é"


def test_a_terminal_without_a_character_shows_its_code():
    raw = io.BytesIO()
    terminal = io.TextIOWrapper(raw, encoding="cp1252")
    say_anything(terminal)
    print("466.9 → 286.0", file=terminal, flush=True)
    assert raw.getvalue().strip() == b"466.9 \\u2192 286.0"


@pytest.mark.parametrize(("number", "code"), [(errno.ENOSPC, 1), (errno.ENOENT, 2)])
def test_a_full_disk_is_no_wrong_input(refine_py, files, tmp_path, monkeypatch, number, code):
    def fails(*arguments: object) -> None:
        raise OSError(number, os.strerror(number))

    # The disk is full when the image reaches it.
    monkeypatch.setattr(os, "fsync", fails)
    done = refine_py(
        "generate", "--network", files / "gan.pkl", "--seeds", "0", "--outdir", tmp_path
    )
    assert done.exit_code == code
    assert str(tmp_path / "seed0000.png") in done.output and done.output.count("\n") == 1
    assert list(tmp_path.iterdir()) == []
    with (
        pytest.raises(OSError, match=r"a\.json") as error,
        checkpoints.replacing(tmp_path / "a.json"),
    ):
        pass
    assert error.value.errno == number


def test_output_that_nobody_reads_any_more_ends_in_silence(files):
    command = [sys.executable, str(REFINE), "inspect", str(files / "gan.pkl")]
    reader, writer = os.pipe()
    os.close(reader)
    done = subprocess.run(command, stdout=writer, stderr=subprocess.PIPE, text=True, check=False)
    os.close(writer)
    assert (done.returncode, done.stderr) == (0, "")


def test_a_torn_last_line_is_passed_over(tmp_path):
    path = tmp_path / "a.jsonl"
    lines = [{"protocol": {"kimg": kimg, "value": -kimg}} for kimg in (2, 1)]
    path.write_text("".join(f"{json.dumps(line)}\n" for line in lines) + '{"protocol": {"ki')
    assert [point["kimg"] for point in read_curve(path)] == [1, 2]
    share = {"Health/error_share_0.5": {"mean": 0.25}}
    path.write_text(f"{json.dumps(share)}\n" + '{"Health/err')
    assert last_health(path) == [{"sigma": 0.5, "share": 0.25}]
    path.write_text('{"torn')
    assert read_curve(path) == last_health(path) == []


@pytest.mark.parametrize("command", ["gan", "distill"])
def test_a_missing_teacher_is_told_which_there_are(refine_py, tmp_path, command):
    student = ("--student", "ffhq") if command == "gan" else ()
    done = refine_py(command, *student, "--outdir", tmp_path)
    assert done.exit_code == 2
    assert "--teacher" in done.output and "refine.py teachers lists them" in done.output


def test_an_export_makes_no_folder_that_was_not_meant(refine_py, files, tmp_path, monkeypatch):
    done = refine_py("export", files / "gan.pkl", "--out", tmp_path / "no/x.pkl")
    assert done.exit_code == 2 and "there is no folder" in done.output
    assert not (tmp_path / "no").exists()
    monkeypatch.chdir(tmp_path)
    done = refine_py("export", files / "gan.pkl", "--out", "s.safetensors")
    assert done.exit_code == 2 and "--out s/s.safetensors" in done.output
    assert list(tmp_path.iterdir()) == []
    done = refine_py("export", files / "gan.pkl", "--out", "s/s.safetensors")
    assert done.exit_code == 0, done.output
    written = {path.name for path in (tmp_path / "s").iterdir()}
    assert written == {"s.safetensors", "config.json", "README.md"}


def test_damaged_images_alone_are_not_told_to_be_fixed(refine_py, tmp_path):
    (tmp_path / "set").mkdir()
    (tmp_path / "set/a.png").write_bytes(b"no image")
    done = refine_py("dataset", "--source", tmp_path / "set", "--dest", tmp_path / "a.zip")
    assert done.exit_code == 2 and "--fix" not in done.output
    with pytest.raises(image_sets.UnusableImages):
        image_sets.convert(tmp_path / "set", tmp_path / "a.zip")


def test_doctor_and_generate_speak_json(refine_py, files, tmp_path, monkeypatch):
    monkeypatch.setattr("refine_commands.doctor.of_kernels", lambda: iter(()))
    found = json.loads(refine_py("doctor", "--json").stdout)
    assert {"python", "torch", "cuda", "cache", "optional"} <= {row["subject"] for row in found}
    asked = ("generate", "--network", files / "gan.pkl", "--seeds", "0,7", "--grid", "--json")
    facts = json.loads(refine_py(*asked, "--outdir", tmp_path).stdout)
    assert [image["seed"] for image in facts["images"]] == [0, 7]
    written = {facts["grid"], *(image["file"] for image in facts["images"])}
    assert written == {str(path) for path in tmp_path.iterdir()}
