"""The parts that the U-Nets of EDM are made of, under the names that the network files use.

Plain differentiable torch throughout, so that every gradient exists to any order, which score
identities need (torch's fused attention has no second derivative on a CPU). Weights are cast to the
type of the features: a network held in float32 also runs in half precision.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F

from stylegan_ops import conv3x3


@dataclass(frozen=True)
class Init:
    """How the weights of a linear map are drawn, and the factors on weight and bias."""

    mode: str
    weight: float = 1.0
    bias: float = 0.0

    def parameter(
        self, shape: Sequence[int], fan_in: int, fan_out: int, factor: float
    ) -> torch.nn.Parameter:
        """Draw as xavier_* (Glorot and Bengio 2010) or kaiming_* (He et al. 2015), times factor."""
        fan = (fan_in + fan_out) / 2 if self.mode.startswith("xavier") else fan_in
        std = factor * math.sqrt(1 / fan)
        values = torch.empty(shape)
        # Without values there is nothing to draw; to trace it costs more than to load the network.
        if not values.is_meta:
            bound = math.sqrt(3) * std
            uniform = self.mode.endswith("uniform")
            values = values.uniform_(-bound, bound) if uniform else values.normal_(std=std)
        return torch.nn.Parameter(values)


class Linear(torch.nn.Module):
    """y = W x + b."""

    def __init__(self, in_features: int, out_features: int, *, bias: bool = True, init: Init):
        super().__init__()
        self.in_features = in_features
        self.out_features = out_features
        fans = in_features, out_features
        self.weight = init.parameter([out_features, in_features], *fans, init.weight)
        # What is absent is a plain None attribute, here and below, as in the files.
        self.bias = init.parameter([out_features], *fans, init.bias) if bias else None

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map x [n, in_features] to [n, out_features]."""
        bias = None if self.bias is None else self.bias.to(x.dtype)
        return F.linear(x, self.weight.to(x.dtype), bias)


class Conv2d(torch.nn.Module):
    """Correlation, before it optional resampling by 2; a kernel of 0 resamples only.

    With `fused_resample` the filter and the kernel share one padding instead of each padding its
    own input, and downsampling comes after the kernel; inside the image the result is the same.
    """

    resample_filter: torch.Tensor

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel: int,
        *,
        init: Init,
        up: bool = False,
        down: bool = False,
        resample_filter: Sequence[float] = (1, 1),
        fused_resample: bool = False,
    ):
        super().__init__()
        self.in_channels = in_channels
        self.out_channels = out_channels
        self.up = up
        self.down = down
        self.fused_resample = fused_resample
        # Two equal taps repeat pixels one way and average them the other: much cheaper to do so.
        self.box_filter = len(resample_filter) == 2 and resample_filter[0] == resample_filter[1]
        self.weight = None
        self.bias = None
        if kernel:
            fans = in_channels * kernel**2, out_channels * kernel**2
            shape = [out_channels, in_channels, kernel, kernel]
            self.weight = init.parameter(shape, *fans, init.weight)
            self.bias = init.parameter([out_channels], *fans, init.bias)
        f = None
        if up or down:
            total = sum(resample_filter) ** 2
            taps = [[a * b / total for a in resample_filter] for b in resample_filter]
            f = torch.tensor([[taps]], dtype=torch.float32)
        self.register_buffer("resample_filter", f)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map x [n, in_channels, h, w] to [n, out_channels, h', w'], h' being h, h / 2 or 2 h."""
        w_pad = 0 if self.weight is None else self.weight.size(-1) // 2
        if not (self.up or self.down):
            return self._correlate(x, w_pad)
        f_pad = (self.resample_filter.size(-1) - 1) // 2
        if self.fused_resample and self.up:
            return self._correlate(self._upsample(x, max(f_pad - w_pad, 0)), max(w_pad - f_pad, 0))
        if self.fused_resample:
            # The bias may come before a filter of unit sum that pads nothing.
            return self._downsample(self._correlate(x, w_pad + f_pad), 0)
        x = self._upsample(x, f_pad) if self.up else self._downsample(x, f_pad)
        return self._correlate(x, w_pad)

    def _correlate(self, x: torch.Tensor, padding: int) -> torch.Tensor:
        if self.weight is None or self.bias is None:
            return x
        weight, bias = self.weight.to(x.dtype), self.bias.to(x.dtype)
        if padding == 1 and weight.shape[2:] == (3, 3):
            return conv3x3(x, weight, bias)
        return F.conv2d(x, weight, bias, padding=padding)

    def _upsample(self, x: torch.Tensor, padding: int) -> torch.Tensor:
        """Insert zeros and filter each channel, keeping its mean."""
        if self.box_filter and not padding:
            return F.interpolate(x, scale_factor=2, mode="nearest")
        c = x.size(1)
        f = (self.resample_filter * 4).to(x.dtype).expand(c, -1, -1, -1)
        return F.conv_transpose2d(x, f, stride=2, padding=padding, groups=c)

    def _downsample(self, x: torch.Tensor, padding: int) -> torch.Tensor:
        """Filter each channel and keep every second pixel."""
        if self.box_filter and not padding:
            return F.avg_pool2d(x, 2)
        c = x.size(1)
        f = self.resample_filter.to(x.dtype).expand(c, -1, -1, -1)
        return F.conv2d(x, f, stride=2, padding=padding, groups=c)


class GroupNorm(torch.nn.Module):
    """Group normalisation (Wu and He 2018): at most 32 groups, of at least four channels."""

    def __init__(self, num_channels: int, *, eps: float = 1e-5, num_groups: int | None = None):
        super().__init__()
        self.num_groups = min(32, num_channels // 4) if num_groups is None else num_groups
        self.eps = eps
        self.weight = torch.nn.Parameter(torch.ones(num_channels))
        self.bias = torch.nn.Parameter(torch.zeros(num_channels))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Normalise x [n, num_channels, h, w]."""
        weight, bias = self.weight.to(x.dtype), self.bias.to(x.dtype)
        return F.group_norm(x, self.num_groups, weight, bias, self.eps)


class PositionalEmbedding(torch.nn.Module):
    """Cosines and sines of the noise level; `endpoint` as in DDPM (Ho et al. 2020), else ADM's."""

    def __init__(self, num_channels: int, *, max_positions: int = 10000, endpoint: bool = False):
        super().__init__()
        self.num_channels = num_channels
        self.max_positions = max_positions
        self.endpoint = endpoint

    def forward(self, c_noise: torch.Tensor) -> torch.Tensor:
        """Map c_noise [n] to [n, num_channels]."""
        half = self.num_channels // 2
        i = torch.arange(half, dtype=torch.float32, device=c_noise.device)
        freqs = (1 / self.max_positions) ** (i / (half - int(self.endpoint)))
        angles = torch.outer(c_noise, freqs.to(c_noise.dtype))
        return torch.cat([angles.cos(), angles.sin()], dim=1)


class FourierEmbedding(torch.nn.Module):
    """Random Fourier features of the noise level (NCSN++, Song et al. 2021)."""

    freqs: torch.Tensor

    def __init__(self, num_channels: int, *, scale: float = 16):
        super().__init__()
        self.register_buffer("freqs", torch.randn(num_channels // 2) * scale)

    def forward(self, c_noise: torch.Tensor) -> torch.Tensor:
        """Map c_noise [n] to [n, num_channels]."""
        angles = torch.outer(c_noise, (2 * math.pi * self.freqs).to(c_noise.dtype))
        return torch.cat([angles.cos(), angles.sin()], dim=1)


class UNetBlock(torch.nn.Module):
    """Residual block, conditioned on the embedding, with optional resampling and self-attention.

    Covers DDPM++, NCSN++ and ADM (Karras et al. 2022, arXiv:2206.00364, Appendix F.2). The
    embedding is a shift, or with `adaptive_scale` a scale and a shift; the sum of the branches is
    multiplied by `skip_scale`. There are `num_heads` attention heads, or one for each
    `channels_per_head` channels, which is none in a narrow block.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        *,
        emb_channels: int,
        up: bool = False,
        down: bool = False,
        attention: bool = False,
        num_heads: int | None = None,
        channels_per_head: int = 64,
        dropout: float = 0.0,
        skip_scale: float = 1.0,
        eps: float = 1e-5,
        resample_filter: Sequence[float] = (1, 1),
        resample_proj: bool = False,
        adaptive_scale: bool = True,
        init: Init,
        init_zero: Init,
        init_attn: Init,
    ):
        super().__init__()
        self.in_channels = in_channels
        self.out_channels = out_channels
        self.emb_channels = emb_channels
        heads = out_channels // channels_per_head if num_heads is None else num_heads
        self.num_heads = heads if attention else 0
        self.dropout = float(dropout)
        self.skip_scale = float(skip_scale)
        self.adaptive_scale = adaptive_scale

        resample = {"up": up, "down": down, "resample_filter": resample_filter, "init": init}
        self.norm0 = GroupNorm(in_channels, eps=eps)
        self.conv0 = Conv2d(in_channels, out_channels, 3, **resample)
        self.affine = Linear(emb_channels, out_channels * (2 if adaptive_scale else 1), init=init)
        self.norm1 = GroupNorm(out_channels, eps=eps)
        self.conv1 = Conv2d(out_channels, out_channels, 3, init=init_zero)
        self.skip = None
        if out_channels != in_channels or up or down:
            kernel = 1 if resample_proj or out_channels != in_channels else 0
            self.skip = Conv2d(in_channels, out_channels, kernel, **resample)
        if self.num_heads:
            self.norm2 = GroupNorm(out_channels, eps=eps)
            self.qkv = Conv2d(out_channels, out_channels * 3, 1, init=init_attn)
            self.proj = Conv2d(out_channels, out_channels, 1, init=init_zero)

    def forward(self, x: torch.Tensor, emb: torch.Tensor) -> torch.Tensor:
        """Map features [n, in_channels, h, w] under the embedding [n or 1, emb_channels]."""
        y = self.conv0(F.silu(self.norm0(x)))
        p = self.affine(emb)[:, :, None, None].to(y.dtype)
        if self.adaptive_scale:
            scale, shift = p.chunk(2, dim=1)
            y = F.silu(torch.addcmul(shift, self.norm1(y), scale + 1))
        else:
            y = F.silu(self.norm1(y + p))
        y = self.conv1(F.dropout(y, self.dropout, self.training))
        y = self._scale(y + (x if self.skip is None else self.skip(x)))
        if self.num_heads:
            y = self._scale(y + self.proj(self._attend(self.qkv(self.norm2(y)))))
        return y

    def _scale(self, x: torch.Tensor) -> torch.Tensor:
        return x if self.skip_scale == 1 else x * self.skip_scale

    def _attend(self, qkv: torch.Tensor) -> torch.Tensor:
        """Attend over pixels; in qkv [n, 3 c, h, w] query, key and value alternate in a head."""
        n, c, h, w = qkv.shape
        q, k, v = qkv.reshape(n * self.num_heads, -1, 3, h * w).unbind(2)
        # The logits outgrow half precision.
        wide = torch.promote_types(q.dtype, torch.float32)
        k = k / math.sqrt(k.size(1))
        weights = (q.to(wide).transpose(1, 2) @ k.to(wide)).softmax(dim=2).to(q.dtype)
        return (v @ weights.transpose(1, 2)).reshape(n, c // 3, h, w)


def last_of_each_size(features: list[torch.Tensor]) -> list[torch.Tensor]:
    """Return the last of an encoder's outputs at each resolution, from the highest down."""
    return list({tuple(x.shape[2:]): x for x in features}.values())
