"""`refine.py gan` with each kind of teacher, and no option of a method."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

import refiners
import students
from teachers.gaussian import KernelDensity

TINY = (
    *("--kimg", "0.016", "--batch", "8", "--glr", "0.01", "--seed", "1", "--device", "cpu"),
    *("--teacher-images", "100", "--teacher-steps", "2", "--num", "100"),
    *("--set", "num_reference=100", "--set", "num_features=8", "--set", "memory=20"),
)
DDIM = {"_class_name": "DDIMScheduler"}
VE = {"_class_name": "ScoreSdeVeScheduler", "sigma_max": 50}
COLOUR = {"in_channels": 3, "out_channels": 3}
NCSNPP: dict[str, Any] = {
    **COLOUR,
    "down_block_types": ["SkipDownBlock2D", "SkipDownBlock2D"],
    "up_block_types": ["SkipUpBlock2D", "SkipUpBlock2D"],
    "time_embedding_type": "fourier",
    "norm_num_groups": None,
    "center_input_sample": True,
}


@pytest.fixture
def taught(files, refine_py, tmp_path):
    """Refine a student by the teacher in tmp_path / "teacher", and return the run's folder."""

    def call(*more, student="gan.pkl"):
        given = ("--student", files / student, "--teacher", tmp_path / "teacher")
        result = refine_py("gan", *given, "--outdir", tmp_path / "runs", *TINY, *more)
        assert result.exit_code == 0, result.output
        (folder,) = (tmp_path / "runs").iterdir()
        before, after = (students.load(p) for p in (files / student, *folder.glob("network*.pkl")))
        changed = [
            name
            for name, tensor in after.state_dict().items()
            if not torch.equal(tensor, before.state_dict()[name])
        ]
        assert any(name.startswith("synthesis.") for name in changed)
        assert json.loads((folder / "training_options.json").read_text())["method"] == (
            "adversarial-moments"
        )
        assert (folder / "report.html").is_file() and (folder / "result.pkl").is_file()
        return folder

    return call


def test_a_pipeline_of_ddpm_with_the_names_of_2022(taught, tmp_path, write_diffusers):
    write_diffusers(tmp_path / "teacher", DDIM, flat=True, old_names=True)
    log = (taught() / "log.txt").read_text()
    assert "the discriminator is grown on the teacher's features" in log


def test_a_score_sde_pipeline_teaches_a_larger_student_through_the_bridge(
    taught, tmp_path, write_diffusers
):
    write_diffusers(tmp_path / "teacher", VE, **NCSNPP, sample_size=8, block_out_channels=[8, 8])
    log = (
        taught("--adapt", "area", "--class-map", "none", student="large.pkl") / "log.txt"
    ).read_text()
    assert "the teacher sees the student's 32 x 32 images whole, as 8 x 8, averaged" in log


@pytest.mark.slow
def test_a_pipeline_with_classes_teaches_under_its_own_numbers(taught, tmp_path, write_diffusers):
    write_diffusers(tmp_path / "teacher", DDIM, **COLOUR, num_class_embeds=3)
    (tmp_path / "classes.txt").write_text("2\n0\n")
    taught("--adapt", "area", "--class-map", tmp_path / "classes.txt", student="large.pkl")


@pytest.mark.slow
def test_a_guided_pipeline(taught, tmp_path, write_diffusers):
    write_diffusers(tmp_path / "teacher", DDIM)
    write_diffusers(tmp_path / "weak", DDIM)
    taught("--guidance", "2", "--guide", tmp_path / "weak")


@pytest.mark.slow
@pytest.mark.parametrize("method", ["dmd2", "f-distill", "diff-instruct", "sid"])
def test_methods_with_and_without_a_head(refine_py, files, tmp_path, write_diffusers, method):
    write_diffusers(tmp_path / "teacher", DDIM)
    given = ("--student", files / "gan.pkl", "--teacher", tmp_path / "teacher")
    tiny = [text for text in TINY[: TINY.index("--set")]]
    result = refine_py("gan", *given, "--outdir", tmp_path / "runs", "--method", method, *tiny)
    assert result.exit_code == 0, result.output


class Counting(KernelDensity):
    """A denoiser without features that knows how often it was asked."""

    asked = 0

    def forward(self, x, sigma, labels=None):
        type(self).asked += 1  # of its copies too
        return super().forward(x, sigma, labels)


def test_a_teacher_without_features_is_refused_before_it_is_asked_for_anything(
    files: Path, tmp_path: Path
) -> None:
    teacher = Counting(torch.randn(4, 1, 16, 16), 0.5)
    teacher.register_parameter("scale", torch.nn.Parameter(torch.ones([])))
    student = students.load(files / "gan.pkl")
    told: dict[str, Any] = {"kimg": 0.016, "batch": 8, "outdir": tmp_path / "runs"}
    for method in ("adversarial-moments", "diff-instruct-moments", "dmd2"):
        with pytest.raises(ValueError, match=r"no features.*--method diff-instruct, sid, sim or s"):
            refiners.refine(student, teacher, method=method, **told)
    assert Counting.asked == 0 and not (tmp_path / "runs").exists()
    told |= {"keep": "last", "num": 100, "device": "cpu", "outdir": None}
    refiners.refine(student, teacher, method="sds", **told)
    assert Counting.asked > 0
