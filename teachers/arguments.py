"""Constructor arguments of networks that live in files: recorded as the files do, checked."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any


def recorded_call(arguments: dict[str, Any]) -> dict[str, Any]:
    """Turn the locals() of a constructor into the keyword arguments that a file records.

    `model_kwargs`, what a constructor passes on, is merged in; tuples become lists.
    """
    call = {k: v for k, v in arguments.items() if k not in ("self", "__class__", "model_kwargs")}
    call.update(arguments.get("model_kwargs", {}))
    return {k: list(v) if isinstance(v, tuple) else v for k, v in call.items()}


def check_choice(name: str, value: str, allowed: Sequence[str]) -> None:
    """Raise ValueError unless value is one of allowed."""
    if value not in allowed:
        raise ValueError(f"{name} is {value!r}; allowed are {', '.join(allowed)}")


def check_levels(img_resolution: int, channel_mult: Sequence[int], num_blocks: int) -> None:
    """Raise ValueError unless every level can halve the one before, and has blocks."""
    step = 1 << (len(channel_mult) - 1) if channel_mult else 0
    if not step or img_resolution < step or img_resolution % step:
        raise ValueError(
            f"img_resolution is {img_resolution} with channel_mult {list(channel_mult)}; "
            f"it must be a multiple of 2 ** (number of levels - 1)"
        )
    if num_blocks < 1:
        raise ValueError(f"num_blocks is {num_blocks}; it must be at least 1")
