"""A step on a CUDA device, told by one that is not there (tests/virtual_cuda.py).

The host waits once a step, for the figures of the step before; all tensors are on the device; and
the numbers are those of a CPU, as both compute here by the same operations on the same draws.
"""

from __future__ import annotations

import copy
import math
from collections import Counter
from dataclasses import replace
from typing import Any

import pytest
import torch

import metrics
import teachers
from refiners import (
    DISTILLERS,
    REFINERS,
    Distillation,
    ImageSet,
    Inputs,
    PairSet,
    Refinement,
    Settings,
)
from refiners.base import WithPairs
from refiners.progressive import SteppedStudent
from refiners.runs.judge import judge_of
from refiners.runs.plan import plan_run
from refiners.runs.starting import compares_images
from students.adapters.bridge import Bridge
from students.stylegan2.generator import Generator
from teachers.edm import EDMPrecond
from teachers.guidance import classifier_free
from tests.virtual_cuda import CUDA, Ledger, virtual_cuda

CLASSES, STEPS = 3, 3
ONE = Counter({"an event": 1})
SMALL = {"num_reference": 100, "num_features": 8, "memory": 50}
KNOBS: dict[str, dict[str, Any]] = {
    "diff-instruct-moments": SMALL,
    "adversarial-moments": SMALL,
}


def teacher_of(img_resolution: int = 8, *, seed: int = 0) -> EDMPrecond:
    torch.manual_seed(seed)
    network = EDMPrecond(
        img_resolution, 1, CLASSES, model_type="SongUNet", model_channels=4, channel_mult=[1],
        num_blocks=1, attn_resolutions=[4], dropout=0.1, label_dropout=0.1, use_fp16=True,
    )  # fmt: skip
    for parameter in network.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    return network.eval().requires_grad_(False)


def student_of(img_resolution: int = 8) -> Generator:
    torch.manual_seed(1)
    sizes: dict[str, Any] = {"w_dim": 6, "img_resolution": img_resolution, "img_channels": 1}
    synthesis = {"channel_base": 64, "channel_max": 6, "num_fp16_res": 0, "conv_clamp": 256}
    return Generator(
        z_dim=5, c_dim=CLASSES, **sizes, mapping_kwargs={"num_layers": 2},
        synthesis_kwargs=synthesis,
    )  # fmt: skip


def sources(method: Any) -> Inputs:
    torch.manual_seed(2)
    images = torch.randint(0, 256, [40, 1, 8, 8], dtype=torch.uint8)
    labels = torch.eye(CLASSES)[torch.arange(40) % CLASSES]
    return Inputs(
        ImageSet(images, labels) if compares_images(method) else None,
        PairSet(torch.randn(40, 5), images, labels) if isinstance(method, WithPairs) else None,
    )


def begin(name: str, device: torch.device | str, **changes: Any) -> Refinement:
    """Begin a run of real architectures, as small as they are made, with classes."""
    told = {"kimg": 1.0, "batch": 6, "warmup_kimg": 0.006, "auxiliary_steps": 2, "ema": 0.01}
    settings = Settings(**{**told, "precision": "fp32", **changes})
    student, teacher = student_of().to(device), teacher_of().to(device)
    method: Any = REFINERS[name](**KNOBS.get(name, {}))
    return Refinement(student, teacher, method, settings, inputs=sources(method))


def advance(job: Any, ledger: Ledger | None = None, steps: int = STEPS) -> list[Any]:
    """Make steps and return their losses, and check what the host waited for."""
    losses = []
    for step in range(steps):
        if ledger is not None:
            ledger.take()
        losses.append(job.advance())
        if ledger is not None:
            assert ledger.take() == (ONE if step else Counter())
    last = job.settle()
    return [*losses[1:], last] if ledger is not None else losses


def weights(job: Any) -> dict[str, torch.Tensor]:
    networks = ("student", "average", "auxiliary", "auxiliary_average", "discriminator", "memory")
    found = {}
    for name in networks:
        network = getattr(job, name, None)
        if isinstance(network, torch.nn.Module):
            found |= {f"{name}.{key}": value for key, value in network.state_dict().items()}
    return found


def assert_same(device: Any, cpu: Any, **tolerance: Any) -> None:
    there, here = weights(device), weights(cpu)
    assert there.keys() == here.keys()
    for name, value in here.items():
        assert there[name].device.type == "cuda", name
        torch.testing.assert_close(
            there[name].cpu(), value.cpu(), **(tolerance or {"rtol": 0, "atol": 0}), msg=name
        )


@pytest.mark.parametrize("name", sorted(REFINERS))
def test_a_step_waits_once_meets_one_device_and_is_the_cpus_to_the_bit(name: str) -> None:
    cpu = begin(name, "cpu")
    wanted = advance(cpu)
    with virtual_cuda() as ledger:
        job = begin(name, CUDA)
        found = advance(job, ledger)
        # By products instead of eigenvalues, equal to rounding of float64.
        rounding = {"rtol": 1e-5, "atol": 1e-6} if cpu.memory is not None else {}
        assert_same(job, cpu, **rounding)
    assert [dict(losses) for losses in found] == [
        pytest.approx(losses, rel=1e-5) for losses in wanted
    ]


@pytest.mark.parametrize(
    "changes",
    [
        {"batch_gpu": 2},
        {"share_pass": True, "auxiliary_ema": 0.0, "auxiliary_steps": 1},
        pytest.param({"batch_gpu": 3, "train": "synthesis"}, marks=pytest.mark.slow),
        pytest.param({"channels_last": True}, marks=pytest.mark.slow),
    ],
)
def test_settings_of_how_a_step_is_computed_keep_that(changes: dict[str, Any]) -> None:
    cpu = begin("diff-instruct", "cpu", **changes)
    advance(cpu)
    with virtual_cuda() as ledger:
        job = begin("diff-instruct", CUDA, **changes)
        advance(job, ledger)
        assert_same(job, cpu)


def test_moments_in_pieces_and_dropout_by_one_mask_wait_no_more() -> None:
    for name, changes in (
        ("diff-instruct-moments", {"batch_gpu": 2}),
        ("diff-instruct", {"dropout": 0.1, "dropout_in_gradient": True}),
    ):
        cpu = begin(name, "cpu", **changes)
        advance(cpu)
        with virtual_cuda() as ledger:
            job = begin(name, CUDA, **changes)
            advance(job, ledger)
            assert_same(job, cpu, rtol=1e-5, atol=1e-6)


def test_a_plan_takes_the_time_of_as_many_images_as_the_run_has_at_a_time() -> None:
    settings = Settings(kimg=1.0, batch=12, batch_gpu=6, warmup_kimg=0.0, precision="fp32")
    with virtual_cuda():
        student, teacher = student_of().to(CUDA), teacher_of().to(CUDA)

        def start(method: Any, given: Settings) -> Refinement:
            return Refinement(student, teacher, method, given)

        plan: Any = plan_run(start, REFINERS["diff-instruct"](), settings, memory_gb=1)
    assert (plan["step"]["measured_images"], plan["step"]["device"]) == (6, "cuda:0")


def test_a_guided_teacher_behind_a_bridge_waits_no_more() -> None:
    def job(device: Any) -> Refinement:
        guided = classifier_free(teacher_of().to(device), weight=2.0, interval=(0.1, 1.0))
        student = Bridge(student_of(16), img_resolution=8, img_channels=1).to(device)
        settings = Settings(kimg=1.0, batch=4, warmup_kimg=0.0, auxiliary_steps=1)
        method = REFINERS["diff-instruct"]()
        return Refinement(student, guided, method, settings, auxiliary=guided.main)

    cpu = job("cpu")
    cpu_precision = cpu.settings.precision
    advance(cpu)
    with virtual_cuda() as ledger:
        there = job(CUDA)
        assert (cpu_precision, there.settings.precision) == ("fp32", "tf32")
        advance(there, ledger)
        assert_same(there, cpu)


@pytest.mark.parametrize("name", sorted(DISTILLERS))
def test_a_step_of_a_distillation_waits_once(name: str) -> None:
    def job(device: Any) -> Distillation:
        settings = Settings(kimg=0.016, batch=4, precision="fp32")
        images = sources(REFINERS["dmd2"]()).real_images
        assert images is not None
        method = DISTILLERS[name](num_steps=2)
        return Distillation(teacher_of().to(device), method, settings, real_images=images)

    cpu = job("cpu")
    advance(cpu, steps=4)  # into the next stage
    with virtual_cuda() as ledger:
        there = job(CUDA)
        for step in range(4):
            ledger.take()
            there.advance()
            waits = ledger.take()
            assert waits == (ONE if step else Counter())
        there.settle()
        assert_same(there, cpu)


def spoil(job: Refinement) -> None:
    """Let the next images of the student be none."""
    job.student.synthesis.b8.torgb.bias.data.fill_(math.nan)  # type: ignore[attr-defined]


def test_a_step_that_is_not_finite_moves_nothing_and_is_counted_a_step_later() -> None:
    with virtual_cuda():
        job = begin("diff-instruct-moments", CUDA)
        for _ in range(3):
            job.advance()
        job.settle()
        bias = job.student.synthesis.b8.torgb.bias  # type: ignore[attr-defined]
        good = bias.detach().clone()
        spoil(job)
        before = {k: v.clone() for k, v in weights(job).items()}
        job.advance()
        assert job.counts.skipped == 0  # not known yet
        after = weights(job)
        for key, value in before.items():
            # The mean of w follows in the forward pass, as it does on a CPU.
            moves = key.endswith("w_avg") or "average" in key
            if not moves:
                torch.testing.assert_close(after[key], value, rtol=0, atol=0, equal_nan=True)
        bias.data.copy_(good)
        job.average.synthesis.b8.torgb.bias.data.copy_(good)  # type: ignore[attr-defined]
        assert job.advance() == {}
        assert (job.counts.skipped, job.counts.step) == (1, 5)
        assert job.settle()["Gradient/student_norm"] > 0
        assert all(bool(value.isfinite().all()) for value in weights(job).values())


def test_the_third_step_in_a_row_that_is_not_finite_ends_the_run() -> None:
    with virtual_cuda():
        job = begin("diff-instruct", CUDA)
        spoil(job)
        for _ in range(3):
            job.advance()
        with pytest.raises(FloatingPointError, match="3 steps in a row, the last of them step 2"):
            job.settle()


def test_a_run_resumed_on_the_device_is_the_undisturbed_one() -> None:
    with virtual_cuda():
        whole = begin("adversarial-moments", CUDA)
        advance(whole)
        first = begin("adversarial-moments", CUDA)
        advance(first, steps=2)
        state = copy.deepcopy(first.state_dict())
        assert state["step"] == 2 and state["skipped"] == 0
        second = begin("adversarial-moments", CUDA)
        second.load_state_dict(state)
        advance(second, steps=1)
        assert_same(second, whole)


SAMPLERS: dict[str, tuple[dict[str, Any], Counter[str]]] = {
    "heun": ({}, Counter()),
    "euler": ({"solver": "euler"}, Counter()),
    "levels": ({"levels": [10.0, 1.0, 0.1]}, Counter()),
    "churn": ({"s_churn": 2.0}, Counter()),
}


@pytest.mark.parametrize("name", SAMPLERS)
def test_a_sampler_waits_for_nothing(name: str) -> None:
    options, waits = SAMPLERS[name]
    options = {"num_steps": 3, **options}
    with virtual_cuda() as ledger:
        teacher = teacher_of().to(CUDA)
        latents = torch.randn(2, 1, 8, 8, device=CUDA)
        labels = torch.eye(CLASSES, device=CUDA)[:2]
        ledger.take()
        guided = classifier_free(teacher, weight=2.0)
        for denoiser in (teacher, guided):
            images = teachers.sample(denoiser, latents, labels=labels, **options)
            assert images.device == CUDA and ledger.take() == waits


def test_a_distilled_student_waits_for_nothing() -> None:
    with virtual_cuda() as ledger:
        method = replace(DISTILLERS["progressive"](), stochastic=True)  # type: ignore[call-arg]
        student = SteppedStudent(teacher_of().to(CUDA), method, 4)
        z, c = torch.randn(2, 64, device=CUDA), torch.eye(CLASSES, device=CUDA)[:2]
        ledger.take()
        assert student(z, c).device == CUDA
        assert ledger.take() == Counter()


@pytest.mark.parametrize("has_classes", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_judge_and_metrics_meet_one_device_and_agree_with_the_cpu(has_classes: bool) -> None:
    images = sources(REFINERS["dmd2"]()).real_images
    assert isinstance(images, ImageSet)
    many = images.images.repeat(8, 1, 1, 1)
    labels = images.labels.repeat(8, 1) if has_classes and images.labels is not None else None

    def numbers(device: Any) -> list[float]:
        student = student_of().to(device)
        judge = judge_of(ImageSet(many, labels), num=50, seed=0, device=str(device))
        change = metrics.compare(
            student, copy.deepcopy(student), judge.reports, num_images=100, null=False
        )["frechet_distance"]
        return [judge(student), change.before, change.change]

    wanted = numbers("cpu")
    with virtual_cuda():
        assert numbers(CUDA) == pytest.approx(wanted, rel=1e-6)


def test_pictures_and_figures_of_health_wait_for_little() -> None:
    with virtual_cuda() as ledger:
        job = begin("diff-instruct", CUDA)
        job.advance()
        job.settle()
        ledger.take()
        job.health()
        assert ledger.take() == Counter({"reading numbers": 1})
        job.views()
        assert ledger.take() == Counter()
