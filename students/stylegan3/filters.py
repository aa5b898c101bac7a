"""Low-pass filters of StyleGAN3 (Karras et al. 2021, arXiv:2106.12423, appendix C.1).

All are Kaiser windows over an ideal low-pass filter: h[n] = 2 f_c sinc(2 f_c x_n) w[n] on one axis,
which is used on both, or h[n, m] = f_c jinc(2 f_c r) w[n] w[m] with r the distance from the centre,
where images must also stay the same under rotation. Designed in double precision, stored in single.
"""

from __future__ import annotations

import math

import torch


def design_filter(
    taps: int, *, cutoff: float, half_width: float, sampling_rate: float, radial: bool = False
) -> torch.Tensor:
    """Design a low-pass filter that passes constants unchanged.

    Args:
        taps: length of the filter.
        cutoff: frequency f_c at which the filter's transition band is centred, cycles per image.
        half_width: half of the transition band f_h, in the same unit.
        sampling_rate: samples per image that the filter acts on, above 2 f_c.
        radial: radially symmetric in two dimensions, instead of separable.

    Returns:
        float32 [taps], or [taps, taps] where radial; on the CPU.

    Raises:
        ValueError: frequencies between which no filter lies.
    """
    if not 0 < 2 * cutoff < sampling_rate or not half_width > 0:
        raise ValueError(
            f"a filter with cutoff {cutoff:g} and half-width {half_width:g} at {sampling_rate:g} "
            "samples; the cutoff must be above 0 and below half the samples, the width above 0"
        )
    window = kaiser_window(taps, 4 * half_width / sampling_rate)
    centre = (taps - 1) / 2
    x = (torch.arange(taps, dtype=torch.float64, device="cpu") - centre) / sampling_rate
    if not radial:
        f = torch.sinc(2 * cutoff * x) * window
    else:
        r = torch.hypot(x[:, None], x[None, :])
        # J_1(a r) / (pi r) with a = 2 pi f_c, whose limit in the centre of an odd filter is f_c.
        jinc = torch.special.bessel_j1(2 * math.pi * cutoff * r) / (math.pi * r)
        f = torch.where(r == 0, cutoff, jinc) * torch.outer(window, window)
    return (f / f.sum()).float()


def kaiser_window(taps: int, width: float) -> torch.Tensor:
    """Return Kaiser's window for a transition band of this width, float64 [taps].

    The width is in units of the Nyquist frequency; the shape follows from it by Kaiser's own
    formulas (Kaiser 1974; Oppenheim and Schafer, Discrete-Time Signal Processing, section 7.5.3).
    """
    attenuation = 2.285 * (taps - 1) * math.pi * width + 7.95  # decibels
    if attenuation > 50:
        beta = 0.1102 * (attenuation - 8.7)
    elif attenuation > 21:
        beta = 0.5842 * (attenuation - 21) ** 0.4 + 0.07886 * (attenuation - 21)
    else:
        beta = 0.0
    return torch.kaiser_window(
        taps, periodic=False, beta=beta, dtype=torch.float64, device=torch.device("cpu")
    )
