"""`refine.py teach`: train a diffusion teacher on your own images."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import click

from refine_commands.options import (
    RunCommand,
    carry_out,
    device_option,
    help_all_option,
    in_order,
    logging_options,
    outdir_option,
    parted,
    resume_option,
    settings_options,
)
from refiners.runs.recipes import NOT_OF_TEACHERS, TEACHER_SIZES, TRAINED_ON, USUAL_SIZE

TOLD = {
    "kimg": "Length of the run in thousands of images; --max-hours may end it before.",
    "lr": "Learning rate (Adam).",
    "beta1": "Adam's decay rate of the mean gradient.",
    "beta2": "Adam's decay rate of the squared gradient.",
    "weight_decay": "Decoupled decay of the weights, which makes Adam AdamW.",
    "clip": "Largest L2 norm of the gradient of the loss, a mean over pixels; 0 limits none.",
    "rampup_kimg": "Over which the rate rises from 0.",
    "decay_kimg": "After which the rate falls as 1 / sqrt(images); 0 keeps it.",
    "ema": "Half-life of the network's average, which is the teacher.",
    "precision": "bf16 is of the network's passes. What is kept is float32.",
}


def begin_from(row: Mapping[str, Any] | None) -> Callable[..., str | None]:
    """Return a callback that lets a row of settings, or that of a size, stand in for the usual."""

    def take(ctx: click.Context, param: click.Parameter, value: str | None) -> str | None:
        if value is not None:
            ctx.default_map = {**(ctx.default_map or {}), **(row or TEACHER_SIZES[value])}
        return value

    return take


network_options = in_order(
    click.option(
        "--from",
        "start",
        metavar="TEACHER",
        is_eager=True,
        callback=begin_from(TRAINED_ON),
        help="Train on from this teacher: a file, an address, or a published network's name. One "
        "of other classes, size or colours is brought to the images, and a line says how.",
    ),
    click.option(
        "--size",
        type=click.Choice(tuple(TEACHER_SIZES)),
        is_eager=True,
        callback=begin_from(None),
        help=f"small (1.3 M weights) is for CPU cores, base (7 M) for an hour of a GPU, large (56 "
        f"M, EDM's) for days.  [default: {USUAL_SIZE}]",
    ),
    click.option(
        "--net",
        metavar="KEY=VALUE",
        multiple=True,
        help="An argument of the network in place of the size's: model_channels, "
        "channel_mult=1,2,2, num_blocks, attn_resolutions, dropout, label_dropout.",
    ),
    click.option(
        "--set",
        "knobs",
        metavar="KEY=VALUE",
        multiple=True,
        help="A knob of the training: p_mean, p_std, sigma_data, augment (0.12), xflip, rank.",
    ),
)


@click.command(cls=RunCommand, context_settings={"default_map": TEACHER_SIZES[USUAL_SIZE]})
@click.option(
    "--data",
    metavar="ZIP|DIR|URL",
    required=True,
    help="Your images, squares of 32, 64, 128 or 256 pixels; 'refine.py dataset' makes them.",
)
@outdir_option
@network_options
@settings_options(*NOT_OF_TEACHERS, told=TOLD)
@device_option
@resume_option
@logging_options
@help_all_option
def teach(dry_run: bool, **options: Any) -> None:
    """Train a diffusion teacher on your own images.

    Writes a run folder in --outdir: network-snapshot-*.pkl in EDM's layout, result.pkl (the one of
    the lowest loss on the tenth of the images that is held out), samples, that loss over the noise
    levels, and whether samples repeat images. 'refine.py gan --teacher .../result.pkl' takes it.

    Several processes share the batches with torchrun --nproc_per_node=N -- refine.py teach ...
    """
    from refiners.runs.teach import TeachJob

    job, settings = parted(options)
    carry_out(TeachJob(**job, settings=settings), dry_run=dry_run)
