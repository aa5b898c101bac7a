"""The StyleGAN2 generator (Karras et al. 2020, arXiv:1912.04958; with ADA, arXiv:2006.06676).

A mapping network turns a latent z into w; a synthesis network turns w into an image, each convolution's input scaled by styles that
are affine in w. Module names are those of the network files, so that a file's tensors load by name. Two programs write such files and
differ in what they leave unsaid: DEFAULTS holds both sets.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch

from stylegan_ops import bias_act, conv2d_resample, modulated_conv2d, setup_filter, upsample2d
from students.base import NOISE_MODES, Student

FILTER = (1, 3, 3, 1)

# Keyword arguments that a file does not name take the defaults of the program that wrote it.
DEFAULTS: dict[str, dict[str, dict[str, Any]]] = {
    "stylegan2-ada": {
        "mapping": {"w_avg_beta": 0.995},
        "synthesis": {"num_fp16_res": 0, "conv_clamp": None},
    },
    "stylegan3": {
        "mapping": {"w_avg_beta": 0.998},
        "synthesis": {"num_fp16_res": 4, "conv_clamp": 256},
    },
}


def block_resolutions(img_resolution: int) -> list[int]:
    """Return [4, 8, ..., img_resolution].

    Raises:
        ValueError: the resolution is not a power of two of at least 4.
    """
    log2 = int(math.log2(img_resolution)) if img_resolution >= 1 else 0
    if img_resolution < 4 or img_resolution != 1 << log2:
        raise ValueError(f"img_resolution is {img_resolution}; allowed: powers of two from 4")
    return [1 << k for k in range(2, log2 + 1)]


def fp16_from(img_resolution: int, num_fp16_res: int) -> int:
    """Return the lowest resolution whose block was trained in half precision."""
    return max(2 * img_resolution >> num_fp16_res, 8)


def normalize_2nd_moment(x: torch.Tensor) -> torch.Tensor:
    """Scale each row of x [n, d] to unit mean square."""
    return x * (x.square().mean(dim=1, keepdim=True) + 1e-8).rsqrt()


class FullyConnectedLayer(torch.nn.Module):
    """y = f(W x + b), with the weight scale moved from initialisation to run time."""

    def __init__(
        self,
        in_features: int,
        out_features: int,
        *,
        activation: str = "linear",
        lr_multiplier: float = 1,
        bias_init: float = 0,
    ):
        super().__init__()
        self.activation = activation
        self.weight = torch.nn.Parameter(torch.randn([out_features, in_features]) / lr_multiplier)
        self.bias = torch.nn.Parameter(torch.full([out_features], float(bias_init)))
        self.weight_gain = lr_multiplier / math.sqrt(in_features)
        self.bias_gain = lr_multiplier

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        w = self.weight.to(x.dtype) * self.weight_gain
        b = self.bias.to(x.dtype)
        b = b if self.bias_gain == 1 else b * self.bias_gain
        if self.activation == "linear":
            return torch.addmm(b, x, w.t())
        return bias_act(x @ w.t(), b, act=self.activation)


class Conv2dLayer(torch.nn.Module):
    """Convolution with run-time weight scale, optional 2x resampling, bias and activation."""

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        *,
        kernel_size: int,
        bias: bool = True,
        activation: str = "linear",
        up: int = 1,
        down: int = 1,
        resample_filter: Sequence[float] | None = FILTER,
        conv_clamp: float | None = None,
    ):
        super().__init__()
        self.activation = activation
        self.up = up
        self.down = down
        self.conv_clamp = conv_clamp
        self.padding = kernel_size // 2
        self.weight_gain = 1 / math.sqrt(in_channels * kernel_size**2)
        self.register_buffer("resample_filter", setup_filter(resample_filter))
        self.weight = torch.nn.Parameter(
            torch.randn([out_channels, in_channels, kernel_size, kernel_size])
        )
        self.bias = torch.nn.Parameter(torch.zeros([out_channels])) if bias else None

    def forward(self, x: torch.Tensor, gain: float = 1) -> torch.Tensor:
        x = conv2d_resample(
            x,
            (self.weight * self.weight_gain).to(x.dtype),
            f=self.resample_filter,
            up=self.up,
            down=self.down,
            padding=self.padding,
            flip_weight=self.up == 1,
        )
        b = None if self.bias is None else self.bias.to(x.dtype)
        return activate(x, b, self.activation, gain, self.conv_clamp)


def activate(x, b, activation: str, gain: float, clamp: float | None) -> torch.Tensor:
    """Apply bias_act with an extra gain, which scales the clamp as well."""
    base = math.sqrt(2) if activation in ("relu", "lrelu", "swish") else 1.0
    return bias_act(
        x, b, act=activation, gain=base * gain, clamp=None if clamp is None else clamp * gain
    )


class MappingNetwork(torch.nn.Module):
    """(z, c) -> w, repeated num_ws times. z_dim = 0 maps labels alone; num_ws = None keeps one w."""

    def __init__(
        self,
        *,
        z_dim: int,
        c_dim: int,
        w_dim: int,
        num_ws: int | None,
        num_layers: int = 8,
        embed_features: int | None = None,
        layer_features: int | None = None,
        activation: str = "lrelu",
        lr_multiplier: float = 0.01,
        w_avg_beta: float | None = 0.995,
    ):
        super().__init__()
        self.z_dim = z_dim
        self.c_dim = c_dim
        self.w_dim = w_dim
        self.num_ws = num_ws
        self.num_layers = num_layers
        self.w_avg_beta = w_avg_beta
        embed = 0 if c_dim == 0 else w_dim if embed_features is None else embed_features
        hidden = w_dim if layer_features is None else layer_features
        features = [z_dim + embed] + [hidden] * (num_layers - 1) + [w_dim]
        if c_dim:
            self.embed = FullyConnectedLayer(c_dim, embed)
        for i in range(num_layers):
            layer = FullyConnectedLayer(
                features[i], features[i + 1], activation=activation, lr_multiplier=lr_multiplier
            )
            self.add_module(f"fc{i}", layer)
        if num_ws is not None and w_avg_beta is not None:
            self.register_buffer("w_avg", torch.zeros([w_dim]))

    def forward(
        self,
        z: torch.Tensor | None,
        c: torch.Tensor | None = None,
        *,
        truncation_psi: float = 1.0,
        truncation_cutoff: int | None = None,
    ) -> torch.Tensor:
        """Return ws [n, num_ws, w_dim], or [n, w_dim] where num_ws is None.

        In training mode the running mean w_avg follows the batch. Truncation pulls the first truncation_cutoff ws (None: all) to
        w_avg: w_avg + psi (w - w_avg).
        """
        inputs = []
        if self.z_dim:
            assert z is not None
            inputs.append(normalize_2nd_moment(z.float()))
        if self.c_dim:
            assert c is not None
            inputs.append(normalize_2nd_moment(self.embed(c.float())))
        x = torch.cat(inputs, dim=1)
        for i in range(self.num_layers):
            x = getattr(self, f"fc{i}")(x)
        if self.num_ws is None:
            return x
        if self.training and self.w_avg_beta is not None:
            self.w_avg.copy_(x.detach().mean(dim=0).lerp(self.w_avg, self.w_avg_beta))
        ws = x.unsqueeze(1).repeat(1, self.num_ws, 1)
        if truncation_psi == 1:
            return ws
        if self.w_avg_beta is None:
            raise ValueError("this network keeps no w_avg, so truncation_psi must be 1")
        cut = self.num_ws if truncation_cutoff is None else truncation_cutoff
        head = self.w_avg.lerp(ws[:, :cut], truncation_psi)
        return torch.cat([head, ws[:, cut:]], dim=1)


class SynthesisLayer(torch.nn.Module):
    """Modulated 3x3 convolution, per-pixel noise, bias, activation."""

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        *,
        w_dim: int,
        resolution: int,
        kernel_size: int = 3,
        up: int = 1,
        use_noise: bool = True,
        activation: str = "lrelu",
        resample_filter: Sequence[float] | None = FILTER,
        conv_clamp: float | None = None,
    ):
        super().__init__()
        self.resolution = resolution
        self.up = up
        self.use_noise = use_noise
        self.activation = activation
        self.conv_clamp = conv_clamp
        self.padding = kernel_size // 2
        self.affine = FullyConnectedLayer(w_dim, in_channels, bias_init=1)
        self.weight = torch.nn.Parameter(
            torch.randn([out_channels, in_channels, kernel_size, kernel_size])
        )
        self.register_buffer("resample_filter", setup_filter(resample_filter))
        if use_noise:
            self.register_buffer("noise_const", torch.randn([resolution, resolution]))
            self.noise_strength = torch.nn.Parameter(torch.zeros([]))
        self.bias = torch.nn.Parameter(torch.zeros([out_channels]))

    def noise(self, n: int, noise_mode: str) -> torch.Tensor | None:
        """Return noise for n images; "random" draws from torch's stream on this layer's device."""
        if not self.use_noise or noise_mode == "none":
            return None
        if noise_mode == "const":
            return self.noise_const * self.noise_strength
        shape = [n, 1, self.resolution, self.resolution]
        return torch.randn(shape, device=self.bias.device) * self.noise_strength

    def forward(
        self, x: torch.Tensor, w: torch.Tensor, *, noise_mode: str = "random", gain: float = 1
    ) -> torch.Tensor:
        styles = self.affine(w)
        x = modulated_conv2d(
            x,
            self.weight,
            styles,
            noise=self.noise(len(x), noise_mode),
            up=self.up,
            padding=self.padding,
            resample_filter=self.resample_filter,
            flip_weight=self.up == 1,
        )
        return activate(x, self.bias.to(x.dtype), self.activation, gain, self.conv_clamp)


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

    def forward(self, x: torch.Tensor, w: torch.Tensor) -> torch.Tensor:
        styles = self.affine(w) * self.weight_gain
        x = modulated_conv2d(x, self.weight, styles, demodulate=False)
        return bias_act(x, self.bias.to(x.dtype), clamp=self.conv_clamp)


class SynthesisBlock(torch.nn.Module):
    """The layers of one resolution."""

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        *,
        w_dim: int,
        resolution: int,
        img_channels: int,
        is_last: bool,
        architecture: str = "skip",
        resample_filter: Sequence[float] | None = FILTER,
        conv_clamp: float | None = None,
        use_fp16: bool = False,
        fp16_channels_last: bool = False,
        **layer_kwargs: Any,
    ):
        if architecture not in ("orig", "skip", "resnet"):
            raise ValueError(f"architecture is {architecture!r}; allowed are orig, skip, resnet")
        super().__init__()
        self.in_channels = in_channels
        self.w_dim = w_dim
        self.resolution = resolution
        self.img_channels = img_channels
        self.is_last = is_last
        self.architecture = architecture
        self.use_fp16 = use_fp16
        self.channels_last = use_fp16 and fp16_channels_last
        self.num_conv = 1 if in_channels == 0 else 2
        self.num_torgb = int(is_last or architecture == "skip")
        self.register_buffer("resample_filter", setup_filter(resample_filter))
        layer = {
            "w_dim": w_dim,
            "resolution": resolution,
            "conv_clamp": conv_clamp,
            **layer_kwargs,
        }
        if in_channels == 0:
            self.const = torch.nn.Parameter(torch.randn([out_channels, resolution, resolution]))
        else:
            self.conv0 = SynthesisLayer(
                in_channels, out_channels, up=2, resample_filter=resample_filter, **layer
            )
        self.conv1 = SynthesisLayer(out_channels, out_channels, **layer)
        if self.num_torgb:
            self.torgb = ToRGBLayer(out_channels, img_channels, w_dim=w_dim, conv_clamp=conv_clamp)
        if in_channels != 0 and architecture == "resnet":
            self.skip = Conv2dLayer(
                in_channels,
                out_channels,
                kernel_size=1,
                bias=False,
                up=2,
                resample_filter=resample_filter,
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
        """Return features and image; ws is [n, num_conv + num_torgb, w_dim]."""
        w = iter(ws.unbind(dim=1))
        half = self.use_fp16 and not force_fp32
        dtype = torch.float16 if half else ws.dtype
        layout = torch.channels_last if self.channels_last and half else torch.contiguous_format
        if x is None:
            x = self.const.unsqueeze(0).repeat(len(ws), 1, 1, 1)
        x = x.to(dtype=dtype, memory_format=layout)
        if self.in_channels == 0:
            x = self.conv1(x, next(w), noise_mode=noise_mode)
        elif self.architecture == "resnet":
            y = self.skip(x, gain=math.sqrt(0.5))
            x = self.conv0(x, next(w), noise_mode=noise_mode)
            x = y + self.conv1(x, next(w), noise_mode=noise_mode, gain=math.sqrt(0.5))
        else:
            x = self.conv0(x, next(w), noise_mode=noise_mode)
            x = self.conv1(x, next(w), noise_mode=noise_mode)
        if img is not None:
            img = upsample2d(img, self.resample_filter)
        if self.num_torgb:
            y = self.torgb(x, next(w)).to(ws.dtype)
            img = y if img is None else img + y
        return x, img


class SynthesisNetwork(torch.nn.Module):
    """ws [n, num_ws, w_dim] -> images."""

    def __init__(
        self,
        *,
        w_dim: int,
        img_resolution: int,
        img_channels: int,
        channel_base: int = 32768,
        channel_max: int = 512,
        num_fp16_res: int = 0,
        **block_kwargs: Any,
    ):
        super().__init__()
        self.w_dim = w_dim
        self.img_resolution = img_resolution
        self.img_channels = img_channels
        self.block_resolutions = block_resolutions(img_resolution)
        self.num_ws = 0
        in_channels = 0
        for resolution in self.block_resolutions:
            out_channels = min(channel_base // resolution, channel_max)
            block = SynthesisBlock(
                in_channels,
                out_channels,
                w_dim=w_dim,
                resolution=resolution,
                img_channels=img_channels,
                is_last=resolution == img_resolution,
                use_fp16=resolution >= fp16_from(img_resolution, num_fp16_res),
                **block_kwargs,
            )
            self.num_ws += block.num_conv + (block.num_torgb if block.is_last else 0)
            self.add_module(f"b{resolution}", block)
            in_channels = out_channels

    def forward(
        self, ws: torch.Tensor, *, noise_mode: str = "random", force_fp32: bool | None = None
    ) -> torch.Tensor:
        """Return images [n, img_channels, h, w], about [-1, 1], not clamped.

        Args:
            ws: [n, num_ws, w_dim].
            noise_mode: "random" draws new noise, "const" uses the file's, "none" uses none.
            force_fp32: run the half-precision blocks in single precision; None does so off CUDA.
        """
        if noise_mode not in NOISE_MODES:
            raise ValueError(f"noise_mode is {noise_mode!r}; allowed are {', '.join(NOISE_MODES)}")
        if ws.ndim != 3 or list(ws.shape[1:]) != [self.num_ws, self.w_dim]:
            raise ValueError(f"ws is {list(ws.shape)}; allowed: [n, {self.num_ws}, {self.w_dim}]")
        if force_fp32 is None:
            force_fp32 = ws.device.type != "cuda"
        x = img = None
        start = 0
        for resolution in self.block_resolutions:
            block = getattr(self, f"b{resolution}")
            # ToRGB shares its w with the first convolution of the next block.
            block_ws = ws[:, start : start + block.num_conv + block.num_torgb]
            x, img = block(x, img, block_ws, noise_mode=noise_mode, force_fp32=force_fp32)
            start += block.num_conv
        assert img is not None
        return img


class Generator(Student):
    """The StyleGAN2 generator: mapping and synthesis."""

    def __init__(
        self,
        *,
        z_dim: int,
        c_dim: int,
        w_dim: int,
        img_resolution: int,
        img_channels: int,
        mapping_kwargs: Mapping[str, Any] | None = None,
        synthesis_kwargs: Mapping[str, Any] | None = None,
    ):
        super().__init__()
        mapping_kwargs, synthesis_kwargs = dict(mapping_kwargs or {}), dict(synthesis_kwargs or {})
        self.z_dim = z_dim
        self.c_dim = c_dim
        self.w_dim = w_dim
        self.img_resolution = img_resolution
        self.img_channels = img_channels
        self.synthesis = SynthesisNetwork(
            w_dim=w_dim,
            img_resolution=img_resolution,
            img_channels=img_channels,
            **synthesis_kwargs,
        )
        self.num_ws = self.synthesis.num_ws
        self.mapping = MappingNetwork(
            z_dim=z_dim, c_dim=c_dim, w_dim=w_dim, num_ws=self.num_ws, **mapping_kwargs
        )
        self.init_kwargs = {
            "z_dim": z_dim,
            "c_dim": c_dim,
            "w_dim": w_dim,
            "img_resolution": img_resolution,
            "img_channels": img_channels,
            "mapping_kwargs": mapping_kwargs,
            "synthesis_kwargs": synthesis_kwargs,
        }

    def forward(
        self,
        z: torch.Tensor,
        c: torch.Tensor | None = None,
        *,
        truncation_psi: float = 1.0,
        truncation_cutoff: int | None = None,
        noise_mode: str = "random",
        force_fp32: bool | None = None,
    ) -> torch.Tensor:
        """Return images [n, img_channels, h, w] of latents z [n, z_dim] and labels c [n, c_dim]."""
        ws = self.mapping(
            z,
            self.check_inputs(z, c),
            truncation_psi=truncation_psi,
            truncation_cutoff=truncation_cutoff,
        )
        return self.synthesis(ws, noise_mode=noise_mode, force_fp32=force_fp32)


def kwargs_from(init_kwargs: Mapping[str, Any], state: Mapping[str, Any]) -> dict[str, Any]:
    """Return Generator's arguments for a file's constructor call, its writer's defaults filled in.

    The ADA program nests the synthesis options in synthesis_kwargs; the StyleGAN3 repository passes them flat.
    """
    named = ("z_dim", "c_dim", "w_dim", "img_resolution", "img_channels")
    missing = [name for name in named if name not in init_kwargs]
    if missing:
        raise ValueError(f"the generator's constructor call lacks {', '.join(missing)}")
    flat = {k: v for k, v in init_kwargs.items() if k not in named}
    mapping = dict(flat.pop("mapping_kwargs", {}))
    nested = flat.pop("synthesis_kwargs", None)
    writer = (
        "stylegan2-ada" if nested is not None or not is_stylegan3_writer(state) else "stylegan3"
    )
    if nested is not None and flat:
        raise ValueError(f"the generator has unknown options: {', '.join(flat)}")
    synthesis = {**DEFAULTS[writer]["synthesis"], **(flat if nested is None else nested)}
    # The non-fused convolution here equals the fused one, so how a file wanted it is without effect.
    synthesis.pop("fused_modconv_default", None)
    mapping = {**DEFAULTS[writer]["mapping"], **mapping}
    sizes = {name: init_kwargs[name] for name in named}
    return {**sizes, "mapping_kwargs": mapping, "synthesis_kwargs": synthesis}


def is_stylegan3_writer(state: Mapping[str, Any]) -> bool:
    """Tell the StyleGAN3 repository's StyleGAN2 by an attribute that only its blocks carry."""
    synthesis = state["_modules"]["synthesis"].state
    return "fused_modconv_default" in synthesis["_modules"]["b4"].state


# What files born here carry as their source: programs that run it find these classes where this project is importable.
SOURCE = """from students.discriminator import *
from students.stylegan2 import *
"""
