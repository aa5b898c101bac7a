"""StyleGAN2 networks of the TensorFlow years (pickles of 2019 to 2021), as records of today's.

Such a pickle is a tuple (G, D, Gs) of `dnnlib.tflib.network.Network`: the options of the call and
the variables by name, those of mapping and synthesis in components. A converted network is a
StyleGAN2 record of our own, so all that follows treats it as any other. Variables that the network
of these options does not have (`lod`, noise that is switched off) are left aside.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TypeGuard, TypeVar, cast

import numpy as np
import torch

import checkpoints
from checkpoints import Record, Value, filled
from checkpoints.options import WHOLE, Options
from roles.shown import shown
from students import originals
from students.foreign.tensorflow_names import (
    DISCRIMINATOR_LAYERS,
    DISCRIMINATOR_TENSORS,
    FILTER,
    GENERATOR_LAYERS,
    GENERATOR_TENSORS,
    read_variable,
    scope,
    variable_of,
)
from students.options import SQUARE
from students.stylegan2 import calls
from students.stylegan2.discriminator import Discriminator
from students.stylegan2.generator import Generator

Network = TypeVar("Network", bound=torch.nn.Module)
Given = Mapping[str, Value]  # the options of a TensorFlow network
Table = Mapping[str, tuple[str, Value]]

NETWORKS = ("G", "D", "G_ema")  # what the tuple's places are called elsewhere
COMPONENTS = ("mapping", "synthesis")
OLDEST = 4  # version of the networks of StyleGAN2; those of StyleGAN and before are other networks

# Option here: its name there, and its default there.
SIZES = {
    "c_dim": ("label_size", 0),
    "img_resolution": ("resolution", 1024),
    "img_channels": ("num_channels", 3),
}
LATENTS = {"z_dim": ("latent_size", 512), "w_dim": ("dlatent_size", 512)}
BLOCKS = {
    "channel_max": ("fmap_max", 512),
    "num_fp16_res": ("num_fp16_res", 0),
    "conv_clamp": ("conv_clamp", None),
}
MAPPING = {
    "num_layers": ("mapping_layers", 8),
    "embed_features": ("label_fmaps", None),
    "layer_features": ("mapping_fmaps", None),
    "activation": ("mapping_nonlinearity", "lrelu"),
    "lr_multiplier": ("mapping_lrmul", 0.01),
}
LAYERS = {
    "resample_filter": ("resample_kernel", [1, 3, 3, 1]),
    "activation": ("nonlinearity", "lrelu"),
}
SYNTHESIS = {
    **BLOCKS,
    **LAYERS,
    "architecture": ("architecture", "skip"),
    "use_noise": ("use_noise", True),
}
DISCRIMINATOR = {
    **SIZES,
    **BLOCKS,
    "architecture": ("architecture", "resnet"),
    "cmap_dim": ("mapping_fmaps", None),
}
DISCRIMINATOR_BLOCK = {**LAYERS, "freeze_layers": ("freeze_layers", 0)}
DISCRIMINATOR_MAPPING = {
    "num_layers": ("mapping_layers", 0),
    "embed_features": ("mapping_fmaps", None),
    "layer_features": ("mapping_fmaps", None),
    "activation": ("nonlinearity", "lrelu"),
    "lr_multiplier": ("mapping_lrmul", 0.1),
}
EPILOGUE = {
    "mbstd_group_size": ("mbstd_group_size", None),
    "mbstd_num_channels": ("mbstd_num_features", 1),
    "activation": ("nonlinearity", "lrelu"),
}
FMAP_BASE = ("fmap_base", 16384)  # half of channel_base
BETA = ("w_avg_beta", 0.995)  # None is 1: an average that stays
# How a network is trained or called, not what it is.
WITHOUT_EFFECT = {
    "truncation_psi",
    "truncation_cutoff",
    "style_mixing_prob",
    "structure",
    "conditioning",
    "fused_modconv",
}

# Of forks for landscapes (skyflynil's stylegan2): the size that images grow from, and layers that
# are known only where they are switched off.
FIRST_SIDES = ("min_h", "min_w")
ATTENTION = "use_attention"
MAX_BLOCKS = 13

LOD = re.compile(r"(?:.*/)?(ToRGB|FromRGB)_lod(\d{1,2})/(\w+)")


def matches(data: object) -> TypeGuard[tuple[Record, ...]]:
    """Tell a file of these networks by its tuple."""
    return type(data) is tuple and len(data) == len(NETWORKS) and all(map(is_network, data))


def is_network(record: object) -> TypeGuard[Record]:
    """Tell a TensorFlow network by its class."""
    where = ("dnnlib.tflib.network", "Network")
    return isinstance(record, Record) and (record.module, record.class_name) == where


def names(data: Value) -> list[str]:
    """The networks that the file holds."""
    return list(NETWORKS)


def record(data: Value, network: str) -> Record:
    """Convert one network of the file to a StyleGAN2 record.

    Raises:
        ValueError: an option that is unknown or has a value that is not allowed; a variable that is
            missing, of another shape or not finite.
    """
    assert matches(data)
    held = data[NETWORKS.index(network)]
    version = held.state.get("version")
    if type(version) is not int or version < OLDEST:
        raise ValueError(
            f"a TensorFlow network of version {shown(version)}; those of StyleGAN2 have {OLDEST} "
            "and more"
        )
    make = _discriminator if network == "D" else _generator
    return originals.describe(make(held))


def replace(data: Value, network: str, changed: Record, path: str | Path) -> None:
    """Write the networks, one of them replaced, as the pickle that PyTorch's StyleGAN2 has.

    A TensorFlow pickle loads nowhere any more, so none is written. A network that cannot be
    converted is left out, with a warning.
    """
    converted = {network: changed}
    for name in NETWORKS:
        if name != network:
            converted[name] = _record_or_none(data, name, changed, path)
    converted = {name: converted[name] for name in NETWORKS}
    rest = {"training_set_kwargs": None, "augment_pipe": None}
    checkpoints.write({**converted, **rest}, path)


def _record_or_none(data: Value, network: str, changed: Record, path: str | Path) -> Record:
    """One network's record; where it cannot be converted, what stands in its place, and a line."""
    try:
        return record(data, network)
    except ValueError as error:
        place = "a module that does nothing" if network == "D" else "the one that was saved"
        warnings.warn(
            f"{path} is written without {network}, in the place of which is {place}: {error}",
            stacklevel=1,  # one place, so that it is said once
        )
        if network == "D" or changed.class_name != "Generator":
            return checkpoints.describe(torch.nn.Identity().eval())
        return changed


def _generator(held: Record) -> Generator:
    given, variables = _options(held), variables_of(held)
    synthesis = {**_chosen(given, SYNTHESIS), "channel_base": _channel_base(given)}
    synthesis["architecture"] = _architecture(variables, synthesis["architecture"])
    sizes = _chosen(given, SIZES) | first_size(given, variables, "synthesis/")
    beta = given.get(*BETA)
    arguments: dict[str, Value] = {
        **sizes,
        **_chosen(given, LATENTS),
        "mapping_kwargs": {**_chosen(given, MAPPING), "w_avg_beta": 1 if beta is None else beta},
        "synthesis_kwargs": synthesis,
    }
    _refuse_others(given, SIZES, LATENTS, MAPPING, SYNTHESIS, {"w_avg_beta": BETA})
    kwargs = calls.generator_kwargs(Record("Generator", (), arguments, {}, source=""))
    variables = _by_resolution(variables, kwargs, "synthesis/")
    return _filled(Generator, kwargs, variables, GENERATOR_TENSORS, GENERATOR_LAYERS)


def _discriminator(held: Record) -> Discriminator:
    given, variables = _options(held), variables_of(held)
    arguments = {**_chosen(given, DISCRIMINATOR), "channel_base": _channel_base(given)}
    arguments |= first_size(given, variables, "")
    arguments["architecture"] = _architecture(variables, arguments["architecture"])
    arguments["block_kwargs"] = _chosen(given, DISCRIMINATOR_BLOCK)
    arguments["mapping_kwargs"] = _chosen(given, DISCRIMINATOR_MAPPING)
    arguments["epilogue_kwargs"] = _chosen(given, EPILOGUE)
    _refuse_others(given, DISCRIMINATOR, DISCRIMINATOR_BLOCK, DISCRIMINATOR_MAPPING, EPILOGUE)
    kwargs = calls.discriminator_kwargs(Record("Discriminator", (), arguments, {}, source=""))
    variables = _by_resolution(variables, kwargs, "")
    return _filled(Discriminator, kwargs, variables, DISCRIMINATOR_TENSORS, DISCRIMINATOR_LAYERS)


def _options(held: Record) -> Given:
    given = held.state.get("static_kwargs")
    if not isinstance(given, Mapping):
        raise ValueError(f"its static_kwargs are {shown(given)}; they must be a dict of options")
    return given


def _chosen(given: Given, table: Table) -> dict[str, Value]:
    return {ours: given.get(*theirs) for ours, theirs in table.items()}


def _channel_base(given: Given) -> Value:
    base = given.get(*FMAP_BASE)
    return 2 * int(base) if isinstance(base, WHOLE) and type(base) is not bool else base


def first_size(given: Given, variables: Mapping[str, np.ndarray], prefix: str) -> dict[str, Value]:
    """The size that images grow from where it is not 4 x 4, and how often they double from it.

    The option resolution of such networks is the height of their data, so the blocks are counted.
    """
    sides = [given.get(side, 4) for side in FIRST_SIDES]
    init_res = calls.first_size([int(s) if isinstance(s, np.integer) else s for s in sides], None)
    if init_res == SQUARE:
        return {}
    blocks = {name.removeprefix(prefix).partition("/")[0] for name in variables}
    found = [4 << k for k in range(MAX_BLOCKS) if scope(init_res, 4 << k) in blocks]
    if not found:
        height, width = init_res
        raise ValueError(f"its images grow from {height} x {width}, and it has no such block")
    return {"init_res": list(init_res), "img_resolution": found[-1]}


def _refuse_others(given: Given, *tables: Table) -> None:
    known = {FMAP_BASE[0], "res_log2", *FIRST_SIDES, *WITHOUT_EFFECT}
    known |= {theirs for table in tables for theirs, _ in table.values()}
    known |= {ATTENTION} if given.get(ATTENTION) in (None, False) else set()
    unknown = [shown(name) for name in given if name not in known]
    if unknown:
        raise ValueError(f"its static_kwargs have unknown options: {', '.join(unknown[:5])}")


def variables_of(held: Record) -> dict[str, np.ndarray]:
    """Variables by name; those of a component have its name before theirs."""
    found = _own_variables(held, "")
    components = held.state.get("components", {})
    for name in COMPONENTS:
        part = components.get(name) if isinstance(components, Mapping) else None
        if isinstance(part, Record) and is_network(part):
            found.update(_own_variables(part, f"{name}/"))
    return found


def _own_variables(held: Record, prefix: str) -> dict[str, np.ndarray]:
    found = {}
    pairs = held.state.get("variables")
    for pair in pairs if isinstance(pairs, (list, tuple)) else [pairs]:
        name, value = pair if isinstance(pair, (list, tuple)) and len(pair) == 2 else (None, None)
        if type(name) is not str or not isinstance(value, (np.ndarray, np.generic)):
            raise ValueError("its variables are no list of names and arrays")
        found[prefix + name] = np.asarray(value)
    return found


def _architecture(variables: Mapping[str, np.ndarray], given: Value) -> Value:
    """Networks that can grow have an image layer for each level of detail: they are 'orig'."""
    return "orig" if any(map(LOD.fullmatch, variables)) else given


def _by_resolution(
    variables: Mapping[str, np.ndarray], kwargs: Options, prefix: str
) -> dict[str, np.ndarray]:
    """Give the image layers of levels of detail the names of their resolutions."""
    named, resolution = dict(variables), kwargs["img_resolution"]
    assert isinstance(resolution, int)
    for name, value in variables.items():
        match = LOD.fullmatch(name)
        if match:
            block = scope(_init_res(kwargs), resolution >> int(match[2]))
            named[f"{prefix}{block}/{match[1]}/{match[3]}"] = value
    return named


def _init_res(kwargs: Options) -> Sequence[int]:
    return cast("Sequence[int]", kwargs["init_res"])


def _filled(
    family: Callable[..., Network],
    kwargs: Options,
    variables: Mapping[str, np.ndarray],
    tensors: tuple[tuple[str, str, str], ...],
    layers: Mapping[str, str],
) -> Network:
    with torch.device("meta"):
        wanted = family(**kwargs).state_dict()
    found = {}
    for name in wanted:
        if name.endswith(FILTER):
            continue
        theirs, form = variable_of(name, tensors, layers, _init_res(kwargs))
        if theirs not in variables:
            raise ValueError(f"the variable {theirs} is missing")
        found[name] = torch.from_numpy(read_variable(variables[theirs], theirs, form))
    complaint = "its variables do not fit its options"
    return filled(lambda: family(**kwargs), found, complaint, own=FILTER)
