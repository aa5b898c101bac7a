"""Options of measuring, for every command that measures; they cost no torch."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import click

Command = TypeVar("Command", bound=Callable[..., object])


def measuring_options(*, num: int, required: bool) -> Callable[[Command], Command]:
    """Add --reference, --features and --num, of which `num` is the default."""
    options = (
        click.option(
            "--reference",
            metavar="NPZ|ZIP|DIR",
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

    def add(command: Command) -> Command:
        for option in reversed(options):
            command = option(command)
        return command

    return add
