"""The refinement loop: batches, optimisers, averages, health, state and resume; it knows no method.

Each step draws one batch of the student's images; it trains the auxiliary and, through the method's
pixel gradient, the student.
All randomness of a step comes from (seed, step), so a resumed run equals the undisturbed one.
"""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict
from typing import Any

import torch

from refiners.base import Method, Student
from refiners.noise import add_noise
from refiners.pair import check_pair
from refiners.settings import Settings

HEALTH_SIGMAS = (0.05, 0.1, 0.2, 0.4, 0.8, 1.6, 3.0, 6.0)


class Refinement:
    """A run in memory: the student and the auxiliary that move, their averages, the frozen teacher.

    The student given is copied, never changed; `average` is the refined student.
    """

    def __init__(self, student: Any, teacher: Any, method: Method, settings: Settings):
        check_pair(student, teacher)
        self.method = method
        self.settings = settings
        self.teacher = teacher.eval().requires_grad_(False)
        self.student = copy.deepcopy(student).eval().requires_grad_(False)
        self.trained = trainable(self.student, settings.train)
        # Only what moves is in training mode, and only when it moves: its running means follow it.
        self.moving = (
            self.student if settings.train == "all" else getattr(self.student, settings.train)
        )
        self.average = copy.deepcopy(student).eval().requires_grad_(False)
        # Dropout stays off in the auxiliary: its difference to the teacher is the signal, and
        # dropout would be noise on it.
        self.auxiliary = copy.deepcopy(teacher).eval().requires_grad_(True)
        self.auxiliary_average = copy.deepcopy(teacher)
        betas = (float(settings.beta1), float(settings.beta2))
        self.student_adam = torch.optim.Adam(self.trained, lr=settings.glr, betas=betas)
        self.auxiliary_adam = torch.optim.Adam(
            self.auxiliary.parameters(), lr=settings.lr, betas=betas
        )
        self.step = 0  # warm-up included
        self.device = next(self.student.parameters()).device

    @property
    def num_images(self) -> int:
        """Images that have moved the student so far."""
        return max(0, self.step - self.settings.num_warmup_steps) * self.settings.batch

    def advance(self) -> dict[str, float]:
        """Do one step, of warm-up or of both networks, and return its losses.

        Raises:
            FloatingPointError: a loss or gradient that is not finite, with the step and the seed.
        """
        settings = self.settings
        moves_student = self.step >= settings.num_warmup_steps
        with torch.random.fork_rng(devices=[self.device] if self.device.type == "cuda" else []):
            torch.manual_seed(settings.seed * 1_000_003 + self.step)
            z, labels = draw_inputs(self.student, settings.batch, self.device)
            self.moving.train(moves_student)
            with torch.set_grad_enabled(moves_student):
                images = self.student(z, labels)
            x_0 = images.detach()
            seen = labels if self.teacher.label_dim else None
            loss = self._advance_auxiliary(x_0, seen)
            norm = self._advance_student(images, x_0, seen) if moves_student else 0.0
        if not (math.isfinite(loss) and math.isfinite(norm)):
            raise FloatingPointError(
                f"step {self.step} is not finite (auxiliary loss {loss}, gradient norm {norm}, "
                f"seed {settings.seed}); "
                "lower glr and lr, or start from the last snapshot"
            )
        self.step += 1
        return {"Loss/auxiliary": loss, "Gradient/pixel_norm": norm}

    def _advance_auxiliary(self, x_0: torch.Tensor, labels: torch.Tensor | None) -> float:
        """Train the auxiliary on the student's images; every update draws fresh noise."""
        loss = torch.zeros([])
        for _ in range(self.settings.auxiliary_steps):
            loss = self.method.auxiliary_loss(x_0, labels, auxiliary=self.auxiliary)
            self.auxiliary_adam.zero_grad()
            loss.backward()
            self.auxiliary_adam.step()
            follow(self.auxiliary_average, self.auxiliary, 1, self.settings.auxiliary_ema)
        return loss.item()

    def _advance_student(
        self, images: torch.Tensor, x_0: torch.Tensor, labels: torch.Tensor | None
    ) -> float:
        """Send the method's pixel gradient through the student, x_0.backward(g / n)."""
        g = self.method.pixel_gradient(
            x_0, labels, teacher=self.teacher, auxiliary=self.auxiliary_average
        )
        ramp = self.settings.rampup_kimg * 1000
        rate = self.settings.glr * min(1.0, (self.num_images + len(g)) / max(ramp, 1))
        self.student_adam.param_groups[0]["lr"] = rate
        self.student_adam.zero_grad()
        images.backward(g / len(g))
        self.student_adam.step()
        half_life = min(self.settings.ema_kimg * 1000, self.num_images / 4)
        follow(self.average, self.student, self.settings.batch, half_life)
        return g.square().sum(dim=[1, 2, 3]).sqrt().mean().item()

    @torch.no_grad()
    def health(self, n: int = 128) -> dict[str, float]:
        """Return the auxiliary's denoising error as a share of the teacher's, per noise level.

        Both denoise noised images of the student (its average), the same at every call.

        Below 1 the auxiliary knows the student better than the teacher does; towards 1 the student
        has become the teacher's.
        """
        with torch.random.fork_rng(devices=[self.device] if self.device.type == "cuda" else []):
            torch.manual_seed(self.settings.seed * 1_000_003 - 1)
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
                shares[f"Health/error_share_{sigma:g}"] = (errors[0] / errors[1]).item()
        return shares

    def state_dict(self) -> dict[str, Any]:
        """Return everything that moves, as plain data and tensors."""
        return {
            "num_images": self.num_images,
            "step": self.step,
            "settings": asdict(self.settings),
            "method": {"method": type(self.method).__name__, **vars(self.method)},
            "student": self.student.state_dict(),
            "average": self.average.state_dict(),
            "auxiliary": self.auxiliary.state_dict(),
            "auxiliary_average": self.auxiliary_average.state_dict(),
            "student_adam": self.student_adam.state_dict(),
            "auxiliary_adam": self.auxiliary_adam.state_dict(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from a state of the same settings; a longer kimg is allowed.

        Raises:
            ValueError: settings that differ, with the difference.
        """
        now = self.state_dict()
        mine, theirs = ({**s["settings"], **s.get("method", {})} for s in (now, state))
        free = {"kimg", "tick", "snap"}
        drift = [f"{k} {theirs.get(k)} -> {v}" for k, v in mine.items() if theirs.get(k) != v]
        drift = [d for d in drift if d.split()[0] not in free]
        if drift:
            raise ValueError(f"the state was made with other options ({', '.join(drift)})")
        for name in ("student", "average", "auxiliary", "auxiliary_average"):
            getattr(self, name).load_state_dict(state[name])
        self.student_adam.load_state_dict(state["student_adam"])
        self.auxiliary_adam.load_state_dict(state["auxiliary_adam"])
        self.step = state["step"]


def trainable(student: Any, train: str) -> list[torch.nn.Parameter]:
    """Switch on the gradients of the part of the student that moves and return its parameters."""
    prefix = "" if train == "all" else f"{train}."
    chosen = [p for name, p in student.named_parameters() if name.startswith(prefix)]
    if not chosen:
        raise ValueError(f"the student has no part named {train!r}; use train='all'")
    for parameter in chosen:
        parameter.requires_grad_(True)
    return chosen


def draw_inputs(
    student: Student, n: int, device: torch.device
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Draw latents [n, z_dim] and uniform one-hot labels [n, c_dim] or None, by torch's stream."""
    z = student.sample_latents(n).to(device)
    if not student.c_dim:
        return z, None
    labels = torch.nn.functional.one_hot(torch.randint(student.c_dim, [n]), student.c_dim)
    return z, labels.float().to(device)


@torch.no_grad()
def follow(
    average: torch.nn.Module, network: torch.nn.Module, amount: float, half_life: float
) -> None:
    """Move an average towards its network, `amount` of a half-life on; buffers are copied."""
    beta = 0.5 ** (amount / half_life) if half_life > 0 else 0.0
    for a, p in zip(average.parameters(), network.parameters(), strict=True):
        a.lerp_(p, 1 - beta)
    for a, b in zip(average.buffers(), network.buffers(), strict=True):
        a.copy_(b)


def ticks(settings: Settings) -> Iterator[int]:
    """Yield the student's image counts at which a tick ends; the last is the end of the run."""
    total = settings.num_steps * settings.batch
    per_tick = max(1, round(settings.tick * 1000 / settings.batch)) * settings.batch
    yield from range(per_tick, total, per_tick)
    yield total


def run(
    refinement: Refinement,
    *,
    on_tick: Callable[[dict[str, float]], None],
    on_snapshot: Callable[[Refinement], None],
    on_step: Callable[[Refinement, dict[str, float]], None],
) -> None:
    """Carry a refinement to its end.

    Args:
        refinement: new, or restored from a state.
        on_tick: called with the mean statistics of each tick.
        on_snapshot: called after the warm-up and every snap-th tick, and at the end.
        on_step: called after every step with its losses (a progress bar).
    """
    settings = refinement.settings
    start = time.time()
    while refinement.step < settings.num_warmup_steps:
        on_step(refinement, refinement.advance())
        if refinement.step == settings.num_warmup_steps:
            on_tick(
                {"Progress/kimg": 0.0, "Timing/total_sec": time.time() - start}
                | refinement.health()
            )
            on_snapshot(refinement)
    for number, end in enumerate(ticks(settings), 1):
        if end <= refinement.num_images:
            continue
        began, first, sums = time.time(), refinement.num_images, {}
        count = 0
        while refinement.num_images < end:
            losses = refinement.advance()
            on_step(refinement, losses)
            count += 1
            for name, value in losses.items():
                sums[name] = sums.get(name, 0.0) + value
        passed = time.time() - began
        stats = {name: value / count for name, value in sums.items()}
        stats |= {
            "Progress/tick": number,
            "Progress/kimg": refinement.num_images / 1000,
            "Timing/total_sec": time.time() - start,
            "Timing/sec_per_tick": passed,
            "Timing/sec_per_kimg": passed / (refinement.num_images - first) * 1000,
        }
        on_tick(stats | refinement.health())
        if number % settings.snap == 0 or end == settings.num_steps * settings.batch:
            on_snapshot(refinement)
