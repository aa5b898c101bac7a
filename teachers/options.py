"""What the constructor calls in teachers' files may say; the readers are `checkpoints.options`'."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from checkpoints import Record, Value
from checkpoints.options import (
    FLAG,
    MAX_LAYERS,
    MAX_RESOLUTION,
    MAX_TAPS,
    MAX_WIDTH,
    REAL,
    WHOLE,
    WIDTH,
    Option,
    Options,
    Reader,
    number,
    one_of,
    read_options,
    whole,
)

# Levels are kept in a buffer; a file may not ask for more than could have been trained.
MAX_LEVELS = 100_000
MAX_FACTOR = 2**10  # of a width
TINY, HUGE = 1e-12, 1e9


def list_of(kind: tuple[type, ...], least: float, most: float, length: int) -> Reader:
    """Read a list of up to `length` numbers of [least, most]; whole ones where kind is WHOLE."""

    def read(value: object) -> list[Option]:
        if isinstance(value, Sequence) and not isinstance(value, str) and len(value) <= length:
            found = [n for n in value if isinstance(n, kind) and type(n) is not bool]
            if len(found) == len(value) and all(least <= n <= most for n in found):
                return [int(n) if isinstance(n, WHOLE) else float(n) for n in found]
        what = "whole numbers" if kind is WHOLE else "numbers"
        raise ValueError(f"a list of up to {length} {what} from {least:g} to {most:g}")

    return read


SIZES: dict[str, Reader] = {
    "img_resolution": whole(1, MAX_RESOLUTION),
    "img_channels": WIDTH,
    "label_dim": whole(0, MAX_WIDTH),
    "use_fp16": FLAG,
}
LEVEL = number(0, math.inf)
DATA = number(TINY, HUGE)
LADDER: dict[str, Reader] = {
    "model_channels": WIDTH,
    "channel_mult": list_of(WHOLE, 1, MAX_FACTOR, MAX_RESOLUTION.bit_length()),
    "channel_mult_emb": whole(1, MAX_FACTOR),
    "num_blocks": whole(1, MAX_LAYERS),
    "attn_resolutions": list_of(WHOLE, 0, MAX_RESOLUTION, MAX_TAPS),
    "dropout": number(0, 1),
}
TAPS = list_of(REAL, -HUGE, HUGE, MAX_TAPS)
UNETS: dict[str, Reader] = {
    **LADDER,
    "augment_dim": whole(0, MAX_WIDTH),
    "label_dropout": number(0, 1),
    "embedding_type": one_of("positional", "fourier"),
    "channel_mult_noise": whole(1, MAX_FACTOR),
    "encoder_type": one_of("standard", "skip", "residual"),
    "decoder_type": one_of("standard", "skip"),
    "resample_filter": TAPS,
}
EDM: dict[str, Reader] = {**SIZES, "model_type": one_of("SongUNet", "DhariwalUNet"), **UNETS}
RANGE: dict[str, Reader] = {"sigma_min": LEVEL, "sigma_max": LEVEL}
TABLES: dict[str, dict[str, Reader]] = {
    "VPPrecond": {
        **EDM,
        "beta_d": number(TINY, HUGE),
        "beta_min": number(0, HUGE),
        "M": whole(1, MAX_LEVELS),
        "epsilon_t": number(TINY, 1),
    },
    "VEPrecond": {**EDM, **RANGE},
    "iDDPMPrecond": {
        **EDM,
        "C_1": number(TINY, 1),
        "C_2": number(TINY, 1),
        "M": whole(1, MAX_LEVELS),
    },
    "EDMPrecond": {**EDM, **RANGE, "sigma_data": DATA},
    "Precond": {
        **SIZES,
        "sigma_data": DATA,
        "logvar_channels": WIDTH,
        **LADDER,
        "channel_mult_noise": whole(1, MAX_FACTOR, optional=True),
        "channel_mult_emb": whole(1, MAX_FACTOR, optional=True),
        "label_balance": number(0, 1),
        "concat_balance": number(0, 1),
        "resample_filter": TAPS,
        "channels_per_head": WIDTH,
        "res_balance": number(0, 1),
        "attn_balance": number(0, 1),
        "clip_act": number(TINY, HUGE, optional=True),
    },
}
# The arguments that come first in every one of these calls; files may give them without names.
POSITIONAL = ("img_resolution", "img_channels", "label_dim", "use_fp16")


def teacher_kwargs(record: Record) -> Options:
    """Return the arguments of a teacher's recorded call by name, each checked.

    Raises:
        ValueError: an option that is unknown, missing or has a value that is not allowed.
    """
    if len(record.init_args) > len(POSITIONAL):
        raise ValueError(
            f"its constructor call has {len(record.init_args)} positional arguments; "
            f"allowed are {', '.join(POSITIONAL)}"
        )
    call = {**dict(zip(POSITIONAL, record.init_args, strict=False)), **record.init_kwargs}
    missing = [name for name in ("img_resolution", "img_channels") if name not in call]
    if missing:
        raise ValueError(f"its constructor call lacks {', '.join(missing)}")
    kwargs = read_options(call, TABLES[record.class_name], "")
    noise_range(kwargs)
    return kwargs


def noise_range(given: Mapping[str, Value] | Options) -> dict[str, float]:
    """Return sigma_min and sigma_max, those of them that are given as numbers.

    Raises:
        ValueError: one is no noise level, or they are no range.
    """
    named = {name: given[name] for name in RANGE if isinstance(given.get(name), REAL)}
    found = {name: float(str(value)) for name, value in read_options(named, RANGE, "").items()}
    low, high = found.get("sigma_min", 0.0), found.get("sigma_max", math.inf)
    if not low < high:
        raise ValueError(f"sigma_min is {low:g} and sigma_max {high:g}; sigma_max is the larger")
    return found
