"""The two layers that StyleGAN2's networks share (Karras et al. 2018, arXiv:1710.10196, sec. 4.1).

Both keep weights of unit variance and scale them when they run ("equalized learning rate"), so that
all of them learn at the same speed.
"""

from __future__ import annotations

import math

import torch
from jaxtyping import Float

from stylegan_ops import ACTIVATIONS, Taps, bias_act, conv2d_resample, setup_filter

# Taps of the low-pass filter of all resampling (Karras et al. 2020, arXiv:1912.04958, app. B).
FILTER = (1, 3, 3, 1)


def normalize_2nd_moment(x: Float[torch.Tensor, "n d"]) -> Float[torch.Tensor, "n d"]:
    """Scale each row of x [n, d] to unit mean square."""
    return x * (x.square().mean(dim=1, keepdim=True) + 1e-8).rsqrt()


def limits(act: str, gain: float, clamp: float | None) -> tuple[float, float | None]:
    """Return bias_act's gain and clamp for an extra gain, which scales the clamp as well."""
    return ACTIVATIONS[act].gain * gain, None if clamp is None else clamp * gain


class FullyConnectedLayer(torch.nn.Module):
    """y = f(W x + b), x [n, in_features] -> y [n, out_features]."""

    def __init__(
        self,
        in_features: int,
        out_features: int,
        *,
        activation: str = "linear",
        lr_multiplier: float = 1,
        bias_init: float = 0,
    ):
        super().__init__()
        self.activation = activation
        weight = torch.randn([out_features, in_features])
        # Arithmetic on the meta device, where files are fitted, imports a compiler: many seconds.
        if not weight.is_meta:
            weight = weight / lr_multiplier
        self.weight = torch.nn.Parameter(weight)
        self.bias = torch.nn.Parameter(torch.full([out_features], float(bias_init)))
        self.weight_gain = lr_multiplier / math.sqrt(in_features)
        self.bias_gain = lr_multiplier

    def forward(self, x: Float[torch.Tensor, "n d_in"]) -> Float[torch.Tensor, "n d_out"]:
        """Return y of x, in the dtype of x."""
        w = self.weight.to(x.dtype) * self.weight_gain
        b = self.bias.to(x.dtype)
        b = b if self.bias_gain == 1 else b * self.bias_gain
        if self.activation == "linear":
            return torch.addmm(b, x, w.t())
        return bias_act(x @ w.t(), b, act=self.activation)


class Conv2dLayer(torch.nn.Module):
    """Convolution with optional resampling, bias and activation."""

    resample_filter: torch.Tensor

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        *,
        kernel_size: int,
        bias: bool = True,
        activation: str = "linear",
        up: int = 1,
        down: int = 1,
        resample_filter: Taps | None = FILTER,
        conv_clamp: float | None = None,
    ):
        super().__init__()
        self.activation = activation
        self.up = up
        self.down = down
        self.conv_clamp = conv_clamp
        self.padding = kernel_size // 2
        self.weight_gain = 1 / math.sqrt(in_channels * kernel_size**2)
        self.register_buffer("resample_filter", setup_filter(resample_filter))
        self.weight = torch.nn.Parameter(
            torch.randn([out_channels, in_channels, kernel_size, kernel_size])
        )
        self.bias = torch.nn.Parameter(torch.zeros([out_channels])) if bias else None

    def forward(self, x: torch.Tensor, *, gain: float = 1) -> torch.Tensor:
        """Return [n, out_channels, h * up / down, w * up / down] of x [n, in_channels, h, w]."""
        x = conv2d_resample(
            x,
            (self.weight * self.weight_gain).to(x.dtype),
            f=self.resample_filter,
            up=self.up,
            down=self.down,
            padding=self.padding,
            flip_weight=self.up == 1,
        )
        b = None if self.bias is None else self.bias.to(x.dtype)
        gain, clamp = limits(self.activation, gain, self.conv_clamp)
        return bias_act(x, b, act=self.activation, gain=gain, clamp=clamp)
