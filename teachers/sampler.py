"""Images from a denoiser by solving dx = (x - D(x; sigma)) / sigma dsigma from much noise to none.

Karras et al. 2022 (arXiv:2206.00364): Algorithm 1 (Heun's second-order method) and, with s_churn
above 0, Algorithm 2 (noise added back before each step). The state is float64, since many small
steps are summed.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import pairwise

import torch

from teachers.denoiser import Denoiser

SOLVERS = ("heun", "euler")


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
    latents: torch.Tensor,
    *,
    labels: torch.Tensor | None = None,
    num_steps: int = 18,
    sigma_min: float = 0.002,
    sigma_max: float = 80.0,
    rho: float = 7.0,
    s_churn: float = 0.0,
    s_min: float = 0.0,
    s_max: float = math.inf,
    s_noise: float = 1.0,
    solver: str = "heun",
    generator: torch.Generator | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> torch.Tensor:
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
        generator: source of the noise added back; its device may differ from the latents'.
        progress: called with (steps done, num_steps) after each step.

    Returns:
        Images [n, c, h, w] in the latents' type, about [-1, 1], not clamped.

    Raises:
        ValueError: an option is out of range, or a shape does not fit the denoiser.
    """
    if solver not in SOLVERS:
        raise ValueError(f"solver is {solver!r}; allowed are {', '.join(SOLVERS)}")
    levels = noise_levels(denoiser, num_steps, sigma_min=sigma_min, sigma_max=sigma_max, rho=rho)
    x = latents.to(torch.float64) * levels[0]
    for i, (t, t_next) in enumerate(pairwise(levels)):
        if s_churn > 0 and s_min <= t <= s_max:
            gamma = min(s_churn / num_steps, math.sqrt(2) - 1)
            t_hat = _round_sigma(denoiser, t + gamma * t)
            x = x + math.sqrt(t_hat**2 - t**2) * s_noise * _noise_like(x, generator)
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


def _noise_like(x: torch.Tensor, generator: torch.Generator | None) -> torch.Tensor:
    device = x.device if generator is None else generator.device
    return torch.randn(x.shape, generator=generator, dtype=x.dtype, device=device).to(x.device)
