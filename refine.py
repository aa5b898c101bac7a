#!/usr/bin/env python3
"""Make a pretrained StyleGAN generator better: the command line."""

from __future__ import annotations

import os
import sys
from typing import Any

import click

from refine_commands.dataset import dataset
from refine_commands.demo import demo
from refine_commands.distill import distill
from refine_commands.doctor import doctor
from refine_commands.export import export
from refine_commands.gan import gan
from refine_commands.generate import generate
from refine_commands.inspect import inspect
from refine_commands.report import report


class OneLineErrors(click.Group):
    """Bad input ends with one line and exit code 2, a run that failed with one and 1."""

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command."""
        try:
            return super().invoke(ctx)
        except (FloatingPointError, MemoryError, ConnectionError) as error:
            print(f"Error: {' '.join(str(error).split())}", file=sys.stderr)
            ctx.exit(1)
        except (ValueError, OSError) as error:
            # Processes that torchrun started on one machine find the same; one of them says it.
            if os.environ.get("LOCAL_RANK", "0") == "0":
                print(f"Error: {' '.join(str(error).split())}", file=sys.stderr)
            ctx.exit(2)


@click.group(cls=OneLineErrors, context_settings={"max_content_width": 110})
def main() -> None:
    """Make a pretrained StyleGAN generator better by following a diffusion model."""


for command in (gan, distill, report, dataset, export, generate, inspect, doctor, demo):
    main.add_command(command)


if __name__ == "__main__":
    main()
