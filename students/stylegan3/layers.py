"""The layers of StyleGAN3's synthesis (Karras et al. 2021, arXiv:2106.12423, section 3.2).

A layer acts on samples of a continuous signal: a modulated convolution, then a leaky ReLU at a
higher sampling rate between two low-pass filters, so that it makes no frequency that the layer's
own rate cannot carry.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass

import torch
import torch.nn.functional as F

from checkpoints.options import Options
from students.layers import FullyConnectedLayer
from students.stylegan3.filters import design_filter
from stylegan_ops import filtered_lrelu, fma


@dataclass(frozen=True)
class Signal:
    """Samples of a band-limited signal, with a margin around the image.

    Attributes:
        channels: feature maps.
        size: height and width in samples, margin included.
        sampling_rate: samples per image width s.
        cutoff: frequency f_c that the signal is filtered to, cycles per image width.
        half_width: half of the filter's transition band f_h.
    """

    channels: int
    size: int
    sampling_rate: int
    cutoff: float
    half_width: float


@dataclass(frozen=True)
class LayerOptions:
    """What all layers of a network have in common.

    Attributes:
        conv_kernel: size of the convolutions; 3 in configuration T, 1 in R. ToRGB has 1.
        filter_size: taps of a filter per sample of the lower rate.
        lrelu_upsampling: sampling rate of the activation over the layer's. ToRGB has 1.
        use_radial_filters: radially symmetric downsampling but where sampling is critical; True
            in configuration R.
        conv_clamp: limit of the activations; None means no limit.
        magnitude_ema_beta: weight of the past in the running mean of input magnitudes.
    """

    conv_kernel: int = 3
    filter_size: int = 6
    lrelu_upsampling: int = 2
    use_radial_filters: bool = False
    conv_clamp: float | None = 256
    magnitude_ema_beta: float = 0.999


@dataclass(frozen=True)
class LayerPlan:
    """One layer: its signals, its role, its options, and its name in the files."""

    name: str
    before: Signal
    after: Signal
    is_torgb: bool
    is_critically_sampled: bool
    use_fp16: bool
    options: LayerOptions

    def __post_init__(self) -> None:
        for name, signal in (("in", self.before), ("out", self.after)):
            if self.rate % signal.sampling_rate:
                raise ValueError(
                    f"layer {self.name}: {name}_sampling_rate is {signal.sampling_rate}; "
                    f"it must divide {self.rate}"
                )

    @property
    def rate(self) -> int:
        """Sampling rate of the activation."""
        oversampling = 1 if self.is_torgb else self.options.lrelu_upsampling
        return max(self.before.sampling_rate, self.after.sampling_rate) * oversampling

    @property
    def call(self) -> Options:
        """The constructor call, as files record it."""
        return {
            "is_torgb": self.is_torgb,
            "is_critically_sampled": self.is_critically_sampled,
            "use_fp16": self.use_fp16,
            **{f"in_{name}": value for name, value in asdict(self.before).items()},
            **{f"out_{name}": value for name, value in asdict(self.after).items()},
            **asdict(self.options),
        }


def modulated_conv2d(
    x: torch.Tensor,
    weight: torch.Tensor,
    styles: torch.Tensor,
    bias: torch.Tensor,
    *,
    input_gain: torch.Tensor,
    demodulate: bool,
) -> torch.Tensor:
    """Convolve each sample with its own modulated weights, on all overlaps; add the bias.

    Unlike StyleGAN2's, weights and styles are brought to unit mean square first, the styles over
    the whole batch; the demodulation undoes both up to its epsilon. All factors but the weights are
    taken out of the convolution, as in stylegan_ops.

    Args:
        x: [n, in, h, w].
        weight: [out, in, k, k].
        styles: [n, in].
        bias: [out].
        input_gain: factor of x, [].
        demodulate: normalise every output channel.

    Returns:
        [n, out, h + k - 1, w + k - 1] in the dtype of x.
    """
    if demodulate:
        weight = weight * weight.square().mean(dim=[1, 2, 3], keepdim=True).rsqrt()
        styles = styles * styles.square().mean().rsqrt()
    y = x * (styles * input_gain).to(x.dtype)[:, :, None, None]
    y = F.conv2d(y, weight.to(x.dtype), padding=weight.shape[-1] - 1)
    b = bias.to(x.dtype)[:, None, None]
    if not demodulate:
        return y + b
    norm = styles.square() @ weight.square().sum(dim=[2, 3]).T + 1e-8
    return fma(y, norm.rsqrt().to(x.dtype)[:, :, None, None], b)


class SynthesisLayer(torch.nn.Module):
    """Modulated convolution, bias, filtered leaky ReLU.

    The input is divided by the root of `magnitude_ema`, a running mean of its square.
    """

    magnitude_ema: torch.Tensor
    up_filter: torch.Tensor | None
    down_filter: torch.Tensor | None

    def __init__(self, plan: LayerPlan, *, w_dim: int):
        super().__init__()
        before, after, options = plan.before, plan.after, plan.options
        self.init_kwargs = {"w_dim": w_dim, **plan.call}
        self.is_torgb = plan.is_torgb
        self.use_fp16 = plan.use_fp16
        self.conv_clamp = options.conv_clamp
        self.magnitude_ema_beta = options.magnitude_ema_beta
        kernel = 1 if plan.is_torgb else options.conv_kernel
        self.affine = FullyConnectedLayer(w_dim, before.channels, bias_init=1)
        self.weight = torch.nn.Parameter(
            torch.randn([after.channels, before.channels, kernel, kernel])
        )
        self.bias = torch.nn.Parameter(torch.zeros([after.channels]))
        self.register_buffer("magnitude_ema", torch.ones([]))

        self.up_factor = plan.rate // before.sampling_rate
        self.down_factor = plan.rate // after.sampling_rate
        up_taps = (
            1 if self.up_factor == 1 or plan.is_torgb else options.filter_size * self.up_factor
        )
        down_taps = (
            1 if self.down_factor == 1 or plan.is_torgb else options.filter_size * self.down_factor
        )
        radial = options.use_radial_filters and not plan.is_critically_sampled
        self.register_buffer("up_filter", _filter(up_taps, before, plan.rate, radial=False))
        self.register_buffer("down_filter", _filter(down_taps, after, plan.rate, radial=radial))

        # What the convolution and both filters need beside the samples that there are. The extra
        # up_factor shifts samples to the middle of their pixels (appendix C.3).
        missing = (after.size - 1) * self.down_factor + up_taps + down_taps - 1
        missing -= (before.size + kernel - 1) * self.up_factor
        first = (missing + self.up_factor) // 2
        self.padding = [first, missing - first, first, missing - first]

    def forward(
        self, x: torch.Tensor, w: torch.Tensor, *, force_fp32: bool, update_emas: bool = False
    ) -> torch.Tensor:
        """Return the samples [n, out, h', w'] after the layer.

        Args:
            x: samples [n, in, h, w].
            w: [n, w_dim].
            force_fp32: compute in the precision of w even where the layer was trained in half.
            update_emas: let magnitude_ema follow x.
        """
        if update_emas:
            mean, past = x.detach().float().square().mean(), self.magnitude_ema.float()
            self.magnitude_ema.copy_(mean.lerp(past, self.magnitude_ema_beta))
        styles = self.affine(w)
        if self.is_torgb:
            styles = styles / math.sqrt(self.weight[0].numel())
        x = modulated_conv2d(
            x.to(torch.float16 if self.use_fp16 and not force_fp32 else w.dtype),
            self.weight,
            styles,
            self.bias,
            input_gain=self.magnitude_ema.rsqrt(),
            demodulate=not self.is_torgb,
        )
        return filtered_lrelu(
            x,
            self.up_filter,
            self.down_filter,
            up=self.up_factor,
            down=self.down_factor,
            padding=self.padding,
            gain=1 if self.is_torgb else math.sqrt(2),
            slope=1 if self.is_torgb else 0.2,
            clamp=self.conv_clamp,
        )


def _filter(taps: int, signal: Signal, rate: int, *, radial: bool) -> torch.Tensor | None:
    """Return the filter to this signal's band, without its values where torch makes none."""
    if taps == 1:
        return None
    f = torch.empty([taps, taps] if radial else [taps])
    if f.is_meta:
        return f
    return f.copy_(
        design_filter(
            taps,
            cutoff=signal.cutoff,
            half_width=signal.half_width,
            sampling_rate=rate,
            radial=radial,
        )
    )
