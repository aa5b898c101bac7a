"""A run that is stopped and continued equals the run that was not."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch

from refiners import RunFolder, read_state
from refiners.diff_instruct import DiffInstruct


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
    path = RunFolder(tmp_path).write_state(first.num_images, first.state_dict())
    advance(first, 3)  # what happens after the state was saved is lost with the process
    second = refinement(auxiliary_steps=2)
    torch.manual_seed(99)
    second.load_state_dict(read_state(path))
    assert second.step == stop
    advance(second, 25 - stop)
    assert_same(second.state_dict(), whole.state_dict())
    assert second.health() == whole.health()


def test_a_saved_state_does_not_move_with_the_run_that_goes_on(
    refinement: Any, tmp_path: Path
) -> None:
    job = refinement()
    advance(job, 12)
    path = RunFolder(tmp_path).write_state(job.num_images, job.state_dict())
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
        ({"lr": 0.5, "ema_kimg": 9.0}, "lr 0.02 -> 0.5, ema_kimg 0.1 -> 9.0"),
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
