"""The loop on toys: what moves, what does not, and where it ends."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from refiners import Settings, run
from refiners.diff_instruct import DiffInstruct
from refiners.runs.schedule import images_per_tick, label, ticks
from refiners.training.health import HEALTH_SIGMAS
from refiners.training.optimiser import follow, frozen_view
from students.stylegan2.generator import Generator

NOTHING: dict[str, Any] = {
    "on_tick": lambda stats: None,
    "on_snapshot": lambda refinement: None,
    "on_step": lambda refinement, losses: None,
}


class ConstantGradient:
    """A method whose pixel gradient is a number; it keeps the images that it was given."""

    def __init__(
        self,
        value: float,
        fails_at: tuple[int, ...] = (),
        auxiliary_fails_at: tuple[int, ...] = (),
        broken: float = math.nan,
    ):
        self.value, self.broken = value, broken
        self.fails_at, self.auxiliary_fails_at = fails_at, auxiliary_fails_at
        self.student_saw: list[torch.Tensor] = []
        self.auxiliary_saw: list[torch.Tensor] = []

    def pixel_gradient(self, x_0: Any, labels: Any, *, teacher: Any, auxiliary: Any) -> Any:
        self.student_saw.append(x_0)
        broken = len(self.student_saw) - 1 in self.fails_at
        return torch.full_like(x_0, self.broken if broken else self.value)

    def auxiliary_loss(self, x_0: Any, labels: Any, *, auxiliary: Any) -> torch.Tensor:
        self.auxiliary_saw.append(x_0)
        broken = len(self.auxiliary_saw) - 1 in self.auxiliary_fails_at
        return auxiliary.mean.square() * (math.nan if broken else 1.0)


TWO_STEPS = {"kimg": 0.008, "batch": 4, "warmup_kimg": 0.008}


def small_stylegan2() -> Generator:
    return Generator(
        z_dim=8,
        c_dim=0,
        w_dim=8,
        img_resolution=8,
        img_channels=1,
        mapping_kwargs={"num_layers": 2},
        synthesis_kwargs={"channel_base": 64, "channel_max": 8},
    )


def changed(before: dict[str, torch.Tensor], after: dict[str, torch.Tensor]) -> set[str]:
    """Names of the tensors whose bits differ."""
    assert before.keys() == after.keys()
    return {name for name, value in before.items() if not torch.equal(value, after[name])}


@pytest.mark.parametrize("weight", ["one", "dmd"])
def test_refining_moves_the_generators_mean_and_scale_onto_the_teachers(
    affine: Any, gaussian: Any, refinement: Any, weight: str
) -> None:
    method = DiffInstruct(
        student_sigma="karras:0.05,2", auxiliary_sigma="karras:0.05,2", weight=weight
    )
    job = refinement(
        affine(-0.4, 0.3), gaussian(0.3, 0.5), method, kimg=9.6, batch=64, warmup_kimg=1.92,
        ema=1, lr=0.05,
    )  # fmt: skip
    run(job, **NOTHING)
    # Measured over three seeds after these 150 steps: within 0.008 and 0.003.
    assert job.average.mean.item() == pytest.approx(0.3, abs=0.02)
    assert job.average.std.item() == pytest.approx(0.5, abs=0.02)


def shares(job: Any) -> dict[str, float]:
    """The auxiliary's error as a share of the teacher's, by noise level."""
    return {k: v for k, v in job.health().items() if "error_share" in k}


def test_warm_up_teaches_the_auxiliary_the_student_and_leaves_the_student_alone(
    refinement: Any, weights: Any
) -> None:
    job = refinement(warmup_kimg=3.84, batch=64, lr=0.05)
    student, average = weights(job.student), weights(job.average)
    assert set(shares(job).values()) == {1.0}
    for _ in range(60):
        assert job.advance()["Gradient/pixel_norm"] == 0
    assert changed(student, job.student.state_dict()) == set()
    assert changed(average, job.average.state_dict()) == set()
    assert job.num_images == 0
    health = shares(job)
    assert list(health) == [f"Health/error_share_{sigma:g}" for sigma in HEALTH_SIGMAS]
    assert max(health.values()) < 1
    # Where noise hides all, an error is that of the mean: b^2, and b^2 + (a - m)^2 of the teacher.
    assert health["Health/error_share_6"] == pytest.approx(0.09 / (0.09 + 0.49), rel=0.2)
    job.advance()
    assert changed(student, job.student.state_dict()) == {"mean", "std"}
    assert job.num_images == 64


def test_warm_up_leaves_every_tensor_of_a_stylegan2_alone(
    gaussian: Any, refinement: Any, weights: Any
) -> None:
    student = small_stylegan2()
    before = weights(student)
    job = refinement(student, gaussian(0.3, 0.5, img_resolution=8), **TWO_STEPS)
    for _ in range(2):
        job.advance()
    assert job.step == job.settings.num_warmup_steps
    assert changed(before, job.student.state_dict()) == set()


@pytest.mark.parametrize("part", ["mapping", "synthesis"])
def test_only_the_part_that_is_trained_moves(
    gaussian: Any, refinement: Any, weights: Any, part: str
) -> None:
    student = small_stylegan2()
    before = weights(student)
    job = refinement(student, gaussian(0.3, 0.5, img_resolution=8), train=part, **TWO_STEPS)
    run(job, **NOTHING)
    moved = changed(before, job.average.state_dict())
    trained = {name for name, _ in student.named_parameters() if name.startswith(f"{part}.")}
    assert trained <= moved
    assert {name for name in moved if not name.startswith(f"{part}.")} == set()


def test_all_of_a_stylegan2_moves_unless_a_part_is_named(
    gaussian: Any, refinement: Any, weights: Any
) -> None:
    student = small_stylegan2()
    before = weights(student)
    job = refinement(student, gaussian(0.3, 0.5, img_resolution=8), **TWO_STEPS)
    run(job, **NOTHING)
    trained = {name for name, _ in student.named_parameters()}
    assert trained <= changed(before, job.average.state_dict())


def test_a_part_that_the_student_lacks_is_refused(refinement: Any) -> None:
    with pytest.raises(ValueError, match="no part named 'mapping'; use train='all'"):
        refinement(train="mapping")


def test_the_student_and_the_teacher_that_were_given_stay_as_they_were(
    affine: Any, gaussian: Any, refinement: Any, weights: Any
) -> None:
    student, teacher = affine(-0.4, 0.3), gaussian(0.3, 0.5)
    before = weights(student), weights(teacher)
    student.eval().requires_grad_(False)
    job = refinement(student, teacher)
    run(job, **NOTHING)
    assert changed(before[0], student.state_dict()) == set()
    assert changed(before[1], teacher.state_dict()) == set()
    assert not student.training
    assert not any(p.requires_grad or p.grad is not None for p in student.parameters())


def test_the_students_gradient_is_the_pixel_gradients_mean_over_the_batch(refinement: Any) -> None:
    job = refinement(method=ConstantGradient(0.25), warmup_kimg=0, batch=8)
    job.advance()
    # x_0 = mean + std z: dL/dmean = sum over pixels, mean over samples, of g.
    assert job.student.mean.grad.item() == pytest.approx(16 * 0.25)


def test_the_students_rate_rises_linearly_over_the_ramp_and_then_stays(refinement: Any) -> None:
    job = refinement(warmup_kimg=0, batch=16, glr=0.02, rampup_kimg=0.064)
    rates, steps = [], []
    for _ in range(6):
        before = job.student.mean.item()
        job.advance()
        rates.append(job.student_adam.param_groups[0]["lr"])
        steps.append(abs(job.student.mean.item() - before))
    assert rates == pytest.approx([0.005, 0.01, 0.015, 0.02, 0.02, 0.02])
    # Adam's first step is the rate itself, whatever the gradient.
    assert steps[0] == pytest.approx(0.005, rel=1e-3)


def test_the_rate_decays_with_the_root_of_the_images_and_not_with_the_runs_length() -> None:
    rates = [
        Settings(kimg=kimg, glr=0.01, rampup_kimg=0.5, decay_kimg=2).student_rate(n)
        for kimg in (10, 1000)
        for n in (250, 500, 2000, 8000, 18000)
    ]
    assert rates == pytest.approx([0.005, 0.01, 0.01, 0.005, 0.01 / 3] * 2)


def test_both_rates_rise_with_the_auxiliarys_updates(refinement: Any) -> None:
    """As published for DMD2: 500 global steps, of which the student has every fifth."""
    job = refinement(warmup_kimg=0, glr=0.02, lr=0.01, auxiliary_steps=5, rampup_updates=20)
    rates = []
    for _ in range(6):
        job.advance()
        optimisers = job.student_adam, job.auxiliary_adam
        rates.append([o.param_groups[0]["lr"] for o in optimisers])
    students, auxiliarys = zip(*rates, strict=True)
    assert students == pytest.approx([0.0, 0.005, 0.01, 0.015, 0.02, 0.02])
    # That of the fifth update of each step.
    assert auxiliarys == pytest.approx([0.002, 0.0045, 0.007, 0.0095, 0.01, 0.01])


def test_a_weight_decay_is_adamws(refinement: Any) -> None:
    plain, decayed = (
        refinement(method=ConstantGradient(0.25), warmup_kimg=0, glr=0.02, weight_decay=w)
        for w in (0.0, 0.5)
    )
    before = decayed.student.mean.item()
    for job in (plain, decayed):
        job.advance()
    # Decoupled: the weight falls by rate decay weight beside Adam's step.
    gap = decayed.student.mean.item() - plain.student.mean.item()
    assert gap == pytest.approx(-0.02 * 0.5 * before, rel=1e-4)


def test_a_gradient_is_clipped_by_its_norm_as_that_of_a_mean_over_pixels(refinement: Any) -> None:
    free, clipped = (
        refinement(method=ConstantGradient(0.25), warmup_kimg=0, batch=8, clip=clip)
        for clip in (0.0, 0.01)
    )
    losses = [job.advance() for job in (free, clipped)]
    whole = [p.grad for p in free.student.parameters()]
    norm = torch.nn.utils.get_total_norm(whole)
    assert norm > 16 * 0.01  # of 16 pixels
    for ours, theirs in zip(clipped.student.parameters(), whole, strict=True):
        torch.testing.assert_close(ours.grad, theirs * 16 * 0.01 / norm)
    # What is logged is the norm before.
    assert losses[1]["Gradient/student_norm"] == pytest.approx(norm.item(), rel=1e-4)


def test_each_element_of_the_auxiliarys_gradient_is_clipped(refinement: Any) -> None:
    job = refinement(warmup_kimg=0, auxiliary_clip=1e-3)
    job.advance()
    grads = [p.grad.abs().max().item() for p in job.auxiliary.parameters()]
    assert grads == pytest.approx([1e-3] * len(grads))
    assert max(p.grad.abs().max().item() for p in job.student.parameters()) > 1e-3


def test_the_student_may_move_first_and_the_auxiliary_sees_what_the_student_was(
    refinement: Any,
) -> None:
    order: list[str] = []

    class Watched(ConstantGradient):
        def pixel_gradient(self, x_0: Any, labels: Any, **networks: Any) -> Any:
            order.append("student")
            return super().pixel_gradient(x_0, labels, **networks)

        def auxiliary_loss(self, x_0: Any, labels: Any, *, auxiliary: Any) -> Any:
            order.append("auxiliary")
            return super().auxiliary_loss(x_0, labels, auxiliary=auxiliary)

    method = Watched(1.0)
    job = refinement(method=method, warmup_kimg=0.016, student_first=True, auxiliary_steps=2)
    for _ in range(3):
        job.advance()
    assert order == ["auxiliary"] * 2 + ["student", "auxiliary", "auxiliary"] * 2
    assert torch.equal(method.student_saw[0], method.auxiliary_saw[2])


@pytest.mark.parametrize("fresh", ["none", "auxiliary", "all"])
@pytest.mark.parametrize("batch_gpu", [0, 6])
def test_updates_see_images_of_their_own_as_asked(
    refinement: Any, fresh: str, batch_gpu: int
) -> None:
    method, seen = ConstantGradient(1.0), {"none": 1, "auxiliary": 3, "all": 4}
    changes: Any = {"warmup_kimg": 0, "auxiliary_steps": 3, "fresh_images": fresh}
    job = refinement(method=method, batch_gpu=batch_gpu, **changes)
    job.advance()
    images = torch.cat([*method.student_saw, *method.auxiliary_saw])
    assert len(images) == 4 * 16
    assert len(images.unique(dim=0)) == seen[fresh] * 16
    shared = torch.equal(method.student_saw[0], method.auxiliary_saw[0])
    assert shared is (fresh != "all")
    # The student's gradient is that of its own images, in however many pieces.
    assert job.student.mean.grad.item() == pytest.approx(16)


def test_one_generated_batch_serves_both_networks_and_every_update_of_the_auxiliary(
    refinement: Any,
) -> None:
    method = ConstantGradient(1.0)
    job = refinement(method=method, warmup_kimg=0, auxiliary_steps=3)
    for _ in range(4):
        job.advance()
    assert (len(method.student_saw), len(method.auxiliary_saw)) == (4, 12)
    for i, x_0 in enumerate(method.auxiliary_saw):
        assert torch.equal(x_0, method.student_saw[i // 3])
        assert not x_0.requires_grad
    assert not torch.equal(method.student_saw[0], method.student_saw[1])


def test_average_halves_its_distance_every_half_life_however_the_images_are_batched(
    affine: Any,
) -> None:
    for num_images in (10, 50, 200):
        average, network = affine(1.0, 3.0), affine(0.0, 1.0)
        for _ in range(200 // num_images):
            follow(average, network, num_images, half_life=100.0)
        assert average.mean.item() == pytest.approx(0.25, rel=1e-5)
        assert average.std.item() == pytest.approx(1.5, rel=1e-5)


def test_average_without_a_half_life_is_the_network(refinement: Any) -> None:
    job = refinement(ema=0, auxiliary_ema=0)
    run(job, **NOTHING)
    assert changed(job.student.state_dict(), job.average.state_dict()) == set()
    assert changed(job.auxiliary.state_dict(), job.auxiliary_average.state_dict()) == set()


def test_average_carries_the_buffers_of_the_network() -> None:
    average, network = torch.nn.BatchNorm1d(2), torch.nn.BatchNorm1d(2)
    network(torch.randn(8, 2) + 3)
    seen = dict(network.named_buffers())
    assert changed(seen, dict(average.named_buffers())) == set(seen)
    follow(average, network, 1, half_life=1e9)
    assert changed(seen, dict(average.named_buffers())) == set()


def test_average_lags_behind_a_student_that_moves(refinement: Any) -> None:
    job = refinement(method=ConstantGradient(1.0), ema=10, warmup_kimg=0)
    run(job, **NOTHING)
    # A constant gradient moves the student down all the way: the average is between the ends.
    assert job.student.mean.item() < job.average.mean.item() < -0.4


def test_the_same_seed_gives_the_same_numbers_whatever_was_drawn_before(refinement: Any) -> None:
    ends = []
    for drawn_before in (1, 2):
        torch.manual_seed(drawn_before)
        job = refinement(seed=3)
        run(job, **NOTHING)
        ends.append(job)
    assert changed(ends[0].average.state_dict(), ends[1].average.state_dict()) == set()
    assert ends[0].health() == ends[1].health()


def test_another_seed_gives_other_numbers(refinement: Any) -> None:
    jobs = [refinement(seed=seed) for seed in (0, 1)]
    for job in jobs:
        run(job, **NOTHING)
    states = [job.average.state_dict() for job in jobs]
    assert changed(*states) == {"mean", "std"}


def test_a_run_leaves_the_callers_random_state_alone(refinement: Any) -> None:
    before = torch.get_rng_state()
    run(refinement(), **NOTHING)
    assert torch.equal(torch.get_rng_state(), before)


def everything(job: Any) -> dict[str, torch.Tensor]:
    """Every tensor that a step may move, copied."""
    flat: dict[str, torch.Tensor] = {}
    for name, part in job.state_dict().items():
        if isinstance(part, dict) and name not in ("settings", "method"):
            moments = part.get("state", part)
            for key, value in moments.items():
                inner = value if isinstance(value, dict) else {"": value}
                flat |= {f"{name}.{key}.{k}": v.clone() for k, v in inner.items()}
    return flat


@pytest.mark.parametrize("broken", [math.nan, math.inf])
def test_a_pixel_gradient_that_is_not_finite_leaves_student_average_and_moments_untouched(
    refinement: Any, broken: float
) -> None:
    method = ConstantGradient(1.0, fails_at=(2,), broken=broken)
    job = refinement(method=method, warmup_kimg=0, seed=7)
    job.advance()
    job.advance()
    before = everything(job)
    assert job.advance() == {}
    moved = changed(before, everything(job))
    assert {name for name in moved if not name.startswith("auxiliary")} == set()
    assert (job.step, job.counts.skipped, job.counts.skipped_in_row) == (3, 1, 1)
    assert job.advance()["Gradient/pixel_norm"] == 4.0
    assert (job.counts.skipped, job.counts.skipped_in_row) == (1, 0)
    assert "average.mean." in changed(before, everything(job))


def test_an_auxiliary_loss_that_is_not_finite_leaves_every_weight_untouched(
    refinement: Any,
) -> None:
    method = ConstantGradient(1.0, auxiliary_fails_at=(1,))
    job = refinement(method=method, warmup_kimg=0)
    job.advance()
    before = everything(job)
    assert job.advance() == {}
    assert changed(before, everything(job)) == set()
    assert len(method.student_saw) == 1


def test_a_gradient_that_overflows_on_its_way_through_the_student_moves_nothing(
    refinement: Any,
) -> None:
    method = ConstantGradient(1.0)
    job = refinement(method=method, warmup_kimg=0)
    job.advance()
    before = everything(job)
    # Every pixel and their norm are finite in float32; the norm of the weights' gradient is not.
    method.value = 2e18
    assert job.advance() == {}
    moved = changed(before, everything(job))
    assert {name for name in moved if not name.startswith("auxiliary")} == set()


def test_the_third_step_in_a_row_that_is_not_finite_stops_the_run_with_the_reason(
    refinement: Any,
) -> None:
    method = ConstantGradient(1.0, fails_at=(1, 2, 4, 5, 6))
    job = refinement(method=method, warmup_kimg=0, seed=7)
    with pytest.raises(FloatingPointError, match=r"3 steps in a row.*step 6.*nan.*seed 7.*lower"):
        run(job, **NOTHING)
    assert (job.step, job.counts.skipped) == (7, 5)
    assert math.isfinite(job.student.mean.item())


def test_a_ticks_statistics_are_of_the_steps_that_were_finite_and_count_the_others(
    refinement: Any,
) -> None:
    stats: list[dict[str, float]] = []
    method = ConstantGradient(1.0, fails_at=(1, 5))
    job = refinement(method=method, warmup_kimg=0)
    run(job, **{**NOTHING, "on_tick": stats.append})
    assert [line["Gradient/pixel_norm"] for line in stats] == [4.0] * 5
    assert [line["Progress/skipped_steps"] for line in stats] == [1, 2, 2, 2, 2]


def test_a_run_asked_to_stop_ends_after_the_step(refinement: Any) -> None:
    for stops_at in (4, 10, 17, 29):
        job = refinement()
        assert not run(job, **NOTHING, stop=lambda job=job, n=stops_at: job.step >= n)
        assert job.step == stops_at
    job = refinement()
    assert run(job, **NOTHING, stop=lambda: job.step >= 30)
    assert job.step == 30


def test_the_given_networks_keep_their_modes_and_their_gradients_flags(
    affine: Any, gaussian: Any, refinement: Any
) -> None:
    student, teacher = affine(-0.4, 0.3), gaussian(0.3, 0.5)
    student.train()
    teacher.train()
    run(refinement(student, teacher), **NOTHING)
    for network in (student, teacher):
        assert network.training
        assert all(p.requires_grad and p.grad is None for p in network.parameters())


def test_a_frozen_view_shares_the_tensors_and_not_the_flags() -> None:
    network = torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.BatchNorm1d(2))
    view = frozen_view(network)
    assert network.training and not any(m.training for m in view.modules())
    for a, b in zip(network.state_dict().values(), view.state_dict().values(), strict=True):
        assert a.data_ptr() == b.data_ptr()
    assert all(p.requires_grad for p in network.parameters())
    assert not any(p.requires_grad for p in view.parameters())


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"kimg": "2"}, "kimg is '2'; it must be a number"),
        ({"batch": 16.0}, "batch is 16.0; it must be a whole number"),
        ({"seed": 0.5}, "seed is 0.5; it must be a whole number"),
        ({"snap": True}, "snap is True; it must be a whole number"),
        ({"auxiliary_steps": None}, "auxiliary_steps is None; it must be a whole number"),
        ({"train": 1}, "train is 1; it must be a text"),
        ({"glr": [1e-3]}, "glr is .0.001.; it must be a number"),
        ({"max_hours": -1}, "max_hours is -1; it must be at least 0"),
        ({"ema_rampup_ratio": -1}, "ema_rampup_ratio is -1; it must be at least 0"),
    ],
)
def test_a_setting_of_another_type_is_refused_by_name(
    settings: Callable[..., Settings], changes: dict[str, Any], complaint: str
) -> None:
    with pytest.raises(ValueError, match=complaint):
        settings(**changes)


def test_numpys_numbers_become_pythons(settings: Callable[..., Settings]) -> None:
    chosen = settings(batch=np.int64(8), glr=np.float32(0.25))
    assert (chosen.batch, chosen.glr) == (8, 0.25)
    assert (type(chosen.batch), type(chosen.glr)) == (int, float)


def test_the_averages_half_life_rises_with_the_images_by_the_ramp_up_ratio(
    refinement: Any,
) -> None:
    for ratio, half_life in ((0.25, 4.0), (0.5, 8.0), (0.0, 100.0)):
        job = refinement(
            method=ConstantGradient(1.0), warmup_kimg=0, ema=0.1, ema_rampup_ratio=ratio
        )
        job.advance()
        before, first = job.average.mean.item(), job.student.mean.item()
        job.advance()
        share = (job.average.mean.item() - before) / (job.student.mean.item() - before)
        assert first != before or ratio
        assert share == pytest.approx(1 - 0.5 ** (16 / half_life), rel=1e-3)


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"kimg": 0}, "kimg is 0; it must be above 0"),
        ({"kimg": math.inf}, "kimg is inf; it must be finite"),
        ({"batch": 0}, "batch is 0; it must be above 0"),
        ({"batch": -4}, "batch is -4; it must be above 0"),
        ({"glr": -1e-4}, "glr is -0.0001; it must be above 0"),
        ({"glr": math.nan}, "glr is nan; it must be finite"),
        ({"lr": 0.0}, "lr is 0.0; it must be above 0"),
        ({"lr": math.inf}, "lr is inf; it must be finite"),
        ({"beta1": 1.0}, "beta1 is 1.0; it must be below 1"),
        ({"beta2": -0.1}, "beta2 is -0.1; it must be at least 0"),
        ({"ema": -1}, "ema is -1; it must be at least 0"),
        ({"warmup_kimg": math.nan}, "warmup_kimg is nan; it must be finite"),
        ({"auxiliary_ema": -5.0}, "auxiliary_ema is -5.0; it must be at least 0"),
        ({"rampup_kimg": -1}, "rampup_kimg is -1; it must be at least 0"),
        ({"auxiliary_steps": 0}, "auxiliary_steps is 0; it must be above 0"),
        ({"tick": 0}, "tick is 0; it must be above 0"),
        ({"snap": 0}, "snap is 0; it must be above 0"),
        ({"seed": -1}, "seed is -1; it must be at least 0"),
        ({"train": "torgb"}, "train is 'torgb'; allowed are all, synthesis, mapping"),
    ],
)
def test_a_setting_out_of_range_is_refused_by_name(
    settings: Callable[..., Settings], changes: dict[str, Any], complaint: str
) -> None:
    with pytest.raises(ValueError, match=complaint):
        settings(**changes)


@pytest.mark.parametrize(
    ("kimg", "batch", "tick"), [(1, 16, 0.064), (0.1, 64, 1), (1, 100, 0.25), (0.5, 64, 0.001)]
)
def test_ticks_rise_by_whole_batches_and_the_last_is_the_end_of_the_run(
    settings: Callable[..., Settings], kimg: float, batch: int, tick: float
) -> None:
    chosen = settings(kimg=kimg, batch=batch, tick=tick)
    ends = list(ticks(chosen))
    assert ends[-1] == chosen.num_steps * batch >= kimg * 1000 > (chosen.num_steps - 1) * batch
    assert all(a < b for a, b in zip([0, *ends], ends, strict=False))
    assert all(end % batch == 0 for end in ends)
    lengths = {b - a for a, b in zip([0, *ends], ends[:-1], strict=False)}
    assert all(0 <= length - tick * 1000 < batch for length in lengths)


def test_a_run_reports_every_step_its_ticks_and_its_snapshots(refinement: Any) -> None:
    steps, stats, snapshots = [], [], []
    job = refinement(kimg=0.32, batch=16, tick=0.064, snap=2)
    run(
        job,
        on_step=lambda job, losses: steps.append((job.counts.step, losses["Loss/auxiliary"])),
        on_tick=stats.append,
        on_snapshot=lambda job: snapshots.append(job.num_images),
    )
    assert [step for step, _ in steps] == list(range(1, 31))
    assert [line["Progress/kimg"] for line in stats] == [0, 0.064, 0.128, 0.192, 0.256, 0.32]
    assert snapshots == [0, 128, 256, 320]
    # A tick's losses are the means of its four steps'.
    first = sum(loss for _, loss in steps[10:14]) / 4
    assert stats[1]["Loss/auxiliary"] == pytest.approx(first)


@pytest.mark.parametrize(
    ("batch", "tick", "snap", "kimg"),
    [
        (16, 0.064, 1, 3.2),
        (48, 1, 10, 100),
        (32, 4, 1, 12),
        (32, 1, 1, 5),
        (10, 0.5, 1, 4.2),
        (2048, 1, 1, 9),
    ],
)
def test_the_names_of_snapshots_are_each_its_own_and_sort_in_the_order_of_training(
    settings: Any, batch: int, tick: float, snap: int, kimg: float
) -> None:
    chosen = settings(batch=batch, tick=tick, snap=snap, kimg=kimg)
    spacing, total = images_per_tick(chosen) * snap, chosen.num_steps * batch
    counts = [0, *range(spacing, total, spacing), total]
    names = [f"training-state-{label(chosen, n)}.pt" for n in counts]
    assert len(set(names)) == len(names)
    assert names == sorted(names)
    for n, name in zip(counts, names, strict=True):
        assert f"-{n // 1000:06d}" in name
        if tick * snap >= 1:
            assert name == f"training-state-{n // 1000:06d}.pt"


def test_a_state_between_two_of_the_schedule_takes_the_name_of_neither(settings: Any) -> None:
    chosen = settings(batch=16, tick=4, snap=1, kimg=12)
    assert [label(chosen, n) for n in (4000, 4512, 5104)] == ["000004", "000004_512", "000005"]


def test_the_only_snapshot_of_a_run_has_stylegans_name(settings: Any) -> None:
    chosen = settings(batch=16, tick=1, snap=5, kimg=0.32)
    assert [label(chosen, n) for n in (0, 160, 320)] == ["000000", "000000_160", "000000"]
