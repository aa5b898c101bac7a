"""The work of a step is counted without changing it."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch

from refiners.runs.speed import CountFlop, Pace, matmul_peak


def test_the_work_of_layers_is_two_operations_a_weight_and_position_thrice_with_gradients() -> None:
    conv, linear = torch.nn.Conv2d(3, 8, 3, padding=1), torch.nn.Linear(8 * 64, 5)
    x = torch.randn(2, 3, 8, 8)
    forward = 2 * 2 * 64 * 8 * 3 * 9, 2 * 2 * 512 * 5
    with CountFlop() as counter, torch.no_grad():
        linear(conv(x).flatten(1))
    assert counter.total == sum(forward)
    with CountFlop() as counter:
        linear(conv(x).flatten(1)).sum().backward()
    # The images want no gradient, so the first layer has none to pass on.
    assert counter.total == 3 * sum(forward) - forward[0]


def test_a_step_that_is_counted_ends_where_one_that_is_not_does(
    refinement: Any, point_student: Any, point_denoiser: Any
) -> None:
    student, teacher = point_student(), point_denoiser()
    torch.nn.init.normal_(teacher.out.weight)
    plain, counted = (refinement(student, teacher, warmup_kimg=0.032) for _ in range(2))
    pace = Pace()
    for _ in range(5):
        assert plain.advance() == pace.advance(counted)
        assert (pace.flop is None) == (counted.num_images == 0)
    for a, b in zip(plain.student.parameters(), counted.student.parameters(), strict=True):
        assert torch.equal(a, b)


def test_the_share_is_the_steps_work_over_that_of_a_product_in_its_time() -> None:
    settings = SimpleNamespace(batch=16, precision="fp32")
    job = SimpleNamespace(device=torch.device("cpu"), settings=settings)
    pace = Pace()
    assert pace.share_of_peak(job, 32.0) is None
    pace.flop, pace.peak = 100, 1000.0
    assert pace.share_of_peak(job, 32.0) == pytest.approx(0.2)  # two steps a second
    pace.peak = None
    share = pace.share_of_peak(job, 32.0)
    assert share is not None and 0 < share < 1e-6


def test_a_machine_multiplies_matrices_at_a_speed_that_can_be() -> None:
    # A megaflop to a petaflop a second.
    assert 1e6 < matmul_peak(torch.device("cpu"), "fp32") < 1e15
