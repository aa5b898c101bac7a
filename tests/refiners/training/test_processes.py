"""A batch in pieces, in one process or several, gives what the whole batch gives."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from refiners import REFINERS, Distillation, ImageSet, read_state
from refiners.diff_instruct import DiffInstruct
from refiners.guided import Guided
from refiners.progressive import Progressive
from refiners.training.pieces import RowsOfBatch, pieces_of
from refiners.training.processes import Processes, couples_samples
from teachers.edm import EDMPrecond

ROOT = Path(__file__).parents[2]


def test_a_piece_draws_its_rows_of_the_batchs_noise() -> None:
    x = torch.zeros([12, 3, 2, 2])

    def draw(rows: slice) -> list[torch.Tensor]:
        torch.manual_seed(0)
        mine = x[rows]
        return [
            torch.randn_like(mine),
            torch.rand([len(mine)]),
            torch.randn(len(mine), 5),
            torch.randn([len(mine), 1, 4, 4], dtype=torch.float64),
            torch.randint(1, 1000, [len(mine)]),
            torch.randint(high=1000, size=[len(mine), 2]),
        ]

    whole = draw(slice(0, 12))
    for rows in (slice(0, 4), slice(4, 12), slice(11, 12)):
        with RowsOfBatch(rows, 12):
            pieces = draw(rows)
        for piece, all_rows in zip(pieces, whole, strict=True):
            assert torch.equal(piece, all_rows[rows])


def test_what_is_no_draw_of_the_batch_is_left_alone() -> None:
    def draw() -> list[torch.Tensor]:
        torch.manual_seed(0)
        own = torch.Generator().manual_seed(3)
        return [torch.randn([4], generator=own), torch.randn([7]), torch.randint(9, [])]

    expected = draw()
    with RowsOfBatch(slice(0, 4), 12):
        found = draw()
    assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))


def test_the_pieces_of_all_processes_are_the_batch() -> None:
    rows = [r for rank in range(2) for r in pieces_of(20, rank=rank, size=2, largest=4)]
    assert [i for r in rows for i in range(r.start, r.stop)] == list(range(20))
    assert [r.stop - r.start for r in rows] == [4, 4, 2, 4, 4, 2]
    with pytest.raises(ValueError, match="batch is 10, which 4 processes cannot share"):
        pieces_of(10, rank=0, size=4, largest=0)


# 16 images in pieces of 16, 8 and 6, 6, 4.
@pytest.mark.parametrize("name", [*REFINERS, "hold"])
def test_accumulating_gradients_over_pieces_equals_the_large_batch(
    refinement: Any, world: Any, name: str
) -> None:
    torch.manual_seed(1)
    student, teacher, method, inputs = world(
        "diff-instruct" if name == "hold" else name, torch.float64
    )
    if name == "hold":
        method = DiffInstruct(hold_contrast=0.5)
    ends = []
    for batch_gpu in (0, 8, 6):
        job = refinement(
            student,
            teacher,
            method,
            inputs=inputs,
            warmup_kimg=0.048,
            batch_gpu=batch_gpu,
            auxiliary_steps=2,
        )
        losses = [job.advance() for _ in range(7)]
        ends.append((job, losses))
    whole, expected = ends[0]
    assert whole.num_images == 16 * (7 - whole.num_warmup_steps)
    for job, losses in ends[1:]:
        for mine, theirs in zip(losses, expected, strict=True):
            assert mine == pytest.approx(theirs, rel=1e-5)
        for (where, a), b in zip(
            job.student.state_dict().items(), whole.student.state_dict().values(), strict=True
        ):
            torch.testing.assert_close(
                a, b, rtol=1e-5, atol=1e-6, msg=lambda m, w=where: f"{w} {m}"
            )


@pytest.mark.parametrize("method", [Progressive(num_steps=2), Guided(num_steps=2)])
def test_distilling_in_pieces_equals_the_large_batch(settings: Any, method: Any) -> None:
    teacher = EDMPrecond(
        img_resolution=8, img_channels=1, label_dim=3, model_channels=4, channel_mult=[1],
        num_blocks=1, attn_resolutions=[], dropout=0.0, label_dropout=0.1,
    ).eval()  # fmt: skip
    images = ImageSet(torch.randn(50, 1, 8, 8), torch.eye(3)[torch.arange(50) % 3])
    ends = []
    for batch_gpu in (0, 6):
        given = settings(kimg=0.064, glr=1e-3, batch_gpu=batch_gpu)
        job = Distillation(teacher, method, given, real_images=images)
        losses = [job.advance() for _ in range(4)]
        ends.append((job, losses))
    (whole, expected), (pieces, found) = ends
    assert [a.keys() for a in expected] == [a.keys() for a in found]
    for a, b in zip(expected, found, strict=True):
        assert b == pytest.approx(a, rel=1e-3)
    for a, b in zip(whole.student.parameters(), pieces.student.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-3, atol=2e-5)


class RunningMeanStudent(torch.nn.Module):
    """A student whose buffer follows its batches while it trains, as w_avg does."""

    def __init__(self) -> None:
        super().__init__()
        self.z_dim, self.c_dim, self.img_resolution, self.img_channels = 16, 0, 4, 1
        self.scale = torch.nn.Parameter(torch.tensor(0.5))
        self.w_avg: torch.Tensor
        self.register_buffer("w_avg", torch.zeros(16))

    def sample_latents(self, n: int) -> torch.Tensor:
        return torch.randn([n, 16])

    def forward(self, z: torch.Tensor, c: torch.Tensor | None = None) -> torch.Tensor:
        if self.training:
            self.w_avg.copy_(z.mean(dim=0).lerp(self.w_avg, 0.9))
        return (self.scale * z).reshape(-1, 1, 4, 4)


def test_running_means_see_the_batch_as_one(refinement: Any) -> None:
    whole, pieces = (refinement(RunningMeanStudent(), batch_gpu=n) for n in (0, 6))
    for job in (whole, pieces):
        for _ in range(13):
            job.advance()
    assert whole.num_images > 0
    assert whole.student.w_avg.abs().max() > 0.01
    torch.testing.assert_close(pieces.student.w_avg, whole.student.w_avg, rtol=1e-5, atol=1e-6)


def test_one_process_is_alone_and_shares_nothing() -> None:
    alone, rows = Processes(), torch.arange(3.0)
    assert (alone.rank, alone.size, alone.is_first) == (0, 1, True)
    assert torch.equal(alone.gather(rows, "a test"), rows)
    assert alone.from_first("x", "a test") == "x"
    assert alone.any(True, "a test") and not alone.any(False, "a test")


def test_a_method_whose_samples_see_each_other_is_known() -> None:
    assert couples_samples(REFINERS["f-distill"]()) and couples_samples(
        DiffInstruct(hold_contrast=0.1)
    )
    assert not couples_samples(DiffInstruct()) and not couples_samples(REFINERS["sid"]())


WORKER = """
import os, signal, sys, time, torch
torch.set_num_threads(1)
sys.path.insert(0, sys.argv[1]); sys.path.insert(0, sys.argv[1] + "/tests/refiners")
from conftest import GaussianDenoiser
from test_distributed import RunningMeanStudent
from refiners import Refinement, Settings, refine
from refiners.training.processes import Group, join
from refiners.diff_instruct import DiffInstruct
from refiners.f_distill import FDistill
from refiners import ImageSet

torch.manual_seed(1)
student, teacher = RunningMeanStudent(), GaussianDenoiser(0.1, 1.0)
kind = sys.argv[3]
processes = Group("cpu", step_seconds=10) if kind == "sticks" else join("cpu")

class Dying(DiffInstruct):
    def pixel_gradient(self, *a, **k):
        if processes.rank == 1:
            os._exit(9)
        return super().pixel_gradient(*a, **k)

class Stuck(DiffInstruct):
    def pixel_gradient(self, *a, **k):
        if processes.rank == 1:
            time.sleep(100)
        return super().pixel_gradient(*a, **k)

class Ending(DiffInstruct):
    def pixel_gradient(self, *a, **k):
        if processes.rank == 1:
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(0.1)
        return super().pixel_gradient(*a, **k)

methods = {
    "plain": DiffInstruct(), "coupled": DiffInstruct(hold_contrast=0.5), "dies": Dying(),
    "sticks": Stuck(),
    "ends": Ending(), "zero": DiffInstruct(),
}
batch = 24 if kind == "dies" else 16  # a multiple of the number of processes
settings = Settings(
    batch=batch, glr=1e-3, lr=1e-3, warmup_kimg=0.08, rampup_kimg=0, tick=0.16, snap=1,
    zero=kind == "zero",
)
refined = refine(
    student, teacher, method=methods[kind], kimg=0.32, settings=settings, outdir=sys.argv[2],
    processes=processes, progress=False,
    judge=lambda s: float(s.scale) if kind == "plain" else None,
)
torch.save(refined.state_dict(), f"{sys.argv[2]}/end-{processes.size}-{processes.rank}.pt")
processes.leave()
"""


def start_workers(folder: Path, size: int, kind: str) -> list[subprocess.Popen[str]]:
    """Start processes as torchrun would, but with nobody who ends the others when one ends."""
    folder.mkdir(parents=True, exist_ok=True)
    script = folder / "worker.py"
    script.write_text(WORKER)
    port = str(20000 + os.getpid() % 20000 + size)
    shared = {"WORLD_SIZE": str(size), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    return [
        subprocess.Popen(
            [sys.executable, str(script), str(ROOT), str(folder), kind],
            env={**os.environ, **shared, "RANK": str(rank), "OMP_NUM_THREADS": "1"},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for rank in range(size)
    ]


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["plain", "coupled"])
def test_one_two_and_four_processes_on_the_same_batch_agree_but_for_rounding(
    tmp_path: Path, kind: str
) -> None:
    ends = {}
    for size in (1, 2, 4):
        folder = tmp_path / str(size)
        workers = start_workers(folder, size, kind)
        for worker in workers:
            out = worker.communicate(timeout=120)[0]
            assert worker.returncode == 0, out
        each = [torch.load(folder / f"end-{size}-{rank}.pt") for rank in range(size)]
        for other in each[1:]:
            assert all(
                torch.equal(a, b) for a, b in zip(each[0].values(), other.values(), strict=True)
            )
        ends[size] = each[0]
        assert len([path for path in folder.iterdir() if path.is_dir()]) == 1
    for size in (2, 4):
        for name, value in ends[1].items():
            torch.testing.assert_close(ends[size][name], value, rtol=1e-4, atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("size", [2, 3])
def test_a_process_that_dies_stops_the_others_which_name_it(tmp_path: Path, size: int) -> None:
    workers = start_workers(tmp_path, size, "dies")
    said = [worker.communicate(timeout=120)[0] for worker in workers]  # well within STEP_SECONDS
    assert workers[1].returncode == 9, said[1]
    for rank in {*range(size)} - {1}:
        assert workers[rank].returncode not in (0, None)
        assert f"rank {rank} of {size} waited in" in said[rank]
        assert "for rank 1, which did not answer" in said[rank]


@pytest.mark.slow
def test_a_process_that_sticks_is_named_with_what_the_others_wait_for(tmp_path: Path) -> None:
    first, stuck = start_workers(tmp_path, 2, "sticks")
    said = first.communicate(timeout=90)[0]
    stuck.kill()
    stuck.communicate()
    assert first.returncode not in (0, None)
    assert "rank 0 of 2 waited in the student's gradient for rank 1, which did not answer" in said


@pytest.mark.slow
def test_a_signal_to_one_process_ends_all_of_them_with_a_state(tmp_path: Path) -> None:
    workers = start_workers(tmp_path, 2, "ends")
    said = [worker.communicate(timeout=120)[0] for worker in workers]
    assert [worker.returncode for worker in workers] == [128 + 15] * 2, said
    assert "stopped at kimg 0.016 by SIGTERM; resume continues from here" in said[0]
    after_warm_up, state = sorted(tmp_path.glob("*/training-state-*.pt"))
    assert read_state(after_warm_up)["num_images"] == 0
    assert read_state(state)["num_images"] == 16


@pytest.mark.slow
def test_processes_that_share_adams_moments_make_the_same_steps_and_the_same_state(
    tmp_path: Path,
) -> None:
    states = {}
    for kind in ("plain", "zero"):
        for worker in start_workers(tmp_path / kind, 2, kind):
            out = worker.communicate(timeout=120)[0]
            assert worker.returncode == 0, out
        last = sorted((tmp_path / kind).glob("*/training-state-*.pt"))[-1]
        states[kind] = read_state(last)
    for name in ("student", "auxiliary", "student_adam", "auxiliary_adam"):
        shared, alone = states["zero"][name], states["plain"][name]
        assert shared.keys() == alone.keys()
        for key, value in alone.get("state", alone).items():
            found = shared.get("state", shared)[key]
            values = value.items() if isinstance(value, dict) else [(None, value)]
            for part, tensor in values:
                assert torch.equal(found if part is None else found[part], tensor), (name, key)


def test_one_process_has_none_to_share_adams_moments_with(refinement: Any) -> None:
    with pytest.raises(ValueError, match=r"zero shares.* among processes, and there is one"):
        refinement(zero=True)
