"""The magnitude-preserving U-Net of EDM2, under the names that the network files use.

Karras et al. 2024, "Analyzing and Improving the Training Dynamics of Diffusion Models"
(arXiv:2312.02696), configuration G, Fig. 21.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch

from teachers.arguments import check_levels, recorded_call
from teachers.blocks import last_of_each_size
from teachers.edm2_blocks import Block, MPConv, MPFourier, mp_cat, mp_silu, mp_sum


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
        **block_kwargs: Any,
    ):
        call = recorded_call(locals())
        call.update(call.pop("block_kwargs"))
        check_levels(img_resolution, channel_mult, num_blocks)
        super().__init__()
        self.init_kwargs = call
        levels = [(img_resolution >> i, model_channels * m) for i, m in enumerate(channel_mult)]
        widest = max(width for _, width in levels)
        noise = model_channels * channel_mult_noise if channel_mult_noise else levels[0][1]
        emb = model_channels * channel_mult_emb if channel_mult_emb else widest
        self.label_balance = label_balance
        self.concat_balance = concat_balance
        self.out_gain = torch.nn.Parameter(torch.zeros([]))
        self.emb_fourier = MPFourier(noise)
        self.emb_noise = MPConv(noise, emb, [])
        self.emb_label = MPConv(label_dim, emb, []) if label_dim else None
        block = partial(Block, emb_channels=emb, **block_kwargs)
        self.enc, widths = _encoder(levels, block, img_channels, num_blocks, attn_resolutions)
        self.dec = _decoder(levels, block, widths, num_blocks, attn_resolutions)
        self.out_conv = MPConv(levels[0][1], img_channels, [3, 3])

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
        for name, layer in self.dec.items():
            x = layer(mp_cat(x, skips.pop(), self.concat_balance) if "_block" in name else x, emb)
        return self.out_conv(x, gain=self.out_gain)

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
        """Return the lowest level's features, and all that the decoder will ask for, in order."""
        # A channel of ones stands for the biases, of which there are none.
        x = torch.cat([x, torch.ones_like(x[:, :1])], dim=1)
        skips: list[torch.Tensor] = []
        for name, layer in self.enc.items():
            x = layer(x) if name.endswith("_conv") else layer(x, emb)
            skips.append(x)
        return x, skips


def _encoder(
    levels: list[tuple[int, int]],
    block: Callable[..., Block],
    img_channels: int,
    num_blocks: int,
    attn_resolutions: Sequence[int],
) -> tuple[torch.nn.ModuleDict, list[int]]:
    """Return the layers of levels [(resolution, width)] and the widths they hand to the decoder."""
    layers: dict[str, torch.nn.Module] = {}
    widths: list[int] = []
    for r, level_width in levels:
        if not widths:
            layers[f"{r}x{r}_conv"] = MPConv(img_channels + 1, level_width, [3, 3])
            widths.append(level_width)
        else:
            width = widths[-1]
            layers[f"{r}x{r}_down"] = block(width, width, flavor="enc", resample_mode="down")
            widths.append(width)
        for i in range(num_blocks):
            layers[f"{r}x{r}_block{i}"] = block(
                widths[-1], level_width, flavor="enc", attention=r in attn_resolutions
            )
            widths.append(level_width)
    return torch.nn.ModuleDict(layers), widths


def _decoder(
    levels: list[tuple[int, int]],
    block: Callable[..., Block],
    widths: list[int],
    num_blocks: int,
    attn_resolutions: Sequence[int],
) -> torch.nn.ModuleDict:
    """Return the layers of levels [(resolution, width)], which take the encoder's widths back."""
    layers: dict[str, torch.nn.Module] = {}
    width = widths[-1]
    for r, level_width in reversed(levels):
        if not layers:
            layers[f"{r}x{r}_in0"] = block(width, width, flavor="dec", attention=True)
            layers[f"{r}x{r}_in1"] = block(width, width, flavor="dec")
        else:
            layers[f"{r}x{r}_up"] = block(width, width, flavor="dec", resample_mode="up")
        for i in range(num_blocks + 1):
            layers[f"{r}x{r}_block{i}"] = block(
                width + widths.pop(), level_width, flavor="dec", attention=r in attn_resolutions
            )
            width = level_width
    return torch.nn.ModuleDict(layers)
