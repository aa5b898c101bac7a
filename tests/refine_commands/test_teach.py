"""`refine.py teach`, and `gan` for who has images and no teacher."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from click.testing import Result

import image_sets
from refine_commands.teach import TOLD
from refiners.runs.recipes import NOT_OF_TEACHERS, TEACHER_SIZES, TRAINED_ON
from refiners.training.settings import Settings

NET = ("model_channels=4", "channel_mult=1,1,1,1", "attn_resolutions=")
TINY = [part for net in NET for part in ("--net", net)]
TINY += ["--kimg", "0.016", "--batch", "8", "--device", "cpu"]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("data") / "mine.zip"
    images = np.random.default_rng(0).integers(0, 256, [100, 3, 32, 32], np.uint8)
    image_sets.write_zip(path, images, np.arange(100) % 2)
    return path


@pytest.fixture(autouse=True)
def _few_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    """Samples of these networks show nothing, however many steps they take."""
    monkeypatch.setattr("refiners.runs.teach.STEPS", 2)


def test_every_row_of_a_size_is_of_settings_and_every_flag_has_its_default(
    refine_py: Callable[..., Result],
) -> None:
    for row in (*TEACHER_SIZES.values(), TRAINED_ON):
        assert Settings(**row).warmup_kimg == 0
    assert set(TOLD) <= {*Settings.__dataclass_fields__} - {*NOT_OF_TEACHERS}
    text = " ".join(refine_py("teach", "--help-all").output.split())
    assert f"[default: {TEACHER_SIZES['small']['kimg']}]" in text
    other = " ".join(refine_py("teach", "--size", "large", "--help-all").output.split())
    assert f"[default: {TEACHER_SIZES['large']['kimg']}]" in other


def test_who_has_images_and_no_teacher_is_told_the_one_command(
    files: Path, data: Path, refine_py: Callable[..., Result], tmp_path: Path
) -> None:
    said = refine_py("gan", "--student", files / "large.pkl", "--data", data, "--outdir", tmp_path)
    assert said.exit_code == 2
    assert f"'refine.py teach --data {data} --outdir {tmp_path}' makes one" in said.output
    assert "--teach here does so first" in said.output


def test_a_plan_is_made_of_the_given_images(
    data: Path, refine_py: Callable[..., Result], tmp_path: Path
) -> None:
    said = refine_py("teach", "--data", data, "--outdir", tmp_path, *TINY, "-n")
    assert said.exit_code == 0, said.output
    plan = json.loads(said.stdout)
    assert (plan["size"], plan["kimg"], plan["lr"]) == ("small", 0.016, 1e-3)
    assert plan["plan"]["step"]["images_per_sec"] > 0


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (("--set", "p_median=1"), "teach has the knobs p_mean, p_std"),
        (("--set", "augment=2"), "augment is 2.0; it must be at most 1"),
        (("--net", "width=8"), "--net is 'width=8'; allowed are model_channels"),
        (("--from", "nothing.pkl"), "nothing.pkl"),
    ],
)
def test_what_cannot_be_is_one_line_before_anything_is_written(
    data: Path, refine_py: Callable[..., Result], tmp_path: Path, given: tuple[str, ...], said: str
) -> None:
    result = refine_py("teach", "--data", data, "--outdir", tmp_path / "runs", *given)
    assert result.exit_code == 2
    assert said in result.output and len(result.output.splitlines()) == 1
    assert not (tmp_path / "runs").exists()


def test_gan_makes_the_teacher_first_and_once(
    files: Path,
    data: Path,
    refine_py: Callable[..., Result],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(TEACHER_SIZES["small"], "kimg", 0.016)
    monkeypatch.setitem(TEACHER_SIZES["small"], "batch", 8)
    monkeypatch.setattr("teachers.sizes.SIZES", {"small": {
        "model_channels": 4, "channel_mult": [1, 1, 1, 1], "num_blocks": 1,
        "attn_resolutions": [], "dropout": 0.0,
    }})  # fmt: skip
    given = [*("--student", files / "large.pkl", "--data", data, "--outdir", tmp_path)]
    given += ["--method", "sds", "--keep", "last", "--device", "cpu", "--kimg", "0.016"]
    given += ["--batch", "8", "--num", "100", "--teach", "0.1"]
    for number in range(2):
        result = refine_py("gan", *given)
        assert result.exit_code == 0, result.output
        assert ("is there" in result.output) == (number == 1)
        assert (tmp_path / f"0000{number}-large-sds-kimg0.016-batch8" / "result.pkl").is_file()
    assert len(list((tmp_path / "teacher").glob("0*"))) == 1


def test_a_student_of_another_size_is_refused_before_a_teacher_is_made(
    files: Path, refine_py: Callable[..., Result], tmp_path: Path
) -> None:
    path = tmp_path / "large.zip"
    image_sets.write_zip(path, np.zeros([100, 3, 64, 64], np.uint8), np.arange(100) % 2)
    result = refine_py(
        "gan",
        "--student",
        files / "large.pkl",
        "--data",
        path,
        "--outdir",
        tmp_path / "runs",
        "--teach",
    )
    assert result.exit_code == 2
    assert "the student has img_resolution 32, the teacher 64" in result.output
    assert not (tmp_path / "runs").exists()


def test_teach_needs_images_and_no_other_teacher(
    files: Path, data: Path, refine_py: Callable[..., Result], tmp_path: Path
) -> None:
    common = ("gan", "--student", files / "large.pkl", "--outdir", tmp_path, "--teach")
    for more, said in (
        ((), "there is no --data"),
        (("--data", data, "--teacher", files / "teacher.pkl"), "there is --teacher"),
    ):
        result = refine_py(*common, *more)
        assert result.exit_code == 2 and said in result.output
