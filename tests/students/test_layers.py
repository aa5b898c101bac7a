"""Laws of the layers that StyleGAN2's networks share."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F

from students.layers import Conv2dLayer, FullyConnectedLayer, limits, normalize_2nd_moment
from stylegan_ops import bias_act


def test_rows_are_scaled_to_unit_mean_square():
    x = normalize_2nd_moment(5 * torch.randn(4, 7))
    torch.testing.assert_close(x.square().mean(dim=1), torch.ones(4))


@pytest.mark.parametrize("act", ["linear", "relu", "lrelu", "tanh"])
def test_an_extra_gain_scales_the_activation_and_its_clamp(act):
    x, b = torch.randn(2, 3, 4, 4), torch.randn(3)
    ways = [limits(act, factor, 0.5) for factor in (1, 0.3)]
    once, scaled = (bias_act(x, b, act=act, gain=gain, clamp=clamp) for gain, clamp in ways)
    assert float(once.abs().max()) == 0.5
    torch.testing.assert_close(scaled, 0.3 * once)


def test_a_fully_connected_layer_scales_weights_by_fan_in_and_both_by_the_learning_rate():
    layer = FullyConnectedLayer(16, 3, lr_multiplier=0.01, bias_init=2)
    x = torch.randn(5, 16)
    expected = x @ (0.01 * layer.weight).T / 4 + 0.02
    torch.testing.assert_close(layer(x), expected)
    active = FullyConnectedLayer(16, 3, activation="lrelu")
    active.load_state_dict({"weight": 0.01 * layer.weight, "bias": 0.01 * layer.bias})
    torch.testing.assert_close(active(x), math.sqrt(2) * F.leaky_relu(expected, 0.2))


def test_layers_of_any_learning_rate_start_with_outputs_of_unit_variance():
    x = torch.randn(64, 256)
    for lr_multiplier in (1, 0.01):
        y = FullyConnectedLayer(256, 256, lr_multiplier=lr_multiplier)(x).detach()
        assert float(y.std()) == pytest.approx(1, abs=0.1)
    y = Conv2dLayer(16, 64, kernel_size=3)(torch.randn(4, 16, 16, 16)).detach()
    assert float(y[:, :, 1:-1, 1:-1].std()) == pytest.approx(1, abs=0.1)


def test_a_convolution_layer_convolves_adds_its_bias_and_activates():
    layer = Conv2dLayer(2, 3, kernel_size=3, activation="relu", conv_clamp=0.7)
    layer.bias = torch.nn.Parameter(torch.randn(3))
    x = torch.randn(1, 2, 6, 6)
    y = F.conv2d(x, layer.weight / math.sqrt(18), layer.bias, padding=1)
    torch.testing.assert_close(layer(x), (math.sqrt(2) * F.relu(y)).clamp(max=0.7))
