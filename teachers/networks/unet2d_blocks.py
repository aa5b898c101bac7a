"""The parts of diffusers' UNet2DModel, under the names that its weights have.

They are those of DDPM (Ho et al. 2020, arXiv:2006.11239) and NCSN++ (Song et al. 2021,
arXiv:2011.13456). Levels come in five kinds, which KINDS describes; those of NCSN++ ("Skip") also
carry the image itself down and up, resampled by the filter [1, 3, 3, 1], and divide each sum of two
branches by sqrt(2).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F

from teachers.networks.blocks import Conv2d, Init, Linear

INIT = Init("kaiming_uniform")  # of no consequence: the weights come from files
FIR = (1, 3, 3, 1)
FIR_CHANNELS = 3  # of the image that NCSN++ carries along; diffusers builds no other
Map = torch.Tensor  # features [n, c, h, w]


@dataclass(frozen=True)
class Kind:
    """What a level is made of.

    Attributes:
        attention: with self-attention.
        resample: "conv", or "resnet" where a residual block changes the resolution.
        skip: NCSN++'s, with the image beside the features.
    """

    attention: bool = False
    resample: str = "conv"
    skip: bool = False


KINDS = {
    "{}Block2D": Kind(),
    "Attn{}Block2D": Kind(attention=True),
    "Resnet{}sampleBlock2D": Kind(resample="resnet"),
    "Skip{}Block2D": Kind(skip=True),
    "AttnSkip{}Block2D": Kind(skip=True, attention=True),
}
DOWN = {name.format("Down"): kind for name, kind in KINDS.items()}
UP = {name.format("Up"): kind for name, kind in KINDS.items()}


@dataclass(frozen=True)
class Style:
    """What all levels of a network share.

    Attributes:
        emb_channels: width of the embedding.
        eps: of the normalisations.
        groups: of the normalisations; None is a quarter of the channels, and 32 at most.
        head_dim: channels of an attention head; None is one head.
        scale_shift: whether the embedding scales and shifts, or only shifts.
        padding: of convolutions that halve: 1 on each side, or 0, which is 1 below and right.
    """

    emb_channels: int
    eps: float
    groups: int | None
    head_dim: int | None
    scale_shift: bool
    padding: int

    def norm(self, channels: int, groups: int | None = None) -> torch.nn.GroupNorm:
        """Return a normalisation; groups None is the style's."""
        groups = groups or self.groups or quarter(channels)
        if channels % groups:
            raise ValueError(f"norm_num_groups is {groups}, which does not divide {channels}")
        return torch.nn.GroupNorm(groups, channels, eps=self.eps)


def quarter(channels: int) -> int:
    """Return NCSN++'s number of groups: a quarter of the channels, and 32 at most."""
    return max(1, min(channels // 4, 32))


def fir_down(x: Map) -> Map:
    """Filter and keep every second pixel."""
    return F.conv2d(x, _fir(x), stride=2, padding=1, groups=x.shape[1])


def fir_up(x: Map) -> Map:
    """Insert zeros and filter, keeping the mean."""
    return F.conv_transpose2d(x, 4 * _fir(x), stride=2, padding=1, groups=x.shape[1])


def _fir(x: Map) -> torch.Tensor:
    """Return the filter as a kernel for each channel of x, of unit sum, [c, 1, 4, 4]."""
    taps = torch.tensor(FIR, dtype=x.dtype, device=x.device) / sum(FIR)
    return torch.outer(taps, taps).expand(x.shape[1], 1, -1, -1)


def halved(x: Map) -> Map:
    """Average squares of four pixels."""
    return F.avg_pool2d(x, 2)


def doubled(x: Map) -> Map:
    """Repeat each pixel four times."""
    return F.interpolate(x, scale_factor=2, mode="nearest")


class ResnetBlock(torch.nn.Module):
    """Residual block under the embedding, with optional resampling of both branches.

    Args:
        in_channels: of its input.
        out_channels: of its output.
        style: the network's.
        groups: of the two normalisations; None is the style's.
        divisor: of the sum of the branches.
        resample: what is done to both branches before their first convolutions.
        shortcut: whether the short branch has a 1 x 1 convolution also where widths agree.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        style: Style,
        *,
        groups: tuple[int, int] | None = None,
        divisor: float = 1.0,
        resample: Callable[[Map], Map] | None = None,
        shortcut: bool = False,
    ):
        super().__init__()
        first, second = groups or (None, None)
        self.scale_shift = style.scale_shift
        self.divisor = divisor
        self.resample = resample
        self.norm1 = style.norm(in_channels, first)
        self.conv1 = Conv2d(in_channels, out_channels, 3, init=INIT)
        outputs = out_channels * (2 if style.scale_shift else 1)
        self.time_emb_proj = Linear(style.emb_channels, outputs, init=INIT)
        self.norm2 = style.norm(out_channels, second)
        self.conv2 = Conv2d(out_channels, out_channels, 3, init=INIT)
        self.conv_shortcut = None
        if shortcut or in_channels != out_channels:
            self.conv_shortcut = Conv2d(in_channels, out_channels, 1, init=INIT)

    def forward(self, x: Map, emb: torch.Tensor) -> Map:
        """Map features [n, in_channels, h, w] under the embedding [n, emb_channels]."""
        y = F.silu(self.norm1(x))
        if self.resample is not None:
            x, y = self.resample(x), self.resample(y)
        y = self.conv1(y)
        p = self.time_emb_proj(F.silu(emb))[:, :, None, None]
        if self.scale_shift:
            scale, shift = p.chunk(2, dim=1)
            y = torch.addcmul(shift, self.norm2(y), scale + 1)
        else:
            y = self.norm2(y + p)
        y = self.conv2(F.silu(y))
        if self.conv_shortcut is not None:
            x = self.conv_shortcut(x)
        return _divided(x + y, self.divisor)


class Attention(torch.nn.Module):
    """Self-attention over pixels, added to its input.

    Args:
        channels: of input and output.
        style: the network's.
        groups: of the normalisation; None is the style's, and 0 none at all.
        divisor: of the sum.
    """

    def __init__(
        self, channels: int, style: Style, *, groups: int | None = None, divisor: float = 1.0
    ):
        super().__init__()
        width = channels if style.head_dim is None else style.head_dim
        if channels % width:
            raise ValueError(
                f"attention_head_dim is {width}, which does not divide {channels} channels"
            )
        self.num_heads = channels // width
        self.divisor = divisor
        self.group_norm = None if groups == 0 else style.norm(channels, groups)
        self.to_q = Linear(channels, channels, init=INIT)
        self.to_k = Linear(channels, channels, init=INIT)
        self.to_v = Linear(channels, channels, init=INIT)
        self.to_out = torch.nn.ModuleList([Linear(channels, channels, init=INIT)])

    def forward(self, x: Map) -> Map:
        """Map features [n, channels, h, w]."""
        n, c, h, w = x.shape
        y = x if self.group_norm is None else self.group_norm(x)
        y = y.flatten(2).transpose(1, 2)
        q, k, v = (
            layer(y).reshape(n, h * w, self.num_heads, -1).transpose(1, 2)
            for layer in (self.to_q, self.to_k, self.to_v)
        )
        # Plain products, as torch's fused attention has no second derivative on a CPU; the logits
        # outgrow half precision.
        wide = torch.promote_types(q.dtype, torch.float32)
        k = k / math.sqrt(k.size(-1))
        weights = (q.to(wide) @ k.to(wide).transpose(2, 3)).softmax(dim=3).to(v.dtype)
        y = (weights @ v).transpose(1, 2).reshape(n, h * w, c)
        y = self.to_out[0](y).transpose(1, 2).reshape(n, c, h, w)
        return _divided(x + y, self.divisor)


class Downsample(torch.nn.Module):
    """A 3 x 3 convolution of every second pixel."""

    def __init__(self, channels: int, padding: int):
        super().__init__()
        self.padding = padding
        self.conv = Conv2d(channels, channels, 3, init=INIT)

    def forward(self, x: Map) -> Map:
        """Map features [n, channels, h, w] to [n, channels, h / 2, w / 2]."""
        weight, bias = self.conv.weight, self.conv.bias
        assert weight is not None and bias is not None
        if not self.padding:
            x = F.pad(x, (0, 1, 0, 1))
        return F.conv2d(x, weight.to(x.dtype), bias.to(x.dtype), stride=2, padding=self.padding)


class Upsample(torch.nn.Module):
    """A 3 x 3 convolution of repeated pixels."""

    def __init__(self, channels: int):
        super().__init__()
        self.conv = Conv2d(channels, channels, 3, init=INIT)

    def forward(self, x: Map) -> Map:
        """Map features [n, channels, h, w] to [n, channels, 2 h, 2 w]."""
        return self.conv(doubled(x))


class DownLevel(torch.nn.Module):
    """The encoder at one resolution: blocks, then the way down to the next, but from the last.

    Args:
        kind: what it is made of.
        in_channels: of its input.
        out_channels: of all that it returns.
        style: the network's.
        num_layers: residual blocks.
        is_last: whether it is the lowest level.
    """

    def __init__(
        self,
        kind: Kind,
        in_channels: int,
        out_channels: int,
        style: Style,
        *,
        num_layers: int,
        is_last: bool,
    ):
        super().__init__()
        widths = [in_channels, *[out_channels] * (num_layers - 1)]
        divisor = math.sqrt(2) if kind.skip else 1.0
        self.resnets = torch.nn.ModuleList(
            ResnetBlock(
                width,
                out_channels,
                style,
                groups=(quarter(width), quarter(out_channels)) if kind.skip else None,
                divisor=divisor,
            )
            for width in widths
        )
        self.attentions = torch.nn.ModuleList(
            Attention(out_channels, style, groups=32 if kind.skip else None, divisor=divisor)
            for _ in range(num_layers if kind.attention else 0)
        )
        self.downsamplers = self.resnet_down = self.skip_conv = None
        if is_last:
            return
        if kind.skip:
            self.resnet_down = _resampling(out_channels, style, fir_down, skip=True)
            self.skip_conv = Conv2d(FIR_CHANNELS, out_channels, 1, init=INIT)
        elif kind.resample == "resnet":
            self.downsamplers = torch.nn.ModuleList([_resampling(out_channels, style, halved)])
        else:
            self.downsamplers = torch.nn.ModuleList([Downsample(out_channels, style.padding)])

    def forward(self, x: Map, emb: torch.Tensor, image: Map, skips: list[Map]) -> tuple[Map, Map]:
        """Return features and image for the next level; what the decoder asks for joins skips."""
        for i, resnet in enumerate(self.resnets):
            x = resnet(x, emb)
            if len(self.attentions):
                x = self.attentions[i](x)
            skips.append(x)
        if self.resnet_down is not None and self.skip_conv is not None:
            image = fir_down(image)
            x = self.resnet_down(x, emb) + self.skip_conv(image)
            skips.append(x)
        if self.downsamplers is not None:
            x = _resampled(self.downsamplers[0], x, emb)
            skips.append(x)
        return x, image


class UpLevel(torch.nn.Module):
    """The decoder at one resolution: blocks that take skips back, then the way up to the next.

    Args:
        kind: what it is made of.
        widths: of the features that come in, then of each skip connection, in order of use.
        out_channels: of what it returns.
        style: the network's.
        is_last: whether it is the highest level.
    """

    def __init__(
        self, kind: Kind, widths: list[int], out_channels: int, style: Style, *, is_last: bool
    ):
        super().__init__()
        self.skip = kind.skip
        divisor = math.sqrt(2) if kind.skip else 1.0
        first, *skips = widths
        self.resnets = torch.nn.ModuleList()
        for i, skip in enumerate(skips):
            width = out_channels if i else first
            groups = None
            if kind.skip:
                # With attention diffusers divides by four before the sum, and files rest on it.
                quarters = min(width + skip // 4, 32) if kind.attention else quarter(width + skip)
                groups = (quarters, quarter(out_channels))
            self.resnets.append(
                ResnetBlock(width + skip, out_channels, style, groups=groups, divisor=divisor)
            )
        number = (1 if kind.skip else len(skips)) if kind.attention else 0
        self.attentions = torch.nn.ModuleList(
            Attention(out_channels, style, groups=32 if kind.skip else None, divisor=divisor)
            for _ in range(number)
        )
        self.upsamplers = self.resnet_up = self.skip_norm = self.skip_conv = None
        if is_last:
            return
        if kind.skip:
            self.skip_norm = style.norm(out_channels, quarter(out_channels))
            self.skip_conv = Conv2d(out_channels, FIR_CHANNELS, 3, init=INIT)
            self.resnet_up = _resampling(out_channels, style, fir_up, skip=True)
        elif kind.resample == "resnet":
            self.upsamplers = torch.nn.ModuleList([_resampling(out_channels, style, doubled)])
        else:
            self.upsamplers = torch.nn.ModuleList([Upsample(out_channels)])

    def forward(
        self, x: Map, emb: torch.Tensor, image: Map | None, skips: list[Map]
    ) -> tuple[Map, Map | None]:
        """Return features and image for the next level; takes connections out of skips."""
        for i, resnet in enumerate(self.resnets):
            x = resnet(torch.cat([x, skips.pop()], dim=1), emb)
            if len(self.attentions) and not self.skip:
                x = self.attentions[i](x)
        if self.skip:
            for attention in self.attentions:
                x = attention(x)
            image = None if image is None else fir_up(image)
        if self.resnet_up is not None and self.skip_norm is not None and self.skip_conv is not None:
            own = self.skip_conv(F.silu(self.skip_norm(x)))
            image = own if image is None else image + own
            x = self.resnet_up(x, emb)
        if self.upsamplers is not None:
            x = _resampled(self.upsamplers[0], x, emb)
        return x, image


class Middle(torch.nn.Module):
    """The lowest resolution: a block, attention, a block.

    Args:
        channels: of input and output.
        style: the network's.
        groups: of the attention's normalisation; None is the style's, and 0 none at all.
        attention: whether there is any.
        divisor: of each sum of two branches.
    """

    def __init__(
        self, channels: int, style: Style, *, groups: int | None, attention: bool, divisor: float
    ):
        super().__init__()
        self.resnets = torch.nn.ModuleList(
            ResnetBlock(channels, channels, style, divisor=divisor) for _ in range(2)
        )
        self.attentions = torch.nn.ModuleList(
            Attention(channels, style, groups=groups, divisor=divisor) for _ in range(attention)
        )

    def forward(self, x: Map, emb: torch.Tensor) -> Map:
        """Map features [n, channels, h, w] under the embedding [n, emb_channels]."""
        x = self.resnets[0](x, emb)
        for attention in self.attentions:
            x = attention(x)
        return self.resnets[1](x, emb)


def _resampling(
    channels: int, style: Style, resample: Callable[[Map], Map], *, skip: bool = False
) -> ResnetBlock:
    """Return the residual block that changes the resolution."""
    groups = (quarter(channels), quarter(channels)) if skip else None
    divisor = math.sqrt(2) if skip else 1.0
    return ResnetBlock(
        *(channels, channels, style),
        groups=groups,
        divisor=divisor,
        resample=resample,
        shortcut=skip,
    )


def _resampled(layer: torch.nn.Module, x: Map, emb: torch.Tensor) -> Map:
    return layer(x, emb) if isinstance(layer, ResnetBlock) else layer(x)


def _divided(x: Map, divisor: float) -> Map:
    return x if divisor == 1 else x / divisor
