"""An image depends on its seed alone; an option that a network does not have is refused."""

from __future__ import annotations

from typing import Any, cast

import numpy as np
import pytest
import torch
from PIL import Image

import checkpoints
import students
import teachers
from students.adapters.one_step import OneStep


def picture(folder, seed: int) -> np.ndarray:
    return np.asarray(Image.open(folder / f"seed{seed:04d}.png"))


def test_a_denoisers_images_do_not_depend_on_the_batch(files, refine_py, tmp_path):
    given = ("generate", "--network", files / "classes.pkl", "--steps", "3", "--seeds", "0-4")
    for batch in (2, 5):
        result = refine_py(*given, "--batch", batch, "--grid", "--outdir", tmp_path / str(batch))
        assert result.exit_code == 0, result.output
    (images,) = teachers.generate(
        teachers.load(files / "classes.pkl"), [0, 1, 2, 3, 4], num_steps=3
    )
    for seed in range(5):
        expected = (images[seed, 0] * 127.5 + 128).clamp(0, 255).byte().numpy()
        for batch in ("2", "5"):
            # Batches differ in rounding, which can carry a pixel over to the next whole number.
            step = picture(tmp_path / batch, seed).astype(int) - expected
            assert np.abs(step).max() <= 1
    assert picture(tmp_path / "2", 0).std() > 0
    assert (tmp_path / "2" / "grid.png").exists()


def test_one_step_takes_the_recorded_noise_level_or_the_given_one(files, refine_py, tmp_path):
    data = cast("Any", checkpoints.read(files / "teacher.pkl"))
    checkpoints.write({"ema": data["ema"], "init_sigma": 2.5}, tmp_path / "one.pkl")
    ways = (("one.pkl", 2.5, ()), ("one.pkl", 1.0, ("--init-sigma", "1.0")))
    for name, sigma, options in ways:
        out = tmp_path / str(sigma)
        result = refine_py(
            *("generate", "--network", tmp_path / name, "--seeds", "7", "--outdir", out, *options)
        )
        assert result.exit_code == 0, result.output
        student = OneStep(teachers.load(files / "teacher.pkl"), sigma_init=sigma)
        (expected,) = students.generate(student, [7])
        assert np.array_equal(picture(out, 7), expected[0])


def test_a_generators_class_and_truncation_reach_it(files, refine_py, tmp_path):
    result = refine_py(
        *("generate", "--network", files / "large.pkl", "--seeds", "3", "--outdir", tmp_path),
        *("--class", "1", "--trunc", "0.5", "--noise-mode", "random"),
    )
    assert result.exit_code == 0, result.output
    student = students.load(files / "large.pkl")
    (expected,) = students.generate(student, [3], label=1, truncation_psi=0.5, noise_mode="random")
    assert np.array_equal(picture(tmp_path, 3), expected.transpose(1, 2, 0))


@pytest.mark.parametrize(
    ("network", "options", "message"),
    [
        ("gan.pkl", ("--steps", "3"), "is a generator, which has no --steps"),
        ("gan.pkl", ("--init-sigma", "1"), "is a generator, which has no --init-sigma"),
        ("gan.pkl", ("--class", "0"), "this student takes none, as it has no classes"),
        ("teacher.pkl", ("--trunc", "0.7"), "is a denoiser, which has no --trunc"),
        ("teacher.pkl", ("--noise-mode", "none"), "is a denoiser, which has no --noise-mode"),
        ("teacher.pkl", ("--class", "0"), "this teacher has 0 classes"),
        ("classes.pkl", ("--class", "3"), "this teacher has 3 classes"),
        ("teacher.pkl", ("--init-sigma", "1", "--steps", "2"), "one-step generator"),
        ("teacher.pkl", ("--init-sigma", "-1"), "must be above 0"),
        ("no.pkl", (), "does not exist"),
    ],
)
def test_what_does_not_apply_is_one_line_and_writes_nothing(
    files, refine_py, tmp_path, network, options, message
):
    out = tmp_path / "out"
    result = refine_py(
        "generate", "--network", files / network, "--seeds", "0", "--outdir", out, *options
    )
    assert result.exit_code == 2
    assert message in result.output and result.output.count("\n") == 1
    assert not out.exists()


def test_a_generator_without_noise_takes_no_noise_mode(files, refine_py, tmp_path, monkeypatch):
    network = students.wrap(torch.nn.Identity(), z_dim=2, img_resolution=4, img_channels=1)
    monkeypatch.setattr(students, "load", lambda path, device: network)
    result = refine_py(
        *("generate", "--network", files / "gan.pkl", "--outdir", tmp_path, "--noise-mode", "none")
    )
    assert "without noise of its own, which has no --noise-mode" in result.output
