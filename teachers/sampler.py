"""Images from a denoiser by solving dx = (x - D(x; sigma)) / sigma dsigma from much noise to none.

Karras et al. 2022 (arXiv:2206.00364): Algorithm 1 (Heun's second-order method) and, with s_churn
above 0, Algorithm 2 (noise added back before each step). The state is float64, where the device has
it, since many small steps are summed. Euler steps over a VP model's own noise levels are those of
DDIM (Song et al. 2021, arXiv:2010.02502, Eq. 12 with eta 0): both keep eps and change its share.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise

import torch
from jaxtyping import Float, Int

from checkpoints import with_options
from roles import Denoiser
from roles.device import widest

SOLVERS = ("heun", "euler")
Option = float | str | Sequence[float] | None  # of sample


def noise_levels(
    denoiser: Denoiser, num_steps: int, *, sigma_min: float, sigma_max: float, rho: float
) -> list[float]:
    """Return num_steps falling noise levels, as the denoiser rounds them, and 0.

    Karras et al. 2022, Eq. 5; sigma_min and sigma_max are clipped to the denoiser's range.

    Raises:
        ValueError: fewer than one step, or nothing left of the range within the denoiser's own.
    """
    if num_steps < 1:
        raise ValueError(f"num_steps is {num_steps}; it must be at least 1")
    low, high = max(sigma_min, denoiser.sigma_min), min(sigma_max, denoiser.sigma_max)
    if not 0 < low <= high < math.inf:
        raise ValueError(
            f"noise levels {sigma_min} to {sigma_max} leave {low} to {high} within the teacher's "
            f"{denoiser.sigma_min} to {denoiser.sigma_max}; give 0 < sigma_min <= sigma_max"
        )
    fraction = torch.arange(num_steps, dtype=torch.float64) / max(num_steps - 1, 1)
    first, last = high ** (1 / rho), low ** (1 / rho)
    levels = (first + fraction * (last - first)) ** rho
    return [*(_round_sigma(denoiser, level) for level in levels.tolist()), 0.0]


@torch.no_grad()
def sample(
    denoiser: Denoiser,
    latents: Float[torch.Tensor, "n c h w"],
    *,
    labels: Float[torch.Tensor, "#n label_dim"] | None = None,
    num_steps: int = 18,
    sigma_min: float = 0.002,
    sigma_max: float = 80.0,
    rho: float = 7.0,
    s_churn: float = 0.0,
    s_min: float = 0.0,
    s_max: float = math.inf,
    s_noise: float = 1.0,
    solver: str = "heun",
    levels: Sequence[float] | None = None,
    generator: torch.Generator | SeedStreams | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Float[torch.Tensor, "n c h w"]:
    """Turn latents into images; no gradient is kept.

    The defaults are those of CIFAR-10 (Karras et al. 2022, Table 1).

    Args:
        denoiser: the teacher.
        latents: unit Gaussian noise [n, c, h, w].
        labels: one-hot [n, label_dim], or None.
        num_steps: noise levels visited. Heun calls the denoiser 2 num_steps - 1 times, Euler
            num_steps times.
        sigma_min: lowest noise level; clipped to the denoiser's range, as is sigma_max.
        sigma_max: highest noise level, where the latents start.
        rho: how much shorter the steps are at low noise.
        s_churn: noise added back in total, in units of steps; 0 is deterministic.
        s_min: noise levels below are not churned.
        s_max: noise levels above are not churned.
        s_noise: standard deviation of the noise added back.
        solver: "heun", or "euler" for the first-order half of it.
        levels: falling noise levels above 0 to visit instead of those of num_steps, sigma_min,
            sigma_max and rho, as a VP model's own for DDIM; they are rounded as the denoiser does.
        generator: source of the noise added back, one for all or one for each image; its device may
            differ from the latents'.
        progress: called with (steps done, num_steps) after each step.

    Returns:
        Images [n, c, h, w] in the latents' type, about [-1, 1], not clamped.

    Raises:
        ValueError: an option is out of range, or a shape does not fit the denoiser.
    """
    if solver not in SOLVERS:
        raise ValueError(f"solver is {solver!r}; allowed are {', '.join(SOLVERS)}")
    if levels is None:
        steps = noise_levels(denoiser, num_steps, sigma_min=sigma_min, sigma_max=sigma_max, rho=rho)
    else:
        steps = _given_levels(denoiser, levels)
        num_steps = len(levels)
    x = latents.to(widest(latents.device)) * steps[0]
    for i, (t, t_next) in enumerate(pairwise(steps)):
        if s_churn > 0:
            # EDM's sampler draws at every level, also where it adds nothing: seeds agree with it.
            noise = _noise_like(x, generator)
            if s_min <= t <= s_max:
                gamma = min(s_churn / num_steps, math.sqrt(2) - 1)
                t_hat = _round_sigma(denoiser, t + gamma * t)
                x = x + math.sqrt(t_hat**2 - t**2) * s_noise * noise
                t = t_hat
        # Euler step.
        slope = (x - denoiser(x, t, labels)) / t
        x_next = x + (t_next - t) * slope
        # Correction with the slope at the far end, which does not exist at 0.
        if solver == "heun" and t_next > 0:
            slope_next = (x_next - denoiser(x_next, t_next, labels)) / t_next
            x_next = x + (t_next - t) * (slope + slope_next) / 2
        x = x_next
        if progress is not None:
            progress(i + 1, num_steps)
    return x.to(latents.dtype)


def _round_sigma(denoiser: Denoiser, sigma: float) -> float:
    """Nearest noise level the denoiser was trained for: any, if it does not say."""
    round_sigma = getattr(denoiser, "round_sigma", None)
    if round_sigma is None:
        return sigma
    return float(round_sigma(torch.tensor(sigma, dtype=torch.float64)))


def _given_levels(denoiser: Denoiser, levels: Sequence[float]) -> list[float]:
    """Return the levels, rounded, and 0."""
    falls = all(a > b for a, b in pairwise(levels))
    if not levels or not falls or not 0 < levels[-1] <= levels[0] < math.inf:
        raise ValueError(f"levels are {list(levels)[:5]}...; give falling numbers above 0")
    return [*(_round_sigma(denoiser, level) for level in levels), 0.0]


def _noise_like(x: torch.Tensor, generator: torch.Generator | SeedStreams | None) -> torch.Tensor:
    if isinstance(generator, SeedStreams):
        return generator.randn(x.shape[1:], dtype=x.dtype).to(x.device)
    device = x.device if generator is None else generator.device
    return torch.randn(x.shape, generator=generator, dtype=x.dtype, device=device).to(x.device)


class SeedStreams:
    """A random stream for each image of a batch, so that an image depends on its seed alone.

    Args:
        seeds: non-negative integers, one an image; their low 32 bits count, as in EDM's scripts.
        device: where the numbers are drawn; other devices draw others.

    Raises:
        ValueError: a negative seed.
    """

    def __init__(self, seeds: Sequence[int], *, device: torch.device | str = "cpu"):
        if any(seed < 0 for seed in seeds):
            raise ValueError(f"a seed is {min(seeds)}; it must be at least 0")
        self.device = torch.device(device)
        self.generators = [torch.Generator(device).manual_seed(seed % 2**32) for seed in seeds]

    def randn(
        self, shape: Sequence[int], *, dtype: torch.dtype = torch.float32
    ) -> Float[torch.Tensor, "n ..."]:
        """Draw unit Gaussian noise [number of seeds, *shape]."""
        options = {"dtype": dtype, "device": self.device}
        return torch.stack([torch.randn(*shape, generator=g, **options) for g in self.generators])

    def randint(self, high: int) -> Int[torch.Tensor, " n"]:
        """Draw a whole number in 0 to high - 1 for each seed, [number of seeds]."""
        draws = [torch.randint(high, [], generator=g, device=g.device) for g in self.generators]
        return torch.stack(draws)


def inputs_of_seeds(
    denoiser: Denoiser, seeds: Sequence[int], *, label: int | None = None
) -> tuple[Float[torch.Tensor, "n c h w"], Float[torch.Tensor, "n label_dim"] | None, SeedStreams]:
    """Return latents, labels and streams of images by seed, on the CPU, as EDM's scripts draw them.

    Args:
        denoiser: the teacher.
        seeds: non-negative integers.
        label: the class of all; None draws each image's from its stream, after the latents.

    Returns:
        Latents [n, c, h, w], one-hot labels [n, label_dim] or None, and the streams after both.

    Raises:
        ValueError: a negative seed, a class that the teacher does not have.
    """
    k, r = denoiser.label_dim, denoiser.img_resolution
    if label is not None and not 0 <= label < k:
        raise ValueError(f"the class is {label}; this teacher has {k} classes, from 0")
    streams = SeedStreams(seeds)
    latents = streams.randn([denoiser.img_channels, r, r])
    if not k:
        return latents, None, streams
    drawn = streams.randint(k)
    chosen = drawn if label is None else torch.full_like(drawn, label)
    return latents, torch.nn.functional.one_hot(chosen, k).float(), streams


def generate(
    denoiser: Denoiser,
    seeds: Sequence[int],
    *,
    label: int | None = None,
    batch: int = 64,
    device: torch.device | str = "cpu",
    **options: Option,
) -> Iterator[Float[torch.Tensor, "n c h w"]]:
    """Yield the images of the seeds in batches [n, c, h, w], about [-1, 1], not clamped.

    Everything random about an image comes from its seed: the batch changes rounding at most.

    Args:
        denoiser: the teacher, on the device.
        seeds: non-negative integers.
        label: the class of all; None draws each image's from its seed.
        batch: images at a time.
        device: where to compute; the random numbers are those of a CPU.
        **options: of sample, from num_steps on.

    Raises:
        ValueError: an option is out of range.
    """
    if batch < 1:
        raise ValueError(f"batch is {batch}; it must be at least 1")
    for start in range(0, len(seeds), batch):
        latents, labels, streams = inputs_of_seeds(
            denoiser, seeds[start : start + batch], label=label
        )
        labels = None if labels is None else labels.to(device)
        yield with_options(
            sample, options, denoiser, latents.to(device), labels=labels, generator=streams
        )
