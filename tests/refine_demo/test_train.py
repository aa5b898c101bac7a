"""The scripts that train networks from images, on a few images of the sizes that they are for."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from PIL import Image

import metrics
import students
import teachers
from refine_demo.sizes import SIZES
from refine_demo.stages import read_curve
from refine_demo.train import main


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    """Class folders of noise in colour and in gray, for training and for the test."""
    root = tmp_path_factory.mktemp("pictures")
    rng = np.random.default_rng(0)
    for kind, shape in (("CIFAR-10", (32, 32, 3)), ("MNIST", (28, 28))):
        for split in ("train", "test"):
            for label in range(10):
                folder = root / kind / split / str(label)
                folder.mkdir(parents=True)
                pixels = rng.integers(0, 256, shape, dtype=np.uint8)
                Image.fromarray(pixels).save(folder / "0.png")
    return root


def train(stage, size, pictures, workdir, *more):
    given = ["--data", pictures / SIZES[size].data, "--workdir", workdir, "--size", size, *more]
    result = CliRunner().invoke(main, [stage, *map(str, given)])
    assert result.exit_code == 0, result.output
    return result.output


@pytest.mark.parametrize(
    "size", ["mnist", "cifar10-s", pytest.param("cifar10-gpu", marks=pytest.mark.slow)]
)
def test_what_is_trained_loads_as_what_it_is(size, pictures, tmp_path):
    short = ("--kimg", "0.004", "--batch", "4")
    train("classifier", size, pictures, tmp_path, "--epochs", "10")
    train("teacher", size, pictures, tmp_path, *short)
    train("student", size, pictures, tmp_path, *short)
    student = students.load(tmp_path / "student.pkl")
    teacher = teachers.load(tmp_path / "teacher.pkl")
    reference = metrics.open_reference(tmp_path / "features.npz")
    assert student.img_channels == teacher.img_channels == SIZES[size].img_channels
    assert student.img_resolution == teacher.img_resolution == 32
    assert (student.z_dim, teacher.label_dim) == (SIZES[size].z_dim, 10)
    sizes = SIZES[size]
    assert reference.space == f"{sizes.data} classifier, {sizes.num_features}-d penultimate"
    images = student(student.sample_latents(2))
    assert torch.isfinite(teacher(images, torch.ones(2))).all()


def test_a_finished_stage_goes_on_from_its_state(pictures, tmp_path):
    train("teacher", "mnist", pictures, tmp_path, "--kimg", "0.008", "--batch", "4")
    whole = teachers.load(tmp_path / "teacher.pkl").state_dict()
    said = train("teacher", "mnist", pictures, tmp_path, "--kimg", "0.008", "--batch", "4")
    assert "continuing" in said
    again = teachers.load(tmp_path / "teacher.pkl").state_dict()
    assert all(torch.equal(whole[name], again[name]) for name in whole)


def test_a_restart_file_goes_on_with_its_curve_and_marks_the_seam(pictures, tmp_path):
    first, second, kept = tmp_path / "first", tmp_path / "second", tmp_path / "kept"
    short = ("--kimg", "0.008", "--batch", "4")
    train("teacher", "cifar10-s", pictures, first, *short)
    (first / "teacher.jsonl").write_text('{"kimg": 0.008, "loss": 1.0}\n')
    result = CliRunner().invoke(main, ["keep", "--workdir", str(first), "--dest", str(kept)])
    assert result.exit_code == 0, result.output
    longer = ("--kimg", "0.012", "--batch", "4")
    train(
        "teacher", "cifar10-s", pictures, second, *longer, "--restart", kept / "teacher.restart.pt"
    )
    lines = read_curve(second / "teacher.jsonl")
    assert [line["kimg"] for line in lines] == [0.008, 0.008]
    assert lines[1]["seam"] == "restart file, fresh optimiser"
    state = torch.load(second / "teacher.pt", weights_only=True)
    assert (state["num_images"], state["seam"]) == (12, 8)


def test_a_local_state_is_preferred_to_a_restart_file(pictures, tmp_path):
    short = ("--kimg", "0.008", "--batch", "4")
    train("teacher", "cifar10-s", pictures, tmp_path, *short)
    broken = tmp_path / "teacher.restart.pt"
    broken.write_bytes(b"not looked at")
    longer = ("--kimg", "0.012", "--batch", "4")
    said = train("teacher", "cifar10-s", pictures, tmp_path, *longer, "--restart", broken)
    assert "teacher.pt at 8 images" in said
    assert not read_curve(tmp_path / "teacher.jsonl")


def test_a_student_keeps_copies_of_the_strengths_asked_for(pictures, tmp_path):
    given = ("--kimg", "0.016", "--batch", "4", "--snapshots", "0.004,0.012", "--conditional")
    sizes = SIZES["cifar10-s"]
    assert sizes.recipe.augmentation is not None
    train("student", "cifar10-s", pictures, tmp_path, *given, "--name", "cond")
    student = students.load(tmp_path / "cond.pkl")
    assert student.c_dim == 10
    assert (tmp_path / "cond-000000.pkl").exists()
