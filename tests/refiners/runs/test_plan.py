"""What a run will take is measured on a few images and is in proportion to them."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from refiners import REFINERS, Inputs, Refinement
from refiners.diff_instruct import DiffInstruct
from refiners.runs.plan import (
    bytes_of_parts,
    few,
    fitting_batch_gpu,
    measured_batch_gpu,
    plan_run,
)


def test_parts_are_counted_once_however_often_they_are_shared(refinement: Any) -> None:
    job = refinement()
    # Two numbers a network; four networks of its own, as the teacher is the one given.
    two, four = 2 * 4, 4 * 4
    names = ("student", "average", "auxiliary", "auxiliary_average", "teacher")
    expected = {**dict.fromkeys(names, two), "gradients": four, "optimisers": 2 * four}
    assert bytes_of_parts(job) == expected
    alone = refinement(method=REFINERS["sds"]())
    assert "auxiliary" not in bytes_of_parts(alone)
    assert "auxiliary_average" not in bytes_of_parts(alone)  # that is the teacher


@pytest.mark.parametrize("name", REFINERS)
def test_the_plan_grows_with_what_is_held_at_a_time_and_leaves_the_networks_alone(
    world: Any, settings: Any, name: str
) -> None:
    student, teacher, method, inputs = world(name)
    before = [p.clone() for network in (student, teacher) for p in network.parameters()]

    def start(method: Any, given: Any) -> Refinement:
        return Refinement(student, teacher, method, given, inputs=inputs)

    plans: dict[int, Any] = {
        n: plan_run(start, method, settings(batch=64, batch_gpu=n)) for n in (0, 16)
    }
    held = {n: plan["memory_mib"]["activations"] for n, plan in plans.items()}
    assert held[0] == pytest.approx(4 * held[16], abs=0.21)  # rounded to tenths
    step = plans[0]["step"]
    assert (step["measured_images"], step["device"]) == (4, "cpu")
    assert step["images_per_sec"] == pytest.approx(64 / step["seconds"], rel=0.05)
    warm = 0 if name == "sds" else settings(batch=64).num_warmup_steps
    assert plans[0]["run"]["steps"] == settings(batch=64).num_steps + warm
    after = [p for network in (student, teacher) for p in network.parameters()]
    assert all(torch.equal(a, b) for a, b in zip(before, after, strict=True))


def test_a_method_begins_with_few_images_and_keeps_what_a_step_depends_on() -> None:
    moments = REFINERS["diff-instruct-moments"](moments=0.7)
    small: Any = few(moments)
    assert (small.num_reference, small.num_features, small.moments) == (100, 32, 0.7)
    assert few(DiffInstruct()) == DiffInstruct()


@pytest.mark.parametrize(
    ("limit", "share", "expected"), [(64, 64, 0), (63, 64, 32), (8, 100, 7), (1, 64, 1)]
)
def test_what_does_not_fit_is_halved_until_it_does(limit: int, share: int, expected: int) -> None:
    tried: list[int] = []

    def trial(n: int) -> None:
        tried.append(n)
        if n > limit:
            raise torch.OutOfMemoryError("CUDA out of memory")

    assert fitting_batch_gpu(trial, share) == expected
    assert tried == sorted(tried, reverse=True)


def test_where_one_image_does_not_fit_that_is_said_and_other_errors_pass() -> None:
    def trial(n: int) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    with pytest.raises(ValueError, match="not even one image"):
        fitting_batch_gpu(trial, 4)
    with pytest.raises(ZeroDivisionError):
        fitting_batch_gpu(lambda n: 1 // 0, 4)


def test_a_cpu_takes_its_whole_share_without_a_trial(settings: Any) -> None:
    def start(method: Any, given: Any) -> Any:
        raise AssertionError("tried")

    given = settings(batch=64)
    assert measured_batch_gpu(start, DiffInstruct(), given, device="cpu", size=2) == 0


@pytest.mark.gpu
def test_a_gpu_takes_what_its_limit_allows(world: Any, settings: Any) -> None:
    student, teacher, method, inputs = world("diff-instruct")
    student, teacher = student.cuda(), teacher.cuda()
    assert isinstance(inputs, Inputs)

    def start(method: Any, given: Any) -> Refinement:
        return Refinement(student, teacher, method, given, inputs=inputs)

    batch = 2**18
    torch.cuda.set_per_process_memory_fraction(0.005)
    try:
        found = measured_batch_gpu(start, method, settings(batch=batch), device="cuda", size=1)
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
    assert 0 < found < batch
