#!/usr/bin/env python3
"""Make a pretrained StyleGAN generator better: the command line."""

from __future__ import annotations

import copy
import errno
import io
import os
import sys
import warnings
from typing import Any, TextIO

import click

from refine_commands.blend import blend
from refine_commands.dataset import dataset
from refine_commands.demo import demo
from refine_commands.distill import distill
from refine_commands.doctor import doctor
from refine_commands.export import export
from refine_commands.gan import gan
from refine_commands.generate import generate
from refine_commands.inspect import inspect
from refine_commands.report import report
from refine_commands.teach import teach
from refine_commands.teachers import teachers_command
from refiners.runs.endings import RunFailed
from refiners.runs.provenance import software

FAILED, BAD_INPUT, WRECKED, INTERRUPTED = 1, 2, 3, 130

# What a machine ran out of or denies is no fault of the input, wherever it happens.
MACHINE_ERRORS = {getattr(errno, name, errno.ENOSPC) for name in ("ENOSPC", "EDQUOT", "EIO")}
MACHINE_ERRORS |= {errno.ENOMEM, errno.EMFILE, errno.ENFILE}


def exit_code(error: BaseException) -> int | None:
    """Return the exit code that an error ends a command with; None is none of ours.

    A run that succeeded exits 0, also where the original is kept; one that SIGTERM ended exits 143,
    which refiners/runs/interrupts.py raises.
    """
    if isinstance(error, KeyboardInterrupt):
        return INTERRUPTED
    if isinstance(error, FloatingPointError):
        return WRECKED
    if isinstance(error, (MemoryError, ConnectionError, RunFailed)):
        return FAILED
    if isinstance(error, OSError):
        return FAILED if error.errno in MACHINE_ERRORS else BAD_INPUT
    return BAD_INPUT if isinstance(error, ValueError) else None


class OneLineErrors(click.Group):
    """Ends with one line and an exit code where a command cannot do what was asked."""

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Give a command; installed as `refine`, its help starts the module, not a file."""
        command = super().get_command(ctx, cmd_name)
        if command is None or ctx.info_name != "refine":
            return command
        shown = copy.copy(command)
        shown.help = (command.help or "").replace("-- refine.py", "-m refine")
        return shown

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command."""
        say_anything(sys.stdout, sys.stderr)
        format_before, warnings.formatwarning = warnings.formatwarning, as_note
        try:
            result = super().invoke(ctx)
            sys.stdout.flush()
            return result
        except BrokenPipeError:
            # Who read the output, as `| head`, has enough; the exit must not flush into it again.
            sys.stdout = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115
            ctx.exit(0)
        except (Exception, KeyboardInterrupt) as error:
            code = exit_code(error)
            if code is None:
                raise
            # Processes that torchrun started on one machine find the same; one of them says it.
            if code in (FAILED, INTERRUPTED) or os.environ.get("LOCAL_RANK", "0") == "0":
                print(in_one_line(error), file=sys.stderr)
            ctx.exit(code)
        finally:
            warnings.formatwarning = format_before


def as_note(
    message: Warning | str,
    category: type[Warning],
    filename: str,
    lineno: int,
    line: str | None = None,
) -> str:
    """A warning of ours as one line for a user; those of other packages as Python has them."""
    if category is not UserWarning or "site-packages" in filename:
        where = f"{filename}:{lineno}"
        return f"{where}: {category.__name__}: {message}\n"
    return f"Note: {printable(str(message))}\n"


def in_one_line(error: BaseException) -> str:
    """What an error says, by its type where it says nothing; a file's control characters shown."""
    return f"Error: {printable(str(error)) or f'{type(error).__name__} without a message'}"


def printable(text: str) -> str:
    """A text in one line, with the codes of characters that a terminal would obey."""
    line = " ".join(text.split())
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in line)


def say_anything(*streams: TextIO) -> None:
    """Let a terminal that lacks a character, as of cp1252, show its code and not end the run."""
    for stream in streams:
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def show_version(ctx: click.Context, option: click.Parameter, wanted: bool) -> None:
    """Print the version, and the commit where there is one, and end."""
    if wanted and not ctx.resilient_parsing:
        click.echo(" ".join(["stylegan-refiner", *software().values()]))
        ctx.exit()


@click.group(cls=OneLineErrors, context_settings={"max_content_width": 110})
@click.option(
    "--version",
    is_flag=True,
    is_eager=True,
    expose_value=False,
    callback=show_version,
    help="Show the version, in a git checkout with the commit, and exit.",
)
def main() -> None:
    """Make a pretrained StyleGAN generator better by following a diffusion model."""


for command in (
    gan, distill, teach, report, blend, dataset, export, generate, inspect, teachers_command,
    doctor, demo,
):  # fmt: skip
    main.add_command(command)


if __name__ == "__main__":
    main()
