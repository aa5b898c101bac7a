"""StyleGAN2 in the files of rosinality's stylegan2-pytorch: `.pt` of state dicts g_ema, g and d.

Such a file records no options: its generator is always of architecture "skip", with 3 channels, one
noise strength a layer and a mapping whose learning rate is multiplied by 0.01; all sizes are read
off the tensors. Beside the networks there may be the average w, `latent_avg`.
"""

from __future__ import annotations

import warnings
from collections import OrderedDict
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar, cast

import torch

import checkpoints
from checkpoints import Record, Value, filled, is_state_dict, shape_of, with_options
from students import originals
from students.foreign.rosinality_names import (
    FILTER,
    Names,
    channel_options,
    count,
    filter_option,
    foreign,
    generator_names,
    names_of,
    resolutions_of,
)
from students.stylegan2 import calls
from students.stylegan2.discriminator import Discriminator
from students.stylegan2.generator import Generator

KEYS = {"G_ema": "g_ema", "G": "g", "D": "d"}
AVERAGE = "latent_avg"
MARKS = ("conv1.conv.weight", "final_conv.0.weight")  # names in each generator, discriminator
LR_MULTIPLIER = 0.01
NOISE_SEED = 0
GROUP_SIZE = 4  # of the minibatch deviation
Network = TypeVar("Network", bound=torch.nn.Module)
NUM_LATENTS = 4096  # for an average w where the file has none, as in its generate.py


def matches(data: Value) -> bool:
    """Tell a file of this program by its dict of state dicts."""
    return bool(names(data))


def names(data: Value) -> list[str]:
    """The networks that the file holds."""
    return [name for name in KEYS if any(mark in _state(data, name) for mark in MARKS)]


def _state(data: Value, network: str) -> Mapping[str, Value]:
    state = data.get(KEYS[network]) if isinstance(data, dict) else None
    return cast("Mapping[str, Value]", state) if isinstance(state, dict) else {}


def record(data: Value, network: str) -> Record:
    """Convert one network of the file to a StyleGAN2 record.

    A generator without an average w gets that of 4096 latents of a fixed seed.

    Raises:
        ValueError: tensors that are missing, unknown, of a shape that does not fit the others, or
            not finite.
    """
    state = _state(data, network)
    if not is_state_dict(state):
        odd = next(name for name, value in state.items() if not isinstance(value, torch.Tensor))
        raise ValueError(f"{str(odd)[:100]!a} is no tensor")
    if network == "D":
        return originals.describe(_discriminator(state))
    if not any(name.startswith("noises.") for name in state):
        state = {**state, **_noises(state)}
    average = data.get(AVERAGE) if isinstance(data, dict) and network == "G_ema" else None
    return originals.describe(_generator(state, average))


def _noises(state: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The noise constants of a file written before that program kept them: of a fixed seed."""
    warnings.warn(
        "the file holds no noises.*, which draw fine detail with noise_mode const; they are those "
        f"of the seed {NOISE_SEED}",
        stacklevel=1,  # one place, so that it is said once
    )
    stream = torch.Generator().manual_seed(NOISE_SEED)
    resolutions = resolutions_of(state, "to_rgbs.{}.bias", 0)
    sides = [4, *(r for r in resolutions[1:] for _ in range(2))]
    return {
        f"noises.noise_{i}": torch.randn([1, 1, side, side], generator=stream)
        for i, side in enumerate(sides)
    }


def sizes(network: str, state: Mapping[str, torch.Tensor]) -> dict[str, int]:
    """The sizes that a network's tensors tell: img_resolution, img_channels, c_dim, z_dim, w_dim.

    Raises:
        ValueError: tensors that no such network has.
    """
    if network == "D":
        resolutions = resolutions_of(state, "convs.{}.skip.1.weight", 1)
        return {"img_resolution": resolutions[-1], "img_channels": 3, "c_dim": 0}
    resolutions = resolutions_of(state, "to_rgbs.{}.bias", 0)
    width = shape_of(state, "conv1.conv.modulation.weight", 2)[1]
    found = {"img_resolution": resolutions[-1], "img_channels": 3, "c_dim": 0}
    return {**found, "z_dim": width, "w_dim": width, "num_ws": 2 * len(resolutions)}


def replace(data: Value, network: str, changed: Record, path: str | Path) -> None:
    """Write the file with other tensors in one of its networks; all else passes through."""
    old, tensors = _state(data, network), checkpoints.tensors(changed)
    assert isinstance(data, dict) and is_state_dict(old)
    new = replaced(old, tensors, network)
    average = {AVERAGE: tensors["mapping.w_avg"]} if network == "G_ema" else {}
    checkpoints.write_torch_file(dict(data) | {KEYS[network]: new} | average, path)


def replaced(
    old: Mapping[str, torch.Tensor], tensors: Mapping[str, torch.Tensor], network: str
) -> OrderedDict[str, torch.Tensor]:
    """A state dict of this program with the values of ours."""
    table = names_of(network, old)
    theirs = {name: (ours, *axes) for ours, (name, *axes) in table.items()}
    return OrderedDict(
        (name, foreign(tensors, *theirs[name]).to(value.dtype) if name in theirs else value)
        for name, value in old.items()
    )


def save(generator: torch.nn.Module, path: str | Path) -> None:
    """Write a StyleGAN2 generator as a file of rosinality's stylegan2-pytorch: g_ema, latent_avg.

    That program has no limit of activations (conv_clamp) and no labels, and widths of a table of
    its own: its `Generator(size, 512, n_mlp, channel_multiplier)` loads what has 512 features in
    z, w and at most in an image layer, and channel_base 16384 x channel_multiplier. A multiplier
    of the mapping's learning rate other than its 0.01 becomes part of the weights.

    Raises:
        ValueError: a generator that the format cannot hold; the message says why.
        OSError: the file cannot be written.
    """
    if not isinstance(generator, Generator):
        raise ValueError(f"a {type(generator).__name__} is no StyleGAN2 generator of this project")
    faults = _faults(generator)
    if faults:
        raise ValueError(f"the format has no generator with {', '.join(faults)}")
    tensors = {name: tensor.detach() for name, tensor in generator.state_dict().items()}
    checkpoints.check_finite(tensors)
    mapping, synthesis = generator.mapping, generator.synthesis
    for i in range(mapping.num_layers):
        scale = getattr(mapping, f"fc{i}").bias_gain / LR_MULTIPLIER
        for part in ("weight", "bias"):
            tensors[f"mapping.fc{i}.{part}"] = tensors[f"mapping.fc{i}.{part}"] * scale
    table = generator_names(mapping.num_layers, synthesis.block_resolutions)
    state = OrderedDict(
        (theirs, foreign(tensors, ours, *axes)) for ours, (theirs, *axes) in table.items()
    )
    kernel = 4 * tensors[f"synthesis.b4.{FILTER}"]
    for k in range(len(synthesis.block_resolutions) - 1):
        state[f"convs.{2 * k}.conv.blur.kernel"] = kernel
        state[f"to_rgbs.{k}.upsample.kernel"] = kernel
    average = {AVERAGE: tensors["mapping.w_avg"]} if "mapping.w_avg" in tensors else {}
    checkpoints.write_torch_file({"g_ema": state, **average}, path)


def _faults(generator: Generator) -> list[str]:
    """What the format cannot hold of this generator."""
    square = [generator.w_dim, generator.w_dim]
    mapping = generator.mapping
    first: Any = generator.synthesis.b4
    layers: list[Any] = [getattr(mapping, f"fc{i}") for i in range(mapping.num_layers)]
    faults = {
        f"architecture {first.architecture}": first.architecture != "skip",
        f"{generator.img_channels} channels": generator.img_channels != 3,
        f"{generator.c_dim} classes": generator.c_dim > 0,
        "images that are not square": "init_res" in generator.init_kwargs,
        "no noise": not first.conv1.use_noise,
        f"activation {first.conv1.activation}": first.conv1.activation != "lrelu",
        "another activation than lrelu in its mapping": any(
            layer.activation != "lrelu" for layer in layers
        ),
        "kernels that are not 3 x 3": list(first.conv1.weight.shape[2:]) != [3, 3],
        "a filter that has not 4 taps": first.resample_filter.shape[0] != 4,
        "other widths in its mapping than that of w": any(
            list(layer.weight.shape) != square for layer in layers
        ),
    }
    return [name for name, is_so in faults.items() if is_so]


def _generator(state: Mapping[str, torch.Tensor], average: object) -> Generator:
    table = names_of("G", state)
    resolutions = resolutions_of(state, "to_rgbs.{}.bias", 0)
    convs = ["conv1", *(f"convs.{2 * k + 1}" for k in range(len(resolutions) - 1))]
    widths = [shape_of(state, f"{name}.conv.weight", 5)[1] for name in convs]
    w_dim = shape_of(state, "conv1.conv.modulation.weight", 2)[1]
    arguments: dict[str, Value] = {
        "z_dim": w_dim,
        "c_dim": 0,
        "w_dim": w_dim,
        "img_resolution": resolutions[-1],
        "img_channels": 3,
        "mapping_kwargs": {
            "num_layers": count(state, "style.{}.weight", 1),
            "lr_multiplier": LR_MULTIPLIER,
        },
        "synthesis_kwargs": {
            "architecture": "skip",
            **channel_options(resolutions, widths),
            **filter_option(state, gain=4),
        },
    }
    kwargs = calls.generator_kwargs(Record("Generator", (), arguments, {}, source=""))
    own = average if isinstance(average, torch.Tensor) else None
    if own is not None and own.numel() != w_dim:
        raise ValueError(f"{AVERAGE} is {list(own.shape)} instead of [{w_dim}]")
    w_avg = torch.zeros([w_dim]) if own is None else own.reshape(w_dim)
    more = {"mapping.w_avg": w_avg}
    generator = _filled(lambda: with_options(Generator, kwargs), state, table, more)
    if own is None:
        generator.mapping.w_avg.copy_(_average(generator))
    return generator


def _average(generator: Generator) -> torch.Tensor:
    """The mean w of latents of a fixed seed, whatever the state of torch's own stream."""
    stream = torch.Generator().manual_seed(0)
    with torch.no_grad():
        ws = generator.mapping(torch.randn([NUM_LATENTS, generator.z_dim], generator=stream))
    return ws[:, 0].mean(dim=0)


def _discriminator(state: Mapping[str, torch.Tensor]) -> Discriminator:
    table = names_of("D", state)
    resolutions = resolutions_of(state, "convs.{}.skip.1.weight", 1)
    convs = [f"convs.{k}.conv2.1.weight" for k in range(len(resolutions) - 1, 0, -1)]
    widths = [shape_of(state, name, 4)[0] for name in (*convs, "convs.0.0.weight")]
    taps = filter_option(state, gain=1)
    arguments: dict[str, Value] = {
        "c_dim": 0,
        "img_resolution": resolutions[-1],
        "img_channels": 3,
        "architecture": "resnet",
        **channel_options(resolutions, widths),
        "block_kwargs": taps,
        "epilogue_kwargs": {"mbstd_group_size": GROUP_SIZE},
    }
    kwargs = calls.discriminator_kwargs(Record("Discriminator", (), arguments, {}, source=""))
    return _filled(lambda: with_options(Discriminator, kwargs), state, table, {})


def _filled(
    make: Callable[[], Network],
    state: Mapping[str, torch.Tensor],
    table: Names,
    more: Mapping[str, torch.Tensor],
) -> Network:
    with torch.device("meta"):
        wanted = make().state_dict()
    expected = {theirs: foreign(wanted, ours, *axes) for ours, (theirs, *axes) in table.items()}
    given = {name: value for name, value in state.items() if not name.endswith(".kernel")}
    checkpoints.check_fit(given, expected, "its tensors do not fit one another")
    tensors = {
        ours: state[theirs].reshape(wanted[ours].shape) for ours, (theirs, *_) in table.items()
    }
    complaint = "its tensors do not fit one another"
    return filled(make, {**tensors, **more}, complaint, own=FILTER)
