"""The R3GAN generator (Huang et al. 2024, arXiv:2501.05441, figure 4 and appendix).

A learned 4 x 4 basis scaled by the latent, then stages of grouped residual blocks without
normalisation; no w space, no noise, no truncation. Its files name importable classes and record no
constructor call, so the sizes are read off the tensors. Module names are those of the files.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch.nn.functional import conv2d, linear

from students.base import StudentModule, check_labels, check_latents, check_noise_mode
from stylegan_ops import bias_act, upsample2d


class Convolution(torch.nn.Module):
    """Convolution without bias that keeps height and width."""

    def __init__(self, in_channels: int, out_channels: int, *, kernel_size: int, groups: int = 1):
        super().__init__()
        self.Layer = torch.nn.Conv2d(
            in_channels,
            out_channels,
            kernel_size,
            padding=(kernel_size - 1) // 2,
            groups=groups,
            bias=False,
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return [n, out_channels, h, w] of x [n, in_channels, h, w], in the dtype of x."""
        layer = self.Layer
        weight = layer.weight.to(x.dtype)
        return conv2d(x, weight, padding=layer.padding, groups=layer.groups)


class BiasedActivation(torch.nn.Module):
    """leaky ReLU (x + b), slope 0.2, no gain."""

    def __init__(self, channels: int):
        super().__init__()
        self.Bias = torch.nn.Parameter(torch.zeros([channels]))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return features of the shape of x [n, channels, h, w]."""
        return bias_act(x, self.Bias.to(x.dtype), act="lrelu", gain=1)


class ResidualBlock(torch.nn.Module):
    """x + 1x1 (act (grouped k x k (act (1x1 x))))."""

    def __init__(self, channels: int, expanded: int, *, groups: int, kernel_size: int):
        super().__init__()
        self.LinearLayer1 = Convolution(channels, expanded, kernel_size=1)
        self.LinearLayer2 = Convolution(expanded, expanded, kernel_size=kernel_size, groups=groups)
        self.LinearLayer3 = Convolution(expanded, channels, kernel_size=1)
        self.NonLinearity1 = BiasedActivation(expanded)
        self.NonLinearity2 = BiasedActivation(expanded)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return features of the shape of x [n, channels, h, w]."""
        y = self.LinearLayer2(self.NonLinearity1(self.LinearLayer1(x)))
        return x + self.LinearLayer3(self.NonLinearity2(y))


class GenerativeBasis(torch.nn.Module):
    """Learned 4 x 4 maps, each scaled by a linear function of the latent."""

    def __init__(self, in_features: int, out_channels: int):
        super().__init__()
        self.Basis = torch.nn.Parameter(torch.randn([out_channels, 4, 4]))
        self.LinearLayer = torch.nn.Linear(in_features, out_channels, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return [n, out_channels, 4, 4] of x [n, in_features]."""
        scales = linear(x, self.LinearLayer.weight.to(x.dtype))
        return self.Basis.to(x.dtype) * scales[:, :, None, None]


class Upsampler(torch.nn.Module):
    """Doubling with a low-pass filter."""

    Kernel: torch.Tensor

    def __init__(self, num_taps: int):
        super().__init__()
        self.register_buffer("Kernel", torch.empty([num_taps, num_taps]))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return [n, c, 2 h, 2 w] of x [n, c, h, w]."""
        return upsample2d(x, self.Kernel)


class UpsampleLayer(torch.nn.Module):
    """A 1x1 convolution where the width changes, then doubling."""

    def __init__(self, in_channels: int, out_channels: int, *, num_taps: int):
        super().__init__()
        self.Resampler = Upsampler(num_taps)
        self.LinearLayer = (
            None
            if in_channels == out_channels
            else Convolution(in_channels, out_channels, kernel_size=1)
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return [n, out_channels, 2 h, 2 w] of x [n, in_channels, h, w]."""
        return self.Resampler(x if self.LinearLayer is None else self.LinearLayer(x))


@dataclass(frozen=True)
class Stage:
    """Sizes of one stage: its resolution is 4 in the first stage and doubles in each further one.

    Attributes:
        width: feature channels between the blocks.
        expanded: feature channels inside a block.
        groups: of the k x k convolutions.
        num_blocks: residual blocks.
        is_half: whether the stage was trained in bfloat16.
    """

    width: int
    expanded: int
    groups: int
    num_blocks: int
    is_half: bool = False


class GeneratorStage(torch.nn.Module):
    """A basis or a doubling, then residual blocks."""

    def __init__(self, first: torch.nn.Module, stage: Stage, *, kernel_size: int):
        super().__init__()
        blocks = [
            ResidualBlock(stage.width, stage.expanded, groups=stage.groups, kernel_size=kernel_size)
            for _ in range(stage.num_blocks)
        ]
        self.Layers = torch.nn.ModuleList([first, *blocks])
        self.is_half = stage.is_half

    def forward(self, x: torch.Tensor, *, dtype: torch.dtype) -> torch.Tensor:
        """Return the stage's features, computed in this dtype, of the features before it."""
        x = x.to(dtype)
        for layer in self.Layers:
            x = layer(x)
        return x


class R3Model(torch.nn.Module):
    """The layers of the generator."""

    def __init__(
        self,
        *,
        z_dim: int,
        c_dim: int,
        embed_dim: int,
        stages: Sequence[Stage],
        img_channels: int,
        kernel_size: int,
        num_taps: int,
    ):
        super().__init__()
        layers, width = [], z_dim + embed_dim
        for number, stage in enumerate(stages):
            first = (
                UpsampleLayer(width, stage.width, num_taps=num_taps)
                if number
                else GenerativeBasis(width, stage.width)
            )
            layers.append(GeneratorStage(first, stage, kernel_size=kernel_size))
            width = stage.width
        self.MainLayers = torch.nn.ModuleList(layers)
        self.AggregationLayer = Convolution(width, img_channels, kernel_size=1)
        if c_dim:
            self.EmbeddingLayer = torch.nn.Linear(c_dim, embed_dim, bias=False)


class R3Generator(StudentModule):
    """The R3GAN generator.

    Attributes:
        init_kwargs: the constructor call, as plain values.
    """

    def __init__(
        self,
        *,
        z_dim: int,
        c_dim: int,
        embed_dim: int,
        stages: Sequence[Stage],
        img_channels: int = 3,
        kernel_size: int = 3,
        num_taps: int = 4,
    ):
        super().__init__()
        self.z_dim = z_dim
        self.c_dim = c_dim
        self.img_resolution = 4 << (len(stages) - 1)
        self.img_channels = img_channels
        sizes: dict[str, Any] = {
            "z_dim": z_dim,
            "c_dim": c_dim,
            "embed_dim": embed_dim,
            "img_channels": img_channels,
            "kernel_size": kernel_size,
            "num_taps": num_taps,
        }
        self.Model = R3Model(stages=stages, **sizes)
        self.init_kwargs = {**sizes, "stages": [asdict(stage) for stage in stages]}

    def forward(
        self,
        z: Float[torch.Tensor, "n z_dim"],
        c: Float[torch.Tensor, "n c_dim"] | None = None,
        *,
        truncation_psi: float = 1.0,
        truncation_cutoff: int | None = None,
        noise_mode: str = "random",
        force_fp32: bool | None = None,
    ) -> Float[torch.Tensor, "n c h w"]:
        """Return images [n, img_channels, h, w], about [-1, 1], not clamped; at least float32.

        Args:
            z: latents [n, z_dim].
            c: one-hot labels [n, c_dim]; not looked at where c_dim is 0.
            truncation_psi: must be 1, and truncation_cutoff None: there is no w to truncate.
            truncation_cutoff: see truncation_psi.
            noise_mode: has no effect; the network has no noise.
            force_fp32: run the bfloat16 stages in single precision; None does so off CUDA.

        Raises:
            ValueError: latents or labels of another shape, a truncation, an unknown noise_mode.
        """
        check_noise_mode(noise_mode)
        if truncation_psi != 1 or truncation_cutoff is not None:
            raise ValueError("an R3GAN generator has no truncation; leave truncation_psi at 1")
        z = check_latents(z, self.z_dim)
        dtype = torch.promote_types(z.dtype, torch.float32)
        x = z.to(dtype)
        model = self.Model
        if self.c_dim:
            labels = check_labels(c, self.c_dim, z.shape[0]).to(dtype)
            x = torch.cat([x, linear(labels, model.EmbeddingLayer.weight.to(dtype))], dim=1)
        if force_fp32 is None:
            force_fp32 = z.device.type != "cuda"
        for stage in model.MainLayers:
            x = stage(x, dtype=torch.bfloat16 if stage.is_half and not force_fp32 else dtype)
        return model.AggregationLayer(x).to(dtype)
