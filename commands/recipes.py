"""What `gan` can be told by name: methods, the knobs it sets for them, presets."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields
from typing import Any

import click

# What refines a GAN: every method but those that need the teacher's image for a given latent.
METHODS = (
    "diff-instruct-moments",
    "diff-instruct",
    "sds",
    "dmd2",
    "f-distill",
    "sid",
    "sim",
)

# What `gan` sets where no flag and no preset says otherwise: the method's own defaults are the
# published ones, made for long runs on large networks; these were measured to help a GAN in a short
# one (docs/experiments.md).
GAN_KNOBS: dict[str, dict[str, Any]] = {
    "diff-instruct": {
        "student_sigma": "lognormal:0.3,1.0",
        "auxiliary_sigma": "lognormal:0.0,1.4",
    },
}
GAN_KNOBS["diff-instruct-moments"] = GAN_KNOBS["diff-instruct"]
PRESETS: dict[str, dict[str, Any]] = {
    # The embedded example; what it reaches is in README.
    "demo": {"kimg": 6.0, "warmup_kimg": 3.0, "snap": 2},
    # The official one-step distillation's settings; not measured here on a GAN.
    "published": {
        "kimg": 1000.0,
        "batch": 128,
        "lr": 1e-5,
        "glr": 1e-5,
        "ema_kimg": 500.0,
        "rampup_kimg": 0.0,
        "auxiliary_steps": 1,
        "auxiliary_ema": 0.0,
        "knobs": (
            "student_sigma=lognormal:-1.2,1.2",
            "auxiliary_sigma=lognormal:-1.2,1.2",
            "hold_contrast=0",
        ),
    },
}


def apply_preset(ctx: click.Context, param: click.Parameter, value: str | None) -> str | None:
    """Let a preset's row stand in for the defaults; a flag beats it, in any order."""
    if value is not None:
        ctx.default_map = {**(ctx.default_map or {}), **PRESETS[value]}
    return value


def method_with(name: str, assignments: Sequence[str]) -> Any:
    """Return a method's dataclass with its knobs set from KEY=VALUE texts."""
    from refiners import REFINERS

    known = {field.name: field for field in fields(REFINERS[name])}
    values = dict(GAN_KNOBS.get(name, {}))
    for text in assignments:
        key, equals, value = text.partition("=")
        if not equals or key not in known:
            raise ValueError(f"--set is {text!r}; {name} has the knobs {', '.join(known)}")
        kind = type(known[key].default)
        try:
            values[key] = kind(value)
        except ValueError:
            raise ValueError(f"--set {key} is {value!r}; it must be a {kind.__name__}") from None
    return REFINERS[name](**values)
