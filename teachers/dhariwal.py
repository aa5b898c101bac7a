"""DhariwalUNet: the U-Net ADM as EDM trains it.

Karras et al. 2022 (arXiv:2206.00364), Table 7 and Appendix F.2, after Dhariwal and Nichol 2021
(arXiv:2105.05233). Keyword arguments and module names are those of the network files.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import partial

import torch
import torch.nn.functional as F

from teachers.arguments import check_levels, recorded_call
from teachers.blocks import (
    Conv2d,
    GroupNorm,
    Init,
    Linear,
    PositionalEmbedding,
    UNetBlock,
    last_of_each_size,
)

INIT = Init("kaiming_uniform", weight=math.sqrt(1 / 3), bias=math.sqrt(1 / 3))
INIT_ZERO = Init("kaiming_uniform", weight=0)


class DhariwalUNet(torch.nn.Module):
    """ADM: scale and shift by the embedding, heads of 64 channels, labels added after the noise.

    The arguments mean what they mean in SongUNet.
    """

    def __init__(
        self,
        img_resolution: int,
        in_channels: int,
        out_channels: int,
        label_dim: int = 0,
        augment_dim: int = 0,
        model_channels: int = 192,
        channel_mult: Sequence[int] = (1, 2, 3, 4),
        channel_mult_emb: int = 4,
        num_blocks: int = 3,
        attn_resolutions: Sequence[int] = (32, 16, 8),
        dropout: float = 0.10,
        label_dropout: float = 0,
    ):
        call = recorded_call(locals())
        check_levels(img_resolution, channel_mult, num_blocks)
        super().__init__()
        self.init_kwargs = call
        self.label_dropout = label_dropout
        emb_channels = model_channels * channel_mult_emb
        self.map_noise = PositionalEmbedding(model_channels)
        self.map_augment = (
            Linear(augment_dim, model_channels, bias=False, init=INIT_ZERO) if augment_dim else None
        )
        self.map_layer0 = Linear(model_channels, emb_channels, init=INIT)
        self.map_layer1 = Linear(emb_channels, emb_channels, init=INIT)
        label_init = Init("kaiming_normal", weight=math.sqrt(label_dim))
        self.map_label = (
            Linear(label_dim, emb_channels, bias=False, init=label_init) if label_dim else None
        )

        block = partial(
            UNetBlock,
            emb_channels=emb_channels,
            dropout=dropout,
            init=INIT,
            init_zero=INIT_ZERO,
            init_attn=INIT,
        )
        levels = [(img_resolution >> i, model_channels * m) for i, m in enumerate(channel_mult)]
        self.enc, widths = _encoder(levels, block, in_channels, num_blocks, attn_resolutions)
        self.dec = _decoder(levels, block, widths, num_blocks, attn_resolutions)
        width = levels[0][1]
        self.out_norm = GroupNorm(width)
        self.out_conv = Conv2d(width, out_channels, 3, init=INIT_ZERO)

    def forward(
        self,
        x: torch.Tensor,
        c_noise: torch.Tensor,
        labels: torch.Tensor | None = None,
        augment_labels: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Return the raw output F [n, out_channels, h, w]; the arguments are those of SongUNet."""
        emb = self._embed(c_noise, labels, augment_labels)
        x, skips = self._encode(x, emb)
        for name, layer in self.dec.items():
            x = layer(torch.cat([x, skips.pop()], dim=1) if "_block" in name else x, emb)
        return self.out_conv(F.silu(self.out_norm(x)))

    def features(
        self, x: torch.Tensor, c_noise: torch.Tensor, labels: torch.Tensor | None = None
    ) -> list[torch.Tensor]:
        """Return the encoder's last output at each resolution, as SongUNet.features does."""
        return last_of_each_size(self._encode(x, self._embed(c_noise, labels, None))[1])

    def _embed(
        self,
        c_noise: torch.Tensor,
        labels: torch.Tensor | None,
        augment_labels: torch.Tensor | None,
    ) -> torch.Tensor:
        emb = self.map_noise(c_noise)
        if self.map_augment is not None and augment_labels is not None:
            emb = emb + self.map_augment(augment_labels)
        emb = self.map_layer1(F.silu(self.map_layer0(emb)))
        if self.map_label is not None and labels is not None:
            emb = emb + self.map_label(labels)
        return F.silu(emb)

    def _encode(
        self, x: torch.Tensor, emb: torch.Tensor
    ) -> tuple[torch.Tensor, list[torch.Tensor]]:
        """Return the lowest level's features, and all that the decoder will ask for, in order."""
        skips: list[torch.Tensor] = []
        for name, layer in self.enc.items():
            x = layer(x) if name.endswith("_conv") else layer(x, emb)
            skips.append(x)
        return x, skips


def _encoder(
    levels: list[tuple[int, int]],
    block: Callable[..., UNetBlock],
    in_channels: int,
    num_blocks: int,
    attn_resolutions: Sequence[int],
) -> tuple[torch.nn.ModuleDict, list[int]]:
    """Return the layers of levels [(resolution, width)] and the widths they hand to the decoder."""
    layers: dict[str, torch.nn.Module] = {}
    widths: list[int] = []
    for r, width in levels:
        if not widths:
            layers[f"{r}x{r}_conv"] = Conv2d(in_channels, width, 3, init=INIT)
            widths.append(width)
        else:
            layers[f"{r}x{r}_down"] = block(widths[-1], widths[-1], down=True)
            widths.append(widths[-1])
        for i in range(num_blocks):
            attention = r in attn_resolutions
            layers[f"{r}x{r}_block{i}"] = block(widths[-1], width, attention=attention)
            widths.append(width)
    return torch.nn.ModuleDict(layers), widths


def _decoder(
    levels: list[tuple[int, int]],
    block: Callable[..., UNetBlock],
    widths: list[int],
    num_blocks: int,
    attn_resolutions: Sequence[int],
) -> torch.nn.ModuleDict:
    """Return the layers of levels [(resolution, width)], which take the encoder's widths back."""
    layers: dict[str, torch.nn.Module] = {}
    width = widths[-1]
    for r, level_width in reversed(levels):
        if r == levels[-1][0]:
            layers[f"{r}x{r}_in0"] = block(width, width, attention=True)
            layers[f"{r}x{r}_in1"] = block(width, width)
        else:
            layers[f"{r}x{r}_up"] = block(width, width, up=True)
        for i in range(num_blocks + 1):
            layers[f"{r}x{r}_block{i}"] = block(
                width + widths.pop(), level_width, attention=r in attn_resolutions
            )
            width = level_width
    return torch.nn.ModuleDict(layers)
