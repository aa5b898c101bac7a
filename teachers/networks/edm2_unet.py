"""The magnitude-preserving U-Net of EDM2, under the names that the network files use.

Karras et al. 2024, "Analyzing and Improving the Training Dynamics of Diffusion Models"
(arXiv:2312.02696), configuration G, Fig. 21.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import partial

import torch

from checkpoints import Value, with_options
from teachers.arguments import recorded_call
from teachers.networks.blocks import last_of_each_size
from teachers.networks.edm2_blocks import Block, MPConv, MPFourier, mp_cat, mp_silu, mp_sum
from teachers.networks.ladder import Ladder, decode, encode


class UNet(torch.nn.Module):
    """The raw network F (Fig. 21); its last gain and those of the embeddings begin at 0.

    Args:
        img_resolution: height and width of the images.
        img_channels: channels of the images.
        label_dim: number of classes; 0 is unconditional.
        model_channels: the width that channel_mult multiplies.
        channel_mult: relative width of each level, from the full resolution down.
        channel_mult_noise: relative width of the Fourier features; None is the first level's.
        channel_mult_emb: relative width of the embedding; None is the widest level's.
        num_blocks: residual blocks a level; the decoder has one more.
        attn_resolutions: resolutions with self-attention.
        label_balance: share of the label in the embedding.
        concat_balance: share of the skip connection in the decoder's input.
        **block_kwargs: arguments of Block from resample_filter on.
    """

    def __init__(
        self,
        img_resolution: int,
        img_channels: int,
        label_dim: int,
        model_channels: int = 192,
        channel_mult: Sequence[int] = (1, 2, 3, 4),
        channel_mult_noise: int | None = None,
        channel_mult_emb: int | None = None,
        num_blocks: int = 3,
        attn_resolutions: Sequence[int] = (16, 8),
        label_balance: float = 0.5,
        concat_balance: float = 0.5,
        **block_kwargs: Value,
    ):
        call = recorded_call(locals())
        ladder = Ladder.of(
            img_resolution, model_channels, channel_mult, num_blocks, attn_resolutions
        )
        super().__init__()
        self.init_kwargs = call
        widths = [width for _, width in ladder.levels]
        widest = max(widths)
        noise = model_channels * channel_mult_noise if channel_mult_noise else widths[0]
        emb = model_channels * channel_mult_emb if channel_mult_emb else widest
        self.label_balance = label_balance
        self.concat_balance = concat_balance
        self.out_gain = torch.nn.Parameter(torch.zeros([]))
        self.emb_fourier = MPFourier(noise)
        self.emb_noise = MPConv(noise, emb, [])
        self.emb_label = MPConv(label_dim, emb, []) if label_dim else None
        enc = partial(with_options, Block, block_kwargs, emb_channels=emb, flavor="enc")
        dec = partial(with_options, Block, block_kwargs, emb_channels=emb, flavor="dec")
        self.enc, handed = ladder.encoder(
            first=lambda width: MPConv(img_channels + 1, width, [3, 3]),
            down=lambda width: enc(width, width, resample_mode="down"),
            block=lambda c_in, c_out, attention: enc(c_in, c_out, attention=attention),
        )
        self.dec = ladder.decoder(
            handed,
            up=lambda width: dec(width, width, resample_mode="up"),
            block=lambda c_in, c_out, attention: dec(c_in, c_out, attention=attention),
        )
        self.out_conv = MPConv(widths[0], img_channels, [3, 3])

    def forward(
        self, x: torch.Tensor, c_noise: torch.Tensor, labels: torch.Tensor | None = None
    ) -> torch.Tensor:
        """Return the raw output F [n, img_channels, h, w].

        Args:
            x: scaled noisy images [n, img_channels, h, w].
            c_noise: noise level as the preconditioning gives it, [n or 1].
            labels: one-hot [n or 1, label_dim]; needed where label_dim is above 0.
        """
        emb = self._embed(c_noise, labels)
        x, skips = self._encode(x, emb)
        join = partial(mp_cat, t=self.concat_balance)
        return self.out_conv(decode(self.dec, x, skips, emb, join=join), gain=self.out_gain)

    def features(
        self, x: torch.Tensor, c_noise: torch.Tensor, labels: torch.Tensor | None = None
    ) -> list[torch.Tensor]:
        """Return the encoder's last output at each resolution, from the highest down."""
        _, skips = self._encode(x, self._embed(c_noise, labels))
        return last_of_each_size(skips)

    def _embed(self, c_noise: torch.Tensor, labels: torch.Tensor | None) -> torch.Tensor:
        emb = self.emb_noise(self.emb_fourier(c_noise))
        if self.emb_label is not None and labels is not None:
            label = self.emb_label(labels * math.sqrt(labels.size(1)))
            emb = mp_sum(emb, label, self.label_balance)
        return mp_silu(emb)

    def _encode(
        self, x: torch.Tensor, emb: torch.Tensor
    ) -> tuple[torch.Tensor, list[torch.Tensor]]:
        # A channel of ones stands for the biases, of which there are none.
        x = torch.cat([x, torch.ones_like(x[:, :1])], dim=1)
        return encode(self.enc, x, emb)
