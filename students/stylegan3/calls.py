"""From StyleGAN3 and StyleGAN-XL files to the arguments of the networks here.

As `students.stylegan2.calls` for StyleGAN2: what the file records is checked before anything is
built of it.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import fields, replace

from checkpoints import Record, with_options
from checkpoints.options import (
    CLAMP,
    FLAG,
    MAX_LAYERS,
    MAX_RESOLUTION,
    MAX_TAPS,
    MAX_WIDTH,
    WIDTH,
    Options,
    Reader,
    number,
    options,
    read_options,
    whole,
)
from roles.shown import shown
from students.options import GENERATOR, MAPPING
from students.stylegan2.calls import constructor_call, part
from students.stylegan3.layers import LayerOptions, LayerPlan, Signal


def text(value: object) -> str:
    """Read a string."""
    if isinstance(value, str):
        return value
    raise ValueError("a string")


POSITIVE = number(1e-6, 1e9)
SIZE = whole(1, 2 * MAX_RESOLUTION)
LAYER_OPTIONS: dict[str, Reader] = {
    "conv_kernel": whole(1, MAX_TAPS),
    "filter_size": whole(1, MAX_TAPS),
    "lrelu_upsampling": whole(1, MAX_TAPS),
    "use_radial_filters": FLAG,
    "conv_clamp": CLAMP,
    "magnitude_ema_beta": number(0, 1),
}
SCALE: dict[str, Reader] = {"output_scale": number(-1e6, 1e6)}
SYNTHESIS: dict[str, Reader] = {
    **SCALE,
    "channel_base": POSITIVE,
    "channel_max": number(1, MAX_WIDTH),
    "num_layers": whole(1, MAX_LAYERS),
    "num_critical": whole(0, MAX_LAYERS),
    "first_cutoff": POSITIVE,
    "first_stopband": POSITIVE,
    "last_stopband_rel": number(1e-3, 1e3),
    "margin_size": whole(0, MAX_RESOLUTION // 2),
    "num_fp16_res": whole(0, MAX_LAYERS),
    **LAYER_OPTIONS,
}
STYLEGAN3_MAPPING = {name: MAPPING[name] for name in ("num_layers", "lr_multiplier")}
STYLEGAN3_MAPPING["w_avg_beta"] = number(0, 1)
XL_MAPPING = {**STYLEGAN3_MAPPING, "rand_embedding": FLAG}
# What a stem's parts were called with, inside a superresolution network; its own call does not say.
MAPPING_CALL = {name: GENERATOR[name] for name in ("z_dim", "c_dim", "w_dim")}
MAPPING_CALL["num_ws"] = whole(1, MAX_LAYERS)
SUPERRES: dict[str, Reader] = {
    "img_resolution": GENERATOR["img_resolution"],
    "path_stem": text,
    "head_layers": whole(1, MAX_LAYERS),
    "up_factor": whole(2, MAX_RESOLUTION),
}
SIGNAL: dict[str, Reader] = {
    "channels": WIDTH,
    "size": SIZE,
    "sampling_rate": whole(1, MAX_RESOLUTION),
    "cutoff": POSITIVE,
    "half_width": POSITIVE,
}
LAYER: dict[str, Reader] = {
    "w_dim": WIDTH,
    "is_torgb": FLAG,
    "is_critically_sampled": FLAG,
    "use_fp16": FLAG,
    **{f"{side}_{name}": SIGNAL[name] for name in SIGNAL for side in ("in", "out")},
}


def is_stylegan3(record: Record) -> bool:
    """Tell a StyleGAN3 generator by its class name and the input of its synthesis."""
    return _has_input(record, "Generator") and not _is_xl(record)


def is_stem(record: Record) -> bool:
    """Tell a StyleGAN-XL stem by the embedding of classes in its mapping."""
    return _has_input(record, "Generator") and _is_xl(record)


def is_superres(record: Record) -> bool:
    """Tell a StyleGAN-XL superresolution network by its class name."""
    return _has_input(record, "SuperresGenerator")


def stylegan3_kwargs(
    record: Record, mapping_options: Mapping[str, Reader] = STYLEGAN3_MAPPING
) -> Options:
    """Return stylegan3.Generator's arguments for a file's generator.

    Raises:
        ValueError: a size is missing, an option is unknown or has a value that is not allowed.
    """
    table = {**GENERATOR, "mapping_kwargs": options, **SYNTHESIS}
    call = read_options(constructor_call(record, GENERATOR), table, "")
    mapping = read_options(call.pop("mapping_kwargs", {}), mapping_options, "mapping_kwargs")
    return {**call, "mapping_kwargs": mapping}


def stem_kwargs(record: Record) -> Options:
    """Return stylegan_xl.Generator's arguments for a file's stem; errors as `stylegan3_kwargs`."""
    return {**stylegan3_kwargs(record, XL_MAPPING), "embedding": _embedding(record)}


def superres_kwargs(record: Record) -> dict[str, object]:
    """Return SuperresGenerator's arguments for a file's superresolution network.

    Its own call says little; each part and each layer recorded a call too.

    Raises:
        ValueError: a size is missing, an option is unknown or has a value that is not allowed, the
            layers do not fit each other.
    """
    # The original takes any other argument as well, and looks at none of them.
    given = constructor_call(record, SUPERRES)
    call = read_options({name: given[name] for name in SUPERRES}, SUPERRES, "")
    mapping, synthesis = _child(record, "mapping"), _child(record, "synthesis")
    mapped = read_options(
        constructor_call(mapping, MAPPING_CALL), {**MAPPING_CALL, **XL_MAPPING}, "mapping"
    )
    made = {name: synthesis.init_kwargs[name] for name in SCALE if name in synthesis.init_kwargs}
    plans = with_options(superres_plans, {"w_dim": mapped["w_dim"]}, synthesis)
    if call.pop("img_resolution") != plans[-1].after.size:
        raise ValueError(f"img_resolution is not that of its last layer, {plans[-1].after.size}")
    if call["head_layers"] not in range(len(plans)):
        raise ValueError(f"head_layers is {call['head_layers']}; it has {len(plans)} layers")
    return {
        **call,
        "plans": plans,
        **{name: mapped[name] for name in ("z_dim", "c_dim", "w_dim")},
        "mapping_kwargs": {name: mapped[name] for name in STYLEGAN3_MAPPING if name in mapped},
        "embedding": _embedding(record),
        **read_options(made, SCALE, "synthesis"),
    }


def superres_plans(synthesis: Record, *, w_dim: int) -> list[LayerPlan]:
    """Return the plans of a synthesis network's layers, from the calls that made them.

    Raises:
        ValueError: as `superres_kwargs`.
    """
    names = synthesis.state.get("layer_names")
    if not isinstance(names, list) or not 1 <= len(names) <= MAX_LAYERS:
        raise ValueError(
            f"its synthesis has layer_names {shown(names)}; it must be a list of names"
        )
    plans: list[LayerPlan] = []
    for name in names:
        if not isinstance(name, str) or not re.fullmatch(r"L\d{1,6}_\d{1,6}_\d{1,6}", name):
            raise ValueError(f"its synthesis has a layer {shown(name)}; allowed: L0_36_512 etc.")
        call = constructor_call(_child(synthesis, name), LAYER)
        call = read_options(call, {**LAYER, **LAYER_OPTIONS}, name)
        if call["w_dim"] != w_dim:
            raise ValueError(f"{name}: w_dim is {call['w_dim']}; that of the mapping is {w_dim}")
        before, after = (
            with_options(Signal, {field: call[f"{side}_{field}"] for field in SIGNAL})
            for side in ("in", "out")
        )
        given = {f.name: call[f.name] for f in fields(LayerOptions) if f.name in call}
        plan = with_options(
            LayerPlan,
            {key: call[key] for key in ("is_torgb", "is_critically_sampled", "use_fp16")},
            name=name,
            before=before,
            after=after,
            options=replace(LayerOptions(), **given),
        )
        last = plans[-1].after if plans else before
        for field in ("channels", "size", "sampling_rate"):
            got, needed = getattr(before, field), getattr(last, field)
            if got != needed:
                raise ValueError(f"{name}: in_{field} is {got}; the layer before has {needed}")
        plans.append(plan)
    return plans


def _has_input(record: Record, class_name: str) -> bool:
    return record.class_name == class_name and part(record, "synthesis", "input") is not None


def _is_xl(record: Record) -> bool:
    embed = part(record, "mapping", "embed")
    return embed is not None and embed.class_name == "Embedding"


def _child(record: Record, name: str) -> Record:
    child = part(record, name)
    if child is None:
        raise ValueError(f"its {record.class_name[:100]!a} has no part {name}")
    return child


def _embedding(record: Record) -> tuple[int, int]:
    """Return rows and features of the mapping's embedding, those of its weights.

    Raises:
        ValueError: no such weights, or an embedding that changes them when it runs.
    """
    embed = _child(_child(record, "mapping"), "embed")
    weight = embed.tensors("_parameters").get("weight")
    shape = list(getattr(weight, "shape", []))
    if len(shape) != 2 or embed.state.get("max_norm") is not None:
        raise ValueError(
            f"its embedding of classes is {shape}; allowed: [rows, features], no limit"
        )
    return shape[0], shape[1]
