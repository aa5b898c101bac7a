"""What a step and a resume must do whatever their code looks like, by networks that are known."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch

from refiners import Distillation, ImageSet, Refinement
from refiners.diff_instruct import DiffInstruct
from refiners.progressive import Progressive
from refiners.training.health import HEALTH_SIGMAS
from teachers.edm import EDMPrecond


class ClassStudent(torch.nn.Module):
    """Images of two classes: x_0 = means[c] + 0.3 z."""

    def __init__(self) -> None:
        super().__init__()
        self.means = torch.nn.Parameter(torch.tensor([-0.5, 0.5]))
        self.z_dim, self.c_dim, self.img_resolution, self.img_channels = 16, 2, 4, 1

    def sample_latents(self, n: int, *, generator: torch.Generator | None = None) -> torch.Tensor:
        return torch.randn([n, 16], generator=generator)

    def forward(self, z: torch.Tensor, c: torch.Tensor) -> torch.Tensor:
        return (c @ self.means)[:, None, None, None] + 0.3 * z.reshape(-1, 1, 4, 4)


class ClassDenoiser(torch.nn.Module):
    """The exact denoiser of N(means[c], 0.3^2 I); without a label that of the means' mean."""

    def __init__(self) -> None:
        super().__init__()
        self.means = torch.nn.Parameter(torch.zeros(2))
        self.img_resolution, self.img_channels, self.label_dim = 4, 1, 2
        self.label_dropout, self.sigma_min, self.sigma_max = 0.0, 0.0, float("inf")

    def forward(
        self, x: torch.Tensor, sigma: torch.Tensor, labels: torch.Tensor | None = None
    ) -> torch.Tensor:
        mean = self.means.mean().expand(len(x)) if labels is None else labels @ self.means
        noise = sigma.square()[:, None, None, None]
        return (0.09 * x + noise * mean[:, None, None, None]) / (0.09 + noise)


def test_the_auxiliary_learns_each_class_of_the_student_by_its_label(settings: Any) -> None:
    job = Refinement(
        ClassStudent(), ClassDenoiser(), DiffInstruct(), settings(warmup_kimg=1.0, lr=0.05)
    )
    for _ in range(job.num_warmup_steps):
        job.advance()
    learned: Any = job.auxiliary
    # Adam's last steps of 0.05 leave the means that far off.
    torch.testing.assert_close(learned.means.detach(), torch.tensor([-0.5, 0.5]), rtol=0, atol=0.1)


class DropoutDenoiser(torch.nn.Module):
    """A small network with dropout, as published teachers have it."""

    def __init__(self, p: float):
        super().__init__()
        self.layers = torch.nn.Sequential(
            torch.nn.Conv2d(1, 8, 3, padding=1), torch.nn.SiLU(), torch.nn.Dropout(p),
            torch.nn.Conv2d(8, 1, 3, padding=1),
        )  # fmt: skip
        self.img_resolution, self.img_channels, self.label_dim = 4, 1, 0
        self.label_dropout, self.sigma_min, self.sigma_max = 0.0, 0.0, float("inf")

    def forward(
        self, x: torch.Tensor, sigma: torch.Tensor, labels: torch.Tensor | None = None
    ) -> torch.Tensor:
        return x + self.layers(x) * sigma[:, None, None, None].clamp(max=1)


@pytest.mark.parametrize("is_training", [False, True])
def test_dropout_of_a_teacher_changes_nothing_of_a_run(refinement: Any, is_training: bool) -> None:
    plain, dropped = DropoutDenoiser(0.0), DropoutDenoiser(0.5).train(is_training)
    dropped.load_state_dict(plain.state_dict())
    ours, wanted = (refinement(teacher=teacher, warmup_kimg=0.048) for teacher in (dropped, plain))
    for _ in range(6):
        assert ours.advance() == wanted.advance()
    for name in ("student", "auxiliary"):
        a, b = getattr(ours, name).state_dict(), getattr(wanted, name).state_dict()
        assert all(torch.equal(a[key], b[key]) for key in b)


@pytest.mark.parametrize(("half_life", "moves"), [(1e12, False), (0.0, True)])
def test_the_student_follows_the_auxiliarys_average_not_the_auxiliary(
    refinement: Any, affine: Any, half_life: float, moves: bool
) -> None:
    """An average that stays where it began, at the teacher, leaves no difference to follow."""
    student = affine(-0.4, 0.3)
    job = refinement(student, auxiliary_ema=half_life, warmup_kimg=0.048)
    for _ in range(8):
        job.advance()
    assert not torch.equal(job.auxiliary.mean, job.teacher.mean)
    assert torch.equal(job.student.mean, student.mean) is not moves


def small_distillation(settings: Any) -> Distillation:
    teacher = EDMPrecond(
        img_resolution=8, img_channels=1, model_channels=4, channel_mult=[1], num_blocks=1,
        attn_resolutions=[], dropout=0.0,
    ).eval()  # fmt: skip
    return Distillation(
        teacher,
        Progressive(num_steps=4),
        settings(),
        real_images=ImageSet(torch.randn(20, 1, 8, 8)),
    )


@pytest.mark.parametrize("kind", ["refinement", "distillation"])
def test_a_run_whose_rates_were_lowered_goes_on_with_lowered_rates(
    refinement: Any, settings: Any, kind: str
) -> None:
    """Adam's step is in proportion to its rate; what is followed moves a little, by its own."""

    def start() -> Any:
        return refinement() if kind == "refinement" else small_distillation(settings)

    torch.manual_seed(0)
    job = start()
    for _ in range(13 if kind == "refinement" else 3):
        job.advance()
    state, moved = job.state_dict(), []
    before = {name: value.clone() for name, value in state["student"].items()}
    for scale in (1.0, 0.25):
        torch.manual_seed(0)
        again = start()
        again.load_state_dict({**copy.deepcopy(state), "rate_scale": scale})
        again.advance()
        after = again.state_dict()["student"]
        moved.append(torch.cat([(after[name] - before[name]).flatten() for name in before]))
    assert float(moved[0].abs().max()) > 0
    torch.testing.assert_close(moved[1], moved[0] / 4, rtol=0.05, atol=1e-6)


def test_the_score_gap_is_that_of_two_gaussians(affine: Any, gaussian: Any, settings: Any) -> None:
    """Of one variance v, at 0.3 and -0.1: (D_q - D_p) / sigma = 0.4 sigma / (v + sigma^2)."""
    teacher, auxiliary = gaussian(0.3, 0.5), gaussian(-0.1, 0.5)
    job = Refinement(affine(-0.4, 0.3), teacher, DiffInstruct(), settings(), auxiliary=auxiliary)
    figures = job.health()
    for sigma in HEALTH_SIGMAS:
        wanted = 0.4 * sigma / (0.25 + sigma**2)
        assert figures[f"Health/score_gap_{sigma:g}"] == pytest.approx(wanted, rel=1e-4)
