"""StyleGAN3's synthesis network, ws to images (Karras et al. 2021, arXiv:2106.12423, section 3).

Fourier features of a learned position and rotation pass through layers of growing bandwidth; none
of them knows where in the image it is, so textures move with what they belong to.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import torch
from jaxtyping import Float

from checkpoints.options import Option
from students.base import check_noise_mode
from students.layers import FullyConnectedLayer
from students.stylegan3.layers import LayerOptions, LayerPlan, Signal, SynthesisLayer


def plan_layers(
    *,
    img_resolution: int,
    img_channels: int,
    channel_base: float = 32768,
    channel_max: float = 512,
    num_layers: int = 14,
    num_critical: int = 2,
    first_cutoff: float = 2,
    first_stopband: float = 2**2.1,
    last_stopband_rel: float = 2**0.3,
    margin_size: int = 10,
    num_fp16_res: int = 4,
    **layer_options: Option,
) -> list[LayerPlan]:
    """Lay out the layers (Karras et al. 2021, section 3.2 and appendix C.1).

    Cutoffs and stopbands f_c, f_t grow geometrically to the image's; a layer's rate is the power of
    two that holds its stopband, its transition band takes what that leaves free.

    Args:
        img_resolution: height and width of the images.
        img_channels: their channels.
        channel_base: a layer has channel_base / (2 f_c) channels ...
        channel_max: ... and at most so many.
        num_layers: layers but for ToRGB.
        num_critical: how many of the last layers before ToRGB have their cutoff at half the
            resolution.
        first_cutoff: f_c of the first layer, cycles per image width.
        first_stopband: f_t of the first layer.
        last_stopband_rel: f_t of the last layer over its f_c.
        margin_size: samples around the image on each side.
        num_fp16_res: layers of the highest num_fp16_res sampling rates run in half precision.
        **layer_options: fields of LayerOptions.

    Returns:
        num_layers + 1 plans, the last of ToRGB.

    Raises:
        ValueError: numbers that lead to no layers.
    """
    if not 0 <= num_critical < num_layers:
        raise ValueError(
            f"num_critical is {num_critical}; it must be below num_layers, {num_layers}"
        )
    options = replace(LayerOptions(), **layer_options)
    last_cutoff = img_resolution / 2
    last_stopband = last_cutoff * last_stopband_rel
    signals = []
    for i in range(num_layers + 1):
        exponent = min(i / (num_layers - num_critical), 1)
        cutoff = first_cutoff * (last_cutoff / first_cutoff) ** exponent
        stopband = first_stopband * (last_stopband / first_stopband) ** exponent
        rate = 2 ** math.ceil(math.log2(min(2 * stopband, img_resolution)))
        channels = round(min(channel_base / 2 / cutoff, channel_max))
        if channels < 1 or rate < 1 or not 0 < 2 * cutoff <= rate:
            raise ValueError(
                f"layer {i} would have {channels} channels and the cutoff {cutoff:g} at {rate} "
                "samples; allowed: at least one channel, a cutoff up to half the samples"
            )
        signals.append(
            Signal(
                channels=img_channels if i == num_layers else channels,
                size=img_resolution if i >= num_layers - 1 else rate + 2 * margin_size,
                sampling_rate=rate,
                cutoff=cutoff,
                half_width=max(stopband, rate / 2) - cutoff,
            )
        )
    return [
        LayerPlan(
            name=f"L{i}_{after.size}_{after.channels}",
            before=signals[max(i - 1, 0)],
            after=after,
            is_torgb=i == num_layers,
            is_critically_sampled=i >= num_layers - num_critical,
            use_fp16=after.sampling_rate * 2**num_fp16_res > img_resolution,
            options=options,
        )
        for i, after in enumerate(signals)
    ]


class SynthesisInput(torch.nn.Module):
    """Fourier features on a grid that w moves and turns, then a learned mix of channels.

    `transform` is a 3 x 3 matrix of homogeneous coordinates, in units of the image's width, from
    the wanted image to the one without it: the user's own shift, turn or zoom of the images.
    """

    transform: torch.Tensor
    freqs: torch.Tensor
    phases: torch.Tensor

    def __init__(self, signal: Signal, *, w_dim: int):
        super().__init__()
        self.channels = signal.channels
        self.size = signal.size
        self.sampling_rate = signal.sampling_rate
        self.bandwidth = signal.cutoff
        if not 0 < 2 * self.bandwidth < self.sampling_rate:
            raise ValueError(
                f"the input has the bandwidth {self.bandwidth:g} at {self.sampling_rate} samples; "
                "it must be above 0 and below half the samples"
            )
        self.init_kwargs = {
            "w_dim": w_dim,
            "channels": self.channels,
            "size": self.size,
            "sampling_rate": self.sampling_rate,
            "bandwidth": self.bandwidth,
        }
        self.weight = torch.nn.Parameter(torch.randn([self.channels, self.channels]))
        self.affine = FullyConnectedLayer(w_dim, 4)
        torch.nn.init.zeros_(self.affine.weight)
        torch.nn.init.ones_(self.affine.bias[:1])
        self.register_buffer("transform", torch.eye(3))
        self.register_buffer("freqs", _frequencies(self.channels, self.bandwidth))
        self.register_buffer("phases", torch.empty([self.channels]).uniform_(-0.5, 0.5))

    def forward(self, w: Float[torch.Tensor, "n w_dim"]) -> Float[torch.Tensor, "n d size size"]:
        """Return features, in the dtype of w."""
        place = self.placement(w) @ self.transform.to(w.dtype)
        freqs, phases = self.freqs.to(w.dtype), self.phases.to(w.dtype)
        phases = phases + (freqs @ place[:, :, 2:]).squeeze(2)
        freqs = freqs @ place[:, :, :2]
        # Zooming out asks for frequencies that the samples cannot carry; they fade out.
        excess = freqs.norm(dim=2) - self.bandwidth
        amplitudes = (1 - excess / (self.sampling_rate / 2 - self.bandwidth)).clamp(0, 1)
        steps = torch.arange(self.size, dtype=w.dtype, device=w.device)
        axis = (steps + (1 - self.size) / 2) / self.sampling_rate
        fx, fy = freqs[..., None, None].unbind(dim=2)
        cycles = fx * axis + (fy * axis[:, None] + phases[..., None, None])
        x = torch.sin(cycles * (2 * math.pi)) * amplitudes[..., None, None]
        weight = self.weight.to(w.dtype) / math.sqrt(self.channels)
        return (weight @ x.flatten(2)).reshape(x.shape)

    def placement(self, w: Float[torch.Tensor, "n w_dim"]) -> Float[torch.Tensor, "n 2 3"]:
        """Return w's inverse shift and turn of the image, the matrices [R | R t], [n, 2, 3]."""
        t = self.affine(w)
        t = t / t[:, :2].norm(dim=1, keepdim=True)
        cos, sin, *_ = t.unbind(dim=1)
        turn = torch.stack([cos, -sin, sin, cos], dim=1).reshape(-1, 2, 2)
        return torch.cat([turn, -(turn @ t[:, 2:, None])], dim=2)


def _frequencies(n: int, bandwidth: float) -> Float[torch.Tensor, "n 2"]:
    """Draw frequencies [n, 2] in the disc of this radius, without values where torch makes none."""
    freqs = torch.randn([n, 2])
    if freqs.is_meta:
        return freqs
    # About uniform: a normal distribution's radii r shrink to exp(-r^2 / 4).
    radii = freqs.norm(dim=1, keepdim=True)
    return freqs / (radii * (radii.square() / 4).exp()) * bandwidth


class SynthesisNetwork(torch.nn.Module):
    """ws [n, num_ws, w_dim] -> images [n, img_channels, img_resolution, img_resolution].

    The input takes the first w, each layer one more.
    """

    def __init__(self, plans: Sequence[LayerPlan], *, w_dim: int, output_scale: float = 0.25):
        super().__init__()
        self.w_dim = w_dim
        self.num_ws = len(plans) + 1
        self.img_resolution = plans[-1].after.size
        self.img_channels = plans[-1].after.channels
        self.output_scale = output_scale
        self.init_kwargs = {"output_scale": output_scale}
        self.input = SynthesisInput(plans[0].before, w_dim=w_dim)
        self.layer_names = [plan.name for plan in plans]
        for plan in plans:
            self.add_module(plan.name, SynthesisLayer(plan, w_dim=w_dim))

    def forward(
        self,
        ws: Float[torch.Tensor, "n num_ws w_dim"],
        *,
        noise_mode: str = "random",
        force_fp32: bool | None = None,
        update_emas: bool = False,
    ) -> Float[torch.Tensor, "n c h w"]:
        """Return images, about [-1, 1], not clamped.

        Args:
            ws: [n, num_ws, w_dim].
            noise_mode: one of NOISE_MODES; these networks have no noise, all give the same image.
            force_fp32: run the half-precision layers in single precision; None does so off CUDA.
            update_emas: let the layers' magnitude_ema follow their inputs, as training from scratch
                does. A refinement leaves it at False: the weights were trained to the file's
                magnitudes, and moving them would change the images without any gradient.

        Raises:
            ValueError: an unknown noise_mode, ws of another shape.
        """
        check_noise_mode(noise_mode)
        if ws.ndim != 3 or list(ws.shape[1:]) != [self.num_ws, self.w_dim]:
            raise ValueError(f"ws is {list(ws.shape)}; allowed: [n, {self.num_ws}, {self.w_dim}]")
        if force_fp32 is None:
            force_fp32 = ws.device.type != "cuda"
        first, *rest = ws.unbind(dim=1)
        x = self.input(first)
        for name, w in zip(self.layer_names, rest, strict=True):
            x = getattr(self, name)(x, w, force_fp32=force_fp32, update_emas=update_emas)
        return x.to(ws.dtype) * self.output_scale
