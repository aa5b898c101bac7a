"""A refinement in memory: networks, optimisers, averages, counts, and the state that holds them.

It knows no method. Each step (see step) draws one batch of the student's images; it trains the
auxiliary and, through the method's pixel gradient, the student. All randomness of a step comes from
(seed, step), so a resumed run equals the undisturbed one.
"""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Iterator
from dataclasses import asdict
from typing import Any

import torch

from refiners.base import Method, WithAuxiliary, WithHead, WithMemory, WithPairs
from refiners.training.average import frozen_view
from refiners.training.fit import check_pair
from refiners.training.health import Health
from refiners.training.inputs import Inputs, draw_inputs, name_of, source_stream
from refiners.training.memory_saving import (
    Offloaded,
    Sharded,
    check_shard_teacher,
    checkpoint_blocks,
)
from refiners.training.optimiser import Skips, new_adam, random_stream, trainable
from refiners.training.pieces import Pieces
from refiners.training.precision import begin_step, check_device, prepare, tensor_cores
from refiners.training.processes import Processes
from refiners.training.settings import Settings
from refiners.training.shared_pass import check_shared_pass
from refiners.training.state import check_layout, check_tensors, layout_of, restore
from refiners.training.step import take_step


class Refinement:
    """A run in memory: the student and the auxiliary that move, their averages, the frozen teacher.

    The student and the teacher given are never changed; `average` is the refined student.

    Args:
        student: a module that is a Student.
        teacher: a module that is a Denoiser.
        method: what to follow, see base.
        settings: everything else.
        inputs: real images, pairs and distance, where the method needs them.
        auxiliary: a Denoiser to start the auxiliary network from; None is a copy of the teacher.
        processes: those that share the batches; None is this one alone.

    Raises:
        ValueError: networks or processes that do not fit, or inputs other than the method needs.
    """

    def __init__(
        self,
        student: Any,
        teacher: Any,
        method: Method,
        settings: Settings,
        *,
        inputs: Inputs | None = None,
        auxiliary: Any = None,
        processes: Processes | None = None,
    ):
        check_pair(student, teacher)
        self.inputs = inputs or Inputs()
        self.inputs.check(method)
        self.method = method
        self.settings = settings
        self.teacher = frozen_view(teacher)
        self.student = copy.deepcopy(student).eval().requires_grad_(False)
        self.trained = trainable(self.student, settings.train)
        # Only what moves is in training mode, and only when it moves: its running means follow it.
        self.moving = (
            self.student if settings.train == "all" else getattr(self.student, settings.train)
        )
        self.average = copy.deepcopy(student).eval().requires_grad_(False)
        self.device = next(self.student.parameters()).device
        check_device(settings, self.device)
        check_shared_pass(method, settings)
        self.processes = processes or Processes()
        check_shard_teacher(settings, self.processes.size, self.device)
        self.pieces = Pieces(settings, self.processes, self.device)
        self.student_adam = new_adam(self.trained, settings.glr, settings, self.processes)
        self.auxiliary: Any = None
        self.auxiliary_average: Any = self.teacher
        if isinstance(method, WithAuxiliary):
            start = teacher if auxiliary is None else auxiliary
            check_pair(student, start)
            self.auxiliary = self._new_auxiliary(start)
            self.auxiliary_average = copy.deepcopy(self.auxiliary).requires_grad_(False)
            self.auxiliary_adam = new_adam(
                self.auxiliary.parameters(), settings.lr, settings, self.processes
            )
        self.memory = self._new_memory() if isinstance(method, WithMemory) else None
        self.sharded = Sharded(teacher) if settings.shard_teacher else None
        self._prepare()
        self.offloaded = Offloaded(teacher, self.teacher)
        self.figures = Health(self)
        self.step = 0  # warm-up included
        self.skips = Skips()
        self.rate_scale = 1.0  # of both learning rates

    def _prepare(self) -> None:
        """Set how the networks that move or teach compute; the average's precision stays float32.

        Raises:
            ValueError: no network has blocks whose activations could be computed again.
        """
        networks = [self.student, self.teacher]
        if self.sharded is not None:
            networks.append(self.sharded.denoiser)
        if self.auxiliary is not None:
            networks += [self.auxiliary, self.auxiliary_average]
        for network in networks:
            prepare(network, self.settings, self.device)
        if self.settings.activation_checkpointing and not sum(map(checkpoint_blocks, networks)):
            raise ValueError(
                "activation_checkpointing finds no blocks, modules of a kind that a network has "
                f"several of, in {type(self.student).__name__} or {type(self.teacher).__name__}; "
                "leave it out"
            )

    def _new_auxiliary(self, start: Any) -> Any:
        """Copy a denoiser, with the method's head; dropout is off, as it would be noise on D_q."""
        auxiliary = copy.deepcopy(start)
        if isinstance(self.method, WithHead):
            with random_stream(self.settings.seed * 1_000_003 - 2, self.device):
                auxiliary = self.method.with_head(auxiliary)
        return auxiliary.eval().requires_grad_(True)

    def _new_memory(self) -> torch.nn.Module:
        """Let the method look at the student, which has not moved yet, and at real images."""
        assert isinstance(self.method, WithMemory)
        with random_stream(self.settings.seed * 1_000_003 - 3, self.device):
            return self.method.new_memory(
                lambda n: self.average(*draw_inputs(self.average, n, self.device)),
                lambda n: self.draw_real(n)[0],
                teacher=self.teacher,
            )

    @property
    def num_warmup_steps(self) -> int:
        """Auxiliary updates before the first student update; 0 without an auxiliary network."""
        return self.settings.num_warmup_steps if self.auxiliary is not None else 0

    @property
    def num_images(self) -> int:
        """Images that have moved the student so far."""
        return max(0, self.step - self.num_warmup_steps) * self.settings.batch

    def advance(self) -> dict[str, float]:
        """Do one step, of warm-up or of both networks, and return its losses.

        A network whose loss or gradient is not finite does not move, nor does anything after it in
        that step; such a step is counted in `skips` and returns no losses.

        Raises:
            FloatingPointError: the third such step in a row, with its reason.
        """
        settings, seed = self.settings, self.settings.seed
        begin_step(settings)
        with (
            tensor_cores(settings.precision, self.device),
            random_stream(seed * 1_000_003 + self.step, self.device),
        ):
            losses = take_step(self, moves_student=self.step >= self.num_warmup_steps)
        self.step += 1
        finite = self.skips.note(losses, step=self.step - 1, seed=seed)
        return losses if finite else {}

    def draw_real(self, n: int) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Draw real images, with labels where teacher and student have classes."""
        assert self.inputs.real_images is not None
        images, labels = self.inputs.real_images(n, source_stream())
        if not (self.student.c_dim and self.teacher.label_dim):
            labels = None
        return images.to(self.device), None if labels is None else labels.to(self.device)

    def draw_pairs(self, n: int) -> tuple[torch.Tensor, torch.Tensor | None, torch.Tensor]:
        """Draw latents, the student's labels and the teacher's images for them."""
        assert self.inputs.pairs is not None
        z, labels, targets = self.inputs.pairs(n, source_stream())
        labels = labels.to(self.device) if self.student.c_dim and labels is not None else None
        return z.to(self.device), labels, targets.to(self.device)

    @contextlib.contextmanager
    def asking_teacher(self) -> Iterator[Any]:
        """Give a step the teacher; in shards, all processes have to be there."""
        if self.sharded is None:
            with self.offloaded.here():
                yield self.teacher
        else:
            with self.processes.waiting("the teacher's pass"):
                yield self.sharded

    def health(self) -> dict[str, float]:
        """Return figures that warn, see Health; process 0 alone has them."""
        if not self.processes.is_first:
            return {}
        with self.offloaded.here():
            return self.figures.measure()

    def views(self) -> tuple[torch.Tensor, int]:
        """Return pictures of what the networks see, see Health, and how many to a row."""
        with self.offloaded.here():
            return self.figures.views()

    def _parts(self) -> dict[str, Any]:
        """Return the networks by name, then the optimisers, as a state holds them."""
        parts: dict[str, Any] = {"student": self.student, "average": self.average}
        if self.memory is not None:
            parts |= {"memory": self.memory}
        if self.auxiliary is not None:
            parts |= {"auxiliary": self.auxiliary, "auxiliary_average": self.auxiliary_average}
            parts |= {"auxiliary_adam": self.auxiliary_adam}
        return parts | {"student_adam": self.student_adam}

    def gather(self) -> None:
        """Bring to process 0 what each process holds a share of; all of them call it."""
        self.processes.gather_optimisers(self._parts().values(), "gathering the state")

    def state_dict(self) -> dict[str, Any]:
        """Return everything that moves, as plain data and tensors; see gather."""
        return self._facts() | {name: part.state_dict() for name, part in self._parts().items()}

    def _facts(self) -> dict[str, Any]:
        """Return the counts and options of a state."""
        method = {"method": type(self.method).__name__, **vars(self.method)}
        if isinstance(self.method, WithPairs):
            method["distance"] = name_of(self.inputs.distance)
        counts = {
            "num_images": self.num_images,
            "step": self.step,
            "skipped": self.skips.total,
            "skipped_in_row": self.skips.in_row,
            "rate_scale": self.rate_scale,
        }
        options = {"settings": asdict(self.settings), "method": method}
        return counts | options

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from a state of the same settings; a longer kimg is allowed.

        Raises:
            ValueError: settings or networks that differ, with the difference; a state that lacks
                something. Then nothing has changed.
        """
        parts = self._parts()
        restore(state, self._facts() | layout_of(parts), parts)
        self.step, self.rate_scale = state["step"], state["rate_scale"]
        self.skips.total, self.skips.in_row = state["skipped"], state["skipped_in_row"]

    def start_from(self, state: dict[str, Any]) -> None:
        """Begin anew from the networks of another run's state; its settings may differ.

        The student starts from that run's average.

        Raises:
            ValueError: networks that differ. Then nothing has changed.
        """
        networks = {k: part for k, part in self._parts().items() if not k.endswith("_adam")}
        now = {name: network.state_dict() for name, network in networks.items()}
        check_layout(state, now)
        theirs = {name: state[name] for name in now} | {"student": state["average"]}
        for name in now:
            check_tensors(f"the state's {name}", theirs[name], now[name])
        for name, network in networks.items():
            network.load_state_dict(theirs[name])
        self.figures.begin()
