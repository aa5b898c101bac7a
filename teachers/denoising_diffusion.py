"""Milestones of denoising-diffusion-pytorch (model-N.pt) as teachers.

A milestone holds the raw and the averaged network, and in buffers beside them the noise schedule
and the weight of each step's loss. That weight says what the network predicts (Hang et al. 2023,
arXiv:2303.09556, Table 1): with snr = a / (1 - a) it is 1 for eps, snr for x_0 and snr / (snr + 1)
for v, where snr may be clipped from above. Only the size of the images is not in it.

The network changed from version to version. Read are those with memory tokens in their attention
and normalisation by the root mean square, as all of 2.x; older ones lack these tensors.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch

import checkpoints
from checkpoints import Value, shape_of
from roles.shown import shown
from teachers import facts
from teachers.converted import ConvertedDenoiser
from teachers.networks.denoising_unet import DenoisingUNet, Kind
from teachers.noise_scales import Steps

FIRST, NETWORK = "init_conv.weight", "model."
AVERAGE = "ema_model."
CLIPPED = 0.999  # the highest beta of its schedules


def is_layout(data: Value) -> bool:
    """Whether this is a milestone of that program."""
    return isinstance(data, Mapping) and any(
        name.endswith(f"{NETWORK}{FIRST}")
        for key in ("ema", "model")
        for name in _named(data.get(key))
    )


def _named(value: object) -> dict[str, torch.Tensor]:
    """Return the tensors of a dict by name; counters may stand among them."""
    if not isinstance(value, Mapping):
        return {}
    return {str(name): t for name, t in value.items() if isinstance(t, torch.Tensor)}


def load(data: Value, source: str | Path, given: Mapping[str, object]) -> ConvertedDenoiser:
    """Build a teacher of a milestone's averaged network.

    Raises:
        ValueError: another version's network, tensors that do not fit, or no image_size.
    """
    assert isinstance(data, Mapping)
    try:
        tensors = averaged({str(key): value for key, value in data.items()})
        unet = {
            name.removeprefix(NETWORK): t for name, t in tensors.items() if name.startswith(NETWORK)
        }
        version = shown(data.get("version", "none"))
        if not any(name.endswith(".mem_kv") for name in unet):
            raise ValueError(
                f"it is a milestone of denoising-diffusion-pytorch of version {version}, "
                "whose network is not read; those of 2.x are, with memory tokens in their attention"
            )
        said = facts.gather(source, given, facts.IMAGE_SIZE)
        if "image_size" not in said:
            what = "a milestone of denoising-diffusion-pytorch"
            raise facts.missing(source, what, ["image_size"])
        shape = Shape.of(unet)
        size, halvings = said["image_size"], len(shape.widths) - 2
        assert isinstance(size, int)
        if size % (1 << halvings):
            raise ValueError(
                f"image_size is {size}, but the network halves {halvings} times; give a multiple "
                f"of {1 << halvings}"
            )
        return ConvertedDenoiser(
            checkpoints.filled(
                shape.network, unet, f"tensors that do not fit the network of version {version}"
            ),
            scale_of(tensors),
            img_channels=shape.img_channels,
            img_resolution=size,
        ).eval()
    except ValueError as error:
        raise ValueError(f"{source}: {error}") from error


def averaged(data: Mapping[str, object]) -> dict[str, torch.Tensor]:
    """Return the averaged weights and buffers by name; without an average the raw ones."""
    found = {
        name.removeprefix(AVERAGE): tensor
        for name, tensor in _named(data.get("ema")).items()
        if name.startswith(AVERAGE)
    }
    return found or _named(data.get("model"))


@dataclass(frozen=True)
class Shape:
    """What a milestone's names and shapes say, see DenoisingUNet."""

    img_channels: int
    dim: int
    widths: tuple[int, ...]
    attention: tuple[Kind, ...]
    self_condition: bool

    @classmethod
    def of(cls, unet: Mapping[str, torch.Tensor]) -> Shape:
        """Read it off the tensors.

        Raises:
            ValueError: they are no such network.
        """
        if "time_mlp.0.weights" in unet:
            raise ValueError("learned or random frequencies embed its noise level: not read")
        width, inputs, _, _ = shape_of(unet, FIRST, 4)
        channels = shape_of(unet, "final_conv.weight", 4)[0]
        if inputs not in (channels, 2 * channels):
            raise ValueError(f"it takes {inputs} channels and makes {channels} of them")
        widths, attention = [width], []
        while f"downs.{len(attention)}.2.mem_kv" in unet:
            level = f"downs.{len(attention)}"
            attention.append(kind_of(unet, f"{level}.2"))
            ends = (f"{level}.3.1.weight", f"{level}.3.weight")
            widths.append(shape_of(unet, next((n for n in ends if n in unet), ends[1]), 4)[0])
        if not attention:
            raise ValueError("it has no levels")
        return cls(
            img_channels=channels,
            dim=shape_of(unet, "time_mlp.1.weight", 2)[1],
            widths=tuple(widths),
            attention=(*attention, kind_of(unet, "mid_attn")),
            self_condition=inputs == 2 * channels,
        )

    def network(self) -> DenoisingUNet:
        """Return the network."""
        return checkpoints.with_options(DenoisingUNet, vars(self))


def kind_of(unet: Mapping[str, torch.Tensor], name: str) -> Kind:
    """Return what an attention is; a linear one keeps its tokens' channels first."""
    _, heads, first, second = shape_of(unet, f"{name}.mem_kv", 4)
    linear = f"{name}.to_out.0.weight" in unet
    channels, tokens = (first, second) if linear else (second, first)
    return Kind(heads, channels, tokens, linear)


def scale_of(tensors: Mapping[str, torch.Tensor]) -> Steps:
    """Return the schedule of a milestone, and what its network predicts.

    Raises:
        ValueError: buffers that are missing, or are of no objective.
    """
    (steps,) = shape_of(tensors, "betas", 1)
    (weights,) = shape_of(tensors, "loss_weight", 1)
    betas, weight = tensors["betas"].double(), tensors["loss_weight"].double()
    if steps != weights or not 0 < float(betas.min()) <= float(betas.max()) < 1:
        raise ValueError(f"betas are {steps}, loss_weight {weights}; betas lie between 0 and 1")
    a = (1 - betas).cumprod(0)
    snr = a / (1 - a)
    # Nothing is clipped there, and the three are apart.
    shown_at = (snr > 0.02) & (snr < 0.5)
    laws = {"epsilon": torch.ones_like(snr), "sample": snr, "v_prediction": snr / (snr + 1)}
    fits = [
        name
        for name, law in laws.items()
        if bool(shown_at.any())
        and torch.allclose(weight[shown_at], law[shown_at], rtol=1e-2, atol=0)
    ]
    if len(fits) != 1:
        raise ValueError("loss_weight is of none of the objectives pred_noise, pred_x0 and pred_v")
    top = -2 if steps > 1 and float(betas[-1]) >= CLIPPED - 1e-5 else None
    return Steps(a, prediction=fits[0], top=top)
