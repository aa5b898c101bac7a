"""The magnitude-preserving parts that EDM2's U-Net is made of, named as in the network files.

Karras et al. 2024, "Analyzing and Improving the Training Dynamics of Diffusion Models"
(arXiv:2312.02696), configuration G; the equations named below are its own. Every layer keeps the
magnitude of what passes it. Plain differentiable torch, so that every gradient exists to any order.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F

from stylegan_ops import conv3x3
from teachers.arguments import check_choice, recorded_call

SILU_GAIN = 1 / 0.596  # 1 / rms(silu(x)) for x ~ N(0, 1), Eq. 81


def unit_rms(x: torch.Tensor, dim: Sequence[int], *, eps: float = 1e-4) -> torch.Tensor:
    """Divide x by its root mean square over dim, and a little more: pixel normalisation, Eq. 30."""
    wide = torch.promote_types(x.dtype, torch.float32)
    norm = torch.linalg.vector_norm(x, dim=list(dim), keepdim=True, dtype=wide)
    count = math.prod([x.size(d) for d in dim])  # a list, which torch.compile sees through
    return x / (eps + norm / math.sqrt(count)).to(x.dtype)


def mp_silu(x: torch.Tensor) -> torch.Tensor:
    """SiLU that keeps unit magnitude (Eq. 81)."""
    return F.silu(x) * SILU_GAIN


def mp_sum(a: torch.Tensor, b: torch.Tensor, t: float) -> torch.Tensor:
    """Weighted sum with share t of b that keeps unit magnitude (Eq. 88)."""
    return torch.lerp(a, b, t) / math.hypot(1 - t, t)


def mp_cat(a: torch.Tensor, b: torch.Tensor, t: float) -> torch.Tensor:
    """Concatenation of channels with share t of b that keeps unit magnitude (Eq. 103)."""
    n_a, n_b = a.size(1), b.size(1)
    scale = math.sqrt(n_a + n_b) / math.hypot(1 - t, t)
    return torch.cat([a * (scale * (1 - t) / math.sqrt(n_a)), b * (scale * t / math.sqrt(n_b))], 1)


class MPFourier(torch.nn.Module):
    """Random Fourier features of unit magnitude (Eq. 75)."""

    freqs: torch.Tensor
    phases: torch.Tensor

    def __init__(self, num_channels: int, bandwidth: float = 1):
        super().__init__()
        self.init_kwargs = {"num_channels": num_channels, "bandwidth": bandwidth}
        freqs, phases = torch.empty(num_channels), torch.empty(num_channels)
        # As for weights: without values there is nothing to draw.
        if not freqs.is_meta:
            freqs.normal_(std=2 * math.pi * bandwidth)
            phases.uniform_(0, 2 * math.pi)
        self.register_buffer("freqs", freqs)
        self.register_buffer("phases", phases)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map x [n] to [n, num_channels]."""
        wide = torch.promote_types(x.dtype, torch.float32)
        angles = torch.outer(x.to(wide), self.freqs.to(wide)) + self.phases.to(wide)
        return (angles.cos() * math.sqrt(2)).to(x.dtype)


class MPConv(torch.nn.Module):
    """Linear map ([] as kernel) or correlation with weights of unit magnitude (Eq. 47).

    The weights work up to scale only. In training they are normalised in place too, so that the
    size of an optimiser's step relative to them stays (Eq. 66).
    """

    _half_gain = False

    def __init__(self, in_channels: int, out_channels: int, kernel: Sequence[int]):
        call = recorded_call(locals())
        super().__init__()
        self.init_kwargs = call
        self.out_channels = out_channels
        values = torch.empty(out_channels, in_channels, *kernel)
        # Without values there is nothing to draw; to trace it costs more than to load the network.
        self.weight = torch.nn.Parameter(values if values.is_meta else values.normal_())

    def forward(self, x: torch.Tensor, gain: torch.Tensor | float = 1.0) -> torch.Tensor:
        """Map x [n, in_channels(, h, w)] to [n, out_channels(, h, w)], times gain."""
        dims = list(range(1, self.weight.ndim))
        wide = torch.promote_types(self.weight.dtype, torch.float32)
        if self.training:
            with torch.no_grad():
                self.weight.copy_(unit_rms(self.weight.to(wide), dims))
        w = (unit_rms(self.weight.to(wide), dims) * self._scale(gain)).to(x.dtype)
        if w.ndim == 2:
            return x @ w.t()
        return conv3x3(x, w) if w.size(-1) == 3 else F.conv2d(x, w, padding=w.size(-1) // 2)

    def divide_gain_in_half(self) -> None:
        """Round a gain's quotient as the original does where a file has it in half precision.

        That moves D by up to 2e-4 of its maximum. A gain that is trained keeps all its digits.
        """
        self._half_gain = True

    def _scale(self, gain: torch.Tensor | float) -> torch.Tensor | float:
        scale = gain / math.sqrt(self.weight[0].numel())
        if self._half_gain and isinstance(scale, torch.Tensor) and not scale.requires_grad:
            return scale.half()
        return scale


class Block(torch.nn.Module):
    """Residual block of the encoder or decoder with optional self-attention (Fig. 21).

    Args:
        in_channels: width of the input.
        out_channels: width of the output.
        emb_channels: width of the embedding.
        flavor: "enc" or "dec".
        resample_mode: "keep", "up" or "down".
        resample_filter: taps of the resampling, an even number.
        attention: whether pixels attend to each other.
        channels_per_head: width of an attention head; a narrower block has none.
        dropout: probability of dropping a feature in training.
        res_balance: share of the residual branch in the sum.
        attn_balance: share of the attention in the sum.
        clip_act: bound of the output's magnitude; None is none.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        emb_channels: int,
        flavor: str = "enc",
        resample_mode: str = "keep",
        resample_filter: Sequence[float] = (1, 1),
        attention: bool = False,
        channels_per_head: int = 64,
        dropout: float = 0,
        res_balance: float = 0.3,
        attn_balance: float = 0.3,
        clip_act: float | None = 256,
    ):
        call = recorded_call(locals())
        check_choice("flavor", flavor, ("enc", "dec"))
        check_choice("resample_mode", resample_mode, ("keep", "up", "down"))
        if not resample_filter or len(resample_filter) % 2:
            raise ValueError(f"resample_filter is {list(resample_filter)}; give 2, 4, ... taps")
        super().__init__()
        self.init_kwargs = call
        self.out_channels = out_channels
        self.flavor = flavor
        self.resample_filter = list(resample_filter)
        self.resample_mode = resample_mode
        heads = out_channels // channels_per_head
        self.num_heads = heads if attention else 0
        self.dropout = dropout
        self.res_balance, self.attn_balance = res_balance, attn_balance
        self.clip_act = clip_act
        self.emb_gain = torch.nn.Parameter(torch.zeros([]))
        entry = out_channels if flavor == "enc" else in_channels
        self.conv_res0 = MPConv(entry, out_channels, [3, 3])
        self.emb_linear = MPConv(emb_channels, out_channels, [])
        self.conv_res1 = MPConv(out_channels, out_channels, [3, 3])
        # What is absent is a plain None attribute, as in the files.
        skips = in_channels != out_channels
        self.conv_skip = MPConv(in_channels, out_channels, [1, 1]) if skips else None
        attends = self.num_heads > 0
        self.attn_qkv = MPConv(out_channels, out_channels * 3, [1, 1]) if attends else None
        self.attn_proj = MPConv(out_channels, out_channels, [1, 1]) if attends else None

    def forward(self, x: torch.Tensor, emb: torch.Tensor) -> torch.Tensor:
        """Map features [n, in_channels, h, w] under the embedding [n or 1, emb_channels]."""
        x = resample(x, self.resample_filter, self.resample_mode)
        if self.flavor == "enc":
            x = unit_rms(x if self.conv_skip is None else self.conv_skip(x), [1])
        scale = self.emb_linear(emb, gain=self.emb_gain) + 1
        y = mp_silu(self.conv_res0(mp_silu(x)) * scale[:, :, None, None].to(x.dtype))
        y = self.conv_res1(F.dropout(y, self.dropout, self.training))
        if self.flavor == "dec" and self.conv_skip is not None:
            x = self.conv_skip(x)
        x = mp_sum(x, y, self.res_balance)
        if self.attn_qkv is not None and self.attn_proj is not None:
            y = self.attn_proj(self._attend(self.attn_qkv(x)))
            x = mp_sum(x, y, self.attn_balance)
        return x if self.clip_act is None else x.clip(-self.clip_act, self.clip_act)

    def _attend(self, qkv: torch.Tensor) -> torch.Tensor:
        """Attend over pixels by the cosine of query and key, which alternate with the value."""
        n, c, h, w = qkv.shape
        parts = qkv.reshape(n, self.num_heads, -1, 3, h * w)
        q, k, v = unit_rms(parts, [2]).unbind(3)
        weights = (q.transpose(2, 3) @ (k / math.sqrt(q.size(2)))).softmax(dim=3)
        return (v @ weights.transpose(2, 3)).reshape(n, c // 3, h, w)


def resample(x: torch.Tensor, taps: Sequence[float], mode: str) -> torch.Tensor:
    """Halve ("down") or double ("up") each channel with a separable filter, or "keep" it."""
    if mode == "keep":
        return x
    if len(taps) == 2 and taps[0] == taps[1]:
        # Two equal taps repeat pixels one way and average them the other: much cheaper to do so.
        return F.interpolate(x, scale_factor=2.0) if mode == "up" else F.avg_pool2d(x, 2)
    c, pad = x.size(1), (len(taps) - 1) // 2
    f = torch.tensor(taps, dtype=torch.float32, device=x.device)
    f = (torch.outer(f, f) / f.sum().square()).to(x.dtype).expand(c, 1, -1, -1)
    if mode == "down":
        return F.conv2d(x, f, stride=2, padding=pad, groups=c)
    return F.conv_transpose2d(x, f * 4, stride=2, padding=pad, groups=c)
