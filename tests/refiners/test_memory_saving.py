"""What saves memory leaves every number as it is."""

from __future__ import annotations

import copy
from collections.abc import Iterable
from typing import Any

import numpy as np
import pytest
import torch

from refiners import Distillation, ImageSet, Refinement
from refiners.diff_instruct import DiffInstruct
from refiners.progressive import Progressive
from refiners.runs.plan import Held, tensors_of
from refiners.sid import SiD
from refiners.training.memory_saving import Offloaded, blocks_of, checkpoint_blocks
from refiners.training.processes import Processes
from teachers.edm import EDMPrecond
from teachers.guidance import autoguidance


class NoisyBlock(torch.nn.Module):
    """A residual layer with noise of its own and running means, as generators have."""

    def __init__(self, width: int):
        super().__init__()
        self.conv = torch.nn.Conv2d(width, width, 3, padding=1)
        self.norm = torch.nn.BatchNorm2d(width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = x + torch.nn.functional.silu(self.norm(self.conv(x)))
        return x + 0.1 * torch.randn_like(x)


class BlockStudent(torch.nn.Module):
    """A generator of 4 x 4 images from three blocks."""

    def __init__(self) -> None:
        super().__init__()
        self.z_dim, self.c_dim, self.img_resolution, self.img_channels = 16, 0, 4, 1
        self.widen = torch.nn.Conv2d(1, 4, 1)
        self.blocks = torch.nn.ModuleList([NoisyBlock(4) for _ in range(3)])
        self.narrow = torch.nn.Conv2d(4, 1, 1)

    def sample_latents(self, n: int, *, generator: torch.Generator | None = None) -> torch.Tensor:
        return torch.randn([n, 16], generator=generator)

    def forward(self, z: torch.Tensor, c: torch.Tensor | None = None) -> torch.Tensor:
        x = self.widen(z.reshape(-1, 1, 4, 4))
        for block in self.blocks:
            x = block(x)
        return self.narrow(x)


def small_edm() -> EDMPrecond:
    network = EDMPrecond(
        img_resolution=4, img_channels=1, model_channels=4, channel_mult=[1, 1], num_blocks=1,
        attn_resolutions=[], dropout=0.0,
    )  # fmt: skip
    for parameter in network.parameters():  # what starts at zero would teach nothing
        torch.nn.init.normal_(parameter, std=0.2)
    return network.eval()


def assert_same(a: Iterable[torch.Tensor], b: Iterable[torch.Tensor]) -> None:
    assert all(torch.equal(x, y) for x, y in zip(a, b, strict=True))


class FirstOfTwo(Processes):
    """The first of two processes, whose other one adds nothing."""

    size = 2


@pytest.mark.parametrize("method", [DiffInstruct(), SiD()])
@pytest.mark.parametrize("kind", ["whole", "pieces", "of two"])
def test_activations_that_are_computed_again_leave_every_number_as_it_is(
    settings: Any, method: Any, kind: str
) -> None:
    torch.manual_seed(0)
    student, teacher = BlockStudent(), small_edm()
    jobs = [
        Refinement(
            student,
            teacher,
            method,
            settings(
                warmup_kimg=0.016,
                batch_gpu=6 if kind == "pieces" else 0,
                activation_checkpointing=again,
            ),
            processes=FirstOfTwo() if kind == "of two" else None,
        )
        for again in (False, True)
    ]
    plain, again = jobs
    for _ in range(3):
        assert plain.advance() == again.advance() != {}
    for name in ("student", "average", "auxiliary", "auxiliary_average"):
        a, b = (getattr(job, name).state_dict().values() for job in jobs)
        assert_same(a, b)
    assert plain.student.blocks[0].norm.num_batches_tracked > 0


def test_activations_that_are_computed_again_are_not_held(refinement: Any) -> None:
    torch.manual_seed(0)
    student, teacher = BlockStudent(), small_edm()
    peaks = []
    for again in (False, True):
        job = refinement(student, teacher, warmup_kimg=0.0, activation_checkpointing=again)
        held = Held(tensors_of(job))
        with held.hooks():
            job.advance()
        peaks.append(held.peak)
    assert peaks[1] < peaks[0] / 2


def test_blocks_are_the_outermost_of_a_kind_that_there_are_several_of() -> None:
    student = BlockStudent()
    assert blocks_of(student) == list(student.blocks)
    names = {type(block).__name__ for block in blocks_of(small_edm())}
    assert names == {"UNetBlock"}
    assert checkpoint_blocks(torch.nn.Sequential(torch.nn.Linear(2, 2))) == 0


def test_a_guided_pair_has_the_blocks_of_both() -> None:
    main, weak = small_edm(), small_edm()
    found = blocks_of(autoguidance(main, weak, weight=2.0))
    assert found == [*blocks_of(main), *blocks_of(weak)]


def test_networks_without_blocks_are_refused_by_name(refinement: Any) -> None:
    with pytest.raises(ValueError, match=r"no blocks.* in AffineStudent or Gaussian"):
        refinement(activation_checkpointing=True)


def test_compiling_and_computing_again_exclude_each_other(settings: Any) -> None:
    with pytest.raises(ValueError, match=r"compile and activation_checkpointing are both set"):
        settings(compile=True, activation_checkpointing=True)


@pytest.mark.parametrize("channels_last", [False, True])
def test_a_network_that_waits_elsewhere_takes_no_memory_in_any_view_and_comes_back_whole(
    refinement: Any, channels_last: bool
) -> None:
    torch.manual_seed(0)
    student, teacher = BlockStudent(), small_edm()
    before = [p.detach().clone() for p in teacher.parameters()]
    given = {"warmup_kimg": 0.016, "channels_last": channels_last}
    plain = refinement(student, copy.deepcopy(teacher), **given)
    job = refinement(student, teacher, **given)
    views = [*teacher.parameters(), *job.teacher.parameters()]
    with job.offloaded.away():
        for _ in range(3):
            assert {p.untyped_storage().nbytes() for p in views} == {0}
            assert job.advance() == plain.advance()
        assert job.health() == plain.health()
        assert torch.equal(job.views()[0], plain.views()[0])
        with job.offloaded.here():
            assert_same(teacher.parameters(), before)
        assert {p.untyped_storage().nbytes() for p in views} == {0}
    assert_same(teacher.parameters(), before)
    assert_same(job.student.parameters(), plain.student.parameters())


def test_what_is_numpys_memory_stays_and_the_rest_waits() -> None:
    network = torch.nn.Linear(2, 3)
    network.register_buffer("of_numpy", torch.from_numpy(np.ones(4)))
    with Offloaded(network).away():
        assert network.weight.untyped_storage().nbytes() == 0
        assert torch.equal(network.get_buffer("of_numpy"), torch.ones(4, dtype=torch.float64))


def test_a_network_comes_back_from_where_it_waits_when_a_run_fails() -> None:
    network = torch.nn.Linear(2, 3)
    before = network.weight.detach().clone()
    offloaded = Offloaded(network)
    with pytest.raises(OSError), offloaded.away(), offloaded.here():
        raise OSError
    assert torch.equal(network.weight, before)


def test_a_cpu_has_nowhere_else_for_a_teacher_to_wait(refinement: Any) -> None:
    with pytest.raises(ValueError, match=r"offload_teacher keeps.* in the CPU's memory.*leave it"):
        refinement(offload_teacher=True)


def test_distilling_in_blocks_computed_again_is_the_same(settings: Any) -> None:
    torch.manual_seed(0)
    teacher, images = small_edm(), ImageSet(torch.randn(30, 1, 4, 4))
    jobs = [
        Distillation(
            teacher,
            Progressive(num_steps=2),
            settings(glr=1e-3, activation_checkpointing=again),
            real_images=images,
        )
        for again in (False, True)
    ]
    for _ in range(3):
        losses = [job.advance() for job in jobs]
        assert losses[0] == losses[1]
    assert_same(*(job.student.parameters() for job in jobs))
