"""A batch comes in pieces, in one process or several: each draws anew, and all are one step."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch

from refiners import REFINERS, read_state
from refiners.diff_instruct import DiffInstruct
from refiners.training.pieces import Pieces, pieces_of, seed_of
from refiners.training.refinement import couples_samples
from roles import Processes
from roles.streams import random_stream

ROOT = Path(__file__).parents[3]
CPU = torch.device("cpu")


def test_the_pieces_of_all_processes_are_the_batch() -> None:
    rows = [r for rank in range(2) for r in pieces_of(20, rank=rank, size=2, largest=4)]
    assert [i for r in rows for i in range(r.start, r.stop)] == list(range(20))
    assert [r.stop - r.start for r in rows] == [4, 4, 2, 4, 4, 2]
    with pytest.raises(ValueError, match="batch is 10, which 4 processes cannot share"):
        pieces_of(10, rank=0, size=4, largest=0)


def draw(n: int) -> list[torch.Tensor]:
    """Draw in every way that a module may."""
    return [
        torch.randn(n, 3),
        torch.empty(n, 3).normal_(),
        torch.normal(torch.zeros(n, 3), 1.0),
        torch.empty(n, 3).uniform_(),
        torch.nn.functional.dropout(torch.ones(n, 64), 0.5),
        torch.randint(2**40, [n]),
    ]


def test_whatever_draws_is_fresh_in_each_piece_and_depends_on_seed_step_and_first_row() -> None:
    pieces = Pieces(12, 4, 7, Processes(), CPU)
    with random_stream(0, CPU):
        pieces.begin(3)
        found = pieces.each(lambda i: draw(4)) + pieces.each(lambda i: draw(4))
    for kinds in zip(*found, strict=True):
        for i, a in enumerate(kinds):
            assert not any(torch.equal(a, b) for b in kinds[i + 1 :])
    with random_stream(seed_of(7, 3, 8), CPU):
        assert all(torch.equal(a, b) for a, b in zip(draw(4), found[2], strict=True))


def test_a_thousand_steps_of_a_thousand_rows_have_streams_of_their_own() -> None:
    steps = {seed_of(5, step, row) % 2**32 for step in range(1000) for row in range(0, 64_000, 64)}
    assert len(steps) == 1000 * 1000


@dataclass(frozen=True)
class Pull:
    """A method that pulls images to 0: g = x_0."""

    couples_samples: bool = False

    def pixel_gradient(self, x_0: Any, labels: Any, *, teacher: Any, auxiliary: Any) -> Any:
        return x_0.detach().clone()


class RunningMeanStudent(torch.nn.Module):
    """A student whose buffer follows its batches while it trains, as w_avg does; it notes z."""

    def __init__(self) -> None:
        super().__init__()
        self.z_dim, self.c_dim, self.img_resolution, self.img_channels = 16, 0, 4, 1
        self.scale = torch.nn.Parameter(torch.tensor(0.5))
        self.w_avg: torch.Tensor
        self.register_buffer("w_avg", torch.zeros(16))
        self.seen: list[torch.Tensor] = []

    def sample_latents(self, n: int, *, generator: Any = None) -> torch.Tensor:
        return torch.randn([n, 16], generator=generator)

    def forward(self, z: torch.Tensor, c: torch.Tensor | None = None) -> torch.Tensor:
        if self.training:
            self.w_avg.copy_(z.mean(dim=0).lerp(self.w_avg, 0.9))
            self.seen.append(z)
        return (self.scale * z).reshape(-1, 1, 4, 4)


# 16 images in pieces of 16, 8 and 6, 6, 4.
@pytest.mark.parametrize("batch_gpu", [0, 8, 6])
@pytest.mark.parametrize("coupled", [False, True])
def test_a_step_follows_the_mean_over_all_images_however_they_come(
    refinement: Any, batch_gpu: int, coupled: bool
) -> None:
    job = refinement(RunningMeanStudent(), method=Pull(coupled), batch_gpu=batch_gpu)
    job.advance()
    z = torch.cat(job.student.seen[-len(job.pieces.rows) :])
    assert len(z) == 16 and len(z.unique(dim=0)) == 16
    # g = scale z, dx_0 / dscale = z: the gradient is the mean over images of scale |z|^2.
    expected = 0.5 * z.square().sum(dim=1).mean()
    torch.testing.assert_close(job.student.scale.grad, expected)
    torch.testing.assert_close(job.student.w_avg, 0.1 * z.mean(dim=0))


def test_what_couples_the_samples_of_a_batch_sees_all_of_them(refinement: Any) -> None:
    seen: list[int] = []

    class Coupled(Pull):
        def pixel_gradient(self, x_0: Any, labels: Any, **networks: Any) -> Any:
            seen.append(len(x_0))
            return super().pixel_gradient(x_0, labels, **networks)

    for coupled in (False, True):
        refinement(RunningMeanStudent(), method=Coupled(coupled), batch_gpu=6).advance()
    assert seen == [6, 6, 4, 16]
    assert couples_samples(REFINERS["f-distill"]())
    assert not couples_samples(DiffInstruct()) and not couples_samples(REFINERS["sid"]())


@pytest.mark.parametrize("batch_gpu", [0, 6])
@pytest.mark.parametrize("coupled", [False, True])
def test_the_student_follows_the_auxiliarys_average_in_every_way_to_it(
    refinement: Any, batch_gpu: int, coupled: bool
) -> None:
    asked: list[Any] = []

    class Watching(DiffInstruct):
        def pixel_gradient(self, x_0: Any, labels: Any, *, teacher: Any, auxiliary: Any) -> Any:
            asked.append(auxiliary)
            return super().pixel_gradient(x_0, labels, teacher=teacher, auxiliary=auxiliary)

    method: Any = Watching()
    object.__setattr__(method, "couples_samples", coupled)
    job = refinement(method=method, batch_gpu=batch_gpu, warmup_kimg=0)
    job.advance()
    assert asked and all(auxiliary is job.auxiliary_average for auxiliary in asked)
    assert job.auxiliary_average is not job.auxiliary


def test_a_state_of_other_pieces_is_continued_with_a_line(refinement: Any) -> None:
    before, after = refinement(batch_gpu=8), refinement(batch_gpu=4)
    before.advance()
    (line,) = after.load_state_dict(before.state_dict())
    assert "of 1 processes with batch_gpu 8, this run of 1 with 4" in line
    assert before.load_state_dict(before.state_dict()) == []


def test_a_state_of_the_version_before_is_refused_in_a_line_and_lends_its_networks(
    refinement: Any,
) -> None:
    before, after = refinement(), refinement(seed=1)
    before.advance()
    state = before.state_dict()
    del state["format"]
    with pytest.raises(ValueError, match=r"another version of this program.*--transfer"):
        after.load_state_dict(state)
    after.start_from(state)
    assert torch.equal(after.auxiliary.mean, before.auxiliary.mean)


def test_one_process_is_alone_and_shares_nothing() -> None:
    alone, rows = Processes(), torch.arange(3.0)
    assert (alone.rank, alone.size, alone.is_first) == (0, 1, True)
    assert torch.equal(alone.gather(rows, "a test"), rows)
    assert alone.from_first("x", "a test") == "x"
    assert alone.any(True, "a test") and not alone.any(False, "a test")


WORKER = """
import datetime, os, signal, sys, time, torch
from pathlib import Path
torch.set_num_threads(1)
sys.path.insert(0, sys.argv[1])
from refiners import Distillation, Inputs, RunFolder, Session, Settings
from refiners.diff_instruct import DiffInstruct
from refiners.progressive import Progressive
from roles import Processes
from tests.refiners.conftest import GaussianDenoiser, pair_and_inputs, refine_toys
from tests.refiners.training.test_pieces import RunningMeanStudent

torch.manual_seed(1)
kind, pieces = sys.argv[3], int(sys.argv[4])
wait = datetime.timedelta(seconds=10 if kind == "sticks" else 100)
alone = os.environ["WORLD_SIZE"] == "1"
processes = Processes() if alone else Processes("cpu", wait=wait)
student, teacher, inputs = RunningMeanStudent(), GaussianDenoiser(0.1, 1.0), Inputs()

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

methods = {"plain": DiffInstruct(), "dies": Dying(), "sticks": Stuck(), "ends": Ending()}
names = {"moments": "diff-instruct-moments", "dmd2": "dmd2", "f-distill": "f-distill", "dmd": "dmd"}
if kind in names:
    student, teacher, method, inputs = pair_and_inputs(names[kind])
elif kind == "progressive":
    _, teacher, _, inputs = pair_and_inputs("dmd2")
else:
    method = methods[kind]
batch = 24 if kind == "dies" else 16  # a multiple of the number of processes
settings = Settings(
    batch=batch, glr=1e-3, lr=1e-3, warmup_kimg=0.08, rampup_kimg=0, tick=0.16, snap=1,
    batch_gpu=0 if pieces == 1 else batch // processes.size // pieces, kimg=0.32,
)
if kind == "progressive":
    run = Distillation(
        teacher, Progressive(num_steps=2), settings, real_images=inputs.real_images,
        processes=processes,
    )
    folder = RunFolder.create(Path(sys.argv[2]), "d") if processes.is_first else None
    refined = Session(run, folder, progress=False).run_from(False)
else:
    refined = refine_toys(
        student, teacher, method=method, kimg=0.32, settings=settings, outdir=sys.argv[2],
        processes=processes, progress=False, inputs=inputs,
        judge=(lambda s: float(s.scale)) if kind == "plain" else None,
    )
torch.save(refined.state_dict(), f"{sys.argv[2]}/end-{processes.size}-{processes.rank}.pt")
processes.leave()
"""


def start_workers(
    folder: Path, size: int, kind: str, *, pieces: int = 1
) -> list[subprocess.Popen[str]]:
    """Start processes as torchrun would, but with nobody who ends the others when one ends."""
    folder.mkdir(parents=True, exist_ok=True)
    script = folder / "worker.py"
    script.write_text(WORKER)
    port = str(20000 + os.getpid() % 20000 + size)
    shared = {"WORLD_SIZE": str(size), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    return [
        subprocess.Popen(
            [sys.executable, str(script), str(ROOT), str(folder), kind, str(pieces)],
            env={**os.environ, **shared, "RANK": str(rank), "OMP_NUM_THREADS": "1"},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for rank in range(size)
    ]


@pytest.mark.parametrize(
    ("kind", "sizes"),
    [
        ("plain", (1, 2)),
        *(pytest.param(kind, (1, 2, 4), marks=pytest.mark.slow) for kind in ("moments", "dmd2")),
        pytest.param("f-distill", (1, 2), marks=pytest.mark.slow),
        pytest.param("dmd", (1, 2), marks=pytest.mark.slow),
        pytest.param("progressive", (1, 2), marks=pytest.mark.slow),
    ],
)
def test_processes_of_one_piece_equal_one_process_of_as_many_pieces(
    tmp_path: Path, kind: str, sizes: tuple[int, ...]
) -> None:
    ends = {}
    for size in sizes:
        folder = tmp_path / str(size)
        workers = start_workers(folder, size, kind, pieces=sizes[-1] // size)
        for worker in workers:
            out = worker.communicate(timeout=120)[0]
            assert worker.returncode == 0, out
        each = [torch.load(folder / f"end-{size}-{rank}.pt") for rank in range(size)]
        for other in each[1:]:
            assert all(
                torch.equal(a, b) for a, b in zip(each[0].values(), other.values(), strict=True)
            )
        ends[size] = each[0]
        (run,) = [path for path in folder.iterdir() if path.is_dir()]
        assert "\ntick 2 " in (run / "log.txt").read_text()  # it came to its end
    for size in sizes[1:]:
        for name, value in ends[1].items():
            torch.testing.assert_close(ends[size][name], value, rtol=1e-5, atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("size", [2, 3])
def test_a_process_that_dies_stops_the_others_which_name_it(tmp_path: Path, size: int) -> None:
    workers = start_workers(tmp_path, size, "dies")
    said = [worker.communicate(timeout=120)[0] for worker in workers]
    assert workers[1].returncode == 9, said[1]
    for rank in {*range(size)} - {1}:
        assert workers[rank].returncode not in (0, None)
        assert f"rank {rank} of {size} waited in" in said[rank]


@pytest.mark.slow
def test_a_process_that_sticks_is_named_with_what_the_others_wait_for(tmp_path: Path) -> None:
    first, stuck = start_workers(tmp_path, 2, "sticks")
    said = first.communicate(timeout=90)[0]
    stuck.kill()
    stuck.communicate()
    assert first.returncode not in (0, None)
    assert "rank 0 of 2 waited in" in said and "resumed from its last state" in said
    assert "Rank 1" in said or "rank 1" in said


@pytest.mark.slow
def test_a_signal_to_one_process_ends_all_of_them_with_a_state(tmp_path: Path) -> None:
    workers = start_workers(tmp_path, 2, "ends")
    said = [worker.communicate(timeout=120)[0] for worker in workers]
    assert [worker.returncode for worker in workers] == [128 + 15] * 2, said
    assert "stopped at kimg 0.016 by SIGTERM; resume continues from here" in said[0]
    after_warm_up, state = sorted(tmp_path.glob("*/training-state-*.pt"))
    assert read_state(after_warm_up)["num_images"] == 0
    assert read_state(state)["num_images"] == 16
