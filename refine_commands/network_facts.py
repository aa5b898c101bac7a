"""What a network file says about its networks, as plain data; no network is built for it.

A file's data are taken as they are: records of pickles, the variables of TensorFlow's networks,
and dicts of tensors by name, as rosinality's and any other training script's.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, cast

import numpy as np
import torch

import checkpoints
import students
import teachers
from checkpoints import Json, Record, Value, is_state_dict
from roles.shown import shown
from students.fastgan import calls as fastgan_calls
from students.foreign import fastgan, rosinality, state_dicts, tensorflow
from students.r3gan import calls as r3gan_calls
from students.stylegan2.blocks import grown
from students.stylegan2.calls import first_size

SIZES = (
    *("img_resolution", "img_height", "img_width"),  # the last two of images that are not square
    *("img_channels", "z_dim", "c_dim", "label_dim", "w_dim", "num_ws"),
)
MAIN = ("G_ema", "ema", "net", "")  # the network that a user means, in this order
DEPTH = 3  # parts of a layer's name: synthesis.b8.conv0 is one row, what is inside of it none
MAX_ITEMS = 1000  # of one value, with all that is in it

# Family -> program that writes it; StyleGAN2's is told by its options.
WRITERS = {
    "StyleGAN3 generator": "stylegan3",
    "R3GAN generator": "R3GAN",
    "FastGAN generator": "projected-gan",
    "StyleGAN-XL stem": "stylegan-xl",
    "StyleGAN-XL superresolution generator": "stylegan-xl",
}


PLAIN_WRITERS = ("R3GAN", "projected-gan", "FastGAN-pytorch", "unknown")


@dataclass(frozen=True)
class Layer:
    """A row of the table of layers: a module and what is inside of it."""

    name: str
    class_name: str
    shape: list[int]  # of its weight, or of its largest tensor
    parameters: int


@dataclass(frozen=True)
class Network:
    """One network of a file."""

    kind: str
    class_name: str
    writer: str
    sizes: dict[str, int]
    parameters: int
    buffers: int
    tensors: int
    dtypes: list[str]
    options: dict[str, Json]
    layers: list[Layer] = field(repr=False)
    nonfinite: list[str]


def networks_of(data: Value) -> dict[str, Network]:
    """The facts of each network in a file's data, by its key there; {} where there is none."""
    if isinstance(data, Record):
        return {} if data.foreign else {"": of_record(data)}
    if tensorflow.matches(data):
        pairs = zip(tensorflow.NETWORKS, data, strict=True)
        return {name: of_tensorflow(record, name) for name, record in pairs}
    held = data if isinstance(data, Mapping) else {}
    if rosinality.names(data):
        return {name: of_rosinality(held, name) for name in rosinality.names(data)}
    if fastgan.matches(held):
        return {name: of_record(fastgan.record(held, name)) for name in fastgan.names(held)}
    if state_dicts.matches(data):
        found = {name: state_dicts.told(data, name) for name in state_dicts.names(data)}
        return {name: of_told(*facts) for name, facts in found.items()}
    if is_state_dict(data):
        return {"": of_state_dict(data)}
    sigma = held.get("init_sigma")
    found = {}
    for key, value in held.items():
        if isinstance(value, Record) and not value.foreign and checkpoints.parameters(value):
            found[str(key)] = of_record(value, sigma=sigma if key == "ema" else None)
        elif is_state_dict(value):
            found[str(key)] = of_state_dict(value)
    return found


def main_network(names: Sequence[str]) -> str:
    """The name of the network that a user means."""
    return next((name for name in MAIN if name in names), names[0])


def of_record(record: Record, *, sigma: Value = None) -> Network:
    """The facts of a network's record; sigma is the noise level of a one-step generator."""
    kind, writer = _kind(record)
    if sigma is not None:
        kind = f"one-step generator on an {kind}"
    # The programs that a pickle's classes are named after embed their text, all but these.
    if record.module is not None and writer not in PLAIN_WRITERS:
        writer = f"stylegan-refiner, for {writer}"
    call = record.init_kwargs
    # Attributes first: a constructor's positional arguments have no names.
    sizes = {name: record.state.get(name, call.get(name)) for name in SIZES}
    sizes |= sides_of(call.get("init_res"), sizes["img_resolution"])
    parameters = checkpoints.parameters(record)
    if r3gan_calls.IMAGE in parameters and sizes["img_channels"] is None:
        sizes["img_channels"] = len(parameters[r3gan_calls.IMAGE])
    if record.class_name == "Generator" and record.module == fastgan_calls.OWN:
        sizes |= students.family_of(record).options(record)
    options = dict(call)
    if record.init_args:
        options = {"(positional)": list(record.init_args), **options}
    if sigma is not None:
        options["init_sigma"] = sigma
    classes = {
        prefix.rstrip("."): module.class_name
        for prefix, module in checkpoints.named_modules(record)
    }
    return _network(
        kind,
        record.class_name,
        writer,
        sizes,
        parameters,
        checkpoints.buffers(record),
        options,
        classes,
    )


def of_tensorflow(record: Record, name: str) -> Network:
    """The facts of a network of TensorFlow's pickles."""
    role = "discriminator" if name == "D" else "generator"
    given = record.state.get("static_kwargs")
    options = {str(k): v for k, v in given.items()} if isinstance(given, Mapping) else {}
    table = {**tensorflow.SIZES, **(tensorflow.LATENTS if role == "generator" else {})}
    sizes: dict[str, object] = {ours: options.get(*theirs) for ours, theirs in table.items()}
    prefix = "" if role == "discriminator" else "synthesis/"
    try:
        first = tensorflow.first_size(options, tensorflow.variables_of(record), prefix)
    except ValueError:  # said by who loads it
        first = {}
    sizes |= sides_of(first.get("init_res"), first.get("img_resolution"))
    variables = {
        key: torch.from_numpy(np.ascontiguousarray(value))
        for key, value in tensorflow.variables_of(record).items()
        if value.dtype.kind in "fiub"
    }
    learned = {key: value for key, value in variables.items() if not _is_tf_buffer(key)}
    rest = {key: value for key, value in variables.items() if key not in learned}
    version = record.state.get("version")
    writer = f"TensorFlow, network version {plain(version)}"
    return _network(
        f"StyleGAN2 {role} (TensorFlow legacy)",
        record.class_name,
        writer,
        sizes,
        {key.replace("/", "."): value for key, value in learned.items()},
        {key.replace("/", "."): value for key, value in rest.items()},
        options,
        {},
    )


def sides_of(init_res: object, img_resolution: object) -> dict[str, int]:
    """The sides of images that are not square; {} of others, and where they make no sense."""
    try:
        height, width = grown(first_size(init_res, img_resolution), cast("int", img_resolution))
    except (TypeError, ValueError):
        return {}
    if height == width:
        return {}
    return {"img_resolution": max(height, width), "img_height": height, "img_width": width}


def of_rosinality(data: Mapping[Any, Any], name: str) -> Network:
    """The facts of a network of rosinality's `.pt`."""
    state = data[rosinality.KEYS[name]]
    role = "discriminator" if name == "D" else "generator"
    tensors = {key: value for key, value in state.items() if isinstance(value, torch.Tensor)}
    learned = {k: v for k, v in tensors.items() if not k.endswith(".kernel") and "noises." not in k}
    args = data.get("args")
    options = dict(args.state) if isinstance(args, Record) else {}
    return _network(
        f"StyleGAN2 {role}",
        "state dict",
        "rosinality's stylegan2-pytorch",
        rosinality.sizes(name, tensors),
        learned,
        {key: value for key, value in tensors.items() if key not in learned},
        options,
        {},
    )


def of_told(state: Mapping[str, torch.Tensor], sizes: Mapping[str, object]) -> Network:
    """The facts of a StyleGAN2 generator that is told from its tensors."""
    kind = "StyleGAN2 generator (tensors by name)"
    return _network(kind, "state dict", "unknown", sizes, dict(state), {}, {}, {})


def of_state_dict(state: Mapping[str, torch.Tensor]) -> Network:
    """The facts of tensors by name, of whatever network."""
    return _network("tensors by name", "state dict", "unknown", {}, dict(state), {}, {}, {})


def of_diffusers(state: Mapping[str, torch.Tensor], config: Mapping[str, Json]) -> Network:
    """The facts of a folder of diffusers: its tensors, and its config.json."""
    given = {
        "img_resolution": config.get("sample_size"),
        "img_channels": config.get("in_channels", 3),
        "label_dim": config.get("num_class_embeds") or 0,
    }
    class_name = str(config.get("_class_name", "UNet2DModel"))
    writer = f"diffusers {plain(config.get('_diffusers_version', ''))}".strip()
    kind = f"diffusers {shown(class_name, quoted=False)} denoiser"
    return _network(kind, class_name, writer, given, state, {}, config, {})


def _kind(record: Record) -> tuple[str, str]:
    """The kind of a record's network, and the program that writes such records."""
    if record.class_name in teachers.FAMILIES:
        is_edm2 = record.class_name == "Precond"
        kind = "EDM2 denoiser" if is_edm2 else f"EDM denoiser ({record.class_name})"
        return kind, "edm2" if is_edm2 else "edm"
    try:
        family = students.family_of(record).name
    except ValueError:
        if (record.module, record.class_name) == (r3gan_calls.MODULE, "Discriminator"):
            return "R3GAN discriminator", "R3GAN"
        return f"network of an unknown family ({shown(record.class_name, quoted=False)})", "unknown"
    if family == "StyleGAN3 generator":
        call = record.init_kwargs
        rotates = call.get("use_radial_filters") is True and call.get("conv_kernel") == 1
        return f"StyleGAN3-{'R' if rotates else 'T'} generator", "stylegan3"
    if family.startswith("StyleGAN2 "):
        role = family.removeprefix("StyleGAN2 ")
        ada = students.writer_of(record) == "stylegan2-ada"
        return (
            (f"StyleGAN2-ADA {role}", "stylegan2-ada-pytorch")
            if ada
            else (f"StyleGAN2 {role}", "stylegan3")
        )
    if record.module == fastgan_calls.OWN:
        return family, "FastGAN-pytorch"
    return family, WRITERS[family]


def _network(
    kind: str,
    class_name: str,
    writer: str,
    sizes: Mapping[str, object],
    parameters: Mapping[str, torch.Tensor],
    buffers: Mapping[str, torch.Tensor],
    options: Mapping[str, object],
    classes: Mapping[str, str],
) -> Network:
    everything = {**parameters, **buffers}
    return Network(
        kind=kind,
        class_name=shown(class_name, quoted=False),
        writer=writer,
        sizes={name: int(n) for name, n in sizes.items() if type(n) is int and 0 <= n < 2**31},
        parameters=sum(tensor.numel() for tensor in parameters.values()),
        buffers=sum(tensor.numel() for tensor in buffers.values()),
        tensors=len(everything),
        dtypes=sorted({str(tensor.dtype).removeprefix("torch.") for tensor in everything.values()}),
        options={shown(name, quoted=False): plain(value) for name, value in options.items()},
        layers=layers_of(parameters, classes),
        nonfinite=[shown(name, quoted=False) for name in checkpoints.nonfinite(everything)],
    )


def layers_of(parameters: Mapping[str, torch.Tensor], classes: Mapping[str, str]) -> list[Layer]:
    """The parameters by layer, in file order; a layer's name has at most DEPTH parts."""
    groups: dict[str, dict[str, torch.Tensor]] = {}
    for name, tensor in parameters.items():
        parts = name.split(".")
        layer = ".".join(parts[:-1][:DEPTH]) or name
        groups.setdefault(layer, {})[name.removeprefix(f"{layer}.")] = tensor
    return [
        Layer(
            shown(name, quoted=False),
            shown(classes.get(name, ""), quoted=False),
            list(held.get("weight", max(held.values(), key=torch.Tensor.numel)).shape),
            sum(tensor.numel() for tensor in held.values()),
        )
        for name, held in groups.items()
    ]


def plain(value: object) -> Json:
    """A file's value as what JSON can hold, in ASCII and not long."""
    return _plain(value, 0, [MAX_ITEMS])


def _plain(value: object, depth: int, left: list[int]) -> Json:
    """The value, of which left[0] items may still be said; lists can share their parts."""
    left[0] -= 1
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, int | np.integer) and abs(int(value)) < 2**63:
        return int(value)
    if isinstance(value, float | np.floating):
        return float(value) if math.isfinite(value) else str(float(value))
    if isinstance(value, np.bool_):
        return bool(value)
    if isinstance(value, torch.Tensor | np.ndarray):
        return f"{str(value.dtype).removeprefix('torch.')} {list(value.shape)}"
    if isinstance(value, list | tuple | Mapping) and depth < 4 and len(value) <= max(left[0], 0):
        if isinstance(value, Mapping):
            return {
                shown(str(key), quoted=False): _plain(item, depth + 1, left)
                for key, item in value.items()
            }
        return [_plain(item, depth + 1, left) for item in value]
    if isinstance(value, Record):
        return foreign_part(value) if value.foreign else shown(value.class_name, quoted=False)
    return shown(value, quoted=False)


def foreign_part(record: Record) -> str:
    """What is said of an object that is not read: its class, and why it is not."""
    name = f"{record.module}.{record.class_name}" if record.module else record.class_name
    return f"foreign {shown(name, quoted=False)}: it {record.foreign}"


def _is_tf_buffer(name: str) -> bool:
    last = name.rpartition("/")[2]
    return last in ("lod", "dlatent_avg") or re.fullmatch(r"noise\d+", last) is not None
