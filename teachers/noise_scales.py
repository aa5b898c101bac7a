"""How networks are told the noise level, and what they predict: EDM's c_skip to c_noise.

D(x; sigma) = c_skip x + c_out F(c_in x; c_noise) (Karras et al. 2022, arXiv:2206.00364, Eq. 7) with
x = x_0 + sigma eps. A network of DDPM's kind sees x_t = m x with m = 1 / sqrt(1 + sigma^2) and
predicts eps, so that D = x - sigma F; one of VE's kind sees x and predicts -eps.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from jaxtyping import Float

from teachers.arguments import check_choice

NOISE_SCHEDULES = ("linear", "cosine")
PREDICTIONS = ("epsilon", "sample", "v_prediction")
SDES = ("vesde", "vpsde", "subvpsde")


class Scales(NamedTuple):
    """c_skip, c_out, c_in and c_noise of noise levels, each of their shape."""

    c_skip: torch.Tensor
    c_out: torch.Tensor
    c_in: torch.Tensor
    c_noise: torch.Tensor


class NoiseScale(torch.nn.Module):
    """Noise levels sigma of any shape -> Scales.

    Attributes:
        sigma_min: lowest noise level that the network was trained for.
        sigma_max: highest.
    """

    def __init__(self, sigma_min: float, sigma_max: float):
        super().__init__()
        self.sigma_min = sigma_min
        self.sigma_max = sigma_max

    def forward(self, sigma: Float[torch.Tensor, "*s"]) -> Scales:
        """Return the four scales."""
        raise NotImplementedError


class Steps(NoiseScale):
    """DDPM's steps t = 0 to T - 1 (Ho et al. 2020, arXiv:2006.11239), sigma_t^2 = (1 - a_t) / a_t.

    Between two steps t is linear in ln(sigma); beyond the ends it stays there. The network predicts
    eps, x_0 or v = m (eps - sigma x_0) (Salimans and Ho 2022, arXiv:2202.00512, Appendix D), which
    gives D = x - sigma F, F or m^2 x - m sigma F.

    Args:
        alphas_cumprod: a_t, the running product of 1 - beta; falling, each in 0 to 1.
        prediction: of the network, one of PREDICTIONS.
        factor: of t, as the network is told it: 1000 / T where it was trained with rescaled steps.
        top: the step of sigma_max; None is the last.
    """

    log_sigmas: torch.Tensor

    def __init__(
        self,
        alphas_cumprod: Float[torch.Tensor, " t"],
        *,
        prediction: str = "epsilon",
        factor: float = 1,
        top: int | None = None,
    ):
        check_choice("prediction_type", prediction, PREDICTIONS)
        a = alphas_cumprod.to(torch.float64)
        low, high = (float(a.min()), float(a.max())) if len(a) else (0.0, 0.0)
        if not 0 < low <= high < 1 or bool((a.diff() >= 0).any()):
            raise ValueError("alphas_cumprod must fall, and lie between 0 and 1")
        logs = ((1 - a) / a).log() / 2
        super().__init__(float(logs[0].exp()), float(logs[-1 if top is None else top].exp()))
        self.prediction = prediction
        self.factor = factor
        self.register_buffer("log_sigmas", logs.float(), persistent=False)

    def forward(self, sigma: Float[torch.Tensor, "*s"]) -> Scales:
        """Return the four scales; c_noise is in 0 to factor (T - 1)."""
        t = self.factor * place_of(sigma, self.log_sigmas)
        m = 1 / (1 + sigma.square()).sqrt()
        if self.prediction == "sample":
            return Scales(torch.zeros_like(sigma), torch.ones_like(sigma), m, t)
        if self.prediction == "v_prediction":
            return Scales(m.square(), -m * sigma, m, t)
        return Scales(torch.ones_like(sigma), -sigma, m, t)


def place_of(
    sigma: Float[torch.Tensor, "*s"], log_sigmas: Float[torch.Tensor, " t"]
) -> Float[torch.Tensor, "*s"]:
    """Return where levels lie among rising ones, 0 to t - 1, linear in the logarithm; ends clip."""
    wanted = sigma.to(log_sigmas).log()
    last = len(log_sigmas) - 1
    above = torch.searchsorted(log_sigmas, wanted.contiguous()).clamp(min(1, last), last)
    below = (above - 1).clamp_min(0)
    span = (log_sigmas[above] - log_sigmas[below]).clamp_min(torch.finfo(log_sigmas.dtype).tiny)
    place = below + ((wanted - log_sigmas[below]) / span).clamp(0, 1)
    return place.to(sigma.dtype)


def schedule(noise_schedule: str, diffusion_steps: int) -> Float[torch.Tensor, " t"]:
    """Return a_t [diffusion_steps], float64, of a schedule of improved-diffusion.

    "linear": beta from 0.0001 to 0.02 times 1000 / T (Ho et al. 2020). "cosine": a_t = f(t) / f(0)
    with f(t) = cos^2(pi/2 (t/T + 0.008) / 1.008) and beta at most 0.999 (Nichol and Dhariwal 2021,
    arXiv:2102.09672, Eq. 17).
    """
    check_choice("noise_schedule", noise_schedule, NOISE_SCHEDULES)
    if noise_schedule == "linear":
        return linear_schedule(0.1, 20, diffusion_steps)
    u = torch.arange(diffusion_steps + 1, dtype=torch.float64, device="cpu") / diffusion_steps
    f = ((u + 0.008) / 1.008 * (math.pi / 2)).cos().square()
    beta = (1 - f[1:] / f[:-1]).clamp_max(0.999)
    return (1 - beta).cumprod(0)


def linear_schedule(beta_min: float, beta_max: float, steps: int) -> Float[torch.Tensor, " t"]:
    """Return a_t [steps], float64, where beta grows linearly from beta_min / T to beta_max / T."""
    beta = torch.linspace(beta_min, beta_max, steps, dtype=torch.float64, device="cpu") / steps
    if not float(beta.max()) < 1:
        raise ValueError(
            f"a linear schedule of {steps} steps reaches beta {float(beta.max()):.3g}; it must "
            f"stay below 1, so give more than {math.floor(beta_max)} steps"
        )
    return (1 - beta).cumprod(0)


class EDMScale(NoiseScale):
    """EDM's preconditioning, but told 250 ln(sigma), as consistency_models does.

    Args:
        sigma_min: lowest noise level, 0.002 as published.
        sigma_max: highest, 80 as published.
        sigma_data: standard deviation of the data, 0.5 as published.
        factor: of ln(sigma), as the network is told it; 1/4 as EDM's own.
        sign: of the network's share; -1 where it predicts v.
    """

    def __init__(
        self,
        sigma_min: float = 0.002,
        sigma_max: float = 80,
        sigma_data: float = 0.5,
        *,
        factor: float = 250,
        sign: float = 1,
    ):
        super().__init__(sigma_min, sigma_max)
        self.sigma_data = sigma_data
        self.factor = factor
        self.sign = sign

    def forward(self, sigma: Float[torch.Tensor, "*s"]) -> Scales:
        """Return the four scales."""
        variance = sigma.square() + self.sigma_data**2
        return Scales(
            self.sigma_data**2 / variance,
            self.sign * sigma * self.sigma_data / variance.sqrt(),
            1 / variance.sqrt(),
            self.factor * sigma.log(),
        )


class VEScale(NoiseScale):
    """The variance-exploding SDE (Song et al. 2021, arXiv:2011.13456): D = x + sigma F(x; ln(s)).

    Args:
        sigma_min: lowest noise level of images in [-1, 1].
        sigma_max: highest.
        factor: s = factor sigma, 1/2 where the network was trained on images in [0, 1].
        levels: trained noise levels s, falling, of a network that is told their number, with
            fractions between them; None tells it ln(s).
    """

    log_levels: torch.Tensor | None

    def __init__(
        self,
        sigma_min: float,
        sigma_max: float,
        *,
        factor: float = 1,
        levels: Float[torch.Tensor, " t"] | None = None,
    ):
        super().__init__(sigma_min, sigma_max)
        self.factor = factor
        logs = None if levels is None else levels.to(torch.float64).flip(0).log().float()
        self.register_buffer("log_levels", logs, persistent=False)

    def forward(self, sigma: Float[torch.Tensor, "*s"]) -> Scales:
        """Return the four scales."""
        one = torch.ones_like(sigma)
        if self.log_levels is None:
            return Scales(one, sigma, one, (self.factor * sigma).log())
        place = place_of(self.factor * sigma, self.log_levels)
        return Scales(one, sigma, one, len(self.log_levels) - 1 - place)


class VPScale(NoiseScale):
    """The variance-preserving SDE and its sub-VP form (Song et al. 2021, Appendix B and C).

    The mean at time t in 0 to 1 is m x_0 with m = exp(-u), u = (beta_max - beta_min) t^2 / 4 +
    beta_min t / 2, and the standard deviation sqrt(1 - m^2), for sub-VP 1 - m^2. So sigma^2 is
    exp(2 u) - 1, for sub-VP sigma = 2 sinh(u). The network is told 999 t and predicts eps.
    """

    def __init__(self, beta_min: float = 0.1, beta_max: float = 20, *, sub: bool = False):
        self.sub = sub
        self.beta_min = beta_min
        self.beta_d = beta_max - beta_min
        super().__init__(*(self._sigma(t) for t in (1e-3, 1.0)))  # where its samplers start and end

    def _sigma(self, t: float) -> float:
        u = self.beta_d * t**2 / 4 + self.beta_min * t / 2
        return 2 * math.sinh(u) if self.sub else math.sqrt(math.expm1(2 * u))

    def forward(self, sigma: Float[torch.Tensor, "*s"]) -> Scales:
        """Return the four scales."""
        u = (sigma / 2).asinh() if self.sub else sigma.square().log1p() / 2
        t = ((self.beta_min**2 + 4 * self.beta_d * u).sqrt() - self.beta_min) / self.beta_d
        return Scales(torch.ones_like(sigma), -sigma, (-u).exp(), 999 * t)
