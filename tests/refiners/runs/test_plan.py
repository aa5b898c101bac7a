"""What a run will take is measured on a few images and is in proportion to them."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from refiners import REFINERS, ImageSet, Inputs, Refinement
from refiners.diff_instruct import DiffInstruct
from refiners.runs import plan as plans_of_runs
from refiners.runs.held import holdings
from refiners.runs.plan import (
    FEWEST,
    Measured,
    bytes_of_parts,
    few,
    fitting_batch_gpu,
    held_by,
    measure,
    measured_batch_gpu,
    plan_run,
)
from students.stylegan2.generator import Generator
from teachers.edm import EDMPrecond


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
        n: plan_run(start, method, settings(batch=64, batch_gpu=n), memory_gb=1) for n in (0, 16)
    }
    for plan in plans.values():
        memory = plan["memory_mib"]
        parts = sum(size for part, size in memory.items() if part != "total")
        assert memory["total"] == pytest.approx(parts, abs=0.5)
        held = sum(plan["activations_mib"].values())
        assert memory["activations"] == pytest.approx(held, abs=0.5)
        assert plan["room"] == {"memory_mib": round(0.9 * 1024), "batch_gpu": 0}
    assert plans[0]["memory_mib"]["activations"] >= plans[16]["memory_mib"]["activations"]
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


MIB = 2**20


def measured(batch: int, *, fixed: float = 100, each: float = 10, in_piece: float = 5) -> Measured:
    """A run of so many MiB for networks, and for each image in one piece and in several."""
    return Measured(
        batch,
        {"student": int(fixed * MIB)},
        {"teacher": (0.0, each * MIB)},
        {"teacher": (0.0, in_piece * MIB)},
        {"teacher": each * MIB},
        1.0,
        1,
        "cpu",
    )


@pytest.mark.parametrize(
    ("room", "expected"),
    [
        (420, 0),
        (419, 16),
        (180, 16),
        (179, 11),
        (160, 11),
        (159, 11),
        (154, 8),
        (105, 1),
        (104, None),
    ],
)
def test_what_fits_is_the_whole_batch_or_the_most_in_even_pieces(room, expected):
    assert measured(32).fitting(room * MIB) == expected


def test_a_cpu_takes_what_its_memory_allows_by_the_plan(
    settings: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    free: list[int | None] = [None]
    monkeypatch.setattr(
        plans_of_runs, "measure", lambda start, method, given: measured(given.batch)
    )
    monkeypatch.setattr(plans_of_runs, "free_memory", lambda device: free[0])

    def fits(memory_gb: float | None = None, size: int = 1) -> int:
        given, method = settings(batch=64), DiffInstruct()
        return measured_batch_gpu(
            lambda method, given: pytest.fail("tried"),
            method,
            given,
            device="cpu",
            size=size,
            memory_gb=memory_gb,
        )

    assert fits() == 0  # nobody knows what there is
    free[0] = round(200 * MIB / 0.9)
    assert fits() == 16  # 20 of 64 at a time would fit, in four pieces
    assert fits(memory_gb=10) == 0
    # Processes share what is free, and each has what is given.
    free[0] = round(400 * MIB / 0.9)
    assert fits(size=2) == 16
    assert fits(memory_gb=(420 + 1) / 1024 / 0.9, size=2) == 0
    with pytest.raises(ValueError, match=r"one image at a time takes 0.1 GiB, of which 0.0 may"):
        fits(memory_gb=0.05)


@pytest.mark.parametrize("name", ["diff-instruct", "adversarial-moments"])
def test_a_larger_step_holds_what_the_plan_of_small_ones_says(settings: Any, name: str) -> None:
    student = Generator(
        z_dim=8,
        c_dim=0,
        w_dim=8,
        img_resolution=16,
        img_channels=3,
        mapping_kwargs={"num_layers": 1},
        synthesis_kwargs={"channel_base": 256, "channel_max": 16},
    )
    teacher = EDMPrecond(
        img_resolution=16,
        img_channels=3,
        label_dim=0,
        model_channels=8,
        channel_mult=[1, 2],
        num_blocks=1,
        attn_resolutions=[8],
        dropout=0.0,
    )
    for network in (student, teacher):
        network.eval().requires_grad_(False)
    images = ImageSet(torch.randn([20, 3, 16, 16]).clamp(-1, 1), None)
    method = REFINERS[name]()

    def start(method: Any, given: Any) -> Refinement:
        inputs = Inputs(images if name == "adversarial-moments" else None)
        return Refinement(student, teacher, method, given, inputs=inputs)

    found = measure(start, method, settings(batch=12))
    for batch_gpu in (0, 6, 3):
        given = settings(batch=12, batch_gpu=batch_gpu, warmup_kimg=0.0)
        actual = held_by(start(few(method, FEWEST), given)).peak()
        told = found.activations(batch_gpu or 12)
        # The images of the whole batch and their slopes are held too, 3 KB each here.
        slack = 0 if batch_gpu == 0 else 12 * 12_000
        assert sum(told.values()) == pytest.approx(sum(actual.values()), rel=0.05, abs=slack)
    assert {"student", "teacher"} <= {owner for owner, each in found.each.items() if each > 10_000}
    # What one image at a time holds is less than what two do, and both less than all.
    totals = [found.total(n) for n in (1, 2, 12)]
    assert totals == sorted(totals)


def test_the_peak_of_a_step_is_what_its_tensors_hold_then() -> None:
    n, width = 50, 100
    network = torch.nn.Sequential(torch.nn.Linear(width, width), torch.nn.Tanh())
    adam = torch.optim.Adam(network.parameters(), fused=True)
    with holdings({"student": [network]}, [adam]) as held:
        x = torch.randn(n, width)
        network(x).sum().backward()
        adam.step()
    row = 4 * n * width
    # Forward the images, the linear layer and tanh; backward tanh's slope in the layer's place,
    # with the loss and its slope. The weights' gradients and Adam's moments are no part.
    assert held.peak() == {"student": row, "rest": 2 * row + 8}
    assert held.most()["student"] == 2 * row
    assert not network[0]._forward_pre_hooks and not network[0]._forward_hooks


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
