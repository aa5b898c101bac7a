"""DhariwalUNet: the U-Net ADM as EDM trains it.

Karras et al. 2022 (arXiv:2206.00364), Table 7 and Appendix F.2, after Dhariwal and Nichol 2021
(arXiv:2105.05233). Keyword arguments and module names are those of the network files.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import partial

import torch
import torch.nn.functional as F

from teachers.arguments import recorded_call
from teachers.networks.blocks import (
    Conv2d,
    GroupNorm,
    Init,
    Linear,
    PositionalEmbedding,
    UNetBlock,
    last_of_each_size,
)
from teachers.networks.ladder import Ladder, decode, encode

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
        ladder = Ladder.of(
            img_resolution, model_channels, channel_mult, num_blocks, attn_resolutions
        )
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

        def between(c_in: int, c_out: int, attention: bool) -> UNetBlock:
            return block(c_in, c_out, attention=attention)

        self.enc, widths = ladder.encoder(
            first=lambda width: Conv2d(in_channels, width, 3, init=INIT),
            down=lambda width: block(width, width, down=True),
            block=between,
        )
        self.dec = ladder.decoder(
            widths, up=lambda width: block(width, width, up=True), block=between
        )
        width = widths[0]
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
        x, skips = encode(self.enc, x, emb)
        x = decode(self.dec, x, skips, emb, join=lambda x, skip: torch.cat([x, skip], dim=1))
        return self.out_conv(F.silu(self.out_norm(x)))

    def features(
        self, x: torch.Tensor, c_noise: torch.Tensor, labels: torch.Tensor | None = None
    ) -> list[torch.Tensor]:
        """Return the encoder's last output at each resolution, as SongUNet.features does."""
        return last_of_each_size(encode(self.enc, x, self._embed(c_noise, labels, None))[1])

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
