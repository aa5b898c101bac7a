"""`refine.py teachers`, and what `gan` says where --teacher is missing or does not fit."""

from __future__ import annotations

import json
import shlex
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner, Result

import checkpoints
from refine import main
from students import originals
from students.stylegan2.generator import Generator
from teachers.catalogue import TEACHERS


def run(*arguments: object) -> Result:
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


@pytest.fixture
def student(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """A function that writes a small student of 256 pixels, with a name and a data set's path."""
    monkeypatch.chdir(tmp_path)
    network = Generator(
        z_dim=8,
        c_dim=0,
        w_dim=8,
        img_resolution=256,
        img_channels=3,
        mapping_kwargs={"num_layers": 1},
        synthesis_kwargs={"channel_base": 256, "channel_max": 4},
    )
    record = originals.describe(network.requires_grad_(False).eval())

    def write(name: str, data: str | None) -> str:
        about = None if data is None else {"class_name": "x.ImageFolderDataset", "path": data}
        checkpoints.write({"G_ema": record, "training_set_kwargs": about}, tmp_path / name)
        return name

    return write


def test_the_table_has_a_line_of_each_teacher_with_what_is_to_be_known_of_it():
    result = run("teachers")
    assert result.exit_code == 0, result.output
    lines = result.stdout.splitlines()
    for teacher in TEACHERS:
        (line,) = (line for line in lines if line.split(" ")[0] == teacher.name)
        assert teacher.data in line and teacher.licence in line and str(teacher.size) in line
        assert ("NOT YET READ" in line) == (not teacher.is_read)
        assert teacher.page in result.stdout


def test_json_has_all_facts_of_each_teacher():
    rows = json.loads(run("teachers", "--json").stdout)
    assert [row["name"] for row in rows] == [teacher.name for teacher in TEACHERS]
    row = next(row for row in rows if row["name"] == "edm-ffhq-64x64-uncond-vp")
    assert (row["size"], row["weights"], row["is_read"]) == (64, 61.8, True)
    assert row["source"] == checkpoints.ADDRESSES[row["name"]]
    assert all(bool(row["checked"]) == row["is_read"] for row in rows)


@pytest.mark.parametrize(
    ("name", "data"), [("mine.pkl", "/home/horse/ffhq-256x256.zip"), ("ffhq-fine.pkl", None)]
)
def test_the_students_data_are_those_that_its_file_names(student, name, data):
    shown = json.loads(run("teachers", "--for", student(name, data), "--json").stdout)
    assert shown["student"] == {"size": 256, "channels": 3, "classes": 0, "data": ["FFHQ"]}
    first = shown["teachers"][0]
    assert (first["data"], first["size"], first["options"]) == ("FFHQ", 256, [])
    small = next(row for row in shown["teachers"] if row["size"] == 64)
    assert small["options"] == ["--adapt", "area"]
    assert small["remark"] == "sees 64 of 256 pixels, no finer texture"
    assert not any(row["classes"] for row in shown["teachers"])
    lines = run("teachers", "--for", name).stdout.splitlines()
    assert lines[0] == f"{name}: 256 pixels, 3 channels, unconditional; data: FFHQ"
    assert lines[1].startswith(f" 1  {first['name']}: ")


def test_a_missing_teacher_names_the_three_best_with_their_commands(student):
    result = run("gan", "--student", student("a b.pkl", None), "--outdir", "runs")
    assert result.exit_code == 2
    lines = result.stderr.splitlines()
    assert "refine.py teachers lists them" in lines[-4]
    check_commands(lines[-3:], "a b.pkl")


def test_a_teacher_that_does_not_fit_names_the_three_best_with_their_commands(student):
    teacher = Path(__file__).parents[2] / "refine_demo" / "teacher.pkl"
    given = ("--student", student("my.pkl", None), "--teacher", teacher)
    result = run("gan", *given, "--outdir", "runs", "--device", "cpu")
    assert result.exit_code == 2
    lines = result.stderr.splitlines()
    assert lines[-1].startswith("Error: the student has img_resolution 256, the teacher ")
    check_commands(lines[:-1], "my.pkl")
    assert not Path("runs").exists()


def check_commands(lines: list[str], student: str) -> None:
    """Each line is a command of `gan` for the student, with facts behind it."""
    assert len(lines) == 3
    for line in lines:
        command, _, facts = line.partition("   # ")
        program, verb, *options = shlex.split(command)
        assert (program, verb, options[:3]) == (
            "refine.py",
            "gan",
            ["--student", student, "--teacher"],
        )
        teacher = next(t for t in TEACHERS if t.name == options[3])
        assert teacher.is_read and facts.startswith(f"{teacher.data}, {teacher.size} pixels")


def test_a_missing_teacher_of_a_student_that_cannot_be_read_is_still_one_line(tmp_path):
    result = run("gan", "--student", tmp_path / "none.pkl", "--outdir", tmp_path)
    assert result.exit_code == 2
    assert result.stderr.splitlines()[-1].startswith("Error: Missing option '--teacher'.")


def test_a_file_without_a_size_is_one_line(tmp_path):
    torch.save({"layer.weight": torch.ones(2, 2)}, tmp_path / "some.pt")
    result = run("teachers", "--for", tmp_path / "some.pt")
    assert result.exit_code == 2
    assert result.stderr.strip().endswith("give a generator's file")
