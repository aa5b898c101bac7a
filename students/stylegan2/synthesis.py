"""The synthesis network, w to images (Karras et al. 2020, arXiv:1912.04958, figures 2 and 7).

Each convolution's input is scaled by styles that are affine in w. Blocks of growing resolution
carry the features; their images are summed (architecture "skip"), the features are ("resnet"), or
neither ("orig").
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from jaxtyping import Float

from checkpoints.options import Option
from students.base import check_noise_mode
from students.layers import FILTER, Conv2dLayer, FullyConnectedLayer, limits
from students.options import SQUARE
from students.stylegan2.blocks import block_channels, check_architecture, fp16_from, grown
from stylegan_ops import Taps, bias_act, modulated_conv2d, setup_filter, upsample2d


@dataclass(frozen=True)
class BlockOptions:
    """What all blocks have in common.

    Attributes:
        architecture: how blocks are joined, one of ARCHITECTURES.
        resample_filter: taps of the upsampling filter, 1-D or 2-D.
        conv_clamp: limit of activations; None means no limit.
        fp16_channels_last: run half-precision blocks in channels-last memory layout.
        kernel_size: of the modulated convolutions, odd.
        use_noise: whether layers add noise to every pixel.
        activation: a name in stylegan_ops.ACTIVATIONS.
    """

    architecture: str = "skip"
    resample_filter: Taps | None = FILTER
    conv_clamp: float | None = None
    fp16_channels_last: bool = False
    kernel_size: int = 3
    use_noise: bool = True
    activation: str = "lrelu"

    def __post_init__(self) -> None:
        check_architecture(self.architecture)
        if self.kernel_size % 2 == 0:
            raise ValueError(f"kernel_size is {self.kernel_size}; it must be odd")


class SynthesisLayer(torch.nn.Module):
    """Modulated convolution, per-pixel noise, bias, activation."""

    resample_filter: torch.Tensor
    noise_const: torch.Tensor

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        *,
        w_dim: int,
        resolution: int,
        size: tuple[int, int],
        up: int = 1,
        options: BlockOptions,
    ):
        super().__init__()
        self.resolution = resolution
        self._size = size
        self.up = up
        self.use_noise = options.use_noise
        self.activation = options.activation
        self.conv_clamp = options.conv_clamp
        self.padding = options.kernel_size // 2
        self.affine = FullyConnectedLayer(w_dim, in_channels, bias_init=1)
        kernel = [options.kernel_size, options.kernel_size]
        self.weight = torch.nn.Parameter(torch.randn([out_channels, in_channels, *kernel]))
        # The layer of no upsampling never uses its filter, and in the files has the default one.
        taps = options.resample_filter if up > 1 else FILTER
        self.register_buffer("resample_filter", setup_filter(taps))
        if options.use_noise:
            self.register_buffer("noise_const", torch.randn(size))
            self.noise_strength = torch.nn.Parameter(torch.zeros([]))
        self.bias = torch.nn.Parameter(torch.zeros([out_channels]))

    def noise(self, n: int, noise_mode: str) -> torch.Tensor | None:
        """Return noise that broadcasts to [n, 1, h, w] of this layer's size, or None.

        Mode "random" draws from torch's stream on this layer's device.
        """
        if not self.use_noise or noise_mode == "none":
            return None
        if noise_mode == "const":
            return self.noise_const * self.noise_strength
        shape = [n, 1, *self._size]
        return torch.randn(shape, device=self.bias.device) * self.noise_strength

    def forward(
        self, x: torch.Tensor, w: torch.Tensor, *, noise_mode: str = "random", gain: float = 1
    ) -> torch.Tensor:
        """Return [n, out, h * up, w * up] of features x [n, in, h, w] and w [n, w_dim]."""
        gain, clamp = limits(self.activation, gain, self.conv_clamp)
        return modulated_conv2d(
            x,
            self.weight,
            self.affine(w),
            self.noise(x.shape[0], noise_mode),
            up=self.up,
            padding=self.padding,
            resample_filter=self.resample_filter,
            flip_weight=self.up == 1,
            bias=self.bias.to(x.dtype),
            act=self.activation,
            gain=gain,
            clamp=clamp,
        )


class ToRGBLayer(torch.nn.Module):
    """Modulated 1x1 convolution to image channels, without demodulation."""

    def __init__(
        self, in_channels: int, out_channels: int, *, w_dim: int, conv_clamp: float | None = None
    ):
        super().__init__()
        self.conv_clamp = conv_clamp
        self.weight_gain = 1 / math.sqrt(in_channels)
        self.affine = FullyConnectedLayer(w_dim, in_channels, bias_init=1)
        self.weight = torch.nn.Parameter(torch.randn([out_channels, in_channels, 1, 1]))
        self.bias = torch.nn.Parameter(torch.zeros([out_channels]))

    def forward(
        self, x: Float[torch.Tensor, "n c_in h w"], w: Float[torch.Tensor, "n w_dim"]
    ) -> Float[torch.Tensor, "n c_out h w"]:
        """Return images of features x."""
        styles = self.affine(w) * self.weight_gain
        x = modulated_conv2d(x, self.weight, styles, demodulate=False)
        return bias_act(x, self.bias.to(x.dtype), clamp=self.conv_clamp)


class SynthesisBlock(torch.nn.Module):
    """The layers of one resolution: const or conv0 (doubling), conv1, [torgb], [skip]."""

    resample_filter: torch.Tensor

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        *,
        w_dim: int,
        resolution: int,
        size: tuple[int, int],
        img_channels: int,
        is_last: bool,
        use_fp16: bool,
        options: BlockOptions,
    ):
        super().__init__()
        self.in_channels = in_channels
        self.resolution = resolution
        self.architecture = options.architecture
        self.use_fp16 = use_fp16
        self.channels_last = use_fp16 and options.fp16_channels_last
        self.num_conv = 1 if in_channels == 0 else 2
        self.num_torgb = int(is_last or options.architecture == "skip")
        self.register_buffer("resample_filter", setup_filter(options.resample_filter))
        layer: dict[str, Any] = {
            "w_dim": w_dim,
            "resolution": resolution,
            "size": size,
            "options": options,
        }
        if in_channels == 0:
            self.const = torch.nn.Parameter(torch.randn([out_channels, *size]))
        else:
            self.conv0 = SynthesisLayer(in_channels, out_channels, up=2, **layer)
        self.conv1 = SynthesisLayer(out_channels, out_channels, **layer)
        if self.num_torgb:
            self.torgb = ToRGBLayer(
                out_channels, img_channels, w_dim=w_dim, conv_clamp=options.conv_clamp
            )
        if in_channels != 0 and options.architecture == "resnet":
            self.skip = Conv2dLayer(
                in_channels,
                out_channels,
                kernel_size=1,
                bias=False,
                up=2,
                resample_filter=options.resample_filter,
            )

    def forward(
        self,
        x: torch.Tensor | None,
        img: torch.Tensor | None,
        ws: torch.Tensor,
        *,
        noise_mode: str,
        force_fp32: bool,
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Return this resolution's features and image.

        Args:
            x: features of half the resolution; not looked at in the first block.
            img: image of half the resolution, or None where there is none yet.
            ws: [n, num_conv + num_torgb, w_dim].
            noise_mode: as in SynthesisNetwork.
            force_fp32: compute in the precision of ws even where this block was trained in half.
        """
        half = self.use_fp16 and not force_fp32
        dtype = torch.float16 if half else ws.dtype
        # Elsewhere the convolutions choose: on a CPU channels last, where that is faster.
        layout = torch.channels_last if self.channels_last and half else torch.preserve_format
        w = iter(ws.unbind(dim=1))
        if self.in_channels == 0:
            const = self.const.unsqueeze(0).repeat(ws.shape[0], 1, 1, 1)
            const = const.to(dtype=dtype, memory_format=layout)
            features = self.conv1(const, next(w), noise_mode=noise_mode)
        else:
            assert x is not None
            x = x.to(dtype=dtype, memory_format=layout)
            is_resnet = self.architecture == "resnet"
            gain = math.sqrt(0.5) if is_resnet else 1.0
            y = self.skip(x, gain=gain) if is_resnet else None
            features = self.conv0(x, next(w), noise_mode=noise_mode)
            features = self.conv1(features, next(w), noise_mode=noise_mode, gain=gain)
            features = features if y is None else y + features
        if img is not None:
            img = upsample2d(img, self.resample_filter)
        if self.num_torgb:
            y = self.torgb(features, next(w)).to(ws.dtype)
            img = y if img is None else img + y
        return features, img


class SynthesisNetwork(torch.nn.Module):
    """ws [n, num_ws, w_dim] -> images [n, img_channels, h, w].

    h and w are img_resolution where images grow from 4 x 4; from `init_res`, as forks for
    landscapes have it, they are that times img_resolution / 4. Its block_options are the fields of
    BlockOptions; the num_fp16_res highest resolutions run in half precision on CUDA.
    """

    def __init__(
        self,
        *,
        w_dim: int,
        img_resolution: int,
        img_channels: int,
        init_res: Sequence[int] = SQUARE,
        channel_base: int = 32768,
        channel_max: int = 512,
        num_fp16_res: int = 0,
        **block_options: Option,
    ):
        super().__init__()
        options = replace(BlockOptions(), **block_options)
        self.w_dim = w_dim
        self.img_resolution = img_resolution
        self.img_channels = img_channels
        channels = block_channels(img_resolution, channel_base, channel_max)
        self.block_resolutions = list(channels)
        self.num_ws = 0
        for resolution in self.block_resolutions:
            block = SynthesisBlock(
                channels[resolution // 2] if resolution > 4 else 0,
                channels[resolution],
                w_dim=w_dim,
                resolution=resolution,
                size=grown(init_res, resolution),
                img_channels=img_channels,
                is_last=resolution == img_resolution,
                use_fp16=resolution >= fp16_from(img_resolution, num_fp16_res),
                options=options,
            )
            self.num_ws += block.num_conv
            self.add_module(f"b{resolution}", block)
        # A block's ToRGB shares its w with the first convolution of the next; the last has its own.
        self.num_ws += 1

    def forward(
        self,
        ws: Float[torch.Tensor, "n num_ws w_dim"],
        *,
        noise_mode: str = "random",
        force_fp32: bool | None = None,
    ) -> Float[torch.Tensor, "n c h w"]:
        """Return images, about [-1, 1], not clamped.

        Args:
            ws: [n, num_ws, w_dim].
            noise_mode: "random" draws new noise, "const" uses the file's, "none" uses none.
            force_fp32: run the half-precision blocks in single precision; None does so off CUDA.

        Raises:
            ValueError: an unknown noise_mode, ws of another shape.
        """
        check_noise_mode(noise_mode)
        if ws.ndim != 3 or list(ws.shape[1:]) != [self.num_ws, self.w_dim]:
            raise ValueError(f"ws is {list(ws.shape)}; allowed: [n, {self.num_ws}, {self.w_dim}]")
        if force_fp32 is None:
            force_fp32 = ws.device.type != "cuda"
        x = img = None
        start = 0
        for resolution in self.block_resolutions:
            block = getattr(self, f"b{resolution}")
            block_ws = ws[:, start : start + block.num_conv + block.num_torgb]
            x, img = block(x, img, block_ws, noise_mode=noise_mode, force_fp32=force_fp32)
            start += block.num_conv
        assert img is not None
        return img
