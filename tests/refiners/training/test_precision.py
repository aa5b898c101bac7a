"""Low precision stays within the networks' passes."""

from __future__ import annotations

import copy
import math
from typing import Any

import pytest
import torch

from refiners.training.precision import check_compiler, check_device, prepare


def networks(point_student: Any, point_denoiser: Any) -> tuple[Any, Any]:
    student, teacher = point_student(), point_denoiser()
    torch.nn.init.normal_(student.out.weight)
    torch.nn.init.normal_(teacher.out.weight)
    return student, teacher


def test_a_pass_in_bf16_is_rounded_and_returns_float32(
    point_student: Any, point_denoiser: Any, settings: Any
) -> None:
    _, teacher = networks(point_student, point_denoiser)
    low = copy.deepcopy(teacher)
    prepare(low, settings(precision="bf16"), torch.device("cpu"))
    x, sigma = torch.randn(64, 2, 1, 1), torch.full([64], 0.5)
    a, b = teacher(x, sigma), low(x, sigma)
    assert b.dtype == torch.float32
    # bfloat16 has 8 bits: the error is theirs, not float32's and not the network's.
    error = ((a - b).norm() / a.norm()).item()
    assert 1e-4 < error < 2e-2


def test_a_gan_keeps_the_precision_of_its_layers_and_a_denoiser_within_a_student_has_none(
    point_student: Any, settings: Any
) -> None:
    class OnADenoiser(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.denoiser = torch.nn.Linear(2, 8)

        def forward(self, z: torch.Tensor) -> torch.Tensor:
            return self.denoiser(z)

    z = torch.randn(64, 2)
    for student, is_low in ((point_student(), False), (OnADenoiser(), True)):
        for parameter in student.parameters():
            torch.nn.init.normal_(parameter)
        before = student(z)
        prepare(student, settings(precision="bf16"), torch.device("cpu"))
        assert torch.equal(before, student(z)) != is_low
        torch.testing.assert_close(student(z), before, rtol=5e-2, atol=5e-2)


def test_everything_that_is_kept_stays_float32_in_bf16(
    refinement: Any, point_student: Any, point_denoiser: Any
) -> None:
    job = refinement(*networks(point_student, point_denoiser), precision="bf16", warmup_kimg=0.032)
    start = [p.clone() for p in job.student.parameters()]
    for _ in range(4):
        assert job.advance()
    state = job.state_dict()
    for name in ("student", "average", "auxiliary", "auxiliary_average"):
        assert {t.dtype for t in state[name].values()} == {torch.float32}
    for name in ("student_adam", "auxiliary_adam"):
        moments = [t for entry in state[name]["state"].values() for t in entry.values()]
        assert {t.dtype for t in moments} == {torch.float32}
    assert any(not torch.equal(a, b) for a, b in zip(start, job.student.parameters(), strict=True))


def test_the_networks_that_were_given_keep_their_precision(
    refinement: Any, point_student: Any, point_denoiser: Any
) -> None:
    student, teacher = networks(point_student, point_denoiser)
    x, sigma, z = torch.randn(8, 2, 1, 1), torch.full([8], 0.5), torch.randn(8, 2)
    before = teacher(x, sigma), student(z)
    refinement(student, teacher, precision="bf16").advance()
    assert torch.equal(before[0], teacher(x, sigma)) and torch.equal(before[1], student(z))


class WideDenoiser(torch.nn.Module):
    """A denoiser of 4 x 4 images whose middle weight has an order of its own in each layout."""

    def __init__(self) -> None:
        super().__init__()
        self.img_resolution, self.img_channels, self.label_dim = 4, 1, 0
        self.sigma_min, self.sigma_max = 0.0, math.inf
        self.enter = torch.nn.Conv2d(1, 4, 3, padding=1)
        self.middle = torch.nn.Conv2d(4, 4, 3, padding=1)
        self.leave = torch.nn.Conv2d(4, 1, 3, padding=1)

    def forward(
        self, x: torch.Tensor, sigma: torch.Tensor, labels: torch.Tensor | None = None
    ) -> torch.Tensor:
        x = self.enter(x / (1 + sigma[:, None, None, None])).tanh()
        return self.leave(self.middle(x).tanh())


def test_channels_last_is_how_denoisers_are_held_and_changes_a_step_by_rounding_alone(
    refinement: Any,
) -> None:
    torch.manual_seed(0)
    teacher = WideDenoiser()
    plain, last = (
        refinement(None, teacher, channels_last=c, warmup_kimg=0.0) for c in (False, True)
    )
    held = [last.teacher, last.auxiliary, last.auxiliary_average]
    for network in (plain.teacher, plain.auxiliary, teacher):
        assert network.middle.weight.is_contiguous()
    for _ in range(2):
        a, b = plain.advance(), last.advance()
        assert b == pytest.approx(a, rel=1e-5)
        for network in held:
            assert network.middle.weight.is_contiguous(memory_format=torch.channels_last)
            assert not network.middle.weight.is_contiguous()
    for name in ("student", "average", "auxiliary", "auxiliary_average"):
        pairs = zip(*(getattr(job, name).parameters() for job in (plain, last)), strict=True)
        for mine, theirs in pairs:
            torch.testing.assert_close(theirs, mine, rtol=1e-4, atol=1e-6)


def test_tf32_is_refused_where_there_is_none(refinement: Any, settings: Any) -> None:
    with pytest.raises(ValueError, match=r"tf32.*GPUs alone"):
        refinement(precision="tf32")
    check_device(settings(precision="tf32"), torch.device("cuda"))


def test_a_compiler_that_does_not_work_is_said_in_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    def compile_nothing(function: Any) -> Any:
        raise RuntimeError("No working C++ compiler found\nin a long list")

    monkeypatch.setattr(torch, "compile", compile_nothing)
    with pytest.raises(ValueError, match=r"not work here \(No working C\+\+ compiler found\)"):
        check_compiler(torch.device("cpu"))


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # what torch says of itself while it compiles
def test_compiled_networks_take_the_run_where_the_others_do(
    refinement: Any, point_student: Any, point_denoiser: Any
) -> None:
    try:
        check_compiler(torch.device("cpu"))
    except ValueError as error:
        pytest.skip(str(error))
    pair = networks(point_student, point_denoiser)
    plain, compiled = (refinement(*pair, compile=c, warmup_kimg=0.032) for c in (False, True))
    for _ in range(4):
        plain.advance()
        compiled.advance()
    assert compiled.num_images > 0
    for a, b in zip(plain.student.parameters(), compiled.student.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)
