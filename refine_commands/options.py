"""Options that more than one command takes, their presets, and the job that they make."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import Field, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from refiners.knob import explain, knob_of
from refiners.methods import DISTILLERS, REFINERS
from refiners.runs.recipes import (
    IMAGES_PER_KIMG,
    LEAST_IMAGES,
    MOST_IMAGES,
    PRESETS,
    USUAL_METHOD,
    method_class,
)
from refiners.training.settings import Settings

if TYPE_CHECKING:
    from refiners.runs.distil import DistilJob
    from refiners.runs.refine import RefineJob
    from refiners.runs.teach import TeachJob
    from roles import Denoiser

Command = TypeVar("Command", bound=Callable[..., object])
Decorator = Callable[[Any], Any]


# What flags were called before each had the name of its Python parameter and JSON key.
RENAMED = {
    "--rampup": "--rampup-kimg",
    "--decay": "--decay-kimg",
    "--ema-rampup": "--ema-rampup-ratio",
    "--warmup": "--warmup-kimg",
    "--aux-steps": "--auxiliary-steps",
    "--aux-ema": "--auxiliary-ema",
}


# What --help shows of `gan` and `distill`; --help-all shows the rest.
GROUPS = {
    "What": (
        *("student", "teacher", "method", "knobs", "explained", "preset", "data", "teach"),
        *("size", "start", "net"),
    ),
    "How long": ("kimg", "batch", "glr", "lr", "ema", "snap", "seed", "max_hours"),
    "Where": ("outdir", "resume", "device", "dry_run"),
    "Report": ("reference", "features", "num", "keep"),
}
SETTINGS = {field.name: field for field in fields(Settings)}
HELP = ("--help", "--help-all")
WHOLE = f"{__name__}.whole"


class RunCommand(click.Command):
    """A command with a short and a whole --help, whose flags of before still work."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Parse the arguments; those that ask for help come last, as they show a preset's row."""
        args = sorted(map(renamed, args), key=lambda argument: argument in HELP)
        try:
            return super().parse_args(ctx, args)
        except click.MissingParameter as error:
            if error.param is not None and error.param.name == "teacher":
                from refine_commands.teachers import best_for

                student = ctx.params.get("student")
                best = best_for(str(student)) if student else []
                data = ctx.params.get("data")
                if data and self.name == "gan":
                    shown = (
                        "None? 'refine.py teach --data {0} --outdir {1}' makes one of the images "
                        "in {0}; --teach here does so first."
                    ).format(data, ctx.params.get("outdir", "DIR"))
                    raise click.MissingParameter(
                        "\n".join([shown, *best]), ctx, error.param
                    ) from None
                shown = (
                    "A file, an address, a published network's name or an id of the Hugging Face "
                    "Hub; refine.py teachers lists them, with --for my-gan.pkl those that fit."
                )
                raise click.MissingParameter("\n".join([shown, *best]), ctx, error.param) from None
            raise

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the options in groups."""
        params = [param for param in self.get_params(ctx) if isinstance(param, click.Option)]
        helps = [option for option in params if option.opts[-1] in HELP]
        options = {option.name: option for option in params if option not in helps}
        shown = {title: [options.pop(n, None) for n in names] for title, names in GROUPS.items()}
        settings = [options.pop(name, None) for name in SETTINGS]
        if ctx.meta.get(WHOLE):
            shown |= {"Settings": settings, "Others": list(options.values())}
        for title, group in {**shown, "Help": helps}.items():
            if not any(group):
                continue
            with formatter.section(title):
                formatter.write_dl([record_of(option, ctx) for option in group if option])


def record_of(option: click.Option, ctx: click.Context) -> tuple[str, str]:
    """Return an option's flags and help, with what a preset or the settings have for it."""
    flags, text = option.get_help_record(ctx) or ("", "")
    default = (ctx.default_map or {}).get(option.name or "")
    if default is None and option.name in SETTINGS:
        default = SETTINGS[option.name].default
    if option.show_default or default in (None, ""):
        return flags, text
    if isinstance(default, bool):
        default = "on" if default else "off"
    default = " ".join(default) if isinstance(default, tuple) else default
    return flags, f"{text}  [default: {default}]"


def show_all(ctx: click.Context, param: click.Parameter, value: bool) -> None:
    """Print the whole help and end the command."""
    if value and not ctx.resilient_parsing:
        ctx.meta[WHOLE] = True
        click.echo(ctx.get_help())
        ctx.exit()


def show_knobs(ctx: click.Context, param: click.Parameter, value: str | None) -> None:
    """Print the help on a method's knobs and end the command."""
    if value is not None and not ctx.resilient_parsing:
        click.echo(explain(method_class(value)))
        ctx.exit()


def renamed(argument: str) -> str:
    """Return an argument with the flag of today, and say so where it was another."""
    flag, equals, value = argument.partition("=")
    if flag not in RENAMED:
        return argument
    click.echo(f"{flag} is {RENAMED[flag]} now", err=True)
    return RENAMED[flag] + equals + value


def in_order(*options: Decorator) -> Callable[[Command], Command]:
    """Return a decorator that adds options in the order in which --help lists them."""

    def add(command: Command) -> Command:
        for option in reversed(options):
            command = option(command)
        return command

    return add


class IntOrAuto(click.ParamType):  # pyright: ignore[reportMissingTypeArgument]  # click < 8.5 takes none
    """A whole number, or auto."""

    name = "INT|auto"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> int | str:
        """Return the number, or auto."""
        try:
            return value if value == "auto" else int(value)
        except ValueError:
            self.fail(f"{value!r} is neither a whole number nor auto.", param, ctx)


def parted(options: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return what a job is made of, and the settings that were given, of a command's options.

    --metrics none is a job without its reference.
    """
    settings = {k: v for k, v in options.items() if k in SETTINGS and v is not None}
    job = {k: v for k, v in options.items() if k not in SETTINGS and k != "metrics"}
    if options.get("metrics") == "none":
        job["reference"] = job["features"] = None
    return job, settings


def carry_out(job: RefineJob | DistilJob | TeachJob, *, dry_run: bool) -> None:
    """Run a job, or print its options and what it will take."""
    import torch

    from refiners.training.fit import Mismatch
    from roles.processes import rank_here

    # The shapes of a run's convolutions do not change; --deterministic turns it off again.
    torch.backends.cudnn.benchmark = True
    try:
        if not dry_run:
            job.run()
            return
        plan = job.check().plan()
    except Mismatch:
        tell_best(job)
        raise
    if rank_here() == 0:
        click.echo(json.dumps(plan, indent=2))


def tell_best(job: RefineJob | DistilJob | TeachJob) -> None:
    """Say which published teachers would fit a job's student, a line each, where it has one."""
    from refine_commands.teachers import best_for
    from roles.processes import rank_here

    student = getattr(job, "student", None)
    if student is not None and rank_here() == 0:
        for line in best_for(str(student)):
            click.echo(line, err=True)


def setting_option(field: Field[str | float], text: str | None = None) -> Decorator:
    """Return an option that sets a field of refiners.Settings, where the defaults and help are."""
    flag, knob, kind = f"--{field.name.replace('_', '-')}", knob_of(field), type(field.default)
    shown: dict[str, Any] = {"type": kind, "metavar": knob.unit or kind.__name__.upper()}
    if kind is bool:
        shown = {"is_flag": True}
    elif knob.unit == IntOrAuto.name:
        shown["type"] = IntOrAuto()
    return click.option(flag, field.name, default=None, help=text or knob.in_one_line(), **shown)


def settings_options(
    *leave_out: str, told: Mapping[str, str] | None = None
) -> Callable[[Command], Command]:
    """Add the options that set fields of refiners.Settings, but for those left out.

    `told` has the help of those that mean something else to a command.
    """
    texts = told or {}
    return in_order(
        *(
            setting_option(f, texts.get(name))
            for name, f in SETTINGS.items()
            if name not in leave_out
        )
    )


help_all_option = click.option(
    "--help-all",
    is_flag=True,
    callback=show_all,
    is_eager=True,
    expose_value=False,
    help="Show every option and exit.",
)


def recipe_options(command: str) -> Callable[[Command], Command]:
    """Add --method, --set, --knobs and --preset of `gan` or `distill`, and --help-all."""
    presets = PRESETS[command]
    # Which of them needs pairs is not asked here, as the classes cost a torch.
    names = (*REFINERS, *DISTILLERS) if command == "distill" else (*REFINERS,)

    def apply_preset(ctx: click.Context, param: click.Parameter, value: str | None) -> None:
        """Let a preset's row stand in for the defaults; a flag beats it, in any order."""
        if value is not None:
            ctx.default_map = {**(ctx.default_map or {}), **presets[value]}

    return in_order(
        click.option(
            "--method",
            metavar="METHOD",
            default=USUAL_METHOD[command],
            show_default=True,
            help=f"{', '.join(names)}; docs/methods.md compares them and has the settings that "
            "one begins from, --knobs explains one."
            + (" Those that regress on pairs serve distill alone." if command == "gan" else ""),
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
        help_all_option,
    )


def image_options(*, num_images: int | None, steps: int, use: str) -> Callable[[Command], Command]:
    """Add --data, and the options of the teacher's images that stand in for it.

    Without a num_images their number is in proportion to the run's length.
    """
    number = "How many samples of the teacher stand for real images."
    if num_images is None:
        number += f"  [default: {IMAGES_PER_KIMG} a kimg, {LEAST_IMAGES} to {MOST_IMAGES}]"
    return in_order(
        click.option("--data", metavar="ZIP|DIR|URL", help=use),
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


def measuring_options(*, num: int, required: bool) -> Callable[[Command], Command]:
    """Add --reference, --features and --num, of which `num` is the default."""
    return in_order(
        click.option(
            "--reference",
            metavar="NPZ|ZIP|DIR|URL",
            required=required,
            help="What to measure against: statistics with their features, or images.",
        ),
        click.option(
            "--features",
            metavar="NAME|NPZ",
            help="Where the reference brings none: inception, inception-clean, "
            "inception-half-pixel, efficientnet-lite0, dinov2, clip, NAME=FILE, or an NPZ.",
        ),
        click.option(
            "--num",
            metavar="INT",
            type=click.IntRange(min=100),
            default=num,
            show_default=True,
            help="Images behind the report's numbers, on each side.",
        ),
    )


report_options = in_order(
    measuring_options(num=5000, required=False),
    click.option(
        "--metrics",
        type=click.Choice(["auto", "none"]),
        default="auto",
        show_default=True,
        help="auto measures where there is a reference.",
    ),
)

teacher_set_option = click.option(
    "--teacher-set",
    metavar="KEY=VALUE",
    multiple=True,
    help="What the teacher's file does not hold, by the flags of the program that wrote it: "
    "image_size=256, num_heads=4 ...; may be given several times.",
)

outdir_option = click.option(
    "--outdir",
    metavar="DIR",
    type=click.Path(path_type=Path),
    required=True,
    help="Where run folders go.",
)

device_option = click.option(
    "--device",
    metavar="NAME",
    default="auto",
    show_default=True,
    help="cpu, cuda, cuda:N, mps, xpu or xpu:N; auto is cuda where there is one, else cpu.",
)

seed_option = click.option(
    "--seed", metavar="INT", type=click.IntRange(min=0), default=0, show_default=True
)

TEACH_HOURS = 1.0  # of a training that is to come before a refinement


def teach_first(ctx: click.Context, param: click.Parameter, value: float | None) -> float | None:
    """Let a teacher that is still to be made stand in for the one that is asked for."""
    if value is not None:
        ctx.default_map = {**(ctx.default_map or {}), "teacher": ""}
    return value


teach_option = click.option(
    "--teach",
    metavar="[HOURS]",
    type=click.FloatRange(min=0, min_open=True),
    is_flag=False,
    flag_value=str(TEACH_HOURS),
    is_eager=True,
    callback=teach_first,
    help="Without a --teacher: first train one on --data, once, in OUTDIR/teacher, for so many "
    "hours (1 unless told); 'refine.py teach' has the choices.",
)


def taught_teacher(options: Mapping[str, Any], hours: float, *, dry_run: bool) -> Path | Denoiser:
    """Return the teacher that --teach asks for, made now unless it is there.

    That all else fits is checked before, with an untrained one, which is what a plan is made with.
    """
    from refiners.runs.refine import RefineJob
    from refiners.runs.teach import TeachJob, taught

    if options["teacher"] or not options["data"]:
        given = f"--teacher {options['teacher']}" if options["teacher"] else "no --data"
        raise ValueError(
            f"--teach makes a teacher of --data, but there is {given}; give --data and --teach "
            "without --teacher"
        )
    place, device = Path(options["outdir"]) / "teacher", options["device"]
    job = TeachJob(options["data"], outdir=place, settings={"max_hours": hours}, device=device)
    network = job.check().network
    asked, settings = parted(options)
    RefineJob(**{**asked, "teacher": network}, settings=settings).check()
    return network if dry_run else taught(job)


resume_option = click.option(
    "--resume",
    metavar="latest|FILE|RUN_DIR",
    help="Continue the newest run in --outdir, or that of a training-state-*.pt or run folder.",
)

logging_options = in_order(
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

run_options = in_order(
    device_option,
    click.option(
        "--memory-gb",
        metavar="GIB",
        type=click.FloatRange(min=0, min_open=True),
        help="Memory that --dry-run plans for and --batch-gpu auto counts on, as 24 for another "
        "machine's GPU. [default: what is free here]",
    ),
    resume_option,
    click.option(
        "--transfer",
        metavar="PKL|STATE",
        help="Start anew from the weights of a network or of a training-state-*.pt.",
    ),
    logging_options,
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
