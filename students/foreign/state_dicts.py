"""StyleGAN2 generators of which a file holds tensors alone, by name, as many scripts save them.

`torch.save(G_ema.state_dict())`, a dict of such dicts (`G_ema`, `params_ema`, `state_dict`, ...),
or names with something before them (`module.`, `decoder.`, `generator.`, `netG.`). Sizes and kind
are read off names and shapes; what they do not tell is the default of the program that has such
names, which a warning says. Other families are told from `--like` alone.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple, cast

import torch

import checkpoints
from checkpoints import Record, Value, filled, shape_of, with_options
from students import originals
from students.foreign import rosinality
from students.foreign.rosinality_names import channel_options, count
from students.layers import FILTER
from students.stylegan2 import calls
from students.stylegan2.generator import Generator
from stylegan_ops import setup_filter

MAX_DEPTH = 3  # dicts inside dicts, in which tensors are looked for
OURS = "synthesis.b4.conv1.weight"  # a name that only StyleGAN2-ADA's generators have
THEIRS = "conv1.conv.modulation.weight"  # and one that only rosinality's have
KEPT = "resample_filter"


class Found(NamedTuple):
    """A generator's tensors in a file.

    Attributes:
        prefix: what stands before their names: keys of the dicts around them and parts of a name.
        is_ours: of StyleGAN2-ADA's names; else of rosinality's.
    """

    prefix: str
    is_ours: bool


def named(data: object) -> Iterator[tuple[str, torch.Tensor]]:
    """Every tensor of dicts inside dicts, with the keys of all of them, joined by dots.

    What a file has at several places is looked at once.
    """
    waiting: list[tuple[str, object, int]] = [("", data, 0)]
    seen: set[int] = set()
    while waiting:
        name, value, depth = waiting.pop()
        if isinstance(value, torch.Tensor):
            yield name, value
        elif isinstance(value, dict) and depth < MAX_DEPTH and id(value) not in seen:
            seen.add(id(value))
            before = f"{name}." if depth else ""
            inner = [(f"{before}{key}", item, depth + 1) for key, item in value.items()]
            waiting += reversed(inner)


def _found(data: Value) -> dict[str, Found]:
    """The generators in a file: those of an average as G_ema, else the first; another as G."""
    found = [
        Found(name.removesuffix(mark), mark == OURS)
        for name, _ in named(data)
        for mark in (OURS, THEIRS)
        if name == mark or name.endswith(f".{mark}")
    ]
    found.sort(key=lambda each: not _is_average(each.prefix))
    return dict(zip(("G_ema", "G"), found, strict=False))


def _is_average(prefix: str) -> bool:
    return any(word in prefix.lower() for word in ("ema", "average"))


def matches(data: Value) -> bool:
    """Tell a file of tensors alone by the names of a StyleGAN2 generator's."""
    held = data.values() if isinstance(data, dict) else ()
    is_of_networks = any(isinstance(part, Record) and part.modules for part in held)
    return not is_of_networks and bool(_found(data))


def names(data: Value) -> list[str]:
    """The networks that the file holds."""
    return list(_found(data))


def _state(data: Value, prefix: str) -> dict[str, torch.Tensor]:
    held = named(data)
    return {name.removeprefix(prefix): value for name, value in held if name.startswith(prefix)}


def record(data: Value, network: str) -> Record:
    """A StyleGAN2 record of one of the generators.

    Raises:
        ValueError: tensors that are missing, unknown, of a shape that does not fit the others, or
            not finite.
    """
    found = _found(data)[network]
    state = _state(data, found.prefix)
    if not found.is_ours:
        average = data.get(rosinality.AVERAGE) if isinstance(data, dict) else None
        own = {rosinality.KEYS["G_ema"]: state, rosinality.AVERAGE: average}
        return rosinality.record(cast("Value", own), "G_ema")
    kwargs = calls.generator_kwargs(Record("Generator", (), call_of(state), {}, source=""))
    generator = filled(
        lambda: with_options(Generator, kwargs), state, "its tensors do not fit one another"
    )
    warnings.warn(
        "the file holds tensors alone: their network is told from names and shapes, and what these "
        "do not tell is StyleGAN2-ADA's default (a mapping of lr_multiplier 0.01, lrelu, no "
        "conv_clamp); --like FILE takes class and options from another file",
        stacklevel=1,  # one place, so that it is said once
    )
    return originals.describe(generator)


def told(data: Value, network: str) -> tuple[dict[str, torch.Tensor], dict[str, Value]]:
    """The tensors of one of the generators, and the sizes that they tell, {} where they do not."""
    found = _found(data)[network]
    state = _state(data, found.prefix)
    try:
        return state, call_of(state) if found.is_ours else dict(rosinality.sizes("G_ema", state))
    except ValueError:  # said by who loads it
        return state, {}


def call_of(state: Mapping[str, torch.Tensor]) -> dict[str, Value]:
    """The constructor call of a StyleGAN2-ADA generator, as far as its tensors tell it.

    Raises:
        ValueError: tensors that no such generator has.
    """
    resolutions = [4]
    while f"synthesis.b{2 * resolutions[-1]}.conv1.weight" in state:
        resolutions.append(2 * resolutions[-1])
    widths = [shape_of(state, f"synthesis.b{r}.conv1.weight", 4)[0] for r in resolutions]
    first = "synthesis.b4."
    w_dim = shape_of(state, f"{first}conv1.affine.weight", 2)[1]
    num_layers = count(state, "mapping.fc{}.weight", 0)
    embedded, c_dim = (
        shape_of(state, "mapping.embed.weight", 2) if "mapping.embed.weight" in state else (0, 0)
    )
    given = shape_of(state, "mapping.fc0.weight", 2)[1] if num_layers else w_dim
    mapping: dict[str, Value] = {"num_layers": num_layers}
    if num_layers > 1:
        mapping["layer_features"] = shape_of(state, "mapping.fc0.weight", 2)[0]
    if c_dim:
        mapping["embed_features"] = embedded
    if "mapping.w_avg" not in state:
        mapping["w_avg_beta"] = None
    is_skip = f"{first}torgb.weight" in state and len(resolutions) > 1
    is_resnet = "synthesis.b8.skip.weight" in state
    synthesis: dict[str, Value] = {
        **channel_options(resolutions, widths),
        "architecture": "resnet" if is_resnet else "skip" if is_skip else "orig",
        "use_noise": f"{first}conv1.noise_strength" in state,
        "kernel_size": shape_of(state, f"{first}conv1.weight", 4)[2],
        **_taps(state),
    }
    image = f"synthesis.b{resolutions[-1]}.torgb.weight"
    return {
        "z_dim": given - embedded,
        "c_dim": c_dim,
        "w_dim": w_dim,
        "img_resolution": resolutions[-1],
        "img_channels": shape_of(state, image, 4)[0],
        "init_res": list(shape_of(state, f"{first}const", 3)[1:]),
        "mapping_kwargs": mapping,
        "synthesis_kwargs": synthesis,
    }


def _taps(state: Mapping[str, torch.Tensor]) -> dict[str, Value]:
    """The option resample_filter, where the file's filter is not the default one."""
    name = f"synthesis.b8.{KEPT}"
    kernel = state.get(name)
    if kernel is None or kernel.ndim != 2:
        return {}
    default = setup_filter(FILTER)
    if kernel.shape == default.shape and torch.allclose(kernel.float(), default):
        return {}
    return {KEPT: kernel.float().sum(dim=0).tolist()}


def replace(data: Value, network: str, changed: Record, path: str | Path) -> None:
    """Write the file with other tensors in one of its networks; all else passes through."""
    found = _found(data)[network]
    tensors = checkpoints.tensors(changed)
    if not found.is_ours:
        new = rosinality.replaced(_state(data, found.prefix), tensors, "G_ema")
        written = _with(data, {f"{found.prefix}{name}": value for name, value in new.items()})
        if isinstance(data, dict) and rosinality.AVERAGE in data:
            written |= {rosinality.AVERAGE: tensors["mapping.w_avg"]}
    else:
        written = _with(data, {f"{found.prefix}{name}": value for name, value in tensors.items()})
    checkpoints.write_torch_file(written, path)


def _with(data: object, new: Mapping[str, torch.Tensor], before: str = "") -> dict[str, object]:
    """The dicts with these tensors in the places that their names say."""
    assert isinstance(data, dict)
    changed = type(data)()
    for key, value in data.items():
        name = f"{before}{key}"
        if isinstance(value, torch.Tensor) and name in new:
            changed[key] = new[name].to(value.dtype)
        elif isinstance(value, dict):
            changed[key] = _with(value, new, f"{name}.")
        else:
            changed[key] = value
    return changed


def fitted(data: Value, like: Record) -> Record:
    """The record `like` with the tensors of a file that have its names, whatever stands before.

    Raises:
        ValueError: the file has no such tensors, or some are missing or of another shape.
    """
    wanted, held = checkpoints.tensors(like), dict(named(data))
    last = next(reversed(wanted))
    prefixes = [
        name.removesuffix(last) for name in held if name == last or name.endswith(f".{last}")
    ]
    if not prefixes:
        raise ValueError(f"none of its {len(held)} tensors by name ends in {last}, as those do")
    prefixes.sort(key=lambda prefix: not _is_average(prefix))
    given = {
        name.removeprefix(prefixes[0]): value
        for name, value in held.items()
        if name.startswith(prefixes[0])
    }
    checkpoints.check_fit(
        {n: v for n, v in given.items() if n in wanted}, wanted, "its tensors do not fit"
    )
    return checkpoints.with_tensors(like, {name: given[name] for name in wanted})
