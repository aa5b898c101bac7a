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

from refiners.base import Denoiser

RHO = 7.0


def _lognormal(n: int, device: torch.device, mean: float, std: float) -> torch.Tensor:
    return (torch.randn([n], device=device) * std + mean).exp()


def _loguniform(n: int, device: torch.device, low: float, high: float) -> torch.Tensor:
    u = torch.rand([n], device=device)
    return (math.log(low) + u * (math.log(high) - math.log(low))).exp()


def _karras(n: int, device: torch.device, low: float, high: float) -> torch.Tensor:
    u = torch.rand([n], device=device)
    return (high ** (1 / RHO) + u * (low ** (1 / RHO) - high ** (1 / RHO))) ** RHO


LAWS: dict[str, Callable[[int, torch.device, float, float], torch.Tensor]] = {
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


def draw_sigma(law: str, n: int, device: torch.device | str = "cpu") -> torch.Tensor:
    """Draw n noise levels [n] from a law; the randomness is torch's stream on that device."""
    name, a, b = parse_law(law)
    return LAWS[name](n, torch.device(device), a, b)


def add_noise(x_0: torch.Tensor, sigma: torch.Tensor) -> torch.Tensor:
    """Return x = x_0 + sigma eps, with eps ~ N(0, I); x_0 [n, c, h, w], sigma [n]."""
    return x_0 + sigma[:, None, None, None] * torch.randn_like(x_0)


def denoising_weight(sigma: torch.Tensor, sigma_data: float) -> torch.Tensor:
    """Return EDM's lambda(sigma) = (sigma^2 + sigma_data^2) / (sigma sigma_data)^2 (Table 1)."""
    return (sigma**2 + sigma_data**2) / (sigma * sigma_data) ** 2


def denoising_loss(
    denoiser: Denoiser,
    x_0: torch.Tensor,
    labels: torch.Tensor | None,
    *,
    law: str,
    sigma_data: float,
) -> torch.Tensor:
    """Return EDM's denoising loss (Karras et al. 2022, Eq. 8): pixel sum, sample mean, a scalar."""
    sigma = draw_sigma(law, len(x_0), x_0.device)
    error = denoiser(add_noise(x_0, sigma), sigma, labels) - x_0
    return (denoising_weight(sigma, sigma_data) * error.square().sum(dim=[1, 2, 3])).mean()


def check_knobs(method: object) -> None:
    """Raise ValueError unless a method's laws of sigma and its sigma_data can be used."""
    knobs = vars(method)
    for name, value in knobs.items():
        if name.endswith("_sigma"):
            parse_law(value)
    sigma_data = knobs["sigma_data"]
    if not 0 < sigma_data < math.inf:
        raise ValueError(f"sigma_data is {sigma_data}; it must be above 0 and finite")


def check_weights(method: object, *names: str) -> None:
    """Raise ValueError unless these knobs of a method are at least 0 and finite."""
    for name in names:
        value = getattr(method, name)
        if not 0 <= value < math.inf:
            raise ValueError(f"{name} is {value}; it must be at least 0 and finite")
