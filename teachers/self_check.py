"""Whether a denoiser denoises: its error over the noise levels against an analytic bound.

Facts that a file does not hold (attention heads, the order of qkv, the noise schedule) raise
nothing where they are wrong. But D(x; sigma) is the denoiser of least squared error, so on images
of its kind it errs no more than the best linear one that knows only how their power is spread over
frequencies, Wiener's filter: with P_k the power of the images at frequency k,

    E |D(x_0 + sigma eps; sigma) - x_0|^2 <= sum_k P_k sigma^2 / (P_k + sigma^2).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float

from roles import Denoiser

# Here the bound is well below the noise and the images. On the demo's trained teacher (measured, 16
# images) a right network reaches 0.2 to 0.65 of it; told 2 or 1/2 times the noise level, 1.3 or 3.
SIGMAS = (0.2, 0.5, 1.0, 2.0)


@dataclass(frozen=True)
class Fault:
    """A noise level at which a denoiser is worse than a linear filter.

    Attributes:
        sigma: the noise level.
        error: mean squared error of a pixel.
        bound: that of the filter.
    """

    sigma: float
    error: float
    bound: float


def wiener_error(images: Float[torch.Tensor, "n c h w"], sigma: float) -> float:
    """Return the mean squared error of a pixel, of the best filter of equal weight in a ring.

    The power at a frequency is estimated by the mean over the images, their channels and all
    frequencies as far from zero, to a whole number.
    """
    h, w = images.shape[2:]
    power = torch.fft.fft2(images.double(), norm="ortho").abs().square().mean(dim=(0, 1))
    rows, columns = (torch.fft.fftfreq(size, 1 / size, dtype=torch.float64) for size in (h, w))
    rings = (rows[:, None].square() + columns.square()).sqrt().round().long().flatten()
    rings = rings.to(power.device)
    counts = torch.bincount(rings).clamp_min(1)
    mean = torch.bincount(rings, weights=power.flatten()) / counts
    return float((counts * mean * sigma**2 / (mean + sigma**2)).sum() / (h * w))


def faults(
    denoiser: Denoiser,
    images: Float[torch.Tensor, "n c h w"],
    labels: Float[torch.Tensor, "n label_dim"] | None = None,
    *,
    seed: int = 0,
) -> list[Fault]:
    """Return the noise levels at which a denoiser is worse than a linear filter; none is well.

    Args:
        denoiser: of images of this kind.
        images: clean ones in [-1, 1], real or its own samples, on the denoiser's device.
        labels: one-hot, where it has classes.
        seed: of the noise.
    """
    noise = torch.Generator(device="cpu").manual_seed(seed)
    found: list[Fault] = []
    for sigma in SIGMAS:
        if not denoiser.sigma_min <= sigma <= denoiser.sigma_max:
            continue
        eps = torch.randn(images.shape, generator=noise).to(images.device)
        with torch.no_grad():
            denoised = denoiser(images + sigma * eps, sigma, labels)
        error = float((denoised - images).square().mean())
        bound = wiener_error(images, sigma)
        if not error <= bound:
            found.append(Fault(sigma, error, bound))
    return found


def told(found: list[Fault]) -> str:
    """Return in one line what is wrong, and what to do."""
    worst = max(found, key=lambda fault: fault.error / fault.bound)
    ratio = worst.error / worst.bound
    times = f"{ratio:.3g} times" if math.isfinite(ratio) else "not finite, against"
    return (
        f"the teacher denoises worse than a linear filter at sigma "
        f"{', '.join(f'{fault.sigma:g}' for fault in found)} ({times} its error at "
        f"{worst.sigma:g}): its facts may be wrong, as heads, use_new_attention_order, the noise "
        "schedule or predict_xstart, or these are not its images"
    )
