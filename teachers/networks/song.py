"""SongUNet: the U-Nets DDPM++ and NCSN++ as EDM trains them.

Karras et al. 2022 (arXiv:2206.00364), Table 7 and Appendix F.2, after Song et al. 2021
(arXiv:2011.13456). Keyword arguments and module names are those of the network files, so that a
file's recorded call builds the network and its tensors load by name.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import partial

import torch
import torch.nn.functional as F

from teachers.arguments import check_choice, check_levels, recorded_call
from teachers.networks.blocks import (
    Conv2d,
    FourierEmbedding,
    GroupNorm,
    Init,
    Linear,
    PositionalEmbedding,
    UNetBlock,
    last_of_each_size,
)

INIT = Init("xavier_uniform")
INIT_ZERO = Init("xavier_uniform", weight=1e-5)
INIT_ATTN = Init("xavier_uniform", weight=math.sqrt(0.2))


class SongUNet(torch.nn.Module):
    """DDPM++ with its positional embedding, and NCSN++ with Fourier features and residual encoder.

    Args:
        img_resolution: height and width of the images.
        in_channels: channels of the input.
        out_channels: channels of the output.
        label_dim: number of classes; 0 is unconditional.
        augment_dim: length of the augmentation labels; 0 means that the network takes none.
        model_channels: the width that channel_mult multiplies.
        channel_mult: relative width of each level, from the full resolution down.
        channel_mult_emb: relative width of the embedding.
        num_blocks: residual blocks a level; the decoder has one more.
        attn_resolutions: resolutions with self-attention.
        dropout: probability of dropping a feature in training.
        label_dropout: probability of dropping the label in training, which the caller does.
        embedding_type: "positional" or "fourier".
        channel_mult_noise: relative width of the noise embedding.
        encoder_type: "standard", or how the encoder also sees the small input: "skip", "residual".
        decoder_type: "standard", or "skip" where every level adds to the output.
        resample_filter: [1, 1] or [1, 3, 3, 1].
    """

    def __init__(
        self,
        img_resolution: int,
        in_channels: int,
        out_channels: int,
        label_dim: int = 0,
        augment_dim: int = 0,
        model_channels: int = 128,
        channel_mult: Sequence[int] = (1, 2, 2, 2),
        channel_mult_emb: int = 4,
        num_blocks: int = 4,
        attn_resolutions: Sequence[int] = (16,),
        dropout: float = 0.10,
        label_dropout: float = 0,
        embedding_type: str = "positional",
        channel_mult_noise: int = 1,
        encoder_type: str = "standard",
        decoder_type: str = "standard",
        resample_filter: Sequence[float] = (1, 1),
    ):
        call = recorded_call(locals())
        check_levels(img_resolution, channel_mult, num_blocks)
        check_choice("embedding_type", embedding_type, ("positional", "fourier"))
        check_choice("encoder_type", encoder_type, ("standard", "skip", "residual"))
        check_choice("decoder_type", decoder_type, ("standard", "skip"))
        super().__init__()
        self.init_kwargs = call
        self.label_dropout = label_dropout
        emb_channels = model_channels * channel_mult_emb
        noise_channels = model_channels * channel_mult_noise
        if embedding_type == "positional":
            self.map_noise = PositionalEmbedding(noise_channels, endpoint=True)
        else:
            self.map_noise = FourierEmbedding(noise_channels)
        self.map_label = Linear(label_dim, noise_channels, init=INIT) if label_dim else None
        self.map_augment = (
            Linear(augment_dim, noise_channels, bias=False, init=INIT) if augment_dim else None
        )
        self.map_layer0 = Linear(noise_channels, emb_channels, init=INIT)
        self.map_layer1 = Linear(emb_channels, emb_channels, init=INIT)

        block = partial(
            UNetBlock,
            emb_channels=emb_channels,
            num_heads=1,
            dropout=dropout,
            skip_scale=math.sqrt(0.5),
            eps=1e-6,
            resample_filter=resample_filter,
            resample_proj=True,
            adaptive_scale=False,
            init=INIT,
            init_zero=INIT_ZERO,
            init_attn=INIT_ATTN,
        )
        levels = [(img_resolution >> i, model_channels * m) for i, m in enumerate(channel_mult)]
        wide = {"num_blocks": num_blocks, "attn_resolutions": attn_resolutions}
        self.enc, widths = _encoder(
            levels, block, encoder_type, resample_filter, in_channels, model_channels, **wide
        )
        self.dec = _decoder(
            levels, block, decoder_type, resample_filter, out_channels, widths, **wide
        )

    def forward(
        self,
        x: torch.Tensor,
        c_noise: torch.Tensor,
        labels: torch.Tensor | None = None,
        augment_labels: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Return the raw output F [n, out_channels, h, w].

        Args:
            x: scaled noisy images [n, in_channels, h, w].
            c_noise: noise level as the preconditioning gives it, [n or 1].
            labels: one-hot [n or 1, label_dim]; needed where label_dim is above 0.
            augment_labels: [n, augment_dim]; None is not augmented.
        """
        emb = self._embed(c_noise, labels, augment_labels)
        x, skips = self._encode(x, emb)
        y = out = None
        for name, layer in self.dec.items():
            if name.endswith("_aux_up"):
                out = layer(out)
            elif name.endswith("_aux_norm"):
                y = F.silu(layer(x))
            elif name.endswith("_aux_conv"):
                out = layer(y) if out is None else out + layer(y)
            else:
                x = layer(torch.cat([x, skips.pop()], dim=1) if "_block" in name else x, emb)
        assert out is not None
        return out

    def features(
        self, x: torch.Tensor, c_noise: torch.Tensor, labels: torch.Tensor | None = None
    ) -> list[torch.Tensor]:
        """Return the encoder's last output at each resolution, [n, width, r, r], highest first.

        The arguments are those of forward; the decoder does not run.
        """
        return last_of_each_size(self._encode(x, self._embed(c_noise, labels, None))[1])

    def _embed(
        self,
        c_noise: torch.Tensor,
        labels: torch.Tensor | None,
        augment_labels: torch.Tensor | None,
    ) -> torch.Tensor:
        cosines, sines = self.map_noise(c_noise).chunk(2, dim=1)
        emb = torch.cat([sines, cosines], dim=1)
        if self.map_label is not None and labels is not None:
            emb = emb + self.map_label(labels * math.sqrt(self.map_label.in_features))
        if self.map_augment is not None and augment_labels is not None:
            emb = emb + self.map_augment(augment_labels)
        return F.silu(self.map_layer1(F.silu(self.map_layer0(emb))))

    def _encode(
        self, x: torch.Tensor, emb: torch.Tensor
    ) -> tuple[torch.Tensor, list[torch.Tensor]]:
        """Return the lowest level's features, and those that the decoder will ask for, in order."""
        skips: list[torch.Tensor] = []
        aux = x
        for name, layer in self.enc.items():
            if name.endswith("_aux_down"):
                aux = layer(aux)
            elif name.endswith("_aux_skip"):
                x = skips[-1] = x + layer(aux)
            elif name.endswith("_aux_residual"):
                x = skips[-1] = aux = (x + layer(aux)) * math.sqrt(0.5)
            else:
                x = layer(x) if name.endswith("_conv") else layer(x, emb)
                skips.append(x)
        return x, skips


def _encoder(
    levels: list[tuple[int, int]],
    block: Callable[..., UNetBlock],
    kind: str,
    resample_filter: Sequence[float],
    in_channels: int,
    model_channels: int,
    *,
    num_blocks: int,
    attn_resolutions: Sequence[int],
) -> tuple[torch.nn.ModuleDict, list[int]]:
    """Return the layers of levels [(resolution, width)] and the widths they hand to the decoder."""
    layers: dict[str, torch.nn.Module] = {}
    resample = {"down": True, "resample_filter": resample_filter, "init": INIT}
    aux = in_channels
    widths: list[int] = []
    for r, level_width in levels:
        if not widths:
            layers[f"{r}x{r}_conv"] = Conv2d(in_channels, model_channels, 3, init=INIT)
            widths.append(model_channels)
        else:
            width = widths[-1]
            layers[f"{r}x{r}_down"] = block(width, width, down=True)
            widths.append(width)
            if kind == "skip":
                layers[f"{r}x{r}_aux_down"] = Conv2d(aux, aux, 0, **resample)
                layers[f"{r}x{r}_aux_skip"] = Conv2d(aux, width, 1, init=INIT)
            if kind == "residual":
                layers[f"{r}x{r}_aux_residual"] = Conv2d(
                    aux, width, 3, fused_resample=True, **resample
                )
                aux = width
        for i in range(num_blocks):
            attention = r in attn_resolutions
            layers[f"{r}x{r}_block{i}"] = block(widths[-1], level_width, attention=attention)
            widths.append(level_width)
    return torch.nn.ModuleDict(layers), widths


def _decoder(
    levels: list[tuple[int, int]],
    block: Callable[..., UNetBlock],
    kind: str,
    resample_filter: Sequence[float],
    out_channels: int,
    widths: list[int],
    *,
    num_blocks: int,
    attn_resolutions: Sequence[int],
) -> torch.nn.ModuleDict:
    """Return the layers of levels [(resolution, width)], which take the encoder's widths back."""
    layers: dict[str, torch.nn.Module] = {}
    resample = {"up": True, "resample_filter": resample_filter, "init": INIT}
    width = widths[-1]
    lowest, highest = levels[-1][0], levels[0][0]
    for r, level_width in reversed(levels):
        if r == lowest:
            layers[f"{r}x{r}_in0"] = block(width, width, attention=True)
            layers[f"{r}x{r}_in1"] = block(width, width)
        else:
            layers[f"{r}x{r}_up"] = block(width, width, up=True)
        for i in range(num_blocks + 1):
            attention = i == num_blocks and r in attn_resolutions
            layers[f"{r}x{r}_block{i}"] = block(
                width + widths.pop(), level_width, attention=attention
            )
            width = level_width
        if kind == "skip" and r != lowest:
            layers[f"{r}x{r}_aux_up"] = Conv2d(out_channels, out_channels, 0, **resample)
        if kind == "skip" or r == highest:
            layers[f"{r}x{r}_aux_norm"] = GroupNorm(width, eps=1e-6)
            layers[f"{r}x{r}_aux_conv"] = Conv2d(width, out_channels, 3, init=INIT_ZERO)
    return torch.nn.ModuleDict(layers)
