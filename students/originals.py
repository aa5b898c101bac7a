"""Pickles that load in the programs of the papers, without this project: their names, not ours.

Such a pickle says `training.networks.Generator` and holds what an object of that class holds. No
text of a program is in it, and none is needed here.
"""

from __future__ import annotations

from collections import defaultdict
from typing import Any, cast

import numpy as np
import torch

import checkpoints
from checkpoints import Program, Record, Value
from students.layers import Conv2dLayer, FullyConnectedLayer
from students.options import DEFAULTS
from students.stylegan2 import synthesis
from students.stylegan2.discriminator import Discriminator
from students.stylegan2.generator import Generator
from students.stylegan3 import generator as stylegan3
from students.stylegan3.layers import SynthesisLayer
from stylegan_ops import ACTIVATIONS

# The parts that forks for landscapes tell the size that images grow from.
GROWING = (
    *("Generator", "SynthesisNetwork", "SynthesisBlock", "SynthesisLayer"),
    *("Discriminator", "DiscriminatorBlock", "DiscriminatorEpilogue"),
)
Attributes = defaultdict[torch.nn.Module, dict[str, Any]]


def _stylegan2(network: torch.nn.Module) -> Attributes:
    """What the objects of StyleGAN2-ADA's training/networks.py keep beside what ours do."""
    kept: Attributes = defaultdict(dict)
    for part in network.modules():
        if isinstance(part, synthesis.SynthesisNetwork | Discriminator):
            is_whole = isinstance(part, Discriminator)
            top = part.init_kwargs["img_resolution"] if is_whole else part.img_resolution
            kept[part]["img_resolution_log2"] = top.bit_length() - 1
        if isinstance(part, Generator | Discriminator):
            kept[part]["img_resolution"] = part.init_kwargs["img_resolution"]
            if "init_res" in part.init_kwargs:
                _keep_init_res(part, part.init_kwargs["init_res"], kept)
        if isinstance(part, synthesis.SynthesisNetwork):
            for r in part.block_resolutions:
                is_last = r == part.img_resolution
                common = {"w_dim": part.w_dim, "img_channels": part.img_channels}
                kept[part.get_submodule(f"b{r}")] |= {**common, "is_last": is_last}
        if isinstance(part, Discriminator):
            first = 0  # of a block's layers, counted from the image
            for r in part.block_resolutions:
                block = part.get_submodule(f"b{r}")
                num_layers = len(list(block.children()))
                kept[block] |= {"first_layer_idx": first, "num_layers": num_layers}
                first += num_layers
        if isinstance(part, Conv2dLayer | synthesis.SynthesisLayer):
            kept[part]["act_gain"] = ACTIVATIONS[part.activation].gain
    return kept


def _keep_init_res(network: Generator | Discriminator, init_res: Value, kept: Attributes) -> None:
    """What forks for landscapes keep beside that: the size that images grow from, in all parts."""
    for part in network.modules():
        if type(part).__name__ in GROWING:
            kept[part]["init_res"] = init_res
    if isinstance(network, Generator):
        kept[network]["output_shape"] = [1, network.img_channels, *network.img_shape]


def _stylegan2_of_stylegan3(network: torch.nn.Module) -> Attributes:
    """The same for training/networks_stylegan2.py of the StyleGAN3 repository.

    Its generator takes the options of the synthesis flat, and it has other defaults, so all of them
    are said.
    """
    kept = _stylegan2(network)
    defaults = DEFAULTS["stylegan2-ada"]
    for part in network.modules():
        if isinstance(part, Generator):
            call = dict(part.init_kwargs)
            options = {**defaults["synthesis"], **call.pop("synthesis_kwargs")}
            call["mapping_kwargs"] = {**defaults["mapping"], **call["mapping_kwargs"]}
            kept[part]["init_kwargs"] = {**call, **options}
            kept[part.synthesis]["num_fp16_res"] = options["num_fp16_res"]
        if isinstance(part, synthesis.SynthesisBlock):
            kept[part]["fused_modconv_default"] = True
        if isinstance(part, synthesis.SynthesisLayer | synthesis.ToRGBLayer):
            kept[part]["w_dim"] = part.affine.weight.shape[1]
        if isinstance(part, Conv2dLayer | synthesis.SynthesisLayer | synthesis.ToRGBLayer):
            kept[part] |= _widths(part, "channels")
        if isinstance(part, FullyConnectedLayer):
            kept[part] |= _widths(part, "features")
    return kept


def _stylegan3(network: torch.nn.Module) -> Attributes:
    """The same for training/networks_stylegan3.py of the StyleGAN3 repository."""
    kept: Attributes = defaultdict(dict)
    assert isinstance(network, stylegan3.Generator)
    layers = [part for part in network.modules() if isinstance(part, SynthesisLayer)]
    first = network.synthesis.input
    kept[first] = {"w_dim": network.w_dim, "size": np.array([first.size, first.size])}
    kept[network.synthesis] = {
        "num_layers": len(layers) - 1,
        # ToRGB is sampled critically too, and not counted.
        "num_critical": sum(layer.init_kwargs["is_critically_sampled"] for layer in layers) - 1,
        "margin_size": (first.size - first.sampling_rate) // 2,
        "num_fp16_res": network.init_kwargs.get("num_fp16_res", 4),
    }
    if not network.c_dim:
        kept[network.mapping]["embed"] = None
    for layer in layers:
        kept[layer] = _stylegan3_layer(layer)
    for part in network.modules():
        if isinstance(part, FullyConnectedLayer):
            kept[part] |= _widths(part, "features")
    return kept


def _stylegan3_layer(layer: SynthesisLayer) -> dict[str, Value]:
    call = dict(layer.init_kwargs)
    radial = call.pop("use_radial_filters") and not call["is_critically_sampled"]
    for way, filter in (("up", layer.up_filter), ("down", layer.down_filter)):
        call[f"{way}_taps"] = 1 if filter is None else len(filter)
    for side in ("in_size", "out_size"):
        call[side] = np.array([call[side], call[side]])
    rate = call["in_sampling_rate"] * layer.up_factor
    del call["filter_size"], call["lrelu_upsampling"]
    kernel = layer.weight.shape[-1]
    return {**call, "conv_kernel": kernel, "down_radial": radial, "tmp_sampling_rate": rate}


def _widths(layer: torch.nn.Module, what: str) -> dict[str, Value]:
    out, given = cast("torch.Tensor", layer.weight).shape[:2]
    return {f"in_{what}": given, f"out_{what}": out}


_ADA = Program("training.networks", _stylegan2)
_STYLEGAN2 = Program("training.networks_stylegan2", _stylegan2_of_stylegan3)
PROGRAMS: dict[str, dict[type[torch.nn.Module], Program]] = {
    "stylegan2-ada": {Generator: _ADA, Discriminator: _ADA},
    "stylegan3": {
        stylegan3.Generator: Program("training.networks_stylegan3", _stylegan3),
        Generator: _STYLEGAN2,
        Discriminator: _STYLEGAN2,
    },
}


def program_of(network: torch.nn.Module) -> str | None:
    """Return the first program that has such networks, or None."""
    return next((name for name, known in PROGRAMS.items() if type(network) in known), None)


def describe(network: torch.nn.Module, program: str | None = None) -> Record:
    """Return the record of a network in the classes of a program.

    Args:
        network: a network of this package.
        program: a key of PROGRAMS; None is the first that has such networks.

    Raises:
        ValueError: the program has no such network; where none is named, images that are not square
            are those of its forks.
    """
    classes = PROGRAMS.get(program or program_of(network) or "", {})
    if type(network) not in classes:
        kind = f"{type(network).__module__}.{type(network).__name__}"
        raise ValueError(f"{program or ' or '.join(PROGRAMS)} has no network such as {kind}")
    if program and "init_res" in getattr(network, "init_kwargs", {}):
        height, width = cast("Generator | Discriminator", network).img_shape
        raise ValueError(
            f"{program} has no networks of {height} x {width} images, which its forks for "
            "landscapes have; without --for the pickle is written as they read it"
        )
    return checkpoints.describe(network, program=classes[type(network)])
