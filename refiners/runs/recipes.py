"""What a run begins from: the usual methods, knobs by name, and rows of settings by name."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import fields, is_dataclass
from typing import TYPE_CHECKING, Any

from refiners.knob import parse
from refiners.methods import DISTILLERS, REFINERS

if TYPE_CHECKING:
    from refiners.runs.plan import AnyMethod

Row = dict[str, Any]
# Of each command, where no flag and no preset names one.
USUAL_METHOD = {"gan": "adversarial-moments", "distill": "diff-instruct"}

# The settings that the official one-step distillations share.
OFFICIAL: Row = {
    "lr": 1e-5,
    "glr": 1e-5,
    "ema": 500.0,
    "ema_rampup_ratio": 0.05,
    "rampup_kimg": 0.0,
    "decay_kimg": 0.0,
    "warmup_kimg": 0.0,
    "auxiliary_steps": 1,
    "auxiliary_ema": 0.0,
    "fresh_images": "all",
}
# On CIFAR-10, whose files take dropout and augmentation labels.
LONG: Row = {
    **OFFICIAL,
    "dropout": 0.13,
    "augment": 0.12,
    "tick": 10.0,
    "snap": 50,
    "keep": "last",
}

GAN_PRESETS: dict[str, Row] = {
    # The embedded example, whose student is far from its teacher; what it reaches is in README.
    # Far from it the score difference is the quicker guide; near it the discriminator's slope is.
    "demo": {
        "method": "diff-instruct-moments",
        "kimg": 6.0,
        "decay_kimg": 0.0,
        "ema": 0.7,
        "warmup_kimg": 1.0,
        "snap": 3,
        # A step of half the work; what it costs is within a run's noise (benchmarks/README.md).
        "auxiliary_steps": 1,
        "auxiliary_ema": 0.0,
        "share_pass": True,
        "knobs": ("moments=1.0", "auxiliary_sigma=lognormal:0.3,1.0"),
    },
    # A good StyleGAN2 of CIFAR-10 beside EDM's VP file: the recipe of docs/experiments.md, "A rate
    # that decays", longer and with larger batches. Published with other, unknown settings:
    # FID 2.92 -> 2.71. Not measured here: it takes a GPU.
    "refine-cifar10": {
        "method": "diff-instruct-moments",
        "kimg": 100.0,
        "batch": 64,
        "ema": 20.0,
        "warmup_kimg": 20.0,
        "tick": 5.0,
        "snap": 2,
    },
    # The official one-step distillation's settings; not measured here on a GAN.
    "published": {
        "method": "diff-instruct",
        "kimg": 1000.0,
        "batch": 128,
        **OFFICIAL,
        "knobs": (
            "student_sigma=lognormal:-1.2,1.2",
            "auxiliary_sigma=lognormal:-1.2,1.2",
        ),
    },
}

DISTILL_PRESETS: dict[str, Row] = {
    # The embedded teacher; what it reaches, and in what time, is in docs/experiments.md.
    "demo": {
        "method": "diff-instruct-moments",
        "kimg": 8.0,
        "glr": 1e-3,
        "decay_kimg": 1.0,
        "ema": 2.0,
        "warmup_kimg": 2.0,
        "snap": 4,
        "init_sigma": 2.5,
        "teacher_images": 3000,
        "teacher_steps": 7,
        "keep": "last",
        "knobs": (
            "moments=4.0",
            "student_sigma=lognormal:0.3,1.0",
            "auxiliary_sigma=lognormal:0.0,1.4",
        ),
    },
    # The official Diff-Instruct run on CIFAR-10; published with FID 4.53 (unconditional), 4.19
    # (conditional). Not measured here.
    "distill-cifar10": {
        "method": "diff-instruct",
        "kimg": 200_000.0,
        "batch": 128,
        **LONG,
        "dropout_in_gradient": True,
    },
    # SiD's run on CIFAR-10; published with FID 1.923 (unconditional) and 1.710 (conditional, after
    # 800,000 kimg). Not measured here.
    "distill-cifar10-sid": {
        "method": "sid",
        "kimg": 500_000.0,
        "batch": 256,
        **LONG,
    },
    # DMD2's run on ImageNet-64 from scratch, with --data; published with FID 1.51. Not measured
    # here. The rest of its settings are the method's own.
    "distill-imagenet64-dmd2": {
        "method": "dmd2",
        "kimg": 11_200.0,
        "batch": 280,
        "lr": 2e-6,
        "glr": 2e-6,
        "keep": "last",
    },
}

# What a teacher's training begins from, by size. EDM's own run on CIFAR-10 is large's, for 200,000
# kimg with a ramp of 10,000 (Karras et al. 2022, Table 7).
TEACHING: Row = {
    "beta1": 0.9,
    # EDM's has none; small networks at high rates need it.
    "clip": 1.0,
    "ema": 500.0,
    "ema_rampup_ratio": 0.05,
    "decay_kimg": 0.0,
    "warmup_kimg": 0.0,
    "auxiliary_steps": 1,
    "auxiliary_ema": 0.0,
}
TEACHER_SIZES: dict[str, Row] = {
    "small": {
        **TEACHING,
        **{"kimg": 1000.0, "batch": 64, "lr": 1e-3, "rampup_kimg": 5.0, "tick": 5.0, "snap": 10},
    },
    "base": {
        **TEACHING,
        **{"kimg": 10_000.0, "batch": 256, "lr": 1e-3, "rampup_kimg": 100.0, "tick": 20.0},
        "snap": 10,
    },
    "large": {
        **TEACHING,
        **{"kimg": 50_000.0, "batch": 512, "lr": 1e-3, "rampup_kimg": 1000.0, "tick": 50.0},
        "snap": 10,
    },
}
# A network that is trained on: it knows images already, and a high rate would undo that.
TRAINED_ON: Row = {
    **TEACHING,
    **{"kimg": 500.0, "batch": 64, "lr": 2e-4, "rampup_kimg": 5.0, "tick": 5.0, "snap": 10},
}
USUAL_SIZE = "small"
# Settings that a teacher's training has no use for.
NOT_OF_TEACHERS = ("glr", "warmup_kimg", "auxiliary_steps", "auxiliary_ema", "auxiliary_clip")
NOT_OF_TEACHERS += ("train", "share_pass", "ignore_health")

PRESETS = {"gan": GAN_PRESETS, "distill": DISTILL_PRESETS}

# How many of its samples a teacher makes for `gan`. To draw one costs it about what training costs
# an image, so they are a fifth of a long run's work. A sixth of them confirm the result: of 4,000
# that is enough to tell a change of a tenth (docs/experiments.md), of 1,600 it was not.
IMAGES_PER_KIMG, LEAST_IMAGES, MOST_IMAGES = 200, 4000, 10000
# The share of a run that the auxiliary's warm-up takes at most, where its length is not told.
WARMUP_SHARE = 0.5


def teacher_images_for(kimg: float) -> int:
    """Return how many samples the teacher makes for a run of that length."""
    return int(min(max(IMAGES_PER_KIMG * kimg, LEAST_IMAGES), MOST_IMAGES))


def warmup_for(kimg: float, usual: float) -> float:
    """Return the warm-up in kimg of a run of that length whose warm-up was not told."""
    return min(usual, WARMUP_SHARE * kimg)


def methods_of(command: str) -> tuple[str, ...]:
    """Return the names of the methods of `gan` or `distill`, the usual one first.

    `gan` takes those by a pixel gradient that need no image of the teacher for each latent.
    """
    from refiners.base import WithPairs

    names = dict.fromkeys((USUAL_METHOD[command], *REFINERS))
    if command == "gan":
        return tuple(name for name in names if not issubclass(REFINERS[name], WithPairs))
    return (*names, *DISTILLERS)


def method_class(name: str, command: str = "") -> type[AnyMethod]:
    """Return the dataclass of a method, of one command's alone if that is told.

    Raises:
        ValueError: there is none of that name.
    """
    for table in (REFINERS, DISTILLERS):
        if name in table:
            return table[name]
    allowed = ", ".join(methods_of(command) if command else (*REFINERS, *DISTILLERS))
    raise ValueError(f"method is {name!r}; allowed are {allowed}")


def name_of_method(method: AnyMethod) -> str:
    """Return a method's name in its table, or its class' where it is in none."""
    names = {kind: name for table in (REFINERS, DISTILLERS) for name, kind in table.items()}
    return names.get(type(method), type(method).__name__)


def method_with(
    name: str | AnyMethod,
    knobs: Mapping[str, object] | Sequence[str] = (),
    command: str = "",
) -> AnyMethod:
    """Return a method with its knobs set.

    Args:
        name: of a method; one of its dataclasses is returned as it is.
        knobs: values by name, or KEY=VALUE texts.
        command: gan or distill, from whose starting values it begins; empty is the published ones.

    Raises:
        ValueError: no such method or none of this command, no such knob, or a value that it cannot
            have.
    """
    from refiners.base import Method, WithPairs

    if isinstance(knobs, str):
        raise ValueError(f"knobs are {knobs!r}; give a mapping, or a list of KEY=VALUE")
    if not isinstance(name, str):
        if isinstance(name, type) or not is_dataclass(name):
            names = ", ".join(methods_of(command) if command else (*REFINERS, *DISTILLERS))
            raise ValueError(f"method is {name!r}; give a name ({names}), or a method made of one")
        if command == "gan" and (not isinstance(name, Method) or isinstance(name, WithPairs)):
            allowed = ", ".join(methods_of(command))
            raise ValueError(f"method is {name!r}, which gan cannot take; allowed are {allowed}")
        if knobs:
            raise ValueError(f"knobs are given with {name!r}, which has its own; leave them out")
        return name
    method = method_class(name, command)
    if command and name not in methods_of(command):
        allowed = ", ".join(methods_of(command))
        raise ValueError(f"method is {name!r}, which {command} cannot take; allowed are {allowed}")
    begins = getattr(method, "begins", {}).get(command, {})
    return method(**begins | knobs_of(method, name, knobs))


def knobs_of(
    method: type, name: str, knobs: Mapping[str, object] | Sequence[str]
) -> dict[str, object]:
    """Return values by the names of a method's knobs, from them or from KEY=VALUE texts.

    Raises:
        ValueError: no such knob, or a value that it cannot have.
    """
    known = {field.name: field for field in fields(method)}
    values: dict[str, object] = {}
    given = knobs.items() if isinstance(knobs, Mapping) else [text.split("=", 1) for text in knobs]
    for key, *value in given:
        if not value or key not in known:
            text = "=".join((key, *map(str, value)))
            raise ValueError(f"--set is {text!r}; {name} has the knobs {', '.join(known)}")
        (value,) = value
        values[key] = parse(known[key], value) if isinstance(value, str) else value
    return values
