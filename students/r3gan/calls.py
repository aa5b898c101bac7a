"""From the tensors of an R3GAN file to the arguments of the network here.

Its classes record no constructor call: sizes are read off the shapes, and agreement of all tensors
with what is built from them is checked afterwards.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch

import checkpoints
from checkpoints import Record, shape_of
from students.r3gan.generator import Stage
from students.stylegan2.calls import part

MODULE = "training.networks"  # of the class that a file names
IMAGE = "Model.AggregationLayer.Layer.weight"  # of the layer that makes the image


def is_generator(record: Record) -> bool:
    """Tell an R3GAN generator by its class and by its one part."""
    is_named_so = record.class_name == "Generator" and record.module == MODULE
    return is_named_so and list(record.modules) == ["Model"]


def generator_kwargs(record: Record) -> dict[str, object]:
    """Return R3Generator's arguments for a file's generator, from its tensors and attributes.

    Raises:
        ValueError: tensors or attributes that no such generator has.
    """
    tensors = checkpoints.tensors(record)
    layers = part(record, "Model", "MainLayers")
    stages = layers.modules.values() if layers else ()
    half = [stage.state.get("DataType") for stage in stages if stage]
    if not half or any(dtype not in (torch.float32, torch.bfloat16) for dtype in half):
        raise ValueError("its stages name no DataType; allowed: torch.float32, torch.bfloat16")
    z_dim, c_dim = (_size(record, name) for name in ("z_dim", "c_dim"))
    embed = shape_of(tensors, "Model.EmbeddingLayer.weight", 2)[0] if c_dim else 0
    first = "Model.MainLayers.0.Layers.1.LinearLayer2.Layer.weight"
    kernel = "Model.MainLayers.1.Layers.0.Resampler.Kernel"
    arguments = {
        "z_dim": z_dim,
        "c_dim": c_dim,
        "embed_dim": embed,
        "stages": [
            _stage(tensors, number, dtype == torch.bfloat16) for number, dtype in enumerate(half)
        ],
        "img_channels": shape_of(tensors, IMAGE, 4)[0],
        "kernel_size": shape_of(tensors, first, 4)[2],
        "num_taps": shape_of(tensors, kernel, 2)[0] if len(half) > 1 else 4,
    }
    resolution = 4 << (len(half) - 1)
    if record.state.get("img_resolution", resolution) != resolution:
        raise ValueError(
            f"its img_resolution is {_size(record, 'img_resolution')}; {len(half)} stages make "
            f"{resolution}"
        )
    return arguments


def _stage(tensors: Mapping[str, torch.Tensor], number: int, is_half: bool) -> Stage:
    prefix = f"Model.MainLayers.{number}.Layers."
    numbers = {
        name.removeprefix(prefix).partition(".")[0] for name in tensors if name.startswith(prefix)
    }
    expanded, width = shape_of(tensors, f"{prefix}1.LinearLayer1.Layer.weight", 4)[:2]
    fan_in = shape_of(tensors, f"{prefix}1.LinearLayer2.Layer.weight", 4)[1]
    if expanded % fan_in:
        raise ValueError(f"stage {number} has groups of {fan_in} of {expanded} channels")
    return Stage(width, expanded, expanded // fan_in, len(numbers) - 1, is_half)


def _size(record: Record, name: str) -> int:
    value = record.state.get(name)
    if type(value) is not int or not 0 <= value < 2**16:
        raise ValueError(f"its {name} is no size; allowed: whole numbers below {2**16}")
    return value
