"""A whole run from Python: refine()."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from refiners.base import Distance, Method, WithPairs
from refiners.methods import REFINERS
from refiners.runs.best import Best, Judge
from refiners.runs.folder import RunFolder, read_state
from refiners.runs.session import Board, Session, run_folder_of
from refiners.training.inputs import Inputs, Pairs, RealImages, name_of, pseudo_huber
from refiners.training.processes import Processes
from refiners.training.refinement import Refinement
from refiners.training.settings import Settings


def refine(
    student: Any,
    teacher: Any,
    *,
    method: str | Method = "diff-instruct",
    kimg: float,
    batch: int | None = None,
    settings: Settings | None = None,
    outdir: str | Path | None = None,
    folder: RunFolder | None = None,
    save: Callable[[Any, Path], object] | None = None,
    measure: Callable[[Any, int], Mapping[str, Any]] | None = None,
    resume: bool | Path = False,
    progress: bool | None = None,
    real_images: RealImages | None = None,
    pairs: Pairs | None = None,
    distance: Distance | None = None,
    auxiliary: Any = None,
    judge: Judge | None = None,
    transfer: str | Path | None = None,
    processes: Processes | None = None,
    boards: Sequence[Board] = (),
) -> Any:
    """Refine a student by a teacher and return the refined student; the one given is not changed.

    SIGINT and SIGTERM let the step finish and the state be written, then end the process.

    Args:
        student: a module that is a Student (see base), on the teacher's device.
        teacher: a module that is a Denoiser of the same resolution and channels; stays as it is.
        method: a name in REFINERS, with its default knobs, or one of its dataclasses.
        kimg: length of the run in thousands of the student's images; above 0.
        batch: images per step; None takes that of the settings.
        settings: everything else, see Settings; kimg and batch above take precedence.
        outdir: where to make a run folder; None writes nothing.
        folder: an existing run folder instead of outdir.
        save: called as save(student, path) for each network-snapshot-NNNNNN.pkl and best.pkl; None
            writes neither.
        measure: called as measure(student, num_images) at each snapshot; its numbers go to the
            statistics.
        resume: continue from this state in `folder`, or with True from the newest whole one, to the
            same numbers as an undisturbed run.
        progress: show a progress bar; None shows it on a terminal.
        real_images: source of real images, for dmd2 and f-distill; the teacher's samples may stand
            for them. See refiners.training.inputs, ImageSet.
        pairs: source of latents with the teacher's images for them, for dmd. See PairSet.
        distance: of the student's images to those of the pairs, (x, y) -> [n]; None is
            pseudo-Huber.
        auxiliary: a Denoiser that the auxiliary network starts from; None is a copy of the teacher.
        judge: called on the original, at the first snapshot of each kimg and at the end, returns a
            number, lower is better, or None. The best student is then the result, which may be the
            original.
        transfer: a training state whose networks the run starts from, with all else new.
        processes: those that share the batches, see training.processes; None is this one alone.
            Only process 0 writes, measures and judges; all return the same student.
        boards: called with the statistics of each tick and the thousands of images so far.

    Raises:
        ValueError: a pair that does not fit, an unknown method, a setting out of range, a state of
            other settings.
        FloatingPointError: step after step is not finite, after a new try at half the rates.
        MemoryError: a GPU has too little memory; the states that were written are whole.
        OSError: a file cannot be written; likewise.
    """
    if resume and transfer is not None:
        raise ValueError("resume and transfer are both given; choose one")
    settings = (settings or Settings()).with_length(kimg, batch)
    refinement = Refinement(
        student,
        teacher,
        chosen_method(method),
        settings,
        inputs=Inputs(real_images, pairs, distance or pseudo_huber),
        auxiliary=auxiliary,
        processes=processes,
    )
    if transfer is not None:
        refinement.start_from(read_state(Path(transfer)))
    first = refinement.processes.is_first
    folder = run_folder_of(folder, outdir, "refine") if first else None

    def judge_here(student: Any) -> float | None:
        assert judge is not None
        with refinement.offloaded.here():  # it may see by the teacher's features
            return judge(student)

    best = Best(judge_here, refinement.average) if judge and first else None
    remark = ""
    if isinstance(refinement.method, WithPairs):
        remark = f"regression on pairs by {name_of(refinement.inputs.distance)}"
    session = Session(
        refinement,
        folder,
        save=save,
        measure=measure,
        progress=progress,
        best=best,
        remark=remark,
        boards=boards,
    )
    if resume:
        session.resume(None if resume is True else Path(resume))
    waits = settings.offload_teacher or settings.shard_teacher
    with refinement.offloaded.away() if waits else contextlib.nullcontext():
        session.run()
    return session.result()


def chosen_method(method: str | Method) -> Method:
    """Return the method of that name with its default knobs, or the one given."""
    if not isinstance(method, str):
        return method
    if method not in REFINERS:
        raise ValueError(f"method is {method!r}; allowed are {', '.join(REFINERS)}")
    return REFINERS[method]()
