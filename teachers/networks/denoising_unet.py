"""DenoisingUNet: the U-Net of denoising-diffusion-pytorch since it has memory tokens.

Ho et al. 2020 (arXiv:2006.11239) with normalisation by the root mean square, linear attention
(Shen et al. 2021, arXiv:1812.01243) at all levels but the lowest, and learned keys and values
beside those of the image. Modules are named as in that program's files.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F

from teachers.networks.blocks import (
    Conv2d,
    Init,
    Linear,
    PositionalEmbedding,
    last_of_each_size,
)
from teachers.networks.guided_unet import attend

INIT = Init("kaiming_uniform", weight=math.sqrt(1 / 3), bias=math.sqrt(1 / 3))


@dataclass(frozen=True)
class Kind:
    """An attention: heads, channels of one, learned tokens, and whether it is linear."""

    heads: int
    head_channels: int
    tokens: int
    linear: bool


class DenoisingUNet(torch.nn.Module):
    """The U-Net of denoising-diffusion-pytorch.

    Args:
        img_channels: channels of the images.
        dim: width of the embedding of the noise level.
        widths: of the first convolution, and of what each level hands to the next.
        attention: of each level, and of the middle.
        self_condition: it also takes an estimate of the image, for which zeros stand here.
    """

    def __init__(
        self,
        img_channels: int,
        *,
        dim: int,
        widths: Sequence[int],
        attention: Sequence[Kind],
        self_condition: bool,
    ):
        super().__init__()
        self.self_condition = self_condition
        emb = 4 * dim
        first = img_channels * (2 if self_condition else 1)
        self.init_conv = Conv2d(first, widths[0], 7, init=INIT)
        self.embed_time = PositionalEmbedding(dim, endpoint=True)
        self.time_mlp = torch.nn.ModuleDict(
            {"1": Linear(dim, emb, init=INIT), "3": Linear(emb, emb, init=INIT)}
        )
        levels = list(zip(widths[:-1], widths[1:], attention[:-1], strict=True))
        last = len(levels) - 1
        self.downs, self.ups = torch.nn.ModuleList(), torch.nn.ModuleList()
        for i, (width, below, kind) in enumerate(levels):
            down = (
                Conv2d(width, below, 3, init=INIT) if i == last else Resample(width, below, "down")
            )
            blocks = [ResBlock(width, width, emb), ResBlock(width, width, emb)]
            self.downs.append(torch.nn.ModuleList([*blocks, Attention(width, kind), down]))
        lowest = widths[-1]
        self.mid_block1 = ResBlock(lowest, lowest, emb)
        self.mid_attn = Attention(lowest, attention[-1])
        self.mid_block2 = ResBlock(lowest, lowest, emb)
        for i, (width, below, kind) in reversed(list(enumerate(levels))):
            up = Resample(below, width, "up") if i else Conv2d(below, width, 3, init=INIT)
            blocks = [ResBlock(below + width, below, emb) for _ in range(2)]
            self.ups.append(torch.nn.ModuleList([*blocks, Attention(below, kind), up]))
        self.final_res_block = ResBlock(2 * widths[0], widths[0], emb)
        self.final_conv = Conv2d(widths[0], img_channels, 1, init=INIT)

    def forward(
        self, x: torch.Tensor, c_noise: torch.Tensor, labels: torch.Tensor | None = None, /
    ) -> torch.Tensor:
        """Return the raw output F [n, img_channels, h, w].

        Args:
            x: scaled noisy images [n, img_channels, h, w].
            c_noise: the step, fractions allowed, [n or 1].
            labels: not used; these networks have no classes.
        """
        emb = self._embed(c_noise)
        first, skips, x = self._encode(x, emb)
        x = self.mid_block1(x, emb)
        x = x + self.mid_attn(x)
        x = self.mid_block2(x, emb)
        for block1, block2, attention, up in self.ups:  # pyright: ignore[reportGeneralTypeIssues]
            x = block1(torch.cat([x, skips.pop()], dim=1), emb)
            x = block2(torch.cat([x, skips.pop()], dim=1), emb)
            x = up(x + attention(x))
        return self.final_conv(self.final_res_block(torch.cat([x, first], dim=1), emb))

    def features(
        self, x: torch.Tensor, c_noise: torch.Tensor, labels: torch.Tensor | None = None, /
    ) -> list[torch.Tensor]:
        """Return the encoder's last output at each resolution, [n, width, r, r], highest first.

        The arguments are those of forward; the decoder does not run.
        """
        _, skips, x = self._encode(x, self._embed(c_noise))
        return last_of_each_size([*skips, x])

    def _embed(self, c_noise: torch.Tensor) -> torch.Tensor:
        """Return SiLU of the embedding, which all blocks take."""
        cosines, sines = self.embed_time(c_noise).chunk(2, dim=1)
        first, second = self.time_mlp["1"], self.time_mlp["3"]
        e = torch.cat([sines, cosines], dim=1).to(next(first.parameters()).dtype)
        return F.silu(second(F.gelu(first(e))))

    def _encode(
        self, x: torch.Tensor, emb: torch.Tensor
    ) -> tuple[torch.Tensor, list[torch.Tensor], torch.Tensor]:
        """Return the first convolution's output, what the decoder will ask for, and the lowest."""
        if self.self_condition:
            x = torch.cat([torch.zeros_like(x), x], dim=1)
        x = first = self.init_conv(x)
        skips: list[torch.Tensor] = []
        for block1, block2, attention, down in self.downs:  # pyright: ignore[reportGeneralTypeIssues]
            x = block1(x, emb)
            skips.append(x)
            x = block2(x, emb)
            x = x + attention(x)
            skips.append(x)
            x = down(x)
        return first, skips, x


class RMSNorm(torch.nn.Module):
    """Division of each pixel's channels by their root mean square, and a gain."""

    def __init__(self, channels: int):
        super().__init__()
        self.g = torch.nn.Parameter(torch.ones(1, channels, 1, 1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Normalise x [n, channels, h, w]."""
        return F.normalize(x, dim=1) * (self.g.to(x.dtype) * math.sqrt(x.size(1)))


class Block(torch.nn.Module):
    """A convolution, normalised, scaled and shifted, and SiLU."""

    def __init__(self, c_in: int, c_out: int):
        super().__init__()
        self.proj = Conv2d(c_in, c_out, 3, init=INIT)
        self.norm = RMSNorm(c_out)

    def forward(self, x: torch.Tensor, scale_shift: torch.Tensor | None = None) -> torch.Tensor:
        """Map x [n, c_in, h, w]; scale_shift is [n or 1, 2 c_out, 1, 1]."""
        x = self.norm(self.proj(x))
        if scale_shift is not None:
            scale, shift = scale_shift.chunk(2, dim=1)
            x = torch.addcmul(shift, x, scale + 1)
        return F.silu(x)


class ResBlock(torch.nn.Module):
    """Two blocks, of which the first is conditioned on the embedding, beside a shortcut."""

    def __init__(self, c_in: int, c_out: int, c_emb: int):
        super().__init__()
        self.mlp = torch.nn.ModuleDict({"1": Linear(c_emb, 2 * c_out, init=INIT)})
        self.block1 = Block(c_in, c_out)
        self.block2 = Block(c_out, c_out)
        self.res_conv = None if c_in == c_out else Conv2d(c_in, c_out, 1, init=INIT)

    def forward(self, x: torch.Tensor, emb: torch.Tensor) -> torch.Tensor:
        """Map x [n, c_in, h, w] under SiLU(emb) [n or 1, c_emb]."""
        p = self.mlp["1"](emb)[:, :, None, None].to(x.dtype)
        y = self.block2(self.block1(x, p))
        return y + (x if self.res_conv is None else self.res_conv(x))


class Resample(torch.nn.Module):
    """Half the resolution by gathering 2 x 2 pixels, or twice by copies; then a convolution."""

    def __init__(self, c_in: int, c_out: int, how: str):
        super().__init__()
        self.how = how
        conv = (
            Conv2d(c_in, c_out, 3, init=INIT)
            if how == "up"
            else Conv2d(4 * c_in, c_out, 1, init=INIT)
        )
        self.add_module("1", conv)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map [n, c_in, h, w]."""
        if self.how == "up":
            x = F.interpolate(x, scale_factor=2, mode="nearest")
        else:
            x = F.pixel_unshuffle(x, 2)
        return self.get_submodule("1")(x)


class Attention(torch.nn.Module):
    """Attention over pixels and learned tokens, quadratic or linear in their number."""

    def __init__(self, channels: int, kind: Kind):
        super().__init__()
        self.heads, self.linear = kind.heads, kind.linear
        inner = kind.heads * kind.head_channels
        self.norm = RMSNorm(channels)
        tokens = (
            [kind.head_channels, kind.tokens] if kind.linear else [kind.tokens, kind.head_channels]
        )
        self.mem_kv = torch.nn.Parameter(torch.randn([2, kind.heads, *tokens]))
        self.to_qkv = Projection(channels, 3 * inner, bias=False)
        out = Projection(inner, channels)
        self.to_out = (
            torch.nn.ModuleDict({"0": out, "1": RMSNorm(channels)}) if kind.linear else out
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map x [n, channels, h, w]."""
        n, _, h, w = x.shape
        qkv = self.to_qkv(self.norm(x)).reshape(n, 3, self.heads, -1, h * w)
        q, k, v = qkv.unbind(1)  # [n, heads, d, pixels]
        mk, mv = self.mem_kv.to(x.dtype).expand(n, -1, -1, -1, -1).unbind(1)
        if not self.linear:
            q, k, v = (part.transpose(2, 3) for part in (q, k, v))
            y = attend(q, torch.cat([mk, k], dim=2), torch.cat([mv, v], dim=2)).transpose(2, 3)
            return self.to_out(y.reshape(n, -1, h, w))
        k, v = torch.cat([mk, k], dim=3).softmax(dim=3), torch.cat([mv, v], dim=3)
        q = q.softmax(dim=2) / math.sqrt(q.size(2))
        y = (v @ k.transpose(2, 3)) @ q
        assert isinstance(self.to_out, torch.nn.ModuleDict)
        return self.to_out["1"](self.to_out["0"](y.reshape(n, -1, h, w)))


class Projection(torch.nn.Module):
    """A linear map of each pixel's channels."""

    def __init__(self, c_in: int, c_out: int, *, bias: bool = True):
        super().__init__()
        self.weight = INIT.parameter([c_out, c_in, 1, 1], c_in, c_out, INIT.weight)
        self.bias = INIT.parameter([c_out], c_in, c_out, INIT.bias) if bias else None

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map x [n, c_in, h, w]."""
        bias = None if self.bias is None else self.bias.to(x.dtype)
        return F.conv2d(x, self.weight.to(x.dtype), bias)
