"""The ladder of levels that ADM's and EDM2's U-Nets share: its layers' names, order and widths.

Karras et al. 2024 (arXiv:2312.02696), Fig. 21, from Dhariwal and Nichol 2021 (arXiv:2105.05233).
The encoder keeps the output of each of its layers, and the decoder's blocks take them back, last
first; layers that resample, and the two at the bottom, take none.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

from teachers.arguments import check_levels

# (channels in, channels out, attention or not) -> a block (x, emb) -> x
MakeBlock = Callable[[int, int, bool], torch.nn.Module]


@dataclass(frozen=True)
class Ladder:
    """The levels of a U-Net.

    Attributes:
        levels: (resolution, width) from the full resolution down.
        num_blocks: blocks a level; the decoder has one more.
        attn_resolutions: resolutions whose blocks have self-attention.
    """

    levels: Sequence[tuple[int, int]]
    num_blocks: int
    attn_resolutions: Sequence[int]

    @classmethod
    def of(
        cls,
        img_resolution: int,
        model_channels: int,
        channel_mult: Sequence[int],
        num_blocks: int,
        attn_resolutions: Sequence[int],
    ) -> Ladder:
        """Return the ladder that a network's arguments describe; ValueError where it is none."""
        check_levels(img_resolution, channel_mult, num_blocks)
        levels = [(img_resolution >> i, model_channels * m) for i, m in enumerate(channel_mult)]
        return cls(levels, num_blocks, attn_resolutions)

    def encoder(
        self,
        *,
        first: Callable[[int], torch.nn.Module],
        down: Callable[[int], torch.nn.Module],
        block: MakeBlock,
    ) -> tuple[torch.nn.ModuleDict, list[int]]:
        """Return the encoder's layers and the widths that they hand to the decoder.

        Args:
            first: width -> the convolution that takes the image.
            down: width -> the block that halves the resolution.
            block: makes any other.
        """
        layers: dict[str, torch.nn.Module] = {}
        widths: list[int] = []
        for r, width in self.levels:
            if not widths:
                layers[f"{r}x{r}_conv"] = first(width)
                widths.append(width)
            else:
                layers[f"{r}x{r}_down"] = down(widths[-1])
                widths.append(widths[-1])
            for i in range(self.num_blocks):
                layers[f"{r}x{r}_block{i}"] = block(widths[-1], width, r in self.attn_resolutions)
                widths.append(width)
        return torch.nn.ModuleDict(layers), widths

    def decoder(
        self, widths: Sequence[int], *, up: Callable[[int], torch.nn.Module], block: MakeBlock
    ) -> torch.nn.ModuleDict:
        """Return the decoder's layers, which take the encoder's widths back."""
        layers: dict[str, torch.nn.Module] = {}
        skips = list(widths)
        width = skips[-1]
        for r, level_width in reversed(self.levels):
            if not layers:
                layers[f"{r}x{r}_in0"] = block(width, width, True)
                layers[f"{r}x{r}_in1"] = block(width, width, False)
            else:
                layers[f"{r}x{r}_up"] = up(width)
            for i in range(self.num_blocks + 1):
                layers[f"{r}x{r}_block{i}"] = block(
                    width + skips.pop(), level_width, r in self.attn_resolutions
                )
                width = level_width
        return torch.nn.ModuleDict(layers)


def encode(
    encoder: torch.nn.ModuleDict, x: torch.Tensor, emb: torch.Tensor
) -> tuple[torch.Tensor, list[torch.Tensor]]:
    """Return the lowest level's features, and all that the decoder will ask for, in order."""
    skips: list[torch.Tensor] = []
    for name, layer in encoder.items():
        x = layer(x) if name.endswith("_conv") else layer(x, emb)
        skips.append(x)
    return x, skips


def decode(
    decoder: torch.nn.ModuleDict,
    x: torch.Tensor,
    skips: list[torch.Tensor],
    emb: torch.Tensor,
    *,
    join: Callable[[torch.Tensor, torch.Tensor], torch.Tensor],
) -> torch.Tensor:
    """Return the decoder's output; join puts a skip connection beside what comes from below.

    Takes the connections out of their list, so that what is used can be freed.
    """
    for name, layer in decoder.items():
        x = layer(join(x, skips.pop()) if "_block" in name else x, emb)
    return x
