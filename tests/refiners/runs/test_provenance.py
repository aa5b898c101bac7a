"""What a report says of the program that made it: version, commit and the command as typed."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from refiners.runs import provenance

ROOT = Path(__file__).resolve().parents[3]


@pytest.fixture
def checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A checkout of version 9.8.7 without git, in the place of this one."""
    declared = '[project]\nname = "stylegan-refiner"\nversion = "9.8.7"\n'
    (tmp_path / "pyproject.toml").write_text(declared)
    monkeypatch.setattr(provenance, "ROOT", tmp_path)
    return tmp_path


def software() -> dict[str, str]:
    provenance.software.cache_clear()
    try:
        return provenance.software()
    finally:
        provenance.software.cache_clear()


def git(folder: Path, *arguments: str) -> str:
    who = ["-c", "user.name=a", "-c", "user.email=a@example.org"]
    command = ["git", "-C", str(folder), *who, *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


def test_the_version_is_the_checkouts_whatever_is_installed(checkout: Path):
    assert software() == {"version": "9.8.7"}


@pytest.mark.skipif(shutil.which("git") is None, reason="git is not installed")
def test_a_git_checkout_has_its_commit_and_says_if_it_was_changed(checkout: Path):
    git(checkout, "init", "--quiet")
    assert software() == {"version": "9.8.7"}  # nothing is committed yet
    git(checkout, "add", ".")
    git(checkout, "commit", "--quiet", "--message", "a")
    git(checkout, "tag", "v1")
    commit = git(checkout, "rev-parse", "HEAD")
    assert software() == {"version": "9.8.7", "commit": commit}
    with open(checkout / "pyproject.toml", "a") as file:
        file.write("\n")
    assert software()["commit"] == f"{commit}-dirty"


def test_without_git_or_project_file_a_run_still_has_a_version(
    checkout: Path, monkeypatch: pytest.MonkeyPatch
):
    (checkout / ".git").mkdir()
    monkeypatch.setenv("PATH", str(checkout))
    assert software() == {"version": "9.8.7"}
    (checkout / "pyproject.toml").write_text('[project]\nname = "another"\nversion = "3"\n')
    assert software()["version"] != "3"


@pytest.mark.parametrize(
    ("program", "said"),
    [
        ("/home/x/.local/bin/refine", "refine gan --desc 'a b'"),
        ("refine.py", "refine.py gan --desc 'a b'"),
        ("/a/tree/refine.py", "refine.py gan --desc 'a b'"),
    ],
)
def test_the_command_is_recorded_as_it_was_typed(
    program: str, said: str, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(sys, "argv", [program, "gan", "--desc", "a b"])
    assert provenance.provenance(0.0)["command"] == said
