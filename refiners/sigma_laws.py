"""Laws of the noise level, adding noise, and the denoising loss, in EDM's x = x_0 + sigma eps.

A law is written NAME:A,B so that a command line, a JSON file and a dataclass can hold it:

    lognormal:P_MEAN,P_STD    ln sigma ~ N(P_MEAN, P_STD^2) (Karras et al. 2022, Table 1)
    loguniform:MIN,MAX        ln sigma uniform
    karras:MIN,MAX            uniform on the sampler's grid, rho = 7 (Karras et al. 2022, Eq. 5)
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch

from refiners.base import Images, Labels, Levels, Scalar
from refiners.knob import knob
from roles import Denoiser

RHO = 7.0


def _lognormal(n: int, device: torch.device, mean: float, std: float) -> Levels:
    return (torch.randn([n], device=device) * std + mean).exp()


def _loguniform(n: int, device: torch.device, low: float, high: float) -> Levels:
    u = torch.rand([n], device=device)
    return (math.log(low) + u * (math.log(high) - math.log(low))).exp()


def _karras(n: int, device: torch.device, low: float, high: float) -> Levels:
    u = torch.rand([n], device=device)
    return (high ** (1 / RHO) + u * (low ** (1 / RHO) - high ** (1 / RHO))) ** RHO


LAWS: dict[str, Callable[[int, torch.device, float, float], Levels]] = {
    "lognormal": _lognormal,
    "loguniform": _loguniform,
    "karras": _karras,
}


def parse_law(law: str) -> tuple[str, float, float]:
    """Return the name and the two numbers of a law.

    Raises:
        ValueError: an unknown name, not two finite numbers, or bounds that are no positive
        interval.
    """
    name, _, rest = law.partition(":")
    allowed = "allowed: lognormal:P_MEAN,P_STD, loguniform:MIN,MAX, karras:MIN,MAX"
    try:
        a, b = (float(part) for part in rest.split(","))
    except ValueError:
        raise ValueError(f"the law of sigma is {law!r}; {allowed}") from None
    if name not in LAWS or not (math.isfinite(a) and math.isfinite(b)):
        raise ValueError(f"the law of sigma is {law!r}; {allowed}")
    if name == "lognormal" and b < 0:
        raise ValueError(f"the law of sigma is {law!r}; P_STD must be at least 0")
    if name != "lognormal" and not 0 < a <= b:
        raise ValueError(f"the law of sigma is {law!r}; it must hold 0 < MIN <= MAX")
    return name, a, b


def draw_sigma(law: str, n: int, device: torch.device | str = "cpu") -> Levels:
    """Draw n noise levels [n] from a law; the randomness is torch's stream on that device."""
    name, a, b = parse_law(law)
    return LAWS[name](n, torch.device(device), a, b)


def add_noise(x_0: Images, sigma: Levels) -> Images:
    """Return x = x_0 + sigma eps, with eps ~ N(0, I)."""
    return x_0 + sigma[:, None, None, None] * torch.randn_like(x_0)


def denoising_weight(sigma: Levels, sigma_data: float) -> Levels:
    """Return EDM's lambda(sigma) = (sigma^2 + sigma_data^2) / (sigma sigma_data)^2 (Table 1)."""
    return (sigma**2 + sigma_data**2) / (sigma * sigma_data) ** 2


def denoising_loss(
    denoiser: Denoiser, x_0: Images, labels: Labels, *, law: str, sigma_data: float
) -> Scalar:
    """Return EDM's denoising loss (Karras et al. 2022, Eq. 8): pixel sum, sample mean."""
    sigma = draw_sigma(law, len(x_0), x_0.device)
    error = denoiser(add_noise(x_0, sigma), sigma, labels) - x_0
    return (denoising_weight(sigma, sigma_data) * error.square().sum(dim=[1, 2, 3])).mean()


def student_law(default: str) -> str:
    """Return the knob of the law in a method's gradient."""
    return knob(
        default,
        "Law of the noise level in the student's gradient: lognormal:P_MEAN,P_STD, "
        "loguniform:MIN,MAX or karras:MIN,MAX.",
        useful="sigma from 0.02 to 20 for images in [-1, 1]",
        outside="Low levels alone move detail and never layout; high levels alone blur detail.",
        symbol="p(sigma)",
        check=parse_law,
    )


def auxiliary_law(default: str = "lognormal:-1.2,1.2") -> str:
    """Return the knob of the law in the auxiliary's loss; EDM's own by default."""
    return knob(
        default,
        "Law of the noise level in the auxiliary's denoising loss.",
        useful="at least as wide as student_sigma",
        outside="Where it is narrower the auxiliary is not trained, and the gradient is wrong.",
        check=parse_law,
    )


def data_spread() -> float:
    """Return the knob of the teacher's sigma_data."""
    return knob(
        0.5,
        "Spread of the data that the teacher's preconditioning assumes.",
        useful="the teacher's own, 0.5 for EDM",
        outside="Another value weighs the auxiliary's loss wrongly over sigma.",
        symbol="sigma_data",
        above=0,
    )
