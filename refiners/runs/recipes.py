"""What commands can be told by name: methods, the knobs set for them, presets."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import fields
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from refiners.runs.plan import AnyMethod


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
GAN_KNOBS["diff-instruct-moments"] = {**GAN_KNOBS["diff-instruct"], "moments": 0.5}
PRESETS: dict[str, dict[str, Any]] = {
    # The embedded example, whose student is far from its teacher; what it reaches is in README.
    "demo": {
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
    # A good StyleGAN2 of CIFAR-10 beside EDM's VP file: the default recipe, which helped a good
    # student (docs/experiments.md, "A rate that decays"), longer and with larger batches. Published
    # with other, unknown settings: FID 2.92 -> 2.71. Not measured here: it takes a GPU.
    "refine-cifar10": {
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
        "lr": 1e-5,
        "glr": 1e-5,
        "ema": 500.0,
        "rampup_kimg": 0.0,
        "decay_kimg": 0.0,
        "auxiliary_steps": 1,
        "auxiliary_ema": 0.0,
        "knobs": (
            "student_sigma=lognormal:-1.2,1.2",
            "auxiliary_sigma=lognormal:-1.2,1.2",
        ),
    },
}

# What turns a denoiser into a generator of few steps, by images instead of a pixel gradient.
IMAGE_METHODS = ("progressive", "guided")
DISTILL_METHODS = (
    "diff-instruct",
    "diff-instruct-moments",
    "sds",
    "dmd",
    "dmd2",
    "f-distill",
    "sid",
    "sim",
    *IMAGE_METHODS,
)

# Where a one-step student begins, G(z) = D(sigma z; sigma), as published: 1 (Diff-Instruct), 2.5
# (SiD, whose recipe SIM takes), the teacher's highest level (DMD, DMD2 and what builds on it).
INIT_SIGMA: dict[str, float] = {
    "diff-instruct": 1.0,
    "diff-instruct-moments": 1.0,
    "sds": 1.0,
    "dmd": 80.0,
    "dmd2": 80.0,
    "f-distill": 80.0,
    "sid": 2.5,
    "sim": 2.5,
}

DISTILL_PRESETS: dict[str, dict[str, Any]] = {
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
    # (conditional). Not measured here. Its own dropout and augmentation are not repeated.
    "distill-cifar10": {
        "method": "diff-instruct",
        "kimg": 200_000.0,
        "batch": 128,
        "lr": 1e-5,
        "glr": 1e-5,
        "ema": 500.0,
        "ema_rampup_ratio": 0.05,
        "rampup_kimg": 0.0,
        "decay_kimg": 0.0,
        "warmup_kimg": 0.0,
        "auxiliary_steps": 1,
        "auxiliary_ema": 0.0,
        "tick": 50.0,
        "snap": 10,
        "init_sigma": 1.0,
        "keep": "last",
    },
    # SiD's run on CIFAR-10; published with FID 1.923 (unconditional) and 1.710 (conditional, after
    # 800,000 kimg). Not measured here. Its own dropout and augmentation are not repeated.
    "distill-cifar10-sid": {
        "method": "sid",
        "kimg": 500_000.0,
        "batch": 256,
        "lr": 1e-5,
        "glr": 1e-5,
        "ema": 500.0,
        "ema_rampup_ratio": 0.05,
        "rampup_kimg": 0.0,
        "decay_kimg": 0.0,
        "warmup_kimg": 0.0,
        "auxiliary_steps": 1,
        "auxiliary_ema": 0.0,
        "tick": 50.0,
        "snap": 10,
        "init_sigma": 2.5,
        "keep": "last",
    },
}

# How many of its samples a teacher makes for `gan`. To draw one costs it about what training costs
# an image, so they are a fifth of a run's work; a thousand were enough in the demo.
IMAGES_PER_KIMG, LEAST_IMAGES, MOST_IMAGES = 200, 500, 5000
# The share of a run that the auxiliary's warm-up takes at most, where its length is not told.
WARMUP_SHARE = 0.5

TRUTH = {"0": False, "1": True, "false": False, "true": True}


def teacher_images_for(kimg: float) -> int:
    """Return how many samples the teacher makes for a run of that length."""
    return int(min(max(IMAGES_PER_KIMG * kimg, LEAST_IMAGES), MOST_IMAGES))


def warmup_for(kimg: float, usual: float) -> float:
    """Return the warm-up in kimg of a run of that length whose warm-up was not told."""
    return min(usual, WARMUP_SHARE * kimg)


def method_class(name: str) -> type[AnyMethod]:
    """Return the dataclass of a method of any command.

    Raises:
        ValueError: there is none of this name.
    """
    from refiners.methods import REFINERS
    from refiners.training.distillation import DISTILLERS

    known = {**REFINERS, **DISTILLERS}
    if name not in known:
        raise ValueError(f"method is {name!r}; allowed are {', '.join(known)}")
    return known[name]


def name_of_method(method: AnyMethod) -> str:
    """Return a method's name in its table, or its class' where it is in none."""
    from refiners.methods import REFINERS
    from refiners.training.distillation import DISTILLERS

    names = {kind: name for name, kind in {**REFINERS, **DISTILLERS}.items()}
    return names.get(type(method), type(method).__name__)


def method_with(
    name: str | AnyMethod,
    assignments: Sequence[str] | Mapping[str, object],
    starting: Mapping[str, Mapping[str, Any]] = GAN_KNOBS,
) -> Any:
    """Return a method's dataclass with its knobs set, by name or from KEY=VALUE texts.

    Args:
        name: of a method.
        assignments: the texts.
        starting: for each method, the knobs that are set where no text says otherwise.

    Raises:
        ValueError: no such knob, or a value that it cannot have.
    """
    if not isinstance(name, str):
        return name
    method = method_class(name)
    known = {field.name: field for field in fields(method)}
    values = dict(starting.get(name, {}))
    if isinstance(assignments, Mapping):
        return method(**{**values, **assignments})
    for text in assignments:
        key, equals, value = text.partition("=")
        if not equals or key not in known:
            raise ValueError(f"--set is {text!r}; {name} has the knobs {', '.join(known)}")
        kind = type(known[key].default)
        try:
            values[key] = TRUTH[value.lower()] if kind is bool else kind(value)
        except (ValueError, KeyError):
            what = "0 or 1" if kind is bool else f"a {kind.__name__}"
            raise ValueError(f"--set {key} is {value!r}; it must be {what}") from None
    return method(**values)
