"""GuidedUNet: the U-Net of improved-diffusion, guided-diffusion and consistency_models.

Nichol and Dhariwal 2021 (arXiv:2102.09672), Dhariwal and Nichol 2021 (arXiv:2105.05233), Song et
al. 2023 (arXiv:2303.01469). Keyword arguments are the originals' flags, the modules are named as in
their files. Convolutions of 3 x 3 and attention are plain differentiable torch, or where nothing
asks for a gradient torch's fused attention.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F

from teachers.networks.blocks import (
    Conv2d,
    GroupNorm,
    Init,
    Linear,
    PositionalEmbedding,
    last_of_each_size,
)

INIT = Init("kaiming_uniform", weight=math.sqrt(1 / 3), bias=math.sqrt(1 / 3))
INIT_ZERO = Init("kaiming_uniform", weight=0)
GROUPS = 32


@dataclass(frozen=True)
class Heads:
    """How the channels of qkv are divided among attention heads; no file holds it.

    Attributes:
        num_heads: of every attention; not used where num_head_channels is given.
        num_head_channels: channels of a head, or None.
        num_heads_upsample: of the decoder, or None for as many as in the encoder.
        use_new_attention_order: qkv is [q, k, v][head][channel], else [head][q, k, v][channel].
    """

    num_heads: int = 1
    num_head_channels: int | None = None
    num_heads_upsample: int | None = None
    use_new_attention_order: bool = False

    def of(self, channels: int, *, decoder: bool = False) -> int:
        """Return the number of heads of an attention with this many channels.

        Raises:
            ValueError: the channels cannot be divided so.
        """
        if self.num_head_channels is not None:
            heads, rest = divmod(channels, self.num_head_channels)
            if rest or not heads:
                raise ValueError(
                    f"num_head_channels is {self.num_head_channels}, but an attention has "
                    f"{channels} channels; give a divisor of all"
                )
            return heads
        heads = self.num_heads
        if decoder and self.num_heads_upsample is not None:
            heads = self.num_heads_upsample
        if channels % heads:
            raise ValueError(
                f"num_heads is {heads}, but an attention has {channels} channels; give a divisor "
                "of all"
            )
        return heads


class GuidedUNet(torch.nn.Module):
    """The U-Net of the guided-diffusion layout.

    Args:
        in_channels: channels of the input.
        out_channels: channels of the output, twice as many where the network learned variances.
        model_channels: the width that channel_mult multiplies.
        channel_mult: relative width of each level, from the full resolution down.
        num_res_blocks: blocks of each level; the decoder has one more.
        attention_levels: whether each level has attention.
        num_classes: 0 is unconditional.
        use_scale_shift_norm: the embedding is a scale and a shift, else a shift.
        resblock_updown: blocks resample, else convolutions do.
        heads: of all attention.
        qkv_ndim: dimensions of the weights of qkv: 4 as consistency_models, 3 as the others.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        *,
        model_channels: int,
        channel_mult: Sequence[float],
        num_res_blocks: Sequence[int],
        attention_levels: Sequence[bool],
        num_classes: int,
        use_scale_shift_norm: bool,
        resblock_updown: bool,
        heads: Heads,
        qkv_ndim: int = 3,
    ):
        super().__init__()
        self.num_classes = num_classes
        emb = model_channels * 4
        self.embed_time = PositionalEmbedding(model_channels)
        self.time_embed = torch.nn.ModuleDict(
            {"0": Linear(model_channels, emb, init=INIT), "2": Linear(emb, emb, init=INIT)}
        )
        if num_classes:
            self.label_emb = ClassEmbedding(num_classes, emb)

        def block(c_in: int, c_out: int, resample: str = "") -> ResBlock:
            return ResBlock(c_in, c_out, emb, scale_shift=use_scale_shift_norm, resample=resample)

        def attention(c: int, *, decoder: bool = False) -> Attention:
            order = heads.use_new_attention_order
            return Attention(c, heads.of(c, decoder=decoder), new_order=order, qkv_ndim=qkv_ndim)

        widths = [round(model_channels * m) for m in channel_mult]
        width = widths[0]
        first = Conv2d(in_channels, width, 3, init=INIT)
        entries: list[list[torch.nn.Module]] = [[first]]
        skips = [width]
        levels = list(zip(widths, num_res_blocks, attention_levels, strict=True))
        for i, (level_width, num_blocks, attends) in enumerate(levels):
            for _ in range(num_blocks):
                entry: list[torch.nn.Module] = [block(width, level_width)]
                width = level_width
                if attends:
                    entry.append(attention(width))
                entries.append(entry)
                skips.append(width)
            if i < len(levels) - 1:
                down = block(width, width, "down") if resblock_updown else Downsample(width)
                entries.append([down])
                skips.append(width)
        self.input_blocks = _numbered(entries)
        self.middle_block = torch.nn.ModuleList(
            [block(width, width), attention(width), block(width, width)]
        )
        entries = []
        for i, (level_width, num_blocks, attends) in reversed(list(enumerate(levels))):
            for j in range(num_blocks + 1):
                entry = [block(width + skips.pop(), level_width)]
                width = level_width
                if attends:
                    entry.append(attention(width, decoder=True))
                if i and j == num_blocks:
                    entry.append(block(width, width, "up") if resblock_updown else Upsample(width))
                entries.append(entry)
        self.output_blocks = _numbered(entries)
        self.out = torch.nn.ModuleDict(
            {
                "0": GroupNorm(width, num_groups=GROUPS),
                "2": Conv2d(width, out_channels, 3, init=INIT_ZERO),
            }
        )

    def forward(
        self, x: torch.Tensor, c_noise: torch.Tensor, labels: torch.Tensor | None = None
    ) -> torch.Tensor:
        """Return the raw output F [n, out_channels, h, w].

        Args:
            x: scaled noisy images [n, in_channels, h, w].
            c_noise: noise level as the network is told it, fractions allowed, [n or 1].
            labels: one-hot [n or 1, num_classes]; needed where num_classes is above 0.
        """
        emb = self._embed(c_noise, labels)
        skips = self._encode(x, emb)
        x = _run(self.middle_block, skips[-1], emb)
        for entry in self.output_blocks:
            x = _run(entry, torch.cat([x, skips.pop()], dim=1), emb)
        return self.out["2"](F.silu(self.out["0"](x)))

    def features(
        self, x: torch.Tensor, c_noise: torch.Tensor, labels: torch.Tensor | None = None
    ) -> list[torch.Tensor]:
        """Return the encoder's last output at each resolution, [n, width, r, r], highest first.

        The arguments are those of forward; the decoder does not run.
        """
        return last_of_each_size(self._encode(x, self._embed(c_noise, labels)))

    def _embed(self, c_noise: torch.Tensor, labels: torch.Tensor | None) -> torch.Tensor:
        """Return SiLU of the embedding, which all blocks take."""
        # Noise levels are too far apart for half precision, sines are not.
        wide = torch.promote_types(c_noise.dtype, torch.float32)
        first, second = self.time_embed["0"], self.time_embed["2"]
        e = self.embed_time(c_noise.to(wide)).to(first.weight.dtype)
        emb = second(F.silu(first(e)))
        if self.num_classes and labels is not None:
            emb = emb + self.label_emb(labels)
        return F.silu(emb)

    def _encode(self, x: torch.Tensor, emb: torch.Tensor) -> list[torch.Tensor]:
        """Return what each of the encoder's entries hands to the decoder."""
        skips: list[torch.Tensor] = []
        for entry in self.input_blocks:
            x = _run(entry, x, emb)
            skips.append(x)
        return skips


def _numbered(entries: Sequence[Sequence[torch.nn.Module]]) -> torch.nn.ModuleList:
    return torch.nn.ModuleList(torch.nn.ModuleList(entry) for entry in entries)


def _run(entry: torch.nn.Module, x: torch.Tensor, emb: torch.Tensor) -> torch.Tensor:
    for layer in entry.children():
        x = layer(x, emb) if isinstance(layer, ResBlock) else layer(x)
    return x


class ClassEmbedding(torch.nn.Module):
    """A row of weights [num_classes, channels] for each class."""

    def __init__(self, num_classes: int, channels: int):
        super().__init__()
        init = Init("kaiming_normal")
        self.weight = init.parameter([num_classes, channels], 1, channels, 1)

    def forward(self, labels: torch.Tensor) -> torch.Tensor:
        """Map one-hot labels [n, num_classes] to [n, channels]."""
        return labels.to(self.weight.dtype) @ self.weight


class ResBlock(torch.nn.Module):
    """Residual block under an embedding; resample is "", "up" or "down", by copies or means."""

    def __init__(self, c_in: int, c_out: int, c_emb: int, *, scale_shift: bool, resample: str = ""):
        super().__init__()
        self.scale_shift = scale_shift
        self.resample = resample
        self.in_layers = torch.nn.ModuleDict(
            {"0": GroupNorm(c_in, num_groups=GROUPS), "2": Conv2d(c_in, c_out, 3, init=INIT)}
        )
        shifts = c_out * (2 if scale_shift else 1)
        self.emb_layers = torch.nn.ModuleDict({"1": Linear(c_emb, shifts, init=INIT)})
        self.out_layers = torch.nn.ModuleDict(
            {"0": GroupNorm(c_out, num_groups=GROUPS), "3": Conv2d(c_out, c_out, 3, init=INIT_ZERO)}
        )
        self.skip_connection = None if c_in == c_out else Conv2d(c_in, c_out, 1, init=INIT)

    def forward(self, x: torch.Tensor, emb: torch.Tensor) -> torch.Tensor:
        """Map x [n, c_in, h, w] under SiLU(emb) [n or 1, c_emb]."""
        y = F.silu(self.in_layers["0"](x))
        if self.resample:
            x, y = self._resampled(x), self._resampled(y)
        y = self.in_layers["2"](y)
        p = self.emb_layers["1"](emb)[:, :, None, None].to(y.dtype)
        if self.scale_shift:
            scale, shift = p.chunk(2, dim=1)
            y = torch.addcmul(shift, self.out_layers["0"](y), scale + 1)
        else:
            y = self.out_layers["0"](y + p)
        y = self.out_layers["3"](F.silu(y))
        return y + (x if self.skip_connection is None else self.skip_connection(x))

    def _resampled(self, x: torch.Tensor) -> torch.Tensor:
        if self.resample == "up":
            return F.interpolate(x, scale_factor=2, mode="nearest")
        return F.avg_pool2d(x, 2)


class Downsample(torch.nn.Module):
    """A convolution of stride 2."""

    def __init__(self, channels: int):
        super().__init__()
        self.op = Conv2d(channels, channels, 3, init=INIT)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map [n, c, h, w] to [n, c, h / 2, w / 2]."""
        assert self.op.weight is not None and self.op.bias is not None
        weight, bias = self.op.weight.to(x.dtype), self.op.bias.to(x.dtype)
        return F.conv2d(x, weight, bias, stride=2, padding=1)


class Upsample(torch.nn.Module):
    """Copies of pixels, and a convolution."""

    def __init__(self, channels: int):
        super().__init__()
        self.conv = Conv2d(channels, channels, 3, init=INIT)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map [n, c, h, w] to [n, c, 2 h, 2 w]."""
        return self.conv(F.interpolate(x, scale_factor=2, mode="nearest"))


class Projection(torch.nn.Module):
    """A linear map of each pixel's channels; its weights have trailing dimensions of size 1."""

    def __init__(self, c_in: int, c_out: int, *, ndim: int, init: Init):
        super().__init__()
        self.weight = init.parameter([c_out, c_in, *[1] * (ndim - 2)], c_in, c_out, init.weight)
        self.bias = init.parameter([c_out], c_in, c_out, init.bias)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map x [n, c_in, h, w]."""
        weight = self.weight.flatten(1)[:, :, None, None].to(x.dtype)
        return F.conv2d(x, weight, self.bias.to(x.dtype))


class Attention(torch.nn.Module):
    """Self-attention of pixels, added to its input."""

    def __init__(self, channels: int, num_heads: int, *, new_order: bool, qkv_ndim: int):
        super().__init__()
        self.num_heads = num_heads
        self.new_order = new_order
        self.norm = GroupNorm(channels, num_groups=GROUPS)
        self.qkv = Projection(channels, 3 * channels, ndim=qkv_ndim, init=INIT)
        self.proj_out = Projection(channels, channels, ndim=qkv_ndim, init=INIT_ZERO)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map x [n, c, h, w]."""
        n, c, h, w = x.shape
        qkv = self.qkv(self.norm(x))
        if self.new_order:
            q, k, v = qkv.reshape(n, 3, self.num_heads, -1, h * w).transpose(3, 4).unbind(1)
        else:
            q, k, v = qkv.reshape(n, self.num_heads, 3, -1, h * w).transpose(3, 4).unbind(2)
        y = attend(q, k, v).transpose(2, 3).reshape(n, c, h, w)
        return x + self.proj_out(y)


def attend(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
    """Return softmax(q k^T / sqrt(d)) v, of [n, heads, pixels, d] each."""
    if not (torch.is_grad_enabled() and q.requires_grad):
        return F.scaled_dot_product_attention(q.contiguous(), k.contiguous(), v.contiguous())
    # Torch's fused attention has no second derivative on a CPU. The logits outgrow half precision.
    wide = torch.promote_types(q.dtype, torch.float32)
    logits = (q / math.sqrt(q.size(-1))).to(wide) @ k.to(wide).transpose(2, 3)
    return logits.softmax(dim=-1).to(v.dtype) @ v
