"""Low precision stays within the networks' passes."""

from __future__ import annotations

import copy
import math
from typing import Any

import pytest
import torch

from refiners import ImageSet, Inputs, Settings
from refiners.dmd2 import DMD2
from refiners.training.precision import (
    arithmetic,
    check_compiler,
    check_device,
    in_single,
    prepare,
    settled,
)
from teachers.edm import EDMPrecond
from teachers.edm2 import Precond as EDM2Precond

KINDS = ("cpu", "cuda", "mps", "xpu")


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


def test_auto_is_tf32_where_there_is_one_and_float32_elsewhere(refinement: Any) -> None:
    chosen = {kind: settled(Settings(), torch.device(kind)).precision for kind in KINDS}
    assert chosen == {"cpu": "fp32", "cuda": "tf32", "mps": "fp32", "xpu": "fp32"}
    told = Settings(precision="fp32")
    assert settled(told, torch.device("cuda")) is told
    # What a state says is what was computed, so that it cannot be continued unseen elsewhere.
    assert refinement().state_dict()["settings"]["precision"] == "fp32"


def test_switches_of_cuda_hold_within_a_step_alone() -> None:
    def switches() -> tuple[bool, ...]:
        backends: Any = torch.backends
        found = backends.cuda.matmul.allow_tf32, backends.cudnn.allow_tf32
        chosen = backends.cudnn.benchmark, backends.cudnn.deterministic
        return *found, *chosen, torch.are_deterministic_algorithms_enabled()

    before = switches()
    for benchmark in (False, True):  # as the user has it
        torch.backends.cudnn.benchmark = benchmark
        for precision, allowed in (("fp32", False), ("tf32", True), ("bf16", True)):
            with arithmetic(Settings(precision=precision), torch.device("cuda")):
                assert switches() == (allowed, allowed, benchmark, False, False)
            orderly = Settings(precision=precision, deterministic=True)
            with arithmetic(orderly, torch.device("cuda")):
                assert switches() == (allowed, allowed, False, True, True)
        assert switches() == (*before[:2], benchmark, *before[3:])
    torch.backends.cudnn.benchmark = before[2]
    with arithmetic(Settings(precision="bf16", deterministic=True), torch.device("cpu")):
        assert switches() == before


class HalvedConvolution(torch.nn.Conv2d):
    """A layer that says that it was trained in half precision, as files' modules do."""

    def __init__(self) -> None:
        super().__init__(1, 1, 1)
        self.use_fp16 = True


@pytest.mark.parametrize("precision", ["fp32", "tf32", "bf16"])
def test_a_files_half_precision_never_trains_a_denoiser(precision: str) -> None:
    denoiser, gan = torch.nn.Module(), torch.nn.Module()
    vars(denoiser)["label_dim"] = 0
    denoiser.layer, gan.layer = HalvedConvolution(), HalvedConvolution()
    for network in (denoiser, gan):
        prepare(network, Settings(precision=precision), torch.device("cuda"))  # type: ignore[arg-type] -- a part of one
    assert not denoiser.layer.use_fp16
    # A GAN has halves where 16 bits were asked for.
    assert gan.layer.use_fp16 == (precision == "bf16")


def test_each_room_names_its_half_precision_as_the_step_looks_for_it() -> None:
    edm = EDMPrecond(8, 1, use_fp16=True, model_type="SongUNet", model_channels=4, num_blocks=1)
    edm2 = EDM2Precond(8, 1, 0, use_fp16=True, model_channels=4, num_blocks=1)
    for network in (edm, edm2):
        assert network.use_fp16
        in_single(network)
        assert not network.use_fp16
        assert network.init_kwargs["use_fp16"]  # what is written says what the file said


def test_judge_and_heads_compute_in_bf16_and_give_float32(
    refinement: Any, point_student: Any, point_denoiser: Any
) -> None:
    inputs = Inputs(ImageSet(torch.randn(50, 2, 1, 1)))
    pair = networks(point_student, point_denoiser)
    plain, low = (
        refinement(*pair, DMD2(layer="enc"), inputs=inputs, precision=p) for p in ("fp32", "bf16")
    )
    seen: list[torch.dtype] = []
    low.auxiliary.head[-1].register_forward_hook(lambda *a: seen.append(a[-1].dtype))
    x, sigma = torch.randn(64, 2, 1, 1), torch.full([64], 0.5)
    exact, found = (job.auxiliary.judge(x, sigma) for job in (plain, low))
    assert seen == [torch.bfloat16]
    for a, b in zip(exact, found, strict=True):
        assert b.dtype == torch.float32
        assert 1e-4 < ((a - b).norm() / a.norm()).item() < 5e-2


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
