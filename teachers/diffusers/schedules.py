"""How a network of diffusers is asked about x at noise level sigma, and what its answer means.

Each schedule says at which scale and time the network takes x = x_0 + sigma eps, and turns what it
predicts into D(x; sigma). Images are in [-1, 1] throughout.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float

from teachers.arguments import check_choice

PREDICTIONS = ("epsilon", "sample", "v_prediction")
TIMESTEPS = ("interpolated", "nearest")

Images = Float[torch.Tensor, "n c h w"]
Levels = Float[torch.Tensor, "#n 1 1 1"]
Times = Float[torch.Tensor, " m"]  # of n images, or one of all


@runtime_checkable
class Schedule(Protocol):
    """What a network was trained on."""

    @property
    def sigma_min(self) -> float:
        """Lowest noise level."""
        ...

    @property
    def sigma_max(self) -> float:
        """Highest noise level."""
        ...

    def scaled(self, x: Images, sigma: Levels) -> tuple[Images, Times]:
        """Return the network's input and its time, [n] or [1]."""
        ...

    def denoised(self, x: Images, sigma: Levels, raw: Images) -> Images:
        """Return D(x; sigma) of what the network predicts."""
        ...

    def round_sigma(self, sigma: Float[torch.Tensor, "*s"]) -> Float[torch.Tensor, "*s"]:
        """Return the nearest noise level that there is, in sigma's type."""
        ...


class Discrete(torch.nn.Module):
    """DDPM's: timesteps with their share of signal a_t (Ho et al. 2020, arXiv:2006.11239).

    x_t = sqrt(a_t) x_0 + sqrt(1 - a_t) eps, a_t the running product of 1 - beta. With
    sigma_t = sqrt((1 - a_t) / a_t), x = x_t / sqrt(a_t) is x_0 plus noise of that level, and the
    network is called with x / sqrt(1 + sigma^2) and t(sigma). What it predicts becomes D (Salimans
    and Ho 2022, arXiv:2202.00512, Section 4 and Appendix D):

        epsilon: x - sigma F        sample: F        v_prediction: x / (1 + sigma^2) - c F,

    with c = sigma / sqrt(1 + sigma^2).

    Args:
        alphas_cumprod: the schedule a_t, falling, each in 0 to 1.
        prediction: what the network predicts, one of PREDICTIONS.
        timestep: "interpolated" between the trained ones in ln(sigma), or the "nearest", which is
            then the grid of round_sigma.

    Raises:
        ValueError: an unknown prediction or timestep, a schedule that does not fall within 0 to 1.
    """

    sigmas: torch.Tensor

    def __init__(
        self,
        alphas_cumprod: Float[torch.Tensor, " t"],
        *,
        prediction: str = "epsilon",
        timestep: str = "interpolated",
    ):
        check_choice("prediction_type", prediction, PREDICTIONS)
        check_choice("timestep", timestep, TIMESTEPS)
        a = torch.as_tensor(alphas_cumprod, dtype=torch.float64, device="cpu")
        # A schedule rescaled to end in pure noise has no finite noise level there.
        a = a[:-1] if len(a) and a[-1] == 0 else a
        if (
            not len(a)
            or not 0 < float(a.min()) <= float(a.max()) < 1
            or bool((a.diff() >= 0).any())
        ):
            raise ValueError("alphas_cumprod must fall, and lie between 0 and 1")
        super().__init__()
        self.prediction = prediction
        self.timestep = timestep
        self.register_buffer("sigmas", ((1 - a) / a).sqrt().float(), persistent=False)
        self.sigma_min, self.sigma_max = float(self.sigmas[0]), float(self.sigmas[-1])

    def scaled(self, x: Images, sigma: Levels) -> tuple[Images, Times]:
        """Return x / sqrt(1 + sigma^2) and t(sigma)."""
        return x / (1 + sigma**2).sqrt(), self.time(sigma.flatten())

    def denoised(self, x: Images, sigma: Levels, raw: Images) -> Images:
        """Return D(x; sigma) of epsilon, x_0 or v."""
        if self.prediction == "epsilon":
            return x - sigma * raw
        if self.prediction == "sample":
            return raw
        vp = (1 + sigma**2).sqrt()
        return x / vp.square() - sigma / vp * raw

    def time(self, sigma: Times) -> Times:
        """Return the timestep t in 0 to len(sigmas) - 1 of noise levels [n]; those outside clip."""
        logs, wanted = self.sigmas.log(), sigma.to(self.sigmas).log()
        if self.timestep == "nearest":
            return self._nearest(sigma).to(wanted)
        last = len(logs) - 1
        above = torch.searchsorted(logs, wanted.contiguous()).clamp(min(1, last), last)
        below = (above - 1).clamp_min(0)
        span = (logs[above] - logs[below]).clamp_min(torch.finfo(logs.dtype).tiny)
        return below + ((wanted - logs[below]) / span).clamp(0, 1)

    def round_sigma(self, sigma: Float[torch.Tensor, "*s"]) -> Float[torch.Tensor, "*s"]:
        """Return sigma, or with the nearest timestep the nearest trained level."""
        if self.timestep == "interpolated":
            return sigma
        return self.sigmas[self._nearest(sigma)].to(sigma)

    def _nearest(self, sigma: torch.Tensor) -> torch.Tensor:
        return (sigma.to(self.sigmas)[..., None] - self.sigmas).abs().argmin(dim=-1)


@dataclass(frozen=True)
class VarianceExploding:
    """The VE SDE of score_sde (Song et al. 2021, arXiv:2011.13456), which has images in [0, 1].

    There x' = (x + 1) / 2 and sigma' = sigma / 2; the network predicts the score
    F = (D' - x') / sigma'^2, so D = 2 (x' + sigma'^2 F) - 1.

    Attributes:
        sigma_min: lowest noise level of images in [-1, 1], twice that of [0, 1].
        sigma_max: highest noise level, likewise.
    """

    sigma_min: float
    sigma_max: float

    def scaled(self, x: Images, sigma: Levels) -> tuple[Images, Times]:
        """Return x' and sigma'."""
        return (x + 1) / 2, sigma.flatten() / 2

    def denoised(self, x: Images, sigma: Levels, raw: Images) -> Images:
        """Return D(x; sigma) of the score."""
        return x + sigma**2 / 2 * raw

    def round_sigma(self, sigma: Float[torch.Tensor, "*s"]) -> Float[torch.Tensor, "*s"]:
        """Return sigma."""
        return sigma


@dataclass(frozen=True)
class Preconditioned:
    """The last column of Table 1 in Karras et al. 2022 (arXiv:2206.00364), as EDM's networks.

    Attributes:
        sigma_min: lowest noise level.
        sigma_max: highest noise level.
        sigma_data: spread of the data.
        sign: of the network's share; -1 where it predicts v.
    """

    sigma_min: float
    sigma_max: float
    sigma_data: float = 0.5
    sign: float = 1.0

    def scaled(self, x: Images, sigma: Levels) -> tuple[Images, Times]:
        """Return x / sqrt(sigma^2 + sigma_data^2) and ln(sigma) / 4."""
        return x / (sigma**2 + self.sigma_data**2).sqrt(), sigma.flatten().log() / 4

    def denoised(self, x: Images, sigma: Levels, raw: Images) -> Images:
        """Return c_skip x + c_out F."""
        total = sigma**2 + self.sigma_data**2
        c_out = self.sign * sigma * self.sigma_data / total.sqrt()
        return self.sigma_data**2 / total * x + c_out * raw

    def round_sigma(self, sigma: Float[torch.Tensor, "*s"]) -> Float[torch.Tensor, "*s"]:
        """Return sigma."""
        return sigma
