"""Distillation of a denoiser into one of few steps: the step of methods that train on images.

It shares the schedule, the session, the states and the guarded optimiser with the refinement of a
generator (loop), not the pixel gradient. The run is cut into stages of equal length; each begins
from the average of the one before, which becomes its teacher.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, Protocol

import torch

from refiners.guided import Guided
from refiners.progressive import Progressive, SteppedStudent
from refiners.runs.folder import RunFolder
from refiners.runs.session import Board, Session, run_folder_of
from refiners.training.average import follow, frozen_view
from refiners.training.inputs import RealImages, source_stream
from refiners.training.memory_saving import checkpoint_blocks
from refiners.training.optimiser import Skips, new_adam, random_stream, step_if_finite
from refiners.training.pieces import Pieces
from refiners.training.precision import begin_step, check_device, prepare, tensor_cores
from refiners.training.processes import Processes
from refiners.training.settings import Settings
from refiners.training.shared_pass import check_shared_pass
from refiners.training.state import layout_of, restore

DISTILLERS: dict[str, type] = {"progressive": Progressive, "guided": Guided}


class Distiller(Protocol):
    """A method that trains a denoiser to need fewer steps."""

    @property
    def stages(self) -> tuple[int, ...]:
        """The student's number of steps in each stage; 0 is a stage that halves nothing."""
        ...

    @property
    def halving(self) -> Progressive:
        """What the sampler of the result goes by."""
        ...

    def new_student(self, teacher: Any) -> Any:
        """Return the network that is trained, which starts as the teacher."""
        ...

    def loss(
        self,
        x_0: torch.Tensor,
        labels: torch.Tensor | None,
        *,
        student: Any,
        teacher: Any,
        original: Any,
        num_steps: int,
    ) -> torch.Tensor:
        """Return a scalar; teacher is the last stage's student, original the teacher given."""
        ...


class Distillation:
    """A run in memory: the denoiser that is trained, its average, and the teacher of the stage.

    The teacher given is never changed. `average` is the result, as a student.

    Args:
        teacher: a module that is a Denoiser.
        method: Progressive or Guided.
        settings: glr is the rate, falling to 0 over each stage; what concerns the auxiliary and the
            warm-up is not used.
        real_images: source of clean images, see inputs; the teacher's samples will do.
        processes: those that share the batches; None is this one alone.
    """

    num_warmup_steps = 0

    def __init__(
        self,
        teacher: Any,
        method: Distiller,
        settings: Settings,
        *,
        real_images: RealImages,
        processes: Processes | None = None,
    ):
        self.method = method
        self.settings = settings
        self.real_images = real_images
        self.original = frozen_view(teacher)
        self.student = method.new_student(teacher).eval().requires_grad_(True)
        self.teacher = copy.deepcopy(self.student).requires_grad_(False)
        self.stage = 0
        self.average = SteppedStudent(
            copy.deepcopy(self.teacher), method.halving, max(method.stages[0], 1)
        )
        self.device = next(self.student.parameters()).device
        check_device(settings, self.device)
        check_shared_pass(method, settings)
        check_teacher_stays(settings)
        self.processes = processes or Processes()
        self.pieces = Pieces(settings, self.processes, self.device)
        for network in (self.student, self.teacher, self.original):
            prepare(network, settings, self.device)
        self.student_adam = self._new_adam()
        if settings.activation_checkpointing:
            checkpoint_blocks(self.student)
        self.step = 0
        self.skips = Skips()
        self.rate_scale = 1.0

    @property
    def num_images(self) -> int:
        """Images seen so far."""
        return self.step * self.settings.batch

    @property
    def steps_per_stage(self) -> int:
        """Length of a stage; the last one may be shorter."""
        return -(-self.settings.num_steps // len(self.method.stages))

    def advance(self) -> dict[str, float]:
        """Do one step and return its loss; a step that is not finite moves nothing, see Skips."""
        stage = min(self.step // self.steps_per_stage, len(self.method.stages) - 1)
        if stage != self.stage:
            self._begin(stage)
        num_steps = self.method.stages[self.stage]
        settings = self.settings
        begin_step(settings)
        with (
            tensor_cores(settings.precision, self.device),
            random_stream(settings.seed * 1_000_003 + self.step, self.device),
        ):
            images, labels = self.real_images(settings.batch, source_stream())
            labels = None if labels is None or not self.original.label_dim else labels
            self.student_adam.zero_grad()
            loss = torch.stack(self.pieces.each(lambda i: self._loss(images, labels, i))).sum()
            grads = [p.grad for p in self.student.parameters() if p.grad is not None]
            self.processes.add([loss, *grads], "the student's gradient")
        done = self.step - self.stage * self.steps_per_stage
        rate = self.settings.glr * self.rate_scale * (1 - done / self.steps_per_stage)
        value, size = step_if_finite(self.student_adam, loss, rate)
        losses = {"Loss/distillation": value, "Gradient/student_norm": size}
        self.step += 1
        if not self.skips.note(losses, step=self.step - 1, seed=self.settings.seed):
            return {}
        half_life = self.settings.ema_kimg * 1000
        if self.settings.ema_rampup_ratio:
            seen = done * self.settings.batch
            half_life = min(half_life, seen * self.settings.ema_rampup_ratio)
        follow(self.average.denoiser, self.student, self.settings.batch, half_life)
        return losses | {"Progress/student_steps": float(num_steps)}

    def _loss(self, images: torch.Tensor, labels: torch.Tensor | None, i: int) -> torch.Tensor:
        """Take a piece's part of the loss, and the gradient of that."""
        x_0, labels = (self.pieces.cut(part, i) for part in (images, labels))
        loss = self.method.loss(
            x_0.to(self.device),
            None if labels is None else labels.to(self.device),
            student=self.student,
            teacher=self.teacher,
            original=self.original,
            num_steps=self.method.stages[self.stage],
        )
        loss = loss * self.pieces.share(i)
        loss.backward()
        return loss.detach()

    def _new_adam(self) -> torch.optim.Optimizer:
        settings = self.settings
        return new_adam(self.student.parameters(), settings.glr, settings, self.processes)

    def _begin(self, stage: int) -> None:
        """Make the average the teacher, start from it, and forget the optimiser's moments."""
        self.stage = stage
        weights = self.average.denoiser.state_dict()
        self.teacher.load_state_dict(weights)
        self.student.load_state_dict(weights)
        self.student_adam = self._new_adam()
        self.average.num_steps = max(self.method.stages[stage], 1)

    def health(self) -> dict[str, float]:
        """Return nothing: there is no auxiliary network."""
        return {}

    def views(self) -> None:
        """Return nothing: see health."""

    def _parts(self) -> dict[str, Any]:
        return {
            "student": self.student,
            "average": self.average,
            "teacher": self.teacher,
            "student_adam": self.student_adam,
        }

    def gather(self) -> None:
        """Bring to process 0 what each process holds a share of; all of them call it."""
        self.processes.gather_optimisers(self._parts().values(), "gathering the state")

    def state_dict(self) -> dict[str, Any]:
        """Return everything that moves, as plain data and tensors; see gather."""
        return self._facts() | {name: part.state_dict() for name, part in self._parts().items()}

    def _facts(self) -> dict[str, Any]:
        counts = {
            "num_images": self.num_images,
            "step": self.step,
            "stage": self.stage,
            "skipped": self.skips.total,
            "skipped_in_row": self.skips.in_row,
            "rate_scale": self.rate_scale,
        }
        # The length decides where the stages are, so it may not change.
        method = {"method": type(self.method).__name__, **vars(self.method)}
        method["steps_per_stage"] = self.steps_per_stage
        options = {"settings": asdict(self.settings), "method": method}
        return counts | options

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from a state of the same settings, length included.

        Raises:
            ValueError: settings or networks that differ, with the difference; a state that lacks
                something. Then nothing has changed.
        """
        parts = self._parts()
        restore(state, self._facts() | layout_of(parts), parts)
        self.step, self.stage = state["step"], state["stage"]
        self.rate_scale = state["rate_scale"]
        self.skips.total, self.skips.in_row = state["skipped"], state["skipped_in_row"]
        self.average.num_steps = max(self.method.stages[self.stage], 1)


def check_teacher_stays(settings: Settings) -> None:
    """Raise ValueError for settings that take the teacher off its device in part of a step."""
    for name in ("offload_teacher", "shard_teacher"):
        if getattr(settings, name):
            raise ValueError(f"{name}: this method always asks the teacher; leave it out")


def distil(
    teacher: Any,
    *,
    method: str | Distiller = "progressive",
    real_images: RealImages,
    kimg: float,
    batch: int | None = None,
    settings: Settings | None = None,
    outdir: str | Path | None = None,
    folder: RunFolder | None = None,
    save: Any = None,
    measure: Any = None,
    resume: bool | Path = False,
    progress: bool | None = None,
    processes: Processes | None = None,
    boards: Sequence[Board] = (),
) -> SteppedStudent:
    """Distil a denoiser into one of few steps and return it as a student; see refine().

    Args:
        teacher: a module that is a Denoiser; stays as it is.
        method: a name in DISTILLERS, with its default knobs, or one of its dataclasses.
        real_images: source of clean images; the teacher's own samples will do.
        kimg: length of the run in thousands of images, over all stages.
        batch: images per step; None takes that of the settings.
        settings: everything else, see Distillation.
        outdir: where to make a run folder; None writes nothing.
        folder: an existing run folder instead of outdir.
        save: called as save(student, path) for each snapshot; None writes none.
        measure: called as measure(student, num_images) at each snapshot.
        resume: continue from this state in `folder`, or with True from the newest whole one.
        progress: show a progress bar; None shows it on a terminal.
        processes: those that share the batches; None is this one alone.
        boards: called with the statistics of each tick and the thousands of images so far.

    Raises:
        ValueError: a teacher that the method cannot use, an unknown method, a setting out of range,
            a state of other settings.
    """
    if isinstance(method, str) and method not in DISTILLERS:
        raise ValueError(f"method is {method!r}; allowed are {', '.join(DISTILLERS)}")
    chosen: Distiller = DISTILLERS[method]() if isinstance(method, str) else method
    settings = (settings or Settings()).with_length(kimg, batch)
    job = Distillation(teacher, chosen, settings, real_images=real_images, processes=processes)
    folder = run_folder_of(folder, outdir, "distill") if job.processes.is_first else None
    session = Session(job, folder, save=save, measure=measure, progress=progress, boards=boards)
    if resume:
        session.resume(None if resume is True else Path(resume))
    session.run()
    return session.result()
