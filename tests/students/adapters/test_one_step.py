"""A one-step student is its denoiser at one noise level, and its file is its denoiser's."""

from __future__ import annotations

import copy
import math
import re
from pathlib import Path
from typing import Any, cast

import pytest
import torch

import checkpoints
import teachers
from refiners import Refinement, Settings
from refiners.diff_instruct import DiffInstruct
from roles import Student as StudentProtocol
from students.adapters import one_step
from students.adapters.one_step import OneStep
from teachers.edm import EDMPrecond, VEPrecond
from teachers.edm2 import Precond
from teachers.gaussian import Gaussian

SIZES: dict[str, Any] = {"img_resolution": 8, "img_channels": 2, "model_channels": 8}


def shaken(network: Any) -> Any:
    """The network with every weight off its initial value, so that each of them counts."""
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return network.eval().requires_grad_(False)


def denoiser(label_dim: int = 0, **kwargs: Any) -> Any:
    given = {**SIZES, "channel_mult": [1, 2], "num_blocks": 1, "dropout": 0.5, **kwargs}
    return shaken(EDMPrecond(label_dim=label_dim, **given))


def edm2_denoiser() -> Any:
    return shaken(Precond(label_dim=3, channel_mult=[1, 2], num_blocks=1, **SIZES))


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "teacher.pkl"


@pytest.mark.parametrize("label_dim", [0, 3])
@pytest.mark.parametrize("sigma_init", [0.5, 2.5])
def test_an_image_is_the_denoised_latent_at_one_noise_level(label_dim, sigma_init):
    teacher = denoiser(label_dim)
    student = OneStep(teacher, sigma_init=sigma_init)
    assert isinstance(student, StudentProtocol)
    z = student.sample_latents(3, generator=torch.Generator().manual_seed(1))
    assert list(z.shape) == [3, student.z_dim] == [3, 2 * 8 * 8]
    c = torch.eye(3) if label_dim else None
    x = z.reshape(3, 2, 8, 8) * sigma_init
    torch.testing.assert_close(student(z, c), teacher(x, sigma_init, c), rtol=0, atol=0)
    # The original scripts hand over latents of the images' shape.
    torch.testing.assert_close(student(z.reshape(3, 2, 8, 8), c), student(z, c), rtol=0, atol=0)


def test_images_of_a_gaussian_teacher_are_the_posterior_means():
    """For N(m, s^2 I): G(z) = (s^2 sigma z + sigma^2 m) / (s^2 + sigma^2)."""
    student = OneStep(Gaussian(0.3, 0.5, img_channels=1, img_resolution=2), sigma_init=2.0)
    z = torch.randn(4, 4)
    torch.testing.assert_close(student(z).flatten(1), (0.25 * 2 * z + 4 * 0.3) / 4.25)


def test_in_training_nothing_is_dropped():
    student = OneStep(denoiser(3, label_dropout=0.9)).train()
    z, c = torch.randn(2, 128), torch.eye(3)[:2]
    assert student.training
    torch.testing.assert_close(student(z, c), student(z, c), rtol=0, atol=0)
    torch.testing.assert_close(student(z, c), student.eval()(z, c), rtol=0, atol=0)


@pytest.mark.parametrize(
    "make",
    [lambda: denoiser(3), edm2_denoiser, lambda: shaken(VEPrecond(num_blocks=1, **SIZES))],
    ids=["edm", "edm2", "ve"],
)
def test_a_saved_student_is_its_teachers_file_with_other_weights(path, make):
    teacher = make()
    teachers.save(teacher, path)
    student = OneStep(copy.deepcopy(teacher), sigma_init=1.5)
    shaken(student.denoiser)
    saved = path.with_name("student.pkl")
    one_step.save(student, saved, like=path)
    loaded: Any = teachers.load(saved)
    assert type(loaded) is type(teacher) and loaded.init_kwargs == teacher.init_kwargs
    assert one_step.recorded_sigma(saved) == 1.5
    z = torch.randn(2, student.z_dim)
    c = torch.eye(3)[:2] if teacher.label_dim else None
    again = OneStep(loaded, sigma_init=1.5)
    torch.testing.assert_close(again(z, c), student(z, c), rtol=0, atol=0)
    assert not torch.allclose(OneStep(teacher, sigma_init=1.5)(z, c), student(z, c))
    # What loads the teacher's file loads this one.
    theirs, ours = (cast("Any", checkpoints.read(p))["ema"] for p in (path, saved))
    assert ours.module == theirs.module and ours.class_name == theirs.class_name
    # A student is saved on a student's file too.
    one_step.save(student, path.with_name("second.pkl"), like=saved)
    assert path.with_name("second.pkl").read_bytes() == saved.read_bytes()


@pytest.mark.parametrize("keys", [["ema"], ["ema", "Sg"], ["Sg", "ema"]])
def test_snapshots_of_diff_instruct_and_sid_load_as_teachers_and_as_students(path, keys):
    """The former write {ema, Sg}, the latter {ema}; ema is the generator's average."""
    generator, score = denoiser(), denoiser()
    teachers.save(generator, path)
    record = cast("Any", checkpoints.read(path))["ema"]
    others = {"Sg": checkpoints.describe(score, source="pass"), "ema": record}
    checkpoints.write({key: others[key] for key in keys}, path)
    loaded = teachers.load(path)
    z = torch.randn(2, 128)
    torch.testing.assert_close(OneStep(loaded)(z), OneStep(generator)(z), rtol=0, atol=0)
    assert one_step.recorded_sigma(path) is None


def test_the_loop_distils_a_teacher_into_its_own_network(path):
    teacher = denoiser(3)
    student = OneStep(teacher)
    before = copy.deepcopy(teacher.state_dict())
    settings = Settings(kimg=1, batch=2, glr=1e-3, warmup_kimg=0, ema=0.001, rampup_kimg=0)
    run = Refinement(student, teacher, DiffInstruct(), settings)
    for _ in range(2):
        run.advance()
    after = teacher.state_dict()
    assert all(torch.equal(after[name], value) for name, value in before.items())
    z, c = torch.randn(2, 128), torch.eye(3)[:2]
    assert not torch.allclose(run.average(z, c), student(z, c))
    teachers.save(teacher, path)
    assert isinstance(run.average, OneStep)
    one_step.save(run.average, path.with_name("student.pkl"), like=path)
    again = OneStep(teachers.load(path.with_name("student.pkl")))
    torch.testing.assert_close(again(z, c), run.average(z, c), rtol=0, atol=0)


def test_gradients_reach_weights_and_latents():
    student = OneStep(denoiser().double())
    student.requires_grad_(True)
    z = torch.randn(1, 128, dtype=torch.float64, requires_grad=True)
    direction, weights = torch.randn_like(z), torch.randn(1, 2, 8, 8, dtype=torch.float64)

    def along(s: torch.Tensor) -> torch.Tensor:
        return (student(z + s * direction) * weights).sum()

    assert torch.autograd.gradcheck(along, (torch.zeros([]).double().requires_grad_(True),))
    student(z).square().sum().backward()
    network: Any = student.denoiser
    assert all(p.grad is not None for p in network.model.dec.parameters())


@pytest.mark.parametrize("sigma_init", [0.0, -1.0, 0.01, 101.0, math.inf, math.nan])
def test_noise_levels_that_the_denoiser_does_not_know_are_refused(sigma_init):
    with pytest.raises(ValueError, match=r"it must be above 0 and within the teacher's 0.02 to"):
        OneStep(VEPrecond(num_blocks=1, **SIZES), sigma_init=sigma_init)


@pytest.mark.parametrize(
    ("z", "options", "message"),
    [
        ([2, 64], {}, "z is [2, 64]; this network takes [n, 128] or [n, 2, 8, 8]"),
        ([2, 3, 8, 8], {}, "z is [2, 3, 8, 8]; this network takes [n, 128] or [n, 2, 8, 8]"),
        ([2, 128], {"c": None}, "this network has 3 classes; give one-hot labels [2, 3]"),
        ([2, 128], {"c": torch.zeros(2, 4)}, "labels are [2, 4]; this network takes [2, 3]"),
        ([2, 128], {"truncation_psi": 0.7}, "has no truncation; leave truncation_psi at 1"),
        ([2, 128], {"noise_mode": "loud"}, "noise_mode is 'loud'; allowed are"),
    ],
)
def test_inputs_that_do_not_fit_are_refused_in_one_line(z, options, message):
    student = OneStep(denoiser(3))
    with pytest.raises(ValueError, match=re.escape(message)) as error:
        student(torch.zeros(z), **{"c": torch.eye(3)[:2], **options})
    assert "\n" not in str(error.value)


def test_files_that_do_not_fit_are_refused_and_nothing_is_written(path):
    saved = path.with_name("student.pkl")
    teachers.save(denoiser(3), path)
    student = OneStep(denoiser())
    with pytest.raises(ValueError, match=r"student does not fit .*teacher.pkl: model.map_label"):
        one_step.save(student, saved, like=path)
    teachers.save(denoiser(), path)
    network: Any = student.denoiser
    network.model.map_layer0.bias.data.fill_(math.nan)
    with pytest.raises(ValueError, match=r"not finite: model\.map_layer0\.bias"):
        one_step.save(student, saved, like=path)
    checkpoints.write({"steps": 3}, path)
    with pytest.raises(ValueError, match="holds no denoiser under ema or net"):
        one_step.save(OneStep(denoiser()), saved, like=path)
    assert not saved.exists()


@pytest.mark.parametrize("sigma", [-1.0, math.inf, math.nan, "2.5", [1.0]])
def test_a_recorded_noise_level_that_is_none_is_refused(path, sigma):
    teachers.save(denoiser(), path)
    checkpoints.write({**cast("Any", checkpoints.read(path)), "init_sigma": sigma}, path)
    with pytest.raises(ValueError, match=r"records init_sigma .*; it must be above 0"):
        one_step.recorded_sigma(path)
