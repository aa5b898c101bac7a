"""ScoreUNet: NCSN++, DDPM++ and DDPM as score_sde_pytorch writes them.

Song et al. 2021 (arXiv:2011.13456), Appendix H; Ho et al. 2020 (arXiv:2006.11239). In those files
all layers are one list; here each comes with what is done with its output, so that the network is
a list of steps.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import torch
import torch.nn.functional as F

from stylegan_ops import conv3x3, downsample2d, setup_filter, upfirdn2d, upsample2d
from teachers.networks.blocks import (
    Conv2d,
    GroupNorm,
    Init,
    Linear,
    PositionalEmbedding,
    last_of_each_size,
)
from teachers.networks.guided_unet import attend

INIT = Init("xavier_uniform")
INIT_ZERO = Init("xavier_uniform", weight=1e-5)
EPS = 1e-6
TAPS = (1, 3, 3, 1)
HALF = math.sqrt(0.5)


class ScoreUNet(torch.nn.Module):
    """The U-Nets of score_sde_pytorch; keyword arguments are its configurations'.

    Args:
        img_channels: channels of the images.
        name: "ncsnpp" (DDPM++ and NCSN++), or "ddpm".
        nf: the width that ch_mult multiplies.
        ch_mult: relative width of each level, from the full resolution down.
        num_res_blocks: blocks a level; the decoder has one more.
        attention_levels: whether each level has attention.
        embedding_type: "fourier" of the logarithm of the noise level, or "positional".
        progressive: "output_skip" where every level adds to the output, else "none".
        progressive_input: how the encoder also sees the small input: "none", "input_skip",
            "residual".
        fir: resample by the filter [1, 3, 3, 1], else by copies and means.
    """

    def __init__(
        self,
        img_channels: int,
        *,
        name: str,
        nf: int,
        ch_mult: Sequence[int],
        num_res_blocks: int,
        attention_levels: Sequence[bool],
        embedding_type: str,
        progressive: str,
        progressive_input: str,
        fir: bool,
    ):
        super().__init__()
        self.nf = nf
        self.fir = fir
        self.is_fourier = embedding_type == "fourier"
        self.all_modules = torch.nn.ModuleList()
        # What is done with the image and the embedding, each step with its layer or none.
        self.encoder: list[tuple[str, int | None]] = []
        self.decoder: list[tuple[str, int | None]] = []
        self.embed_time = PositionalEmbedding(nf, endpoint=True)
        if self.is_fourier:
            self.all_modules.append(Fourier(nf))
        emb, is_ddpm = 4 * nf, name == "ddpm"
        inputs = 2 * nf if self.is_fourier else nf
        self.all_modules.append(Linear(inputs, emb, init=INIT))
        self.all_modules.append(Linear(emb, emb, init=INIT))

        def add(part: list[tuple[str, int | None]], step: str, module: torch.nn.Module) -> None:
            part.append((step, len(self.all_modules)))
            self.all_modules.append(module)

        def block(c_in: int, c_out: int, resample: str = "") -> ResBlock:
            return ResBlock(c_in, c_out, emb, is_ddpm=is_ddpm, resample=resample, fir=fir)

        def attention(channels: int) -> Attention:
            return Attention(channels, is_ddpm=is_ddpm)

        def norm(channels: int) -> GroupNorm:
            return GroupNorm(channels, eps=EPS, num_groups=32 if is_ddpm else None)

        down, up = self.encoder, self.decoder
        widths = [nf * m for m in ch_mult]
        add(down, "layer", Conv2d(img_channels, nf, 3, init=INIT))
        down.append(("keep", None))
        skips, width, seen = [nf], nf, img_channels
        for i, (level_width, attends) in enumerate(zip(widths, attention_levels, strict=True)):
            for _ in range(num_res_blocks):
                add(down, "block", block(width, level_width))
                width = level_width
                if attends:
                    add(down, "layer", attention(width))
                down.append(("keep", None))
                skips.append(width)
            if i == len(widths) - 1:
                break
            if is_ddpm:
                add(down, "layer", Resample("down", width))
            else:
                add(down, "block", block(width, width, "down"))
            if progressive_input == "input_skip":
                down.append(("shrink", None))
                add(down, "combine", Named({"Conv_0": Conv2d(img_channels, width, 1, init=INIT)}))
            if progressive_input == "residual":
                add(down, "residual", Named({"Conv2d_0": FilteredConv(seen, width)}))
                seen = width
            down.append(("keep", None))
            skips.append(width)

        add(up, "block", block(width, width))
        add(up, "layer", attention(width))
        add(up, "block", block(width, width))
        for i, level_width in reversed(list(enumerate(widths))):
            for _ in range(num_res_blocks + 1):
                up.append(("join", None))
                add(up, "block", block(width + skips.pop(), level_width))
                width = level_width
            if attention_levels[i]:
                add(up, "layer", attention(width))
            if progressive == "output_skip" or not i:
                if i < len(widths) - 1 and progressive == "output_skip":
                    up.append(("grow", None))
                add(up, "norm", norm(width))
                add(up, "draw", Conv2d(width, img_channels, 3, init=INIT_ZERO))
            if i and is_ddpm:
                add(up, "layer", Resample("up", width))
            elif i:
                add(up, "block", block(width, width, "up"))

    def forward(
        self, x: torch.Tensor, c_noise: torch.Tensor, labels: torch.Tensor | None = None
    ) -> torch.Tensor:
        """Return the raw output F [n, img_channels, h, w].

        Args:
            x: scaled noisy images [n, img_channels, h, w].
            c_noise: noise level as the network is told it, [n or 1]; its logarithm for "fourier".
            labels: not used; these networks have no classes.
        """
        emb = self._embed(c_noise)
        skips = self._encode(x, emb)
        x, out, y = skips[-1], None, x
        for step, layer in self._steps(self.decoder):
            if step == "join":
                x = torch.cat([x, skips.pop()], dim=1)
            elif step == "grow":
                assert out is not None
                out = resampled(out, "up", fir=self.fir)
            elif step == "norm":
                y = F.silu(layer(x))
            elif step == "draw":
                out = layer(y) if out is None else out + layer(y)
            else:
                x = layer(x, emb) if step == "block" else layer(x)
        assert out is not None
        return out

    def features(
        self, x: torch.Tensor, c_noise: torch.Tensor, labels: torch.Tensor | None = None
    ) -> list[torch.Tensor]:
        """Return the encoder's last output at each resolution, [n, width, r, r], highest first.

        The arguments are those of forward; the decoder does not run.
        """
        return last_of_each_size(self._encode(x, self._embed(c_noise)))

    def _embed(self, c_noise: torch.Tensor) -> torch.Tensor:
        """Return SiLU of the embedding, which all blocks take."""
        if self.is_fourier:
            fourier, first, second = self.all_modules[:3]
            e = fourier(c_noise)
        else:
            first, second = self.all_modules[:2]
            cosines, sines = self.embed_time(c_noise).chunk(2, dim=1)
            e = torch.cat([sines, cosines], dim=1)
        return F.silu(second(F.silu(first(e.to(next(second.parameters()).dtype)))))

    def _encode(self, x: torch.Tensor, emb: torch.Tensor) -> list[torch.Tensor]:
        """Return what each of the encoder's layers hands to the decoder."""
        skips: list[torch.Tensor] = []
        small = x
        for step, layer in self._steps(self.encoder):
            if step == "keep":
                skips.append(x)
            elif step == "shrink":
                small = resampled(small, "down", fir=self.fir)
            elif step == "combine":
                x = x + layer(small)
            elif step == "residual":
                x = small = (x + layer(small)) * HALF
            else:
                x = layer(x, emb) if step == "block" else layer(x)
        return skips

    def _steps(
        self, part: Sequence[tuple[str, int | None]]
    ) -> Iterator[tuple[str, torch.nn.Module]]:
        for step, i in part:
            yield step, self if i is None else self.all_modules[i]


def resampled(x: torch.Tensor, how: str, *, fir: bool) -> torch.Tensor:
    """Return x [n, c, h, w] at twice or half the resolution, how being "up" or "down"."""
    if fir:
        f = setup_filter(TAPS, device=x.device)
        return upsample2d(x, f) if how == "up" else downsample2d(x, f)
    return F.interpolate(x, scale_factor=2, mode="nearest") if how == "up" else F.avg_pool2d(x, 2)


class Fourier(torch.nn.Module):
    """Sines and cosines of 2 pi W times the logarithm of the noise level."""

    def __init__(self, channels: int):
        super().__init__()
        self.W = torch.nn.Parameter(torch.randn(channels) * 16)

    def forward(self, log_sigma: torch.Tensor) -> torch.Tensor:
        """Map [n] to [n, 2 channels]."""
        angles = torch.outer(log_sigma, self.W.to(log_sigma.dtype)) * (2 * math.pi)
        return torch.cat([angles.sin(), angles.cos()], dim=1)


class Named(torch.nn.Module):
    """One layer under the name that it has in the files."""

    def __init__(self, layers: dict[str, torch.nn.Module]):
        super().__init__()
        for name, layer in layers.items():
            self.add_module(name, layer)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Apply it."""
        for layer in self.children():
            x = layer(x)
        return x


class FilteredConv(torch.nn.Module):
    """The filter and a convolution of 3 x 3 and stride 2, padded once for both."""

    def __init__(self, c_in: int, c_out: int):
        super().__init__()
        self.weight = INIT.parameter([c_out, c_in, 3, 3], c_in * 9, c_out * 9, 1)
        self.bias = INIT.parameter([c_out], c_in * 9, c_out * 9, 0)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map [n, c_in, h, w] to [n, c_out, h / 2, w / 2]."""
        x = upfirdn2d(x, setup_filter(TAPS, device=x.device), padding=2)
        return F.conv2d(x, self.weight.to(x.dtype), self.bias.to(x.dtype), stride=2)


class Resample(torch.nn.Module):
    """DDPM's change of resolution: a convolution after copies, or one of stride 2."""

    def __init__(self, how: str, channels: int):
        super().__init__()
        self.how = how
        self.Conv_0 = Conv2d(channels, channels, 3, init=INIT)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map [n, c, h, w] to twice or half the resolution."""
        assert self.Conv_0.weight is not None and self.Conv_0.bias is not None
        weight, bias = self.Conv_0.weight.to(x.dtype), self.Conv_0.bias.to(x.dtype)
        if self.how == "up":
            return conv3x3(resampled(x, "up", fir=False), weight, bias)
        # One pixel of padding at the right and the bottom only.
        return F.conv2d(F.pad(x, [0, 1, 0, 1]), weight, bias, stride=2)


class ResBlock(torch.nn.Module):
    """BigGAN's residual block under an embedding that shifts, or DDPM's."""

    def __init__(
        self, c_in: int, c_out: int, c_emb: int, *, is_ddpm: bool, resample: str, fir: bool
    ):
        super().__init__()
        self.resample = resample
        self.fir = fir
        self.scale = 1 if is_ddpm else HALF
        groups = 32 if is_ddpm else None
        self.GroupNorm_0 = GroupNorm(c_in, eps=EPS, num_groups=groups)
        self.Conv_0 = Conv2d(c_in, c_out, 3, init=INIT)
        self.Dense_0 = Linear(c_emb, c_out, init=INIT)
        self.GroupNorm_1 = GroupNorm(c_out, eps=EPS, num_groups=groups)
        self.Conv_1 = Conv2d(c_out, c_out, 3, init=INIT_ZERO)
        self.shortcut = ""
        if c_in != c_out or resample:
            self.shortcut = "NIN_0" if is_ddpm else "Conv_2"
            skip = NIN(c_in, c_out) if is_ddpm else Conv2d(c_in, c_out, 1, init=INIT)
            self.add_module(self.shortcut, skip)

    def forward(self, x: torch.Tensor, emb: torch.Tensor) -> torch.Tensor:
        """Map x [n, c_in, h, w] under SiLU(emb) [n or 1, c_emb]."""
        y = F.silu(self.GroupNorm_0(x))
        if self.resample:
            x, y = (resampled(part, self.resample, fir=self.fir) for part in (x, y))
        y = self.Conv_0(y)
        y = y + self.Dense_0(emb)[:, :, None, None].to(y.dtype)
        y = self.Conv_1(F.silu(self.GroupNorm_1(y)))
        skip = self.get_submodule(self.shortcut)(x) if self.shortcut else x
        return (skip + y) * self.scale


class NIN(torch.nn.Module):
    """A linear map of each pixel's channels, weights [in, out]."""

    def __init__(self, c_in: int, c_out: int):
        super().__init__()
        self.W = INIT.parameter([c_in, c_out], c_in, c_out, 1)
        self.b = INIT.parameter([c_out], c_in, c_out, 0)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map x [n, c_in, h, w]."""
        weight = self.W.t()[:, :, None, None].to(x.dtype)
        return F.conv2d(x, weight, self.b.to(x.dtype))


class Attention(torch.nn.Module):
    """Self-attention of pixels in one head, added to its input."""

    def __init__(self, channels: int, *, is_ddpm: bool):
        super().__init__()
        self.scale = 1 if is_ddpm else HALF
        self.GroupNorm_0 = GroupNorm(channels, eps=EPS, num_groups=32 if is_ddpm else None)
        self.NIN_0 = NIN(channels, channels)
        self.NIN_1 = NIN(channels, channels)
        self.NIN_2 = NIN(channels, channels)
        self.NIN_3 = NIN(channels, channels)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map x [n, c, h, w]."""
        y = self.GroupNorm_0(x)
        q, k, v = (
            layer(y).flatten(2).transpose(1, 2)[:, None]
            for layer in (self.NIN_0, self.NIN_1, self.NIN_2)
        )
        y = attend(q, k, v)[:, 0].transpose(1, 2).reshape(x.shape)
        return (x + self.NIN_3(y)) * self.scale
