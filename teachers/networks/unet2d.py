"""diffusers' UNet2DModel: DDPM's and NCSN++'s networks under the names of its files.

Ho et al. 2020 (arXiv:2006.11239), Song et al. 2021 (arXiv:2011.13456). Of these are the folders
google/ddpm-* and google/ncsnpp-*, and what diffusers' example of unconditional training writes.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import torch
import torch.nn.functional as F

from teachers.arguments import check_choice
from teachers.networks.blocks import Conv2d, Linear, last_of_each_size
from teachers.networks.unet2d_blocks import (
    DOWN,
    INIT,
    UP,
    DownLevel,
    Kind,
    Map,
    Middle,
    Style,
    UpLevel,
)


class UNet2D(torch.nn.Module):
    """(x, t, labels) -> raw output; the arguments are those of a config.json, by the same names.

    Args:
        in_channels: channels of the input.
        out_channels: channels of the output.
        center_input_sample: whether the input is in [0, 1], and the network maps it to [-1, 1].
        time_embedding_type: "positional"; or "fourier", of ln t, and then the output is divided by
            t.
        time_embedding_dim: width of the embedding; None is four times the first width.
        freq_shift: 1 where the frequencies of the positional embedding end at 1 / 10000, else 0.
        flip_sin_to_cos: whether cosines come first.
        down_block_types: a kind of DOWN for each level, from the full resolution down.
        mid_block_type: "UNetMidBlock2D", or None for no block in the middle.
        up_block_types: a kind of UP for each level, from the lowest resolution up.
        block_out_channels: the width of each level, from the full resolution down.
        layers_per_block: residual blocks a level; the decoder has one more.
        mid_block_scale_factor: divisor of the sums of branches in the middle.
        downsample_padding: 1, or 0 where convolutions that halve pad below and right alone.
        downsample_type: of levels with attention: "conv", or "resnet", which is a residual block.
        upsample_type: the same of doubling.
        attention_head_dim: channels of an attention head; None is one head.
        norm_num_groups: groups of the normalisations; None is a quarter of the channels.
        attn_norm_num_groups: the same of the attention in the middle, where it differs.
        norm_eps: of the normalisations.
        resnet_time_scale_shift: "default", or "scale_shift" where the embedding also scales.
        add_attention: whether there is attention in the middle.
        num_class_embeds: number of classes; None is unconditional.

    Raises:
        ValueError: an unknown kind, lists of different lengths, groups that do not divide a width.
    """

    def __init__(
        self,
        *,
        in_channels: int = 3,
        out_channels: int = 3,
        center_input_sample: bool = False,
        time_embedding_type: str = "positional",
        time_embedding_dim: int | None = None,
        freq_shift: int = 0,
        flip_sin_to_cos: bool = True,
        down_block_types: Sequence[str] = ("DownBlock2D", *["AttnDownBlock2D"] * 3),
        mid_block_type: str | None = "UNetMidBlock2D",
        up_block_types: Sequence[str] = (*["AttnUpBlock2D"] * 3, "UpBlock2D"),
        block_out_channels: Sequence[int] = (224, 448, 672, 896),
        layers_per_block: int = 2,
        mid_block_scale_factor: float = 1.0,
        downsample_padding: int = 1,
        downsample_type: str = "conv",
        upsample_type: str = "conv",
        attention_head_dim: int | None = 8,
        norm_num_groups: int | None = 32,
        attn_norm_num_groups: int | None = None,
        norm_eps: float = 1e-5,
        resnet_time_scale_shift: str = "default",
        add_attention: bool = True,
        num_class_embeds: int | None = None,
    ):
        down = [_kind(name, DOWN, downsample_type) for name in down_block_types]
        up = [_kind(name, UP, upsample_type) for name in up_block_types]
        widths = list(block_out_channels)
        if not len(down) == len(up) == len(widths) > 0:
            raise ValueError(
                f"down_block_types, up_block_types and block_out_channels have {len(down)}, "
                f"{len(up)} and {len(widths)} entries; they must have as many, and one at least"
            )
        super().__init__()
        self.center = center_input_sample
        self.flip = flip_sin_to_cos
        self.freq_shift = freq_shift
        self.width = first = widths[0]
        scale_shift = resnet_time_scale_shift == "scale_shift"
        style = Style(
            emb_channels=time_embedding_dim or 4 * first,
            eps=norm_eps,
            groups=norm_num_groups,
            head_dim=attention_head_dim,
            scale_shift=scale_shift,
            padding=downsample_padding,
        )
        fourier = time_embedding_type == "fourier"
        self.time_proj = FourierFeatures(first) if fourier else None
        self.time_embedding = Embedding((2 if fourier else 1) * first, style.emb_channels)
        self.class_embedding = None
        if num_class_embeds:
            self.class_embedding = Classes(num_class_embeds, style.emb_channels)

        self.conv_in = Conv2d(in_channels, first, 3, init=INIT)
        self.down_blocks = torch.nn.ModuleList()
        last = len(widths) - 1
        skips = [first]
        for i, (kind, width) in enumerate(zip(down, widths, strict=True)):
            below, is_last = widths[max(i - 1, 0)], i == last
            self.down_blocks.append(
                DownLevel(kind, below, width, style, num_layers=layers_per_block, is_last=is_last)
            )
            skips += [width] * (layers_per_block + (not is_last))
        self.mid_block = None
        if mid_block_type is not None:
            groups = attn_norm_num_groups or (0 if scale_shift else None)
            self.mid_block = Middle(
                widths[-1],
                style,
                groups=groups,
                attention=add_attention,
                divisor=mid_block_scale_factor,
            )
        self.up_blocks = torch.nn.ModuleList()
        width = widths[-1]
        for i, kind in enumerate(up):
            taken = [skips.pop() for _ in range(layers_per_block + 1)]
            own = widths[last - i]
            self.up_blocks.append(UpLevel(kind, [width, *taken], own, style, is_last=i == last))
            width = own
        self.conv_norm_out = style.norm(first)
        self.conv_out = Conv2d(first, out_channels, 3, init=INIT)

    def forward(self, x: Map, t: torch.Tensor, labels: torch.Tensor | None = None) -> torch.Tensor:
        """Return the raw output [n, out_channels, h, w].

        Args:
            x: noisy images as the network wants them, [n, in_channels, h, w].
            t: the timestep, or with Fourier features the noise level, [n or 1].
            labels: [n or 1, num_class_embeds], in sum 1; None is no class.
        """
        emb = self._embed(x, t, labels)
        x, skips = self._encode(x, emb)
        if self.mid_block is not None:
            x = self.mid_block(x, emb)
        image = None
        for level in self.up_blocks:
            x, image = level(x, emb, image, skips)
        out = self.conv_out(F.silu(self.conv_norm_out(x)))
        if image is not None:
            out = out + image
        return out if self.time_proj is None else out / t[:, None, None, None]

    def features(
        self, x: Map, t: torch.Tensor, labels: torch.Tensor | None = None
    ) -> list[torch.Tensor]:
        """Return the encoder's last output at each resolution, [n, width, r, r], highest first.

        The arguments are those of forward; middle and decoder do not run.
        """
        return last_of_each_size(self._encode(x, self._embed(x, t, labels))[1])

    def _embed(self, x: Map, t: torch.Tensor, labels: torch.Tensor | None) -> torch.Tensor:
        # Angles are products of large numbers, so they stay in t's type until their sine is taken.
        if self.time_proj is not None:
            waves = self.time_proj(t.log())
        else:
            half = self.width // 2
            i = torch.arange(half, dtype=t.dtype, device=t.device)
            angles = torch.outer(t, (-math.log(10000) * i / (half - self.freq_shift)).exp())
            parts = [angles.sin(), angles.cos()]
            waves = torch.cat(parts[::-1] if self.flip else parts, dim=1)
            waves = F.pad(waves, (0, self.width % 2))
        emb = self.time_embedding(waves.to(x.dtype))
        if self.class_embedding is not None and labels is not None:
            emb = emb + self.class_embedding(labels.to(emb.dtype))
        return emb

    def _encode(self, x: Map, emb: torch.Tensor) -> tuple[Map, list[Map]]:
        """Return the lowest level's features, and all that the decoder will ask for, in order."""
        image = 2 * x - 1 if self.center else x
        x = self.conv_in(image)
        skips = [x]
        for level in self.down_blocks:
            x, image = level(x, emb, image, skips)
        return x, skips


class FourierFeatures(torch.nn.Module):
    """Sines and cosines of random frequencies (NCSN++), which a file holds and nothing trains."""

    weight: torch.Tensor

    def __init__(self, channels: int, *, scale: float = 16.0):
        super().__init__()
        self.register_buffer("weight", torch.randn(channels) * scale)

    def forward(self, t: torch.Tensor) -> torch.Tensor:
        """Map [n] to [n, 2 channels]."""
        angles = torch.outer(t, self.weight.to(t.dtype)) * (2 * math.pi)
        return torch.cat([angles.sin(), angles.cos()], dim=1)


class Embedding(torch.nn.Module):
    """Two linear layers."""

    def __init__(self, in_channels: int, channels: int):
        super().__init__()
        self.linear_1 = Linear(in_channels, channels, init=INIT)
        self.linear_2 = Linear(channels, channels, init=INIT)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map [n, in_channels] to [n, channels]."""
        return self.linear_2(F.silu(self.linear_1(x)))


class Classes(torch.nn.Module):
    """A vector for each class."""

    def __init__(self, num_classes: int, channels: int):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(num_classes, channels))

    def forward(self, labels: torch.Tensor) -> torch.Tensor:
        """Map labels [n, num_classes] to [n, channels]."""
        return labels @ self.weight.to(labels.dtype)


def _kind(name: str, kinds: dict[str, Kind], resample: str) -> Kind:
    """Return what a level of that name is made of; resample is of levels with plain attention."""
    name = name.removeprefix("UNetRes")  # of 2022
    check_choice("a block type", name, list(kinds))
    kind = kinds[name]
    return replace(kind, resample=resample) if kind.attention and not kind.skip else kind
