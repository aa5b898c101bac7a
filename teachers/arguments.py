"""Constructor arguments of networks that live in files: recorded as the files do, checked."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TypedDict, cast

from checkpoints import Value
from roles.shown import shown


class Sizes(TypedDict):
    """What every column's call names."""

    img_channels: int
    img_resolution: int
    label_dim: int
    use_fp16: bool
    model_type: str


def recorded_call(arguments: Mapping[str, object]) -> dict[str, Value]:
    """Turn the locals() of a constructor into the keyword arguments that a file records.

    `model_kwargs` or `block_kwargs`, what a constructor passes on, is merged in; tuples become
    lists.
    """
    call = cast("dict[str, Value]", dict(arguments))
    for name in ("model_kwargs", "block_kwargs"):
        call |= cast("dict[str, Value]", call.pop(name, {}))
    kept = {k: v for k, v in call.items() if k not in ("self", "__class__")}
    return {k: list(v) if isinstance(v, tuple) else v for k, v in kept.items()}


def check_choice(name: str, value: str, allowed: Sequence[str]) -> None:
    """Raise ValueError unless value is one of allowed."""
    if value not in allowed:
        raise ValueError(f"{name} is {shown(value)}; allowed are {', '.join(allowed)}")


def check_levels(img_resolution: int, channel_mult: Sequence[int], num_blocks: int) -> None:
    """Raise ValueError unless every level can halve the one before, and has blocks."""
    step = 1 << (len(channel_mult) - 1) if channel_mult else 0
    if not step or img_resolution < step or img_resolution % step:
        raise ValueError(
            f"img_resolution is {img_resolution} with channel_mult {list(channel_mult)[:20]}; "
            f"it must be a multiple of 2 ** (number of levels - 1)"
        )
    if num_blocks < 1:
        raise ValueError(f"num_blocks is {num_blocks}; it must be at least 1")
