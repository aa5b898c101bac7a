"""Progressive distillation: half the steps, and again (Salimans and Ho 2022, arXiv:2202.00512).

A student of N steps learns to do in one step what its teacher does in two (Algorithm 2). In EDM's
coordinates a DDIM step from sigma_t to sigma_u is x_u = D + (sigma_u / sigma_t) (x_t - D), so two
steps of the teacher end where one of the student does if the student returns

    D~ = (x_u - r x_t) / (1 - r),    r = sigma_u / sigma_t

and the loss is w |D~ - D_student(x_t; sigma_t)|^2, w = max(1 / sigma_t^2, 1) ("truncated SNR").
x_t falls out of D~, which lies between the teacher's two: with D_t and D_m those at t and midway,

    D~ = D_t + (D_m - D_t) sigma_t (sigma_m - sigma_u) / (sigma_m (sigma_t - sigma_u)).

Time t in (0, 1] has the noise level tan(b + a t), the cosine schedule with the angle rescaled so
that it begins and ends at given levels, as published with those of logSNR 20 and -20: it rises at
every t, so that any number of steps is of as many levels. Each stage's raw weights teach the next.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from jaxtyping import Float

from refiners.base import Images, Labels, Levels, Scalar
from refiners.knob import check_knobs, knob
from roles import Denoiser
from roles.device import sent, widest

Denoise = Callable[[Images, Levels], Images]
Latents = Float[torch.Tensor, "n z_dim"]
WEIGHTS: dict[str, Callable[[Levels], Levels]] = {
    "snr_trunc": lambda sigma: sigma.square().reciprocal().clamp(min=1),
    "snr_plus_1": lambda sigma: sigma.square().reciprocal() + 1,
}


@dataclass(frozen=True)
class Progressive:
    """Progressive distillation's knobs."""

    equation: ClassVar = (
        "w |D~ - D(x_t; sigma_t)|², D~ = (x_u - r x_t) / (1 - r), r = sigma_u / sigma_t, "
        "x_u after two DDIM steps of the last stage's student; N, N/2, ..., 1 steps"
    )
    source: ClassVar = (
        "Salimans and Ho 2022, [2202.00512](https://arxiv.org/abs/2202.00512), Algorithm 2"
    )
    needs: ClassVar = "images"
    # Published for every data set; the rate, 5e-5 to 1e-4 there, goes by the network.
    settings: ClassVar[dict[str, Any]] = {"beta1": 0.9, "clip": 1.0, "ema": 0.0}

    # Published are thousands, for runs of as many hours; each halving takes its share of the run.
    num_steps: int = knob(
        32,
        "Steps of the first student, a power of two; its teacher makes twice as many.",
        useful="8 to 1024",
        outside="Too few and the first teacher is coarse; each halving takes its share of the run.",
        symbol="N",
    )
    end_steps: int = knob(
        1,
        "Steps of the last student, a power of two; what it makes is drawn by its own sampler.",
        useful="1, 2 or 4",
        outside="More steps are more evaluations an image, and better images.",
    )
    weight: str = knob(
        "snr_trunc",
        "Weight of the loss: snr_trunc (max(SNR, 1)) or snr_plus_1.",
        useful="as published",
        symbol="w",
        allowed=tuple(WEIGHTS),
    )
    sigma_min: float = knob(
        0.002,
        "Where the schedule ends; the last step goes to 0.",
        useful="0.002 (EDM); 4.5e-5 (logSNR 20) published",
        outside="Above, noise stays.",
        above=0,
    )
    sigma_max: float = knob(
        80.0,
        "Where the schedule starts, and the one step's noise level.",
        useful="80 (EDM)",
        outside="Below several times the data's spread the start is not pure noise.",
    )
    # Whose steps are twice as long (Meng et al. 2023, arXiv:2210.03142, Section 3.3).
    stochastic: bool = knob(
        False, "Train for the stochastic sampler, 0 or 1.", useful="0 for a single step"
    )

    def __post_init__(self) -> None:
        check_knobs(self)
        if self.num_steps < 1 or self.num_steps & (self.num_steps - 1):
            raise ValueError(f"num_steps is {self.num_steps}; it must be a power of two, as 32")
        end = self.end_steps
        if not 1 <= end <= self.num_steps or end & (end - 1):
            raise ValueError(
                f"end_steps is {end}; it must be a power of two, at most num_steps, as 1 or 2"
            )
        if not self.sigma_min < self.sigma_max:
            raise ValueError(
                f"sigma_min, sigma_max are {self.sigma_min}, {self.sigma_max}; "
                "it must hold 0 < sigma_min < sigma_max"
            )

    @property
    def init_sigma(self) -> float:
        """Where the one step begins."""
        return self.sigma_max

    @property
    def halving(self) -> Progressive:
        """The stages that halve: all."""
        return self

    @property
    def stages(self) -> tuple[int, ...]:
        """The student's number of steps in each stage: N, N / 2, ..., end_steps."""
        halvings = (self.num_steps // self.end_steps).bit_length()
        return tuple(self.num_steps >> i for i in range(halvings))

    def new_student(self, teacher: Denoiser) -> Denoiser:
        """Return the network that is trained: a copy of the teacher."""
        return copy.deepcopy(teacher)

    def sigma(self, t: Levels) -> Levels:
        """Return the noise level at time t in [0, 1]; 0 at 0."""
        low, high = math.atan(self.sigma_min), math.atan(self.sigma_max)
        level = (low + (high - low) * t.to(widest(t.device))).tan()
        return torch.where(t <= 0, 0.0, level).to(t)

    def loss(
        self,
        x_0: Images,
        labels: Labels,
        *,
        student: Denoiser,
        teacher: Denoiser,
        original: Denoiser,
        num_steps: int,
    ) -> Scalar:
        """Return the loss of a student of num_steps steps on clean images x_0."""
        return self.loss_of(
            x_0,
            num_steps,
            student=lambda x, sigma: student(x, sigma, labels),
            teacher=lambda x, sigma: teacher(x, sigma, labels),
        )

    def loss_of(
        self,
        x_0: Images,
        num_steps: int,
        *,
        student: Denoise,
        teacher: Denoise,
    ) -> Scalar:
        """Return the loss where both denoisers are functions of (x, sigma [n])."""
        i = sent(torch.randint(1, num_steps + 1, [len(x_0)]), x_0.device)
        length = torch.where(i > 1, 2, 1) if self.stochastic else torch.ones_like(i)
        t, mid, end = (self.sigma((i - length * part) / num_steps) for part in (0, 0.5, 1))
        x = x_0 + _wide(t) * torch.randn_like(x_0)
        with torch.no_grad():
            target = two_step_target(teacher, x, t, mid, end)
        error = (student(x, t) - target).square().sum(dim=[1, 2, 3])
        return (WEIGHTS[self.weight](t) * error).mean()


def ddim_step(denoised: Images, x: Images, sigma: Levels, to: Levels) -> Images:
    """Return x at the noise levels `to`, from x at sigma and D(x; sigma)."""
    return denoised + _wide(to / sigma) * (x - denoised)


def two_step_target(teacher: Denoise, x: Images, sigma: Levels, mid: Levels, end: Levels) -> Images:
    """Return what D has to be for one step from sigma to end to equal the teacher's two by mid."""
    first = teacher(x, sigma)
    second = teacher(ddim_step(first, x, sigma, mid), mid)
    # (x_u - r x_t) / (1 - r) without its cancellation, which many steps would make worse.
    return first + _wide(sigma * (mid - end) / (mid * (sigma - end))) * (second - first)


@torch.no_grad()
def sample_in_steps(
    denoiser: Denoise,
    latents: Images,
    *,
    method: Progressive,
    num_steps: int,
    noise_like: Callable[[Images], Images] = torch.randn_like,
) -> Images:
    """Turn unit noise into images by num_steps calls of the denoiser.

    The stochastic sampler (Meng et al. 2023, Section 3.3) steps two intervals down and one back up,
    x_s = x_u + sqrt(sigma_s^2 - sigma_u^2) eps, with eps by noise_like, torch's random stream
    unless told.
    """
    n = len(latents)
    at = torch.arange(num_steps + 1, device=latents.device) / num_steps
    levels = method.sigma(at.to(latents.dtype))
    x = latents * levels[-1]
    for i in range(num_steps, 0, -1):
        sigma = levels[i].expand(n)
        end = levels[i - 2 if method.stochastic and i > 1 else i - 1].expand(n)
        x = ddim_step(denoiser(x, sigma), x, sigma, end)
        if method.stochastic and i > 1:
            back = (levels[i - 1].square() - end[0].square()).sqrt()
            x = x + back * noise_like(x)
    return x


def recorded_sampler(student: SteppedStudent) -> dict[str, int | float | bool]:
    """Return what a file says of how a student of several steps is drawn from."""
    method = student.method
    return {
        "num_steps": student.num_steps,
        "sampler_sigma_min": method.sigma_min,
        "sampler_sigma_max": method.sigma_max,
        "sampler_stochastic": method.stochastic,
    }


def sampler_in(data: Mapping[str, object]) -> tuple[Progressive, int] | None:
    """Return how a student of several steps is drawn from by what its file says, None of others.

    Raises:
        ValueError: the file says what cannot be.
    """
    num_steps = data.get("num_steps")
    if num_steps is None:
        return None
    names = ("sampler_sigma_min", "sampler_sigma_max", "sampler_stochastic")
    given = {name.removeprefix("sampler_"): data[name] for name in names if name in data}
    # check_knobs says what is wrong with a value of another kind.
    method = Progressive(num_steps=num_steps, **given)  # pyright: ignore[reportArgumentType]
    return method, method.num_steps


def _wide(values: Levels) -> Float[torch.Tensor, "n 1 1 1"]:
    return values[:, None, None, None]


class SteppedStudent(torch.nn.Module):
    """A distilled denoiser as a student: unit noise and labels -> images, in num_steps calls."""

    def __init__(self, denoiser: Denoiser, method: Progressive, num_steps: int):
        super().__init__()
        assert isinstance(denoiser, torch.nn.Module)
        self.denoiser = denoiser
        self.method = method
        self.num_steps = num_steps
        self.img_resolution: int = denoiser.img_resolution
        self.img_channels: int = denoiser.img_channels
        self.c_dim: int = denoiser.label_dim
        self.z_dim = self.img_channels * self.img_resolution**2

    def sample_latents(self, n: int, *, generator: torch.Generator | None = None) -> Latents:
        """Draw unit Gaussian noise."""
        device = "cpu" if generator is None else generator.device
        return torch.randn([n, self.z_dim], generator=generator, device=device)

    def forward(self, z: Latents, c: Labels = None) -> Images:
        """Return images; no gradient is kept."""
        r = self.img_resolution
        return sample_in_steps(
            lambda x, sigma: self.denoiser(x, sigma, c),
            z.reshape(-1, self.img_channels, r, r),
            method=self.method,
            num_steps=self.num_steps,
        )
