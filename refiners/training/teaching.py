"""Training a teacher on images: the step. The schedule, the session and the states are all runs'.

The result is the average of the network that is trained, in a sampler that makes a student of it,
which is how a run shows it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict

import torch

from refiners.denoising import Denoising, DenoisingLoss, Trainable, follower
from refiners.training.figures import Figures
from refiners.training.inputs import ImageSet, RealImages, source_stream
from refiners.training.low_rank import add_low_rank
from refiners.training.optimiser import (
    follow,
    half_life_of,
    new_adam,
    replicated,
    step_if_finite,
    summing_up,
)
from refiners.training.pieces import Pieces, seed_of
from refiners.training.precision import arithmetic, check_device, prepare, settled
from refiners.training.settings import Settings
from refiners.training.state import Counts, Parts, State, restore, state_of
from roles import Denoiser, Processes, Student
from roles.device import sent
from roles.streams import random_stream


class Teaching:
    """A run in memory: the network that is trained, and its average.

    The network given is not changed.

    Args:
        network: a module that is a denoiser and can be told how its images were augmented.
        method: how it is trained.
        settings: lr is the rate, with the ramp and the fall that the student of a refinement has;
            what concerns an auxiliary network and a student is not used.
        real_images: source of clean images with their labels, see inputs.
        sampler: makes a student of a denoiser, on its parameters.
        processes: those that share the batches; None is this one alone.
    """

    num_warmup_steps = 0

    def __init__(
        self,
        network: Trainable,
        method: Denoising,
        settings: Settings,
        *,
        real_images: RealImages,
        sampler: Callable[[Denoiser], Student],
        processes: Processes | None = None,
    ):
        self.method = method
        self.real_images = real_images
        self.waiting: Figures | None = None  # of the step before, on a GPU
        self.network = follower(network).train().requires_grad_(True)
        if method.rank:
            with random_stream(settings.seed, torch.device("cpu")):
                add_low_rank(self.network, method.rank)
        self.ema = follower(self.network)
        self.average = sampler(self.ema)
        self.device = next(self.network.parameters()).device
        self.settings = settings = settled(settings, self.device)
        check_device(settings, self.device)
        if isinstance(real_images, ImageSet):
            self.real_images = real_images.on(self.device)
        self.processes = processes or Processes()
        self.pieces = Pieces(
            settings.batch, settings.batch_gpu, settings.seed, self.processes, self.device
        )
        prepare(self.network, settings, self.device)
        self.loss = replicated(DenoisingLoss(method, self.network), self.processes)
        moving = [p for p in self.network.parameters() if p.requires_grad]
        self.network_adam = new_adam(moving, settings.lr, settings)
        self.counts = Counts()

    @property
    def step(self) -> int:
        """Steps done."""
        return self.counts.step

    @property
    def num_images(self) -> int:
        """Images seen so far."""
        return self.step * self.settings.batch

    def advance(self) -> dict[str, float]:
        """Do one step and return its loss; one that is not finite moves nothing, see Counts.

        On a GPU the loss is that of the step before; settle has that of the last.
        """
        settings, seen = self.settings, self.num_images
        with (
            self.processes.together("a step"),
            arithmetic(settings, self.device),
            random_stream(seed_of(settings.seed, self.step), self.device),
        ):
            self.pieces.begin(self.step)
            self.network_adam.zero_grad()
            loss = torch.stack(self.pieces.each(self._part)).sum()
            self.processes.mean(loss, phase="the loss")
        rate = settings.rate_after(seen + settings.batch, settings.lr) * self.counts.rate_scale
        figures = Figures(self.device, {})
        moved = step_if_finite(
            self.network_adam,
            loss,
            rate,
            figures,
            names=("Loss/loss", "Gradient/norm"),
            clip=settings.clip,
        )
        if moved:
            follow(self.ema, self.network, settings.batch, half_life_of(settings, seen))
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
        labels = None if labels is None or not self.ema.label_dim else sent(labels, self.device)
        share = self.pieces.size(i) / self.pieces.share
        with summing_up(self.loss, last=self.pieces.is_last(i)):
            loss = self.loss(sent(x_0, self.device), labels) * share
            loss.backward()
        return loss.detach()

    def health(self) -> dict[str, float]:
        """Return nothing: what tells how a teacher fares is measured at snapshots."""
        return {}

    def views(self) -> None:
        """Return nothing: see health."""

    def _parts(self) -> Parts:
        networks = {"network": self.network, "ema": self.ema}
        return Parts(networks, {"network_adam": self.network_adam})

    def _options(self) -> State:
        method = {"method": type(self.method).__name__, **asdict(self.method)}
        return {"settings": asdict(self.settings), "method": method}

    def state_dict(self) -> State:
        """Return everything that moves, as plain data and tensors."""
        self.settle()
        return state_of(
            self._parts(), self.counts, self._options(), self.num_images, self.processes.size
        )

    def load_state_dict(self, state: State) -> list[str]:
        """Continue from a state of the same settings; see Refinement.

        Raises:
            ValueError: settings or networks that differ, with the difference; a state that lacks
                something. Then nothing has changed.
        """
        remarks = restore(state, self._parts(), self.counts, self._options(), self.processes.size)
        self.waiting = None
        return remarks
