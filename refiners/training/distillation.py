"""Distillation of a denoiser into one of few steps: the step of methods that train on images.

It shares the schedule, the session, the states and the guarded optimiser with the refinement of a
generator (loop), not the pixel gradient. The run is cut into stages of equal length; each begins
from the average of the one before, which becomes its teacher.
"""

from __future__ import annotations

import copy
from dataclasses import asdict
from typing import Any, ClassVar, Protocol

import torch
from jaxtyping import Float

from refiners.progressive import Progressive, SteppedStudent
from refiners.training.figures import Figures
from refiners.training.inputs import ImageSet, RealImages, source_stream
from refiners.training.optimiser import (
    follow,
    frozen_view,
    half_life_of,
    new_adam,
    pixels_of,
    replicated,
    step_if_finite,
    summing_up,
)
from refiners.training.pieces import Pieces, seed_of
from refiners.training.precision import arithmetic, check_device, prepare, settled
from refiners.training.settings import Settings
from refiners.training.shared_pass import check_shared_pass
from refiners.training.state import Counts, Parts, State, restore, state_of
from roles import Denoiser, Processes
from roles.device import sent
from roles.streams import random_stream


class Distiller(Protocol):
    """A method that trains a denoiser to need fewer steps; a frozen dataclass, as Method is."""

    __dataclass_fields__: ClassVar[dict[str, Any]]

    @property
    def stages(self) -> tuple[int, ...]:
        """The student's number of steps in each stage; 0 is a stage that halves nothing."""
        ...

    @property
    def halving(self) -> Progressive:
        """What the sampler of the result goes by."""
        ...

    def new_student(self, teacher: Denoiser) -> Denoiser:
        """Return the network that is trained, which starts as the teacher."""
        ...

    def loss(
        self,
        x_0: Float[torch.Tensor, "n c h w"],
        labels: Float[torch.Tensor, "n k"] | None,
        *,
        student: Denoiser,
        teacher: Denoiser,
        original: Denoiser,
        num_steps: int,
    ) -> torch.Tensor:
        """Return a scalar; teacher is the last stage's student, original the teacher given."""
        ...


class DistillationLoss(torch.nn.Module):
    """A stage's loss as a module, for that is what several processes share the gradient of."""

    def __init__(self, method: Distiller, student: Denoiser, teacher: Denoiser, original: Denoiser):
        super().__init__()
        self.student = student
        self.method, self.networks = method, {"teacher": teacher, "original": original}

    def forward(
        self,
        x_0: Float[torch.Tensor, "n c h w"],
        labels: Float[torch.Tensor, "n k"] | None,
        num_steps: int,
    ) -> torch.Tensor:
        """Return the mean loss of the student of so many steps."""
        return self.method.loss(
            x_0, labels, student=self.student, num_steps=num_steps, **self.networks
        )


class Distillation:
    """A run in memory: the denoiser that is trained, its average, and the teacher of the stage.

    The teacher given is never changed. `average` is the result, as a student.

    Args:
        teacher: a module that is a Denoiser.
        method: Progressive or Guided.
        settings: glr is the rate, falling to 0 over each stage; what concerns the auxiliary and the
            warm-up is not used. With ema 0, the methods' own, a stage hands on its raw weights.
        real_images: source of clean images, see inputs; the teacher's samples will do.
        processes: those that share the batches; None is this one alone.
    """

    num_warmup_steps = 0

    def __init__(
        self,
        teacher: Denoiser,
        method: Distiller,
        settings: Settings,
        *,
        real_images: RealImages,
        processes: Processes | None = None,
    ):
        self.method = method
        self.real_images = real_images
        self.waiting: Figures | None = None  # of the step before, on a GPU
        self.original = frozen_view(teacher)
        self.student = method.new_student(teacher).eval().requires_grad_(True)
        self.teacher = copy.deepcopy(self.student).requires_grad_(False)
        self.stage = 0
        self.average = SteppedStudent(
            copy.deepcopy(self.teacher), method.halving, max(method.stages[0], 1)
        )
        self.device = next(self.student.parameters()).device
        self.settings = settings = settled(settings, self.device)
        check_device(settings, self.device)
        if isinstance(real_images, ImageSet):
            self.real_images = real_images.on(self.device)
        check_shared_pass(method, settings)
        self.processes = processes or Processes()
        self.pieces = Pieces(
            settings.batch, settings.batch_gpu, settings.seed, self.processes, self.device
        )
        for network in (self.student, self.teacher, self.original):
            prepare(network, settings, self.device)
        loss = DistillationLoss(method, self.student, self.teacher, self.original)
        self.loss = replicated(loss, self.processes)
        self.student_adam = self._new_adam()
        self.counts = Counts()

    @property
    def step(self) -> int:
        """Steps done."""
        return self.counts.step

    @property
    def num_images(self) -> int:
        """Images seen so far."""
        return self.step * self.settings.batch

    @property
    def steps_per_stage(self) -> int:
        """Length of a stage; the last one may be shorter."""
        return -(-self.settings.num_steps // len(self.method.stages))

    def advance(self) -> dict[str, float]:
        """Do one step and return its loss; one that is not finite moves nothing, see Counts.

        On a GPU the loss is that of the step before; settle has that of the last.
        """
        stage = min(self.step // self.steps_per_stage, len(self.method.stages) - 1)
        if stage != self.stage:
            self._begin(stage)
        settings, done = self.settings, self.step - self.stage * self.steps_per_stage
        with (
            self.processes.together("a step"),
            arithmetic(settings, self.device),
            random_stream(seed_of(settings.seed, self.step), self.device),
        ):
            self.pieces.begin(self.step)
            self.student_adam.zero_grad()
            loss = torch.stack(self.pieces.each(self._part)).sum()
            self.processes.mean(loss, phase="the loss")
        rate = settings.glr * self.counts.rate_scale * (1 - done / self.steps_per_stage)
        steps = {"Progress/student_steps": float(self.method.stages[self.stage])}
        figures = Figures(self.device, steps)
        moved = step_if_finite(
            self.student_adam,
            loss,
            rate,
            figures,
            names=("Loss/distillation", "Gradient/student_norm"),
            clip=settings.clip * pixels_of(self.original),
        )
        if moved:
            half_life = half_life_of(settings, done * settings.batch)
            follow(self.average.denoiser, self.student, settings.batch, half_life)
        if not figures.is_late:
            return self.counts.note(figures.read(), seed=settings.seed)
        figures.leave()
        losses = self.settle()
        self.waiting = figures
        self.counts.step += 1
        return losses

    def settle(self) -> dict[str, float]:
        """Return the loss of a step that advance has not returned yet, see there; or none."""
        figures, self.waiting = self.waiting, None
        if figures is None:
            return {}
        return self.counts.judge(figures.read(), self.step - 1, seed=self.settings.seed)

    def _part(self, i: int) -> torch.Tensor:
        """Take a piece's part of the loss, and the gradient of that."""
        x_0, labels = self.real_images(self.pieces.size(i), source_stream())
        on = self.device
        labels = None if labels is None or not self.original.label_dim else sent(labels, on)
        share = self.pieces.size(i) / self.pieces.share
        with summing_up(self.loss, last=self.pieces.is_last(i)):
            loss = self.loss(sent(x_0, on), labels, self.method.stages[self.stage]) * share
            loss.backward()
        return loss.detach()

    def _new_adam(self) -> torch.optim.Adam:
        return new_adam(self.student.parameters(), self.settings.glr, self.settings)

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

    def _parts(self) -> Parts:
        networks = {"student": self.student, "average": self.average, "teacher": self.teacher}
        return Parts(networks, {"student_adam": self.student_adam})

    def _options(self) -> State:
        # The length decides where the stages are, so it may not change.
        method = {"method": type(self.method).__name__, **vars(self.method)}
        method["steps_per_stage"] = self.steps_per_stage
        return {"settings": asdict(self.settings), "method": method}

    def state_dict(self) -> State:
        """Return everything that moves, as plain data and tensors."""
        self.settle()
        state = state_of(
            self._parts(), self.counts, self._options(), self.num_images, self.processes.size
        )
        return state | {"stage": self.stage}

    def load_state_dict(self, state: State) -> list[str]:
        """Continue from a state of the same settings, length included; see Refinement.

        Raises:
            ValueError: settings or networks that differ, with the difference; a state that lacks
                something. Then nothing has changed.
        """
        stage, stages = state.get("stage"), self.method.stages
        if not isinstance(stage, int) or not 0 <= stage < len(stages):
            raise ValueError(f"the state's stage is {stage!r}; give a state of this method's run")
        remarks = restore(state, self._parts(), self.counts, self._options(), self.processes.size)
        self.waiting, self.stage = None, stage
        self.average.num_steps = max(stages[stage], 1)
        return remarks
