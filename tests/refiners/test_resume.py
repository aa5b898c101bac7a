"""A run that is stopped and continued equals the run that was not."""

from __future__ import annotations

import copy
import dataclasses
import math
from pathlib import Path
from typing import Any

import pytest
import torch

from refiners import REFINERS, Distillation, ImageSet, Inputs, PairSet, RunFolder, read_state
from refiners.diff_instruct import DiffInstruct
from refiners.dmd import DMD
from refiners.guided import Guided
from refiners.progressive import Progressive
from refiners.training.inputs import pseudo_huber
from teachers.edm import EDMPrecond


def assert_same(a: Any, b: Any, where: str = "state") -> None:
    """Two states agree, tensors bit for bit."""
    if isinstance(a, dict):
        assert a.keys() == b.keys(), where
        for key in a:
            assert_same(a[key], b[key], f"{where}.{key}")
    elif isinstance(a, torch.Tensor):
        assert torch.equal(a, b), where
    elif isinstance(a, (list, tuple)):
        assert len(a) == len(b), where
        for i, (x, y) in enumerate(zip(a, b, strict=True)):
            assert_same(x, y, f"{where}[{i}]")
    else:
        assert a == b, where


def advance(refinement: Any, num_steps: int) -> None:
    for _ in range(num_steps):
        refinement.advance()


# 10 steps are warm-up: stop within it, at its end, one step later, and in the middle.
@pytest.mark.parametrize("stop", [0, 4, 10, 11, 20])
def test_n_steps_a_saved_state_and_m_steps_equal_n_plus_m_steps_bit_for_bit(
    refinement: Any, tmp_path: Path, stop: int
) -> None:
    whole = refinement(auxiliary_steps=2)
    advance(whole, 25)
    first = refinement(auxiliary_steps=2)
    advance(first, stop)
    path = RunFolder(tmp_path).write_state("000000", first.state_dict())
    advance(first, 3)  # what happens after the state was saved is lost with the process
    second = refinement(auxiliary_steps=2)
    torch.manual_seed(99)
    second.load_state_dict(read_state(path))
    assert second.step == stop
    advance(second, 25 - stop)
    assert_same(second.state_dict(), whole.state_dict())
    assert second.health() == whole.health()


@pytest.mark.parametrize("batch_gpu", [0, 6])
@pytest.mark.parametrize("name", REFINERS)
def test_every_method_resumes_bit_for_bit(
    refinement: Any, world: Any, tmp_path: Path, name: str, batch_gpu: int
) -> None:
    student, teacher, method, inputs = world(name)

    def start() -> Any:
        return refinement(
            student, teacher, method, inputs=inputs, warmup_kimg=0.048, batch_gpu=batch_gpu
        )

    whole, first = start(), start()
    advance(whole, 9)
    advance(first, 5)
    path = RunFolder(tmp_path).write_state("000000", first.state_dict())
    torch.manual_seed(99)
    second = start()
    second.load_state_dict(read_state(path))
    advance(second, 4)
    assert_same(second.state_dict(), whole.state_dict())
    assert whole.num_images > 0
    if whole.memory is not None:
        assert not torch.equal(whole.memory.mean, start().memory.mean)
    assert all(bool(p.isfinite().all()) for p in whole.student.parameters())


@pytest.mark.parametrize("method", [Progressive(num_steps=4), Guided(num_steps=2)])
@pytest.mark.parametrize(
    "stop", [3, pytest.param(6, marks=pytest.mark.slow), pytest.param(9, marks=pytest.mark.slow)]
)
def test_distillation_resumes_bit_for_bit_within_a_stage_and_where_one_begins(
    settings: Any, tmp_path: Path, method: Any, stop: int
) -> None:
    teacher = EDMPrecond(
        img_resolution=8, img_channels=1, label_dim=3, model_channels=4, channel_mult=[1],
        num_blocks=1, attn_resolutions=[], dropout=0.0, label_dropout=0.1,
    ).eval()  # fmt: skip
    images = ImageSet(torch.randn(50, 1, 8, 8), torch.eye(3)[torch.arange(50) % 3])

    def start() -> Distillation:
        return Distillation(teacher, method, settings(kimg=0.16, lr=1e-3), real_images=images)

    whole, first = start(), start()
    assert whole.steps_per_stage == 4
    advance(whole, 10)
    advance(first, stop)
    path = RunFolder(tmp_path).write_state("000000", first.state_dict())
    torch.manual_seed(99)
    second = start()
    second.load_state_dict(read_state(path))
    advance(second, 10 - stop)
    assert_same(second.state_dict(), whole.state_dict())
    assert second.average.num_steps == whole.average.num_steps == 1


def broken(state: dict[str, Any], where: str, value: Any) -> dict[str, Any]:
    """A copy of a state with the entry at a.b.c replaced, or removed where value is None."""
    state = copy.deepcopy(state)
    *path, last = where.split("/")
    entry: Any = state
    for key in path:
        entry = entry[int(key) if key.isdigit() else key]
    if value is None:
        del entry[last]
    else:
        entry[last] = value
    return state


@pytest.mark.parametrize(
    ("where", "value", "complaint"),
    [
        ("student", None, "the state's student is NoneType, not"),
        ("step", None, "the state's step is NoneType, not int"),
        ("step", "5", "the state's step is str, not int"),
        ("settings", [], "the state's settings is list, not dict"),
        ("method", None, "the state's method is NoneType, not dict"),
        ("average/mean", None, "the state's average has nothing for mean, this run float32"),
        ("auxiliary/mean", torch.zeros(3), r"auxiliary has float32 \[3\] for mean, this run float"),
        ("student/mean", torch.zeros([]).double(), r"student has float64 \[\] for mean, this run"),
        ("student/other", torch.zeros(1), r"student has float32 \[1\] for other, this run nothing"),
        ("student/mean", 1.0, "student has float for mean"),
        ("student_adam/param_groups", [], "student_adam is not that of 2 parameters"),
        ("student_adam/param_groups", 3, "student_adam is not that of 2 parameters"),
        ("student_adam/state", None, "student_adam is not that of 2 parameters"),
        (
            "student_adam/state/0/exp_avg",
            torch.zeros(2),
            r"float32 \[2\] for exp_avg of parameter 0",
        ),
        ("student_adam/state/0/step", None, "nothing for step of parameter 0"),
        ("auxiliary_adam", None, "auxiliary_adam is NoneType, not dict"),
    ],
)
def test_a_malformed_state_is_refused_in_one_line_and_changes_nothing(
    refinement: Any, where: str, value: Any, complaint: str
) -> None:
    first = refinement()
    advance(first, 12)
    other = refinement()
    before = copy.deepcopy(other.state_dict())
    with pytest.raises(ValueError, match=complaint) as caught:
        other.load_state_dict(broken(first.state_dict(), where, value))
    assert "\n" not in str(caught.value)
    assert_same(other.state_dict(), before)


HOSTILE: list[tuple[str, Any, str]] = [
    ("step", -5, "the state's step is -5; it must be in 0 to"),
    ("step", 2**70, "the state's step is 1180591620717411303424; it must be in 0 to"),
    ("step", True, "the state's step is bool, not int"),
    ("num_processes", 0, "the state's num_processes is 0; it must be in 1 to"),
    ("rate_scale", math.nan, "the state's rate_scale is nan; it must be above 0, at most 1"),
    ("rate_scale", -0.5, "the state's rate_scale is -0.5; it must be above 0, at most 1"),
    ("settings/glr", torch.ones(2), r"glr float32 \[2\] -> 0.02"),
    ("settings/glr", "x" * 10**6, "glr x{80} -> 0.02"),
    ("student/mean", torch.zeros([], device="meta"), "student has a tensor without plain values"),
    ("student/mean", torch.zeros([2]).to_sparse(), "student has a tensor without plain values"),
    ("student_adam/param_groups/0/params", 5, "student_adam is not that of 2 parameters"),
    ("student_adam/param_groups/0/params", [0, "1"], "student_adam is not that of 2 parameters"),
    ("student_adam/state/0/exp_avg", torch.zeros([], device="meta"), "without plain values for"),
    ("student_adam/state/0/exp_avg", torch.zeros([]).half(), r"float16 \[\] for exp_avg"),
    ("student_adam/state/0/exp_avg", torch.tensor(math.nan), "moments of parameter 0 that cannot"),
    ("student_adam/state/0/exp_avg_sq", torch.tensor(-1.0), "moments of parameter 0 that cannot"),
    ("student_adam/state/0/step", torch.tensor(-3.0), "student_adam has step -3.0 for parameter 0"),
    ("student_adam/state/0/step", torch.tensor(math.nan), "has step nan for parameter 0"),
]


@pytest.mark.parametrize(("where", "value", "complaint"), HOSTILE)
def test_a_hostile_state_is_refused_in_one_line_and_changes_nothing(
    refinement: Any, where: str, value: Any, complaint: str
) -> None:
    first, other = refinement(), refinement()
    advance(first, 12)
    before = copy.deepcopy(other.state_dict())
    with pytest.raises(ValueError, match=complaint) as caught:
        other.load_state_dict(broken(first.state_dict(), where, value))
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 300
    assert_same(other.state_dict(), before)


def test_adams_options_are_the_runs_own_not_a_states(refinement: Any) -> None:
    first, other = refinement(), refinement()
    advance(first, 12)
    state = broken(first.state_dict(), "student_adam/param_groups/0/betas", "ab")
    other.load_state_dict(state)
    assert_same(other.state_dict(), first.state_dict())


def test_every_tensor_of_a_state_gets_a_storage_of_its_own(refinement: Any, world: Any) -> None:
    """An expanded one has one element for all, past which Adam's fused step would write."""
    student, teacher, method, _ = world("diff-instruct")
    first = refinement(student, teacher, method)
    advance(first, 12)
    state = copy.deepcopy(first.state_dict())
    wanted = copy.deepcopy(state)
    for name in ("student_adam", "auxiliary_adam"):
        for i, moments in state[name]["state"].items():
            shape = moments["exp_avg_sq"].shape
            moments["exp_avg_sq"] = torch.tensor(1e-8).expand(shape)
            wanted[name]["state"][i]["exp_avg_sq"] = torch.full(shape, 1e-8)
    second = refinement(student, teacher, method)
    second.load_state_dict(state)
    assert_same(second.state_dict(), wanted)
    for name in ("student_adam", "auxiliary_adam"):
        for moments in getattr(second, name).state.values():
            held = moments["exp_avg_sq"]
            assert held.untyped_storage().nbytes() == held.numel() * held.element_size()
    second.advance()


def test_a_state_of_another_distance_is_refused(refinement: Any) -> None:
    def start(distance: Any) -> Any:
        pairs = PairSet(torch.randn(4, 16), torch.randn(4, 1, 4, 4))
        return refinement(method=DMD(), inputs=Inputs(pairs=pairs, distance=distance))

    def other(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        return (x - y).square().sum(dim=[1, 2, 3])

    state = start(pseudo_huber).state_dict()
    with pytest.raises(ValueError, match="distance pseudo_huber -> other"):
        start(other).load_state_dict(state)


def test_transfer_takes_the_networks_and_nothing_else(refinement: Any) -> None:
    first = refinement(ema=0.2)
    advance(first, 20)
    second = refinement(glr=0.5, seed=4)
    second.start_from(first.state_dict())
    assert (second.step, second.num_images) == (0, 0)
    assert_same(second.student.state_dict(), first.average.state_dict())
    assert_same(second.average.state_dict(), first.average.state_dict())
    assert_same(second.auxiliary.state_dict(), first.auxiliary.state_dict())
    assert second.student_adam.state_dict()["state"] == {}
    before = copy.deepcopy(second.state_dict())
    with pytest.raises(ValueError, match="has nothing for std, this run float32"):
        second.start_from(broken(first.state_dict(), "average/std", None))
    assert_same(second.state_dict(), before)


def test_a_saved_state_does_not_move_with_the_run_that_goes_on(
    refinement: Any, tmp_path: Path
) -> None:
    job = refinement()
    advance(job, 12)
    path = RunFolder(tmp_path).write_state("000000", job.state_dict())
    saved = job.average.mean.item()
    advance(job, 5)
    assert read_state(path)["average"]["mean"].item() == saved != job.average.mean.item()


@pytest.mark.parametrize(
    ("changes", "difference"),
    [
        ({"glr": 0.5}, "glr 0.02 -> 0.5"),
        ({"seed": 4}, "seed 0 -> 4"),
        ({"batch": 8}, "batch 16 -> 8"),
        ({"beta2": 0.9}, "beta2 0.999 -> 0.9"),
        ({"lr": 0.5, "ema": 9.0}, "lr 0.02 -> 0.5, ema 0.1 -> 9.0"),
    ],
)
def test_a_state_of_other_settings_is_refused_with_the_difference(
    refinement: Any, changes: dict[str, Any], difference: str
) -> None:
    state = refinement().state_dict()
    other = refinement(**changes)
    before = other.student.mean.item()
    with pytest.raises(ValueError, match=difference):
        other.load_state_dict(state)
    assert (other.step, other.student.mean.item()) == (0, before)


def test_a_state_of_other_knobs_of_the_method_is_refused_with_the_difference(
    refinement: Any,
) -> None:
    state = refinement(method=DiffInstruct(weight="one")).state_dict()
    with pytest.raises(ValueError, match="weight one -> dmd"):
        refinement(method=DiffInstruct(weight="dmd")).load_state_dict(state)


@pytest.mark.parametrize("changes", [{"kimg": 5.0}, {"tick": 0.1}, {"snap": 1}])
def test_a_run_may_be_made_longer_and_reported_otherwise(
    refinement: Any, changes: dict[str, Any]
) -> None:
    job = refinement()
    advance(job, 12)
    longer = refinement(**changes)
    longer.load_state_dict(job.state_dict())
    assert_same(
        longer.state_dict(), job.state_dict() | {"settings": dataclasses.asdict(longer.settings)}
    )
