"""An image depends on its seed alone; an option that a network does not have is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import torch
from PIL import Image

import checkpoints
import students
import teachers
from students import originals
from students.adapters.one_step import OneStep
from students.stylegan2.generator import Generator


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


def generator(channels: int = 3, **changes: Any) -> Generator:
    torch.manual_seed(0)
    sizes = {"z_dim": 4, "c_dim": 0, "w_dim": 4, "img_resolution": 8, "img_channels": channels}
    kinds: Any = {"mapping_kwargs": {"num_layers": 1}, "synthesis_kwargs": {"channel_max": 4}}
    return Generator(**{**sizes, **kinds, **changes}).eval().requires_grad_(False)


def loud() -> Generator:
    """A generator of finite weights that compute infinities."""
    network = generator()
    for name, value in network.named_parameters():
        if name.endswith("torgb.weight") or name.endswith("torgb.bias"):
            value.fill_(3e38)
    return network


def write(network: Generator, path: Path) -> Path:
    checkpoints.write({"G_ema": originals.describe(network)}, path)
    return path


def test_four_channels_are_written_as_colour_and_alpha(refine_py, tmp_path):
    path = write(generator(4), tmp_path / "a.pkl")
    out = tmp_path / "out"
    ran = refine_py("generate", "--network", path, "--seeds", "0-1", "--outdir", out, "--grid")
    assert ran.exit_code == 0, ran.output
    with Image.open(out / "seed0000.png") as written:
        assert written.mode == "RGBA"
    expected = next(students.generate(generator(4), [0]))
    assert np.array_equal(picture(out, 0).transpose(2, 0, 1), expected)
    assert (out / "grid.png").exists()


@pytest.mark.parametrize(
    ("network", "options", "message"),
    [
        (lambda: generator(2), [], "makes images of 2 channels; pictures can be written of 1"),
        (loud, [], "the image of seed 0 holds numbers that are not finite"),
        (generator, ["--trunc", "nan"], "truncation_psi is nan"),
    ],
)
def test_what_makes_no_picture_is_one_line_and_no_picture(
    network, options, message, refine_py, tmp_path
):
    path = write(network(), tmp_path / "a.pkl")
    ran = refine_py("generate", "--network", path, "--outdir", tmp_path / "out", *options)
    assert ran.exit_code != 0 and message in ran.output + ran.stderr
    assert not (tmp_path / "out").exists()
