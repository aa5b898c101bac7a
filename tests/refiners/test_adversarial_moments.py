"""The discriminator's part: closed forms of its slope and penalty, and that learning works."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

import students
from refiners import ImageSet, Inputs, Refinement
from refiners.adversarial_moments import R1_INTERVAL, AdversarialMoments
from refiners.feature_discriminator import FeatureDiscriminator
from refiners.runs.discriminator import own_discriminator
from students.adapters.bridge import Bridge

FEW: dict[str, Any] = {"num_reference": 200, "num_features": 8, "memory": 100}


class Linear(torch.nn.Module):
    """D(x) = w . x + b."""

    def __init__(self, slope: float = 0.5, size: int = 16):
        super().__init__()
        self.c_dim = 0
        self.weight = torch.nn.Parameter(torch.full([size], slope))
        self.bias = torch.nn.Parameter(torch.zeros([]))

    def forward(self, images: torch.Tensor, labels: torch.Tensor | None = None) -> torch.Tensor:
        return (images.flatten(1) @ self.weight + self.bias)[:, None]


def test_the_slope_is_that_of_the_non_saturating_loss() -> None:
    x_0, critic = torch.randn(5, 1, 4, 4), Linear()
    g = AdversarialMoments().discriminator_gradient(x_0, None, discriminator=critic)
    logits = critic(x_0)[:, :, None, None]
    expected = -torch.sigmoid(-logits) * 0.5
    torch.testing.assert_close(g, expected.expand_as(x_0))
    assert not g.requires_grad and critic.weight.grad is None


@pytest.mark.parametrize(
    ("step", "r1", "times"), [(0, 2.0, 1), (1, 2.0, 0), (16, 2.0, 1), (0, 0, 0)]
)
def test_the_penalty_is_half_gamma_times_the_squared_slope_at_every_sixteenth_step(
    step: int, r1: float, times: int
) -> None:
    x_0, real, critic = torch.randn(6, 1, 4, 4), torch.randn(6, 1, 4, 4), Linear()
    with torch.no_grad():
        logistic = (1 + critic(x_0).exp()).log().mean() + (1 + (-critic(real)).exp()).log().mean()
    loss = AdversarialMoments(r1=r1).discriminator_loss(
        x_0, None, real, None, discriminator=critic, step=step
    )
    squared_slope = 16 * 0.5**2
    penalty = r1 / 2 * R1_INTERVAL * squared_slope * times
    assert loss.item() == pytest.approx(logistic.item() + penalty, rel=1e-5)
    loss.backward()
    assert critic.weight.grad is not None


def test_at_the_optimal_discriminator_of_equal_laws_nothing_moves() -> None:
    g = AdversarialMoments().discriminator_gradient(
        torch.randn(4, 1, 4, 4), None, discriminator=Linear(slope=0.0)
    )
    assert g.abs().max() == 0


def test_the_student_goes_to_where_the_real_images_are(
    refinement: Callable[..., Refinement], world: Callable[..., Any]
) -> None:
    """A linear discriminator sees the means alone, and the student's goes to the images'."""
    _, teacher, _, _ = world("adversarial-moments")
    generator = torch.Generator().manual_seed(0)
    images = 0.3 + 0.3 * torch.randn([400, 1, 4, 4], generator=generator)
    run = refinement(
        teacher=teacher, method=AdversarialMoments(r1=0.1, moments=0.0, **FEW),
        inputs=Inputs(ImageSet(images)), kimg=2.0, ema=0.05, glr=0.01, lr=0.02,
    )  # fmt: skip
    average: Any = run.average
    before = average.mean.item()
    while run.num_images < 2000:
        losses = run.advance()
    assert {"Loss/discriminator", "Gradient/discriminator_norm"} <= losses.keys()
    assert abs(average.mean.item() - 0.3) < 0.3 * abs(before - 0.3)


def test_the_given_discriminator_is_where_it_starts_and_stays_as_it_was(
    world: Callable[..., Any], settings: Callable[..., Any]
) -> None:
    student, teacher, method, inputs = world("adversarial-moments")
    given = Linear()
    before = copy.deepcopy(given.state_dict())
    run = Refinement(student, teacher, method, settings(), inputs=inputs, discriminator=given)
    torch.testing.assert_close(dict(run.discriminator.state_dict()), dict(before))  # pyright: ignore
    run.advance()
    assert not torch.equal(run.discriminator.weight, given.weight)  # pyright: ignore
    torch.testing.assert_close(dict(given.state_dict()), dict(before))


def test_heads_on_the_teachers_features_hold_no_teacher(world: Callable[..., Any]) -> None:
    _, teacher, _, _ = world("adversarial-moments")
    grown = FeatureDiscriminator(teacher)
    assert grown(torch.randn(3, 1, 4, 4)).shape == (3, 1)
    mine = {id(p) for p in grown.parameters()}
    assert mine and not mine & {id(p) for p in teacher.parameters()}
    assert all(name.startswith("heads.") for name in grown.state_dict())


def test_a_teacher_without_features_is_told_what_to_choose(
    gaussian: Callable[..., Any],
) -> None:
    with pytest.raises(
        ValueError, match=r"no features.*choose a U-Net teacher, or a method that needs none"
    ):
        FeatureDiscriminator(gaussian(0.0, 1.0))


def test_the_files_own_discriminator_is_taken_where_it_fits(tmp_path: Path) -> None:
    source = Path(__file__).parents[2] / "refine_demo/student.pkl"
    student = students.load(source)
    found, remark = own_discriminator(AdversarialMoments(), source, student)
    theirs = students.load(source, network="D").state_dict()
    assert found is not None and remark == "the discriminator is D of the student's file"
    torch.testing.assert_close(dict(found.state_dict()), dict(theirs))
    bridged = Bridge(student, img_resolution=16, img_channels=1, has_classes=True, adapt="area")
    for start, seen, why in (
        (student, student, "given as a module"),
        (source, bridged, "another size"),
    ):
        found, remark = own_discriminator(AdversarialMoments(), start, seen)
        assert found is None and "grown on the teacher's features" in remark and why in remark
    assert own_discriminator(Any, source, student) == (None, "")  # pyright: ignore
