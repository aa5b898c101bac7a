"""The designed filters against SciPy's, and what makes them low-pass filters."""

from __future__ import annotations

import math

import pytest
import scipy.signal
import scipy.special
import torch

from students.stylegan3.filters import design_filter, kaiser_window


@pytest.mark.parametrize(
    ("taps", "cutoff", "half_width", "rate"),
    [(12, 2.0, 6.0, 32), (24, 5.6, 2.4, 64), (7, 3.0, 0.3, 16), (48, 100.0, 60.0, 1024)],
)
def test_a_separable_filter_is_scipys_kaiser_design(taps, cutoff, half_width, rate):
    ours = design_filter(taps, cutoff=cutoff, half_width=half_width, sampling_rate=rate)
    theirs = scipy.signal.firwin(taps, cutoff, width=2 * half_width, fs=rate)
    torch.testing.assert_close(ours, torch.from_numpy(theirs).float())


def test_a_radial_filter_is_the_same_at_the_same_distance_but_for_its_window():
    f = design_filter(12, cutoff=4.0, half_width=4.0, sampling_rate=64, radial=True).double()
    window = kaiser_window(12, 4 * 4.0 / 64)
    x = (torch.arange(12) - 5.5) / 64
    r = torch.hypot(x[:, None], x[None, :])
    jinc = torch.from_numpy(scipy.special.j1(2 * math.pi * 4.0 * r.numpy())) / r
    ratio = f / torch.outer(window, window) / jinc
    torch.testing.assert_close(ratio, ratio[0, 0].expand(12, 12), rtol=1e-5, atol=0)


@pytest.mark.parametrize("radial", [False, True])
@pytest.mark.parametrize("taps", [11, 12])
def test_constants_pass_and_the_filter_has_no_side(taps, radial):
    f = design_filter(taps, cutoff=4.0, half_width=4.0, sampling_rate=64, radial=radial)
    assert f.dtype == torch.float32 and f.isfinite().all()
    torch.testing.assert_close(f.sum(), torch.ones([]))
    torch.testing.assert_close(f, f.flip(list(range(f.ndim))))
    if radial:
        torch.testing.assert_close(f, f.T)


def test_frequencies_beyond_the_stopband_are_damped():
    f = design_filter(48, cutoff=8.0, half_width=4.0, sampling_rate=64).double()
    n = torch.arange(48, dtype=torch.float64)
    response = torch.stack(
        [(f * torch.exp(-2j * math.pi * k / 64 * n)).sum().abs() for k in range(33)]
    )
    assert response[:4].min() > 0.99 and response[13:].max() < 0.01


@pytest.mark.parametrize(("cutoff", "half_width"), [(0.0, 1.0), (16.0, 1.0), (4.0, 0.0)])
def test_a_band_that_no_filter_has_is_refused(cutoff, half_width):
    with pytest.raises(ValueError, match="the cutoff must be above 0 and below half the samples"):
        design_filter(12, cutoff=cutoff, half_width=half_width, sampling_rate=32)
