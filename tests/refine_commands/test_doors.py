"""One job, two doors: the command line and Python give the same weights for the same seed."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import Result

import refiners
import students
import teachers
from refiners.dmd import DMD
from refiners.progressive import Progressive
from refiners.sds import SDS
from students.adapters.one_step import OneStep

SHORT: dict[str, Any] = {"kimg": 0.032, "batch": 8, "teacher_images": 100, "num": 100}
FLAGS = ("--kimg", "0.032", "--batch", "8", "--teacher-images", "100", "--num", "100")


def assert_equal(a: Any, b: Any) -> None:
    """Both networks have the same weights, to the bit."""
    for (name, mine), theirs in zip(a.state_dict().items(), b.state_dict().values(), strict=True):
        assert torch.equal(mine, theirs), name


def handed_back(outdir: Path) -> Path:
    """Return the result of the only run in a folder."""
    (path,) = outdir.glob("*/result.pkl")
    return path


@pytest.mark.parametrize("keep", ["best", "last"])
def test_refine_is_what_gan_does(
    files: Path, refine_py: Callable[..., Result], tmp_path: Path, keep: str
) -> None:
    pair = (files / "gan.pkl", files / "teacher.pkl")
    named = ("--student", pair[0], "--teacher", pair[1], "--outdir", tmp_path / "command")
    result = refine_py("gan", *named, *FLAGS, "--device", "cpu", "--keep", keep, "--seed", "3")
    assert result.exit_code == 0, result.output
    assert ("better than the original's was not checked" in result.output) is (keep == "best")
    ours = refiners.refine(*pair, **SHORT, device="cpu", keep=keep, settings={"seed": 3})
    assert_equal(ours, students.load(handed_back(tmp_path / "command")))
    if keep == "last":
        loaded = students.load(pair[0]), teachers.load(pair[1])
        before = [parameter.clone() for network in loaded for parameter in network.parameters()]
        by_module = refiners.refine(*loaded, **SHORT, keep=keep, settings={"seed": 3})
        assert_equal(by_module, ours)
        after = [parameter for network in loaded for parameter in network.parameters()]
        assert all(torch.equal(a, b) for a, b in zip(before, after, strict=True))


@pytest.mark.parametrize("method", ["diff-instruct", "progressive"])
def test_distil_is_what_distill_does(
    files: Path, refine_py: Callable[..., Result], tmp_path: Path, method: str
) -> None:
    named = ("--teacher", files / "teacher.pkl", "--outdir", tmp_path / "command")
    steps = ("--method", method, "--teacher-steps", "3", "--keep", "last", "--device", "cpu")
    result = refine_py("distill", *named, *FLAGS, *steps)
    assert result.exit_code == 0, result.output
    ours = refiners.distil(
        files / "teacher.pkl",
        **SHORT,
        method=method,
        teacher_steps=3,
        keep="last",
        device="cpu",
        outdir=tmp_path / "python",
    )
    found = [teachers.load(handed_back(tmp_path / door)) for door in ("command", "python")]
    assert_equal(*found)
    assert isinstance(ours, OneStep)
    assert_equal(ours.denoiser, found[0])


def test_a_run_from_python_without_a_folder_leaves_none(files: Path, tmp_path: Path) -> None:
    before = sorted(tmp_path.iterdir())
    saved: list[str] = []
    student = students.load(files / "gan.pkl")
    refiners.refine(
        student,
        files / "teacher.pkl",
        **SHORT,
        outdir=tmp_path / "runs",
        save=lambda network, path: saved.append(path.name),
    )
    (folder,) = (tmp_path / "runs").iterdir()
    assert "Generator" in (folder / "training_options.json").read_text()
    assert {"result.pkl"} <= set(saved) and not list(folder.glob("*.pkl"))
    assert before == [path for path in sorted(tmp_path.iterdir()) if path.name != "runs"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"method": "gan"}, "method is 'gan'; allowed are adversarial-moments"),
        ({"method": "dmd"}, "dmd.*gan cannot take; allowed are adversarial-moments"),
        ({"resume": "latest"}, "without --outdir"),
        ({"settings": {"kimg": -1}, "kimg": None}, "kimg is -1"),
        ({"knobs": {"moments": -1}}, "moments"),
        ({"knobs": "moments=1"}, "give a mapping, or a list"),
        ({"method": 3}, "give a name"),
        ({"method": SDS}, "give a name"),
        ({"method": Progressive()}, "gan cannot take; allowed are adv"),
        ({"method": DMD()}, "gan cannot take; allowed are adv"),
        ({"method": SDS(), "knobs": {"weight": 1}}, "leave them out"),
        ({"keep": "nope"}, "allowed are best and last"),
        ({"num": 5}, "num is 5; it must be at least 100"),
        ({"teacher_images": 5}, "teacher_images is 5"),
        ({"device": "nope"}, "allowed are auto, cpu, cuda, cuda:N, mps"),
        ({"settings": {"ema_kimg": 1}}, "no setting 'ema_kimg'; there are"),
        ({"settings": 3}, "settings are 3"),
        ({"features": "inception"}, "no --reference"),
        ({"student": None}, "NoneType was given as the student"),
        ({"student": torch.nn.Linear(2, 2)}, "Linear was given as the student and has no z_dim"),
        ({"teacher": torch.nn.Linear(2, 2)}, "Linear was given as the teacher"),
    ],
)
def test_what_cannot_be_is_refused_before_a_step(
    files: Path, changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        given = {"student": files / "gan.pkl", "teacher": files / "teacher.pkl", **SHORT}
        refiners.refine(**{**given, **changes})
