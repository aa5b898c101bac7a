"""Laws of the four preconditionings (Karras et al. 2022, Table 1)."""

from __future__ import annotations

import math
import re
from typing import Any

import pytest
import torch

from teachers.edm import EDMPrecond, Precond, VEPrecond, VPPrecond, iDDPMPrecond
from teachers.gaussian import Gaussian

COLUMNS = (VPPrecond, VEPrecond, iDDPMPrecond, EDMPrecond)
SIGMAS = torch.tensor([0.02, 0.3, 1.0, 5.0, 70.0], dtype=torch.float64)


def tiny(column: type[Precond] = EDMPrecond, **kwargs) -> Any:
    """A small denoiser of 8 x 8 images whose every layer matters."""
    given = {"img_resolution": 8, "img_channels": 2, "model_type": "SongUNet", **kwargs}
    narrow = {"model_channels": 8, "channel_mult": [1, 2], "num_blocks": 1, "channel_mult_emb": 2}
    network = column(**{**narrow, **given}).eval()
    for parameter in network.parameters():
        parameter.data += 0.1 * torch.randn_like(parameter)
    return network


class LinearModel(torch.nn.Module):
    """The exact F for data from N(0, std^2 I), with sigma read back from c_noise."""

    def __init__(self, column: Precond, std: float):
        super().__init__()
        self.unit = torch.nn.Parameter(torch.ones([], dtype=torch.float64))
        self.label_dropout = 0
        self.std = std
        self.column = [column]

    def sigma(self, c_noise: torch.Tensor) -> torch.Tensor:
        column = self.column[0]
        if isinstance(column, VPPrecond):
            t = c_noise / (column.M - 1)
            return (0.5 * column.beta_d * t**2 + column.beta_min * t).expm1().sqrt()
        if isinstance(column, VEPrecond):
            return 2 * c_noise.exp()
        if isinstance(column, iDDPMPrecond):
            return column.u[(column.M - 1 - c_noise).long()]
        return (4 * c_noise).exp()

    def forward(self, scaled, c_noise, labels, augment_labels):
        column, sigma = self.column[0], self.sigma(c_noise)[:, None, None, None]
        x = scaled / column.c_in(sigma)
        prior = self.std**2
        target = prior / (prior + sigma**2) * x
        raw = (target - column.c_skip(sigma) * x) / column.c_out(sigma) * self.unit
        # iDDPM's variances come after the images' channels and do not count.
        return torch.cat([raw, torch.full_like(raw, math.nan)], dim=1)


@pytest.mark.parametrize("column", COLUMNS)
def test_the_exact_linear_network_denoises_gaussian_data_exactly(column):
    denoiser = tiny(column).double()
    sigmas = denoiser.round_sigma(SIGMAS)
    denoiser.model = LinearModel(denoiser, std=0.7)
    x = torch.randn(len(sigmas), 2, 8, 8, dtype=torch.float64)
    exact = Gaussian(0.0, 0.7, img_channels=2, img_resolution=8)
    torch.testing.assert_close(denoiser(x, sigmas), exact(x, sigmas), rtol=1e-9, atol=1e-9)


def test_input_and_target_of_the_network_have_unit_variance_for_edm():
    column = tiny(sigma_data=0.4)
    c_skip, c_out, c_in = column.c_skip(SIGMAS), column.c_out(SIGMAS), column.c_in(SIGMAS)
    ones = torch.ones_like(SIGMAS)
    torch.testing.assert_close(c_in**2 * (0.4**2 + SIGMAS**2), ones)
    # Target (x_0 - c_skip (x_0 + sigma eps)) / c_out.
    variance = ((1 - c_skip) ** 2 * 0.4**2 + c_skip**2 * SIGMAS**2) / c_out**2
    torch.testing.assert_close(variance, ones)


@pytest.mark.parametrize("sigma_data", [0.25, 0.5])
def test_an_untrained_edm_network_takes_the_data_for_gaussian(sigma_data):
    denoiser = EDMPrecond(
        img_resolution=8,
        img_channels=1,
        sigma_data=sigma_data,
        model_channels=8,
        channel_mult=[1],
        num_blocks=1,
    )
    x = torch.randn(5, 1, 8, 8)
    exact = Gaussian(0.0, sigma_data, img_channels=1, img_resolution=8)
    torch.testing.assert_close(denoiser(x, SIGMAS.float()), exact(x, SIGMAS.float()))


def test_vp_time_and_noise_level_are_inverse():
    column = tiny(VPPrecond)
    t = torch.linspace(0.001, 1, 50, dtype=torch.float64)
    torch.testing.assert_close(column.sigma_inv(column.sigma(t)), t)


def test_vp_range_is_the_one_that_files_hold():
    column = tiny(VPPrecond)
    assert column.sigma_min == 0.0009765625
    assert column.sigma_max == pytest.approx(152.167, rel=1e-5)


def test_iddpm_levels_satisfy_their_recursion():
    column = tiny(iDDPMPrecond)
    u, m = column.u.double(), column.M

    def a(j):
        return math.sin(0.5 * math.pi * j / m / (0.008 + 1)) ** 2

    assert u[m] == 0
    for j in (1, 2, 10, 500, 999, 1000):
        growth = 1 / max(a(j - 1) / a(j), 0.001)
        assert float(u[j - 1] ** 2 + 1) == pytest.approx(float((u[j] ** 2 + 1) * growth), rel=1e-6)


def test_iddpm_rounds_to_the_nearest_level_and_leaves_levels_alone():
    column = tiny(iDDPMPrecond)
    sigma = torch.tensor([[0.02, 0.5], [1.7, 79.9]], dtype=torch.float64)
    rounded = column.round_sigma(sigma)
    assert rounded.shape == sigma.shape and rounded.dtype == torch.float64
    distance = (column.u.double() - sigma[..., None]).abs().amin(dim=-1)
    torch.testing.assert_close((rounded - sigma).abs(), distance, rtol=0, atol=1e-6)
    torch.testing.assert_close(column.round_sigma(rounded), rounded, rtol=0, atol=0)


def test_other_columns_know_every_level():
    for column in (VPPrecond, VEPrecond, EDMPrecond):
        assert float(tiny(column).round_sigma(0.1234)) == pytest.approx(0.1234)


@pytest.mark.parametrize("column", COLUMNS)
def test_one_noise_level_for_all_equals_the_same_level_for_each(column):
    denoiser = tiny(column, label_dim=3)
    x, labels = torch.randn(4, 2, 8, 8), torch.eye(3)[[0, 2, 1, 0]]
    each = denoiser(x, torch.full([4], 0.8), labels)
    torch.testing.assert_close(denoiser(x, 0.8, labels), each)
    torch.testing.assert_close(denoiser(x, torch.tensor(0.8), labels), each)


def test_no_labels_are_zero_labels():
    denoiser = tiny(label_dim=3)
    x = torch.randn(2, 2, 8, 8)
    zero = denoiser(x, 1.0, torch.zeros(2, 3))
    torch.testing.assert_close(denoiser(x, 1.0), zero)
    assert not torch.allclose(denoiser(x, 1.0, torch.eye(3)[:2]), zero)


def test_labels_are_dropped_in_training_with_their_probability_and_never_after():
    x, labels = torch.randn(400, 2, 8, 8), torch.eye(3)[[1]].expand(400, 3)
    denoiser = tiny(label_dim=3, label_dropout=0.3, dropout=0.0)
    with torch.no_grad():
        conditional, unconditional = denoiser(x, 1.0, labels), denoiser(x, 1.0)
        trained = denoiser.train()(x, 1.0, labels)
    dropped = (trained - unconditional).abs().amax(dim=[1, 2, 3]) < 1e-5
    kept = (trained - conditional).abs().amax(dim=[1, 2, 3]) < 1e-5
    assert bool((dropped ^ kept).all())
    # Within four standard deviations, sqrt(0.3 * 0.7 / 400).
    assert float(dropped.float().mean()) == pytest.approx(0.3, abs=4 * 0.023)


def test_augment_labels_act_where_the_network_takes_them():
    x, augment = torch.randn(2, 2, 8, 8), torch.randn(2, 9)
    with_labels, without = tiny(augment_dim=9), tiny(augment_dim=0)
    none = with_labels(x, 1.0)
    torch.testing.assert_close(with_labels(x, 1.0, augment_labels=torch.zeros(2, 9)), none)
    assert not torch.allclose(with_labels(x, 1.0, augment_labels=augment), none)
    torch.testing.assert_close(without(x, 1.0, augment_labels=augment), without(x, 1.0))


def test_images_and_noise_levels_of_any_type_meet_in_the_precision_of_the_weights():
    denoiser = tiny()
    x, sigma = torch.randn(2, 2, 8, 8, dtype=torch.float64), torch.tensor([0.1, 9.0])
    expected = denoiser(x.float(), sigma)
    assert expected.dtype == torch.float32
    torch.testing.assert_close(denoiser(x, sigma.double()), expected)
    double = denoiser.double()(x, sigma)
    assert double.dtype == torch.float64
    torch.testing.assert_close(double.float(), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.usefixtures("any_shape")
@pytest.mark.parametrize(
    ("x", "sigma", "labels", "message"),
    [
        ([4, 1, 8, 8], [4], None, "x is [4, 1, 8, 8]; this teacher takes [n, 2, 8, 8]"),
        ([4, 2, 16, 16], [4], None, "x is [4, 2, 16, 16]; this teacher takes [n, 2, 8, 8]"),
        ([2, 8, 8], [], None, "x is [2, 8, 8]; this teacher takes [n, 2, 8, 8]"),
        ([4, 2, 8, 8], [3], None, "sigma has 3 elements for 4 images; give 1 or 4"),
        ([4, 2, 8, 8], [4], [4, 5], "labels are [4, 5]; this teacher takes one-hot [4, 3]"),
        ([4, 2, 8, 8], [4], [2, 3], "labels are [2, 3]; this teacher takes one-hot [4, 3]"),
        ([4, 2, 8, 8], [4], [4], "labels are [4]; this teacher takes one-hot [4, 3]"),
    ],
)
def test_inputs_that_do_not_fit_are_refused_with_what_does(x, sigma, labels, message):
    labels = None if labels is None else torch.zeros(labels)
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        tiny(label_dim=3)(torch.zeros(x), torch.ones(sigma), labels)


def test_labels_for_an_unconditional_teacher_are_refused():
    with pytest.raises(ValueError, match=r"labels are \[4, 10\]; .* None, as it is unconditional"):
        tiny()(torch.zeros(4, 2, 8, 8), 1.0, torch.zeros(4, 10))


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"model_type": "Transformer"}, "model_type is 'Transformer'; allowed are SongUNet, Dhar"),
        ({"embedding_type": "learned"}, "embedding_type is 'learned'; allowed are positional"),
        ({"encoder_type": "dense"}, "encoder_type is 'dense'; allowed are standard, skip, resid"),
        ({"decoder_type": "residual"}, "decoder_type is 'residual'; allowed are standard, skip"),
        ({"img_resolution": 9}, "img_resolution is 9 with channel_mult [1, 2]"),
        ({"channel_mult": []}, "img_resolution is 8 with channel_mult []"),
        ({"num_blocks": 0}, "num_blocks is 0; it must be at least 1"),
    ],
)
def test_arguments_that_make_no_network_are_refused(kwargs, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        tiny(**kwargs)


def test_a_number_of_levels_that_no_one_trained_is_refused():
    with pytest.raises(ValueError, match="M is 1000000000; it must be in 1 to 100000"):
        tiny(iDDPMPrecond, M=10**9)
