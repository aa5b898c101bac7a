"""Time a denoiser, forward and forward with backward, beside the original implementation.

    python -m benchmarks.teacher --official DIR [--teacher PKL] [--batch 8] [--repeats 5]

DIR is a checkout of github.com/NVlabs/edm; without it only ours is timed. Both networks get the
tensors of the same file (or of one network with random weights of the published CIFAR-10 size), and
their outputs are compared first. Every repeat times all of them in turn, so that a machine that
slows down slows all; ratios are of the least times.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import torch

import teachers
from benchmarks import machine, networks

LAYOUTS = {"ours": torch.contiguous_format, "ours, channels last": torch.channels_last}


def official_network(folder: Path, ours: Any) -> torch.nn.Module:
    """Build the original's class of the same name with the same call and tensors.

    Raises:
        ValueError: the folder is no checkout of the original.
    """
    if not (folder / "training" / "networks.py").is_file():
        raise ValueError(f"{folder} has no training/networks.py; give a checkout of NVlabs/edm")
    sys.path.insert(0, str(folder))
    try:
        module = importlib.import_module("training.networks")
    finally:
        sys.path.remove(str(folder))
    network = getattr(module, type(ours).__name__)(**ours.init_kwargs)
    network.load_state_dict(ours.state_dict())
    return network.eval()


def passes(
    network: Any, x: torch.Tensor, sigma: torch.Tensor, labels: torch.Tensor | None
) -> dict[str, Callable[[], object]]:
    """Return what is timed of one network: forward alone, and forward with backward."""

    def forward() -> torch.Tensor:
        with torch.no_grad():
            return network(x, sigma, labels)

    def forward_backward() -> None:
        network.zero_grad()
        network(x, sigma, labels).square().mean().backward()

    return {"forward": forward, "forward + backward": forward_backward}


def measure(ours: Any, official: Any, *, batch: int, repeats: int) -> dict[str, Any]:
    """Return times in seconds of each network and pass, and the largest difference of outputs."""
    c, r, k = ours.img_channels, ours.img_resolution, ours.label_dim
    x, sigma = torch.randn(batch, c, r, r), torch.full([batch], 0.7)
    labels = torch.eye(k)[torch.arange(batch) % k] if k else None
    named = {name: ours.requires_grad_(True) for name in LAYOUTS}
    if official is not None:
        named["official"] = official.requires_grad_(True)
    timed = {name: passes(network, x, sigma, labels) for name, network in named.items()}
    times: dict[str, dict[str, list[float]]] = {
        name: {what: [] for what in one} for name, one in timed.items()
    }
    outputs: dict[str, torch.Tensor] = {}
    for repeat in range(repeats + 1):
        for name, one in timed.items():
            if name in LAYOUTS:
                named[name].to(memory_format=LAYOUTS[name])
            for what, function in one.items():
                taken = machine.seconds(function)
                if repeat:  # the first calls warm up
                    times[name][what].append(taken)
            if not repeat:
                outputs[name] = one["forward"]()  # type: ignore[assignment]  # of the two, it returns
    first = next(iter(outputs.values()))
    return {
        "batch": batch,
        "repeats": repeats,
        "parameters": sum(p.numel() for p in ours.parameters()),
        "difference": max(float((y - first).abs().max()) for y in outputs.values()),
        "networks": {
            name: {what: machine.spread(values) for what, values in one.items()}
            for name, one in times.items()
        },
    }


def table(result: dict[str, Any], about: dict[str, Any]) -> str:
    """Return the result as text; a ratio below 1 is faster than the original."""
    lines = [
        machine.headline(about),
        f"{result['parameters'] / 1e6:.1f} M parameters, batch {result['batch']}, "
        f"{result['repeats']} repeats, outputs differ by at most {result['difference']:.1e}",
        "",
        f"{'network':20} {'pass':18} {'ms':>9} {'min':>9} {'max':>9} {'to official':>11}",
    ]
    official = result["networks"].get("official")
    for name, one in result["networks"].items():
        for what, times in one.items():
            ratio = "" if official is None else f"{times['min'] / official[what]['min']:10.2f}x"
            columns = " ".join(f"{1000 * times[key]:9.1f}" for key in ("median", "min", "max"))
            lines.append(f"{name:20} {what:18} {columns} {ratio}".rstrip())
    return "\n".join(lines)


@click.command()
@click.option(
    "--teacher",
    metavar="PKL",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="Default: random weights of the published CIFAR-10 size, 55.7 M parameters.",
)
@click.option(
    "--official",
    metavar="DIR",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    help="A checkout of NVlabs/edm to time beside ours.",
)
@click.option("--batch", metavar="INT", type=click.IntRange(min=1), default=8, show_default=True)
@click.option("--repeats", metavar="INT", type=click.IntRange(min=1), default=5, show_default=True)
@click.option("--threads", metavar="INT", type=click.IntRange(min=1), help="Default: torch's own.")
@click.option("--json", "json_file", metavar="FILE", type=click.Path(path_type=Path))
def main(
    teacher: Path | None,
    official: Path | None,
    batch: int,
    repeats: int,
    threads: int | None,
    json_file: Path | None,
) -> None:
    """Time a denoiser on the CPU in float32."""
    if threads is not None:
        torch.set_num_threads(threads)
    try:
        ours: Any = networks.cifar_teacher() if teacher is None else teachers.load(teacher)
        theirs = None if official is None else official_network(official, ours)
    except (OSError, ValueError) as error:
        raise click.UsageError(str(error)) from error
    result = measure(ours, theirs, batch=batch, repeats=repeats)
    about = machine.describe()
    click.echo(table(result, about))
    if json_file is not None:
        machine.write_json(json_file, {"machine": about, **result})


if __name__ == "__main__":
    main()
