"""The refinement loop's step: batches, optimisers, averages, health and state; it knows no method.

Each step draws one batch of the student's images; it trains the auxiliary and, through the method's
pixel gradient, the student. All randomness of a step comes from (seed, step), so a resumed run
equals the undisturbed one.
"""

from __future__ import annotations

import copy
import math
from dataclasses import asdict
from typing import Any

import torch

from refiners.average import follow, frozen_view
from refiners.base import Method, WithAuxiliary, WithHead, WithMemory, WithPairs
from refiners.inputs import Inputs, draw_inputs, name_of, source_stream
from refiners.noise import add_noise
from refiners.optimiser import Skips, random_stream, step_if_finite, trainable
from refiners.pair import check_pair
from refiners.settings import Settings
from refiners.state import check_layout, check_tensors, restore

HEALTH_SIGMAS = (0.05, 0.1, 0.2, 0.4, 0.8, 1.6, 3.0, 6.0)


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

    Raises:
        ValueError: networks that do not fit, or inputs other than the method needs.
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
        betas = (float(settings.beta1), float(settings.beta2))
        self.student_adam = torch.optim.Adam(self.trained, lr=settings.glr, betas=betas)
        self.auxiliary: Any = None
        self.auxiliary_average: Any = self.teacher
        if isinstance(method, WithAuxiliary):
            start = teacher if auxiliary is None else auxiliary
            check_pair(student, start)
            self.auxiliary = self._new_auxiliary(start)
            self.auxiliary_average = copy.deepcopy(self.auxiliary).requires_grad_(False)
            self.auxiliary_adam = torch.optim.Adam(
                self.auxiliary.parameters(), lr=settings.lr, betas=betas
            )
        self.memory = self._new_memory() if isinstance(method, WithMemory) else None
        self.step = 0  # warm-up included
        self.skips = Skips()
        self.rate_scale = 1.0  # of both learning rates

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
                lambda n: self._draw_real(n)[0],
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
        moves_student = self.step >= self.num_warmup_steps
        losses = {"Loss/auxiliary": 0.0, "Gradient/pixel_norm": 0.0}
        with random_stream(self.settings.seed * 1_000_003 + self.step, self.device):
            z, labels = draw_inputs(self.student, self.settings.batch, self.device)
            self.moving.train(moves_student)
            with torch.set_grad_enabled(moves_student):
                images = self.student(z, labels)
            seen = labels if self.teacher.label_dim else None
            if self.auxiliary is not None:
                losses["Loss/auxiliary"] = self._advance_auxiliary(images.detach(), seen)
            if moves_student and math.isfinite(losses["Loss/auxiliary"]):
                losses["Gradient/pixel_norm"] = self._advance_student(images, seen)
        self.step += 1
        finite = self.skips.note(losses, step=self.step - 1, seed=self.settings.seed)
        return losses if finite else {}

    def _advance_auxiliary(self, x_0: torch.Tensor, labels: torch.Tensor | None) -> float:
        """Train the auxiliary on the student's images; every update draws fresh noise."""
        method, value = self.method, 0.0
        assert isinstance(method, WithAuxiliary)
        rate = self.settings.lr * self.rate_scale
        for _ in range(self.settings.auxiliary_steps):
            loss = method.auxiliary_loss(x_0, labels, auxiliary=self.auxiliary)
            if isinstance(method, WithHead):
                real, real_labels = self._draw_real(len(x_0))
                loss = loss + method.head_loss(
                    x_0, labels, real, real_labels, auxiliary=self.auxiliary
                )
            self.auxiliary_adam.zero_grad()
            loss.backward()
            value = step_if_finite(self.auxiliary_adam, loss.detach(), rate)
            if not math.isfinite(value):
                break
            follow(self.auxiliary_average, self.auxiliary, 1, self.settings.auxiliary_ema)
        return value

    def _advance_student(self, images: torch.Tensor, labels: torch.Tensor | None) -> float:
        """Send the method's pixel gradient through the student, x_0.backward(g / n)."""
        g = self.method.pixel_gradient(
            images.detach(), labels, teacher=self.teacher, auxiliary=self.auxiliary_average
        )
        if isinstance(self.method, WithMemory):
            assert self.memory is not None
            g = self.method.join(g, images.detach(), teacher=self.teacher, memory=self.memory)
        ends, slopes = [images], [g / len(g)]
        if isinstance(self.method, WithPairs):
            made, slope = self._pair_slope(len(g))
            ends.append(made)
            slopes.append(slope)
        self.student_adam.zero_grad()
        torch.autograd.backward(ends, slopes)
        settings = self.settings
        ramp = settings.rampup_kimg * 1000
        rate = settings.glr * min(1.0, (self.num_images + len(g)) / max(ramp, 1))
        norm = g.square().sum(dim=[1, 2, 3]).sqrt().mean()
        value = step_if_finite(self.student_adam, norm, rate * self.rate_scale)
        if math.isfinite(value):
            half_life = settings.ema_kimg * 1000
            if settings.ema_rampup_ratio:
                half_life = min(half_life, self.num_images * settings.ema_rampup_ratio)
            follow(self.average, self.student, settings.batch, half_life)
        return value

    def _draw_real(self, n: int) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Draw real images, with labels where teacher and student have classes."""
        assert self.inputs.real_images is not None
        images, labels = self.inputs.real_images(n, source_stream())
        if not (self.student.c_dim and self.teacher.label_dim):
            labels = None
        return images.to(self.device), None if labels is None else labels.to(self.device)

    def _pair_slope(self, n: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the student's images of n pairs' latents, and the loss' slope there."""
        assert self.inputs.pairs is not None and isinstance(self.method, WithPairs)
        z, labels, targets = self.inputs.pairs(n, source_stream())
        labels = labels.to(self.device) if self.student.c_dim and labels is not None else None
        images = self.student(z.to(self.device), labels)
        slope = self.method.pair_gradient(
            images.detach(), targets.to(self.device), distance=self.inputs.distance
        )
        return images, slope / n

    @torch.no_grad()
    def health(self, n: int = 128) -> dict[str, float]:
        """Return the auxiliary's denoising error as a share of the teacher's, per noise level.

        Both denoise noised images of the student (its average), the same at every call. Below 1 the
        auxiliary knows the student better than the teacher does; towards 1 the student has become
        the teacher's. Without an auxiliary network there is nothing to say.
        """
        if self.auxiliary is None:
            return {}
        with random_stream(self.settings.seed * 1_000_003 - 1, self.device):
            z, labels = draw_inputs(self.average, n, self.device)
            x_0 = self.average(z, labels)
            labels = labels if self.teacher.label_dim else None
            shares = {}
            for sigma in HEALTH_SIGMAS:
                level = torch.full([n], sigma, device=self.device)
                x = add_noise(x_0, level)
                errors = [
                    (network(x, level, labels) - x_0).square().mean()
                    for network in (self.auxiliary_average, self.teacher)
                ]
                shares[f"Health/error_share_{sigma:g}"] = errors[0] / errors[1]
        return dict(zip(shares, torch.stack(list(shares.values())).tolist(), strict=True))

    def _parts(self) -> dict[str, Any]:
        """Return the networks by name, then the optimisers, as a state holds them."""
        parts: dict[str, Any] = {"student": self.student, "average": self.average}
        if self.memory is not None:
            parts |= {"memory": self.memory}
        if self.auxiliary is not None:
            parts |= {"auxiliary": self.auxiliary, "auxiliary_average": self.auxiliary_average}
            parts |= {"auxiliary_adam": self.auxiliary_adam}
        return parts | {"student_adam": self.student_adam}

    def state_dict(self) -> dict[str, Any]:
        """Return everything that moves, as plain data and tensors."""
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
        return counts | options | {k: part.state_dict() for k, part in self._parts().items()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from a state of the same settings; a longer kimg is allowed.

        Raises:
            ValueError: settings or networks that differ, with the difference; a state that lacks
                something. Then nothing has changed.
        """
        restore(state, self.state_dict(), self._parts())
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
            check_tensors(name, theirs[name], now[name])
        for name, network in networks.items():
            network.load_state_dict(theirs[name])
