"""Options that more than one command takes, their presets, and the job that they make."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from refine_commands.knobs import SETTINGS, show_knobs
from refiners.runs.recipes import IMAGES_PER_KIMG, LEAST_IMAGES, MOST_IMAGES

if TYPE_CHECKING:
    from refiners.runs.distil import DistilJob
    from refiners.runs.refine import RefineJob

Command = TypeVar("Command", bound=Callable[..., Any])
Decorator = Callable[[Any], Any]


def in_order(*options: Decorator) -> Callable[[Command], Command]:
    """Return a decorator that adds options in the order in which --help lists them."""

    def add(command: Command) -> Command:
        for option in reversed(options):
            command = option(command)
        return command

    return add


class IntOrAuto(click.ParamType):
    """A whole number, or auto."""

    name = "INT|auto"

    def convert(self, value: Any, param: Any, ctx: Any) -> int | str:
        """Return the number, or auto."""
        return value if value == "auto" else click.INT.convert(value, param, ctx)


def setting(flag: str, name: str, kind: Any, metavar: str) -> Decorator:
    """Return an option that sets a field of refiners.Settings, where the defaults are."""
    help_text = SETTINGS[name].in_one_line()
    return click.option(flag, name, type=kind, metavar=metavar, default=None, help=help_text)


def switch(flag: str, name: str) -> Decorator:
    """Return an option that sets a field of refiners.Settings to True."""
    help_text = SETTINGS[name].in_one_line()
    return click.option(flag, name, is_flag=True, default=None, help=help_text)


SETTING_OPTIONS = {
    "kimg": setting("--kimg", "kimg", float, "KIMG"),
    "batch": setting("--batch", "batch", int, "INT"),
    "glr": setting("--glr", "glr", float, "FLOAT"),
    "lr": setting("--lr", "lr", float, "FLOAT"),
    "rampup_kimg": setting("--rampup", "rampup_kimg", float, "KIMG"),
    "decay_kimg": setting("--decay", "decay_kimg", float, "KIMG"),
    "ema": setting("--ema", "ema", float, "KIMG"),
    "ema_rampup_ratio": setting("--ema-rampup", "ema_rampup_ratio", float, "SHARE"),
    "warmup_kimg": setting("--warmup", "warmup_kimg", float, "KIMG"),
    "auxiliary_steps": setting("--aux-steps", "auxiliary_steps", int, "INT"),
    "auxiliary_ema": setting("--aux-ema", "auxiliary_ema", float, "UPDATES"),
    "train": setting("--train", "train", str, "PART"),
    "seed": setting("--seed", "seed", int, "INT"),
    "tick": setting("--tick", "tick", float, "KIMG"),
    "snap": setting("--snap", "snap", int, "TICKS"),
    "max_hours": setting("--max-hours", "max_hours", float, "HOURS"),
    "stop_if": setting("--stop-if", "stop_if", str, "NAME>NUMBER"),
    "batch_gpu": setting("--batch-gpu", "batch_gpu", IntOrAuto(), "INT|auto"),
    "precision": setting("--precision", "precision", str, "fp32|tf32|bf16"),
    "compile": switch("--compile", "compile"),
    "channels_last": switch("--channels-last", "channels_last"),
    "share_pass": switch("--share-pass", "share_pass"),
}


def parted(options: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return what a job is made of, and the settings that were given, of a command's options.

    --metrics none is a job without its reference.
    """
    settings = {k: v for k, v in options.items() if k in SETTING_OPTIONS and v is not None}
    job = {k: v for k, v in options.items() if k not in SETTING_OPTIONS and k != "metrics"}
    if options["metrics"] == "none":
        job["reference"] = None
    return job, settings


def carry_out(job: RefineJob | DistilJob, *, dry_run: bool) -> None:
    """Run a job, or print its options and what it will take."""
    from roles.processes import rank_here

    if not dry_run:
        job.run()
        return
    plan = job.check().plan()
    if rank_here() == 0:
        click.echo(json.dumps(plan, indent=2))


def settings_options(*leave_out: str) -> Callable[[Command], Command]:
    """Add the options that set fields of refiners.Settings, but for those left out."""
    return in_order(*(o for name, o in SETTING_OPTIONS.items() if name not in leave_out))


def recipe_options(
    methods: Sequence[str], presets: Mapping[str, Mapping[str, Any]]
) -> Callable[[Command], Command]:
    """Add --method, --set, --knobs and --preset; the first method is the default."""

    def apply_preset(ctx: click.Context, param: click.Parameter, value: str | None) -> None:
        """Let a preset's row stand in for the defaults; a flag beats it, in any order."""
        if value is not None:
            ctx.default_map = {**(ctx.default_map or {}), **presets[value]}

    return in_order(
        click.option(
            "--method",
            type=click.Choice(methods),
            default=methods[0],
            show_default=True,
            help="The method; docs/methods.md compares them.",
        ),
        click.option(
            "--set",
            "knobs",
            metavar="KEY=VALUE",
            multiple=True,
            help="A knob of the method, as student_sigma=lognormal:-1.2,1.2.",
        ),
        click.option(
            "--knobs",
            "explained",
            metavar="METHOD",
            type=click.Choice(methods),
            callback=show_knobs,
            is_eager=True,
            expose_value=False,
            help="Explain the knobs of a method, with their defaults, and stop.",
        ),
        click.option(
            "--preset",
            type=click.Choice(tuple(presets)),
            callback=apply_preset,
            is_eager=True,
            expose_value=False,
            help="A row of settings; flags beat it.",
        ),
    )


def image_options(*, num_images: int | None, steps: int, use: str) -> Callable[[Command], Command]:
    """Add --data, and the options of the teacher's images that stand in for it.

    Without a num_images their number is in proportion to the run's length.
    """
    number = "How many samples of the teacher stand for real images."
    if num_images is None:
        number += f"  [default: {IMAGES_PER_KIMG} a kimg, {LEAST_IMAGES} to {MOST_IMAGES}]"
    return in_order(
        click.option("--data", metavar="ZIP|DIR", help=use),
        click.option(
            "--teacher-images",
            metavar="INT",
            type=click.IntRange(min=100),
            default=num_images,
            show_default=True,
            help=number,
        ),
        click.option(
            "--teacher-steps",
            metavar="INT",
            type=click.IntRange(min=1),
            default=steps,
            show_default=True,
            help="Steps of the sampler that makes them.",
        ),
    )


report_options = in_order(
    click.option(
        "--reference",
        metavar="NPZ|ZIP|DIR",
        help="What to measure against: statistics with their features.",
    ),
    click.option(
        "--features",
        metavar="NAME|NPZ",
        help="Where the reference brings none: inception, dinov2, clip, efficientnet-lite0, "
        "NAME=FILE, or an NPZ.",
    ),
    click.option(
        "--num",
        metavar="INT",
        type=click.IntRange(min=100),
        default=5000,
        show_default=True,
        help="Images behind the report's numbers.",
    ),
    click.option(
        "--metrics",
        type=click.Choice(["auto", "none"]),
        default="auto",
        show_default=True,
        help="auto measures where there is a reference.",
    ),
)

outdir_option = click.option(
    "--outdir",
    metavar="DIR",
    type=click.Path(path_type=Path),
    required=True,
    help="Where run folders go.",
)

run_options = in_order(
    click.option(
        "--device", type=click.Choice(["auto", "cpu", "cuda"]), default="auto", show_default=True
    ),
    click.option(
        "--resume",
        metavar="latest|FILE|RUN_DIR",
        help="Continue the newest run in --outdir, or that of a training-state-*.pt or run folder.",
    ),
    click.option(
        "--transfer",
        metavar="PKL|STATE",
        help="Start anew from the weights of a network or of a training-state-*.pt.",
    ),
    click.option(
        "--wandb", metavar="PROJECT", help="Log to Weights & Biases too. TensorBoard needs no flag."
    ),
    click.option(
        "--desc", metavar="TEXT", default="", help="Name of the run folder after its number."
    ),
    click.option(
        "-n",
        "--dry-run",
        is_flag=True,
        help="Check the input, print options, memory and the measured cost of a step, and stop.",
    ),
)

pairing_options = in_order(
    click.option(
        "--adapt",
        type=click.Choice(["area", "crop", "tiles"]),
        help="Show the student's images to a teacher of another size or of other channels: "
        "resampled by area (linearly for a small student), or through windows at random places or "
        "on a grid.",
    ),
    click.option(
        "--class-map",
        metavar="FILE|none",
        help="For each class of the student a line with its number in the teacher; none hides the "
        "classes from the teacher.",
    ),
    click.option(
        "--guidance",
        metavar="WEIGHT",
        type=float,
        default=1.0,
        show_default=True,
        help="Guide the teacher: 1 is no guidance, above goes further from --guide.",
    ),
    click.option(
        "--guide",
        metavar="PKL|URL",
        help="What to guide away from: an unconditional teacher, or a weaker copy. [default: the "
        "teacher without its label]",
    ),
    click.option(
        "--guidance-interval",
        metavar="LOW,HIGH",
        default="0,inf",
        show_default=True,
        help="Noise levels, above LOW up to HIGH, at which to guide.",
    ),
)
