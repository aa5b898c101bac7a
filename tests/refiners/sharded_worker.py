"""What test_sharded_teacher starts in several processes: runs with the teacher whole and in shards.

Its argument is the folder where they leave what they reached.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import torch
from conftest import pair_and_inputs
from test_memory_saving import BlockStudent, small_edm

from refiners import REFINERS, Refinement, Settings, refine
from refiners.training.processes import Processes, join
from teachers.guidance import Guided

CASES = {
    "guided": "diff-instruct",  # of a teacher that is two networks
    "sid": "sid",  # its gradient runs through the teacher
    "moments": "diff-instruct-moments",  # and through the teacher's features
}
SETTINGS = {"kimg": 0.032, "batch": 16, "warmup_kimg": 0.016, "rampup_kimg": 0.0, "snap": 9}


def new_pair(*, guided: bool = False) -> tuple[Any, Any]:
    """Return a student and a teacher in float64, where Adam does not amplify rounding."""
    torch.manual_seed(0)
    student, teacher = BlockStudent().double(), small_edm().double()
    teacher.gain = torch.nn.Parameter(torch.tensor(1.0))  # a number, as some networks have
    student.sample_latents = lambda n, generator=None: torch.randn(  # type: ignore[method-assign]
        [n, 16], generator=generator, dtype=torch.float64
    )
    return student, Guided(teacher, small_edm().double(), weight=2.0) if guided else teacher


def settings(**changes: Any) -> Settings:
    return Settings(**{**SETTINGS, **changes})


def run(case: str, shard: bool, outdir: Path, processes: Processes) -> dict[str, Any]:
    """Return the result of a run whose judge asks the teacher's features in process 0 alone."""
    student, teacher = new_pair(guided=case == "guided")
    before = [p.detach().clone() for p in teacher.parameters()]
    _, _, method, inputs = pair_and_inputs(CASES[case], torch.float64)

    judged: list[float] = []

    @torch.no_grad()
    def judge(candidate: Any) -> float:
        x_0 = candidate(torch.ones([4, 16], dtype=torch.float64))
        seen = float(teacher.features(x_0, torch.ones([4]))[-1].square().mean())
        judged.append(seen)
        return seen - len(judged)  # so that the last is the best

    refined = refine(
        student,
        teacher,
        method=method,
        kimg=SETTINGS["kimg"],
        settings=settings(shard_teacher=shard),
        outdir=outdir,
        processes=processes,
        progress=False,
        judge=judge,
        real_images=inputs.real_images,
    )
    assert all(map(torch.equal, before, teacher.parameters()))
    return {**refined.state_dict(), "judged": torch.tensor(judged)}


def bytes_held(network: torch.nn.Module) -> int:
    """Return the bytes of this process' part of a network."""
    tensors = (getattr(t, "_local_tensor", t) for t in [*network.parameters(), *network.buffers()])
    storages = {s.data_ptr(): s.nbytes() for s in (t.untyped_storage() for t in tensors)}
    return sum(storages.values())


def bytes_in_a_run(processes: Processes) -> dict[str, int]:
    """Return the bytes of the teacher, and after a step those of its shards and of itself."""
    student, teacher = new_pair()
    given = settings(warmup_kimg=0.0, shard_teacher=True)
    job = Refinement(student, teacher, REFINERS["sid"](), given, processes=processes)
    assert job.sharded is not None
    whole = bytes_held(teacher)
    with job.offloaded.away():
        job.advance()
        stays = bytes_held(teacher) + bytes_held(job.teacher)
        assert all(b.untyped_storage().nbytes() for b in job.sharded.buffers())
        return {"whole": whole, "share": bytes_held(job.sharded), "stays": stays}


def main(folder: Path) -> None:
    torch.set_num_threads(1)
    processes = join("cpu")
    ends = {
        (case, shard): run(case, shard, folder / f"{case}-{shard}", processes)
        for case in CASES
        for shard in (False, True)
    }
    found = {"start": new_pair()[0].state_dict(), "ends": ends, "bytes": bytes_in_a_run(processes)}
    torch.save(found, folder / f"{processes.rank}.pt")
    processes.leave()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
