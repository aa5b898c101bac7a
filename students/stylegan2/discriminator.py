"""The StyleGAN2 discriminator (Karras et al. 2020, arXiv:1912.04958, figure 7).

Files carry it; refiners.adversarial_moments goes on training it, and the script that trains the
demo generator uses it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from jaxtyping import Float

from checkpoints import with_options
from checkpoints.options import Option
from students.base import check_labels
from students.layers import FILTER, Conv2dLayer, FullyConnectedLayer
from students.options import SQUARE
from students.stylegan2.blocks import block_channels, check_architecture, fp16_from, grown
from students.stylegan2.mapping import MappingNetwork
from stylegan_ops import Taps, downsample2d, setup_filter


class DiscriminatorBlock(torch.nn.Module):
    """The layers of one resolution: [fromrgb], conv0, conv1 (halving), [skip]."""

    resample_filter: torch.Tensor

    def __init__(
        self,
        in_channels: int,
        tmp_channels: int,
        out_channels: int,
        *,
        resolution: int,
        img_channels: int,
        architecture: str,
        activation: str = "lrelu",
        resample_filter: Taps | None = FILTER,
        conv_clamp: float | None = None,
        use_fp16: bool = False,
        fp16_channels_last: bool = False,
    ):
        super().__init__()
        self.in_channels = in_channels
        self.resolution = resolution
        self.img_channels = img_channels
        self.architecture = architecture
        self.use_fp16 = use_fp16
        self.channels_last = use_fp16 and fp16_channels_last
        self.register_buffer("resample_filter", setup_filter(resample_filter))
        conv: dict[str, Any] = {"activation": activation, "conv_clamp": conv_clamp}
        if in_channels == 0 or architecture == "skip":
            self.fromrgb = Conv2dLayer(img_channels, tmp_channels, kernel_size=1, **conv)
        self.conv0 = Conv2dLayer(tmp_channels, tmp_channels, kernel_size=3, **conv)
        self.conv1 = Conv2dLayer(
            tmp_channels,
            out_channels,
            kernel_size=3,
            down=2,
            resample_filter=resample_filter,
            **conv,
        )
        if architecture == "resnet":
            self.skip = Conv2dLayer(
                tmp_channels,
                out_channels,
                kernel_size=1,
                bias=False,
                down=2,
                resample_filter=resample_filter,
            )

    def forward(
        self, x: torch.Tensor | None, img: torch.Tensor | None, *, force_fp32: bool
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Return features [n, out, h / 2, w / 2], and the halved image where blocks pass it on.

        Args:
            x: features [n, in, h, w]; None in the first block.
            img: image [n, img_channels, h, w], or None where no layer looks at it.
            force_fp32: compute in single precision even where this block was trained in half.
        """
        half = self.use_fp16 and not force_fp32
        layout = torch.channels_last if self.channels_last and half else torch.contiguous_format
        source = img if x is None else x
        assert source is not None
        dtype = torch.float16 if half else torch.promote_types(source.dtype, torch.float32)
        features = None if x is None else x.to(dtype=dtype, memory_format=layout)
        if self.in_channels == 0 or self.architecture == "skip":
            assert img is not None
            img = img.to(dtype=dtype, memory_format=layout)
            y = self.fromrgb(img)
            features = y if features is None else features + y
            img = downsample2d(img, self.resample_filter) if self.architecture == "skip" else None
        assert features is not None
        if self.architecture == "resnet":
            y = self.skip(features, gain=math.sqrt(0.5))
            return y + self.conv1(self.conv0(features), gain=math.sqrt(0.5)), img
        return self.conv1(self.conv0(features)), img


class MinibatchStdLayer(torch.nn.Module):
    """Append the deviation within groups of samples (Karras et al. 2018, arXiv:1710.10196, sec. 3).

    A group is group_size samples, or the batch where that is smaller or group_size is None.
    """

    def __init__(self, group_size: int | None, num_channels: int = 1):
        super().__init__()
        self.group_size = group_size
        self.num_channels = num_channels

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return [n, c + num_channels, h, w] of x [n, c, h, w].

        Raises:
            ValueError: n is above the group's size and no multiple of it.
        """
        n, c, h, w = x.shape
        group = n if self.group_size is None else min(self.group_size, n)
        if n % group:
            raise ValueError(f"the batch is {n}; the discriminator needs a multiple of {group}")
        # Samples i, i + n / group, ... form a group.
        y = x.reshape(group, n // group, self.num_channels, c // self.num_channels, h, w)
        y = (y.var(dim=0, unbiased=False) + 1e-8).sqrt().mean(dim=[2, 3, 4])
        y = y[:, :, None, None].repeat(group, 1, h, w)
        return torch.cat([x, y], dim=1)


class DiscriminatorEpilogue(torch.nn.Module):
    """The 4 x 4 layers and the logit, always in single precision."""

    def __init__(
        self,
        in_channels: int,
        *,
        cmap_dim: int,
        resolution: int,
        size: tuple[int, int],
        img_channels: int,
        architecture: str,
        mbstd_group_size: int | None = 4,
        mbstd_num_channels: int = 1,
        activation: str = "lrelu",
        conv_clamp: float | None = None,
    ):
        super().__init__()
        self.architecture, self.resolution = architecture, resolution
        self.in_channels, self.img_channels = in_channels, img_channels
        self.cmap_dim = cmap_dim
        if architecture == "skip":
            self.fromrgb = Conv2dLayer(
                img_channels, in_channels, kernel_size=1, activation=activation
            )
        if mbstd_num_channels and in_channels % mbstd_num_channels:
            raise ValueError(
                f"mbstd_num_channels is {mbstd_num_channels}; it must divide {in_channels} channels"
            )
        self.mbstd = (
            MinibatchStdLayer(mbstd_group_size, mbstd_num_channels) if mbstd_num_channels else None
        )
        self.conv = Conv2dLayer(
            in_channels + mbstd_num_channels,
            in_channels,
            kernel_size=3,
            activation=activation,
            conv_clamp=conv_clamp,
        )
        self.fc = FullyConnectedLayer(
            in_channels * math.prod(size), in_channels, activation=activation
        )
        self.out = FullyConnectedLayer(in_channels, cmap_dim or 1)

    def forward(
        self, x: torch.Tensor, img: torch.Tensor | None, cmap: torch.Tensor | None
    ) -> torch.Tensor:
        """Return logits [n, 1].

        Args:
            x: features [n, in_channels, 4, 4], or of init_res.
            img: image [n, img_channels, 4, 4], or of init_res, in architecture "skip".
            cmap: mapped labels [n, cmap_dim]; None where there are no classes.
        """
        x = x.to(
            dtype=torch.promote_types(x.dtype, torch.float32),
            memory_format=torch.contiguous_format,
        )
        if self.architecture == "skip":
            assert img is not None
            x = x + self.fromrgb(img.to(x.dtype))
        if self.mbstd is not None:
            x = self.mbstd(x)
        x = self.out(self.fc(self.conv(x).flatten(1)))
        if cmap is None:
            return x
        return (x * cmap).sum(dim=1, keepdim=True) / math.sqrt(self.cmap_dim)


class Discriminator(torch.nn.Module):
    """(images, labels) -> logits [n, 1]; its argument img_resolution is as the generator's."""

    def __init__(
        self,
        *,
        c_dim: int,
        img_resolution: int,
        img_channels: int,
        init_res: Sequence[int] = SQUARE,
        architecture: str = "resnet",
        channel_base: int = 32768,
        channel_max: int = 512,
        num_fp16_res: int = 0,
        conv_clamp: float | None = None,
        cmap_dim: int | None = None,
        block_kwargs: Mapping[str, Option] | None = None,
        mapping_kwargs: Mapping[str, Option] | None = None,
        epilogue_kwargs: Mapping[str, Option] | None = None,
    ):
        check_architecture(architecture)
        super().__init__()
        self.c_dim = c_dim
        self._img_shape = grown(init_res, img_resolution)
        self.img_resolution = max(self._img_shape)
        self.img_channels = img_channels
        channels = block_channels(img_resolution, channel_base, channel_max)
        self.block_resolutions = sorted(channels, reverse=True)[:-1]
        cmap_dim = 0 if c_dim == 0 else channels[4] if cmap_dim is None else cmap_dim
        common = {
            "img_channels": img_channels,
            "architecture": architecture,
            "conv_clamp": conv_clamp,
        }
        # Frozen layers (freeze_layers) are buffers in their file, which `students.load` keeps.
        options = {k: v for k, v in (block_kwargs or {}).items() if k != "freeze_layers"}
        for r in self.block_resolutions:
            block = with_options(
                DiscriminatorBlock,
                {**common, **options},
                0 if r == img_resolution else channels[r],
                channels[r],
                channels[r // 2],
                resolution=r,
                use_fp16=r >= fp16_from(img_resolution, num_fp16_res),
            )
            self.add_module(f"b{r}", block)
        if c_dim:
            self.mapping = with_options(
                MappingNetwork,
                mapping_kwargs or {},
                z_dim=0,
                c_dim=c_dim,
                w_dim=cmap_dim,
                num_ws=None,
                w_avg_beta=None,
            )
        self.b4 = with_options(
            DiscriminatorEpilogue,
            {**(epilogue_kwargs or {}), **common},
            channels[4],
            cmap_dim=cmap_dim,
            resolution=4,
            size=grown(init_res, 4),
        )
        self.init_kwargs = {
            "c_dim": c_dim,
            "img_resolution": img_resolution,
            "img_channels": img_channels,
            **({} if tuple(init_res) == SQUARE else {"init_res": list(init_res)}),
            "architecture": architecture,
            "channel_base": channel_base,
            "channel_max": channel_max,
            "num_fp16_res": num_fp16_res,
            "conv_clamp": conv_clamp,
            "cmap_dim": cmap_dim if c_dim else None,
            "block_kwargs": options,
            "mapping_kwargs": dict(mapping_kwargs or {}),
            "epilogue_kwargs": dict(epilogue_kwargs or {}),
        }

    @property
    def img_shape(self) -> tuple[int, int]:
        """Height and width of the images; img_resolution is the longer side."""
        return self._img_shape

    def forward(
        self,
        img: Float[torch.Tensor, "n c h w"],
        c: Float[torch.Tensor, "n c_dim"] | None = None,
        *,
        force_fp32: bool | None = None,
    ) -> Float[torch.Tensor, "n 1"]:
        """Return logits of images and one-hot labels.

        force_fp32 None means single precision off CUDA.

        Raises:
            ValueError: images or labels of another shape, a batch that the minibatch deviation
                cannot divide.
        """
        shape = [self.img_channels, *self._img_shape]
        if img.ndim != 4 or list(img.shape[1:]) != shape:
            raise ValueError(f"img is {list(img.shape)}; this network takes {['n', *shape]}")
        if force_fp32 is None:
            force_fp32 = img.device.type != "cuda"
        x, rest = None, img
        for resolution in self.block_resolutions:
            x, rest = getattr(self, f"b{resolution}")(x, rest, force_fp32=force_fp32)
        cmap = self.mapping(None, check_labels(c, self.c_dim, len(img))) if self.c_dim else None
        return self.b4(x, rest, cmap)
