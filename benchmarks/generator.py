"""A StyleGAN2 generator's forward and forward + backward, as ratios to the original networks'.

    python -m benchmarks.generator --official DIR [--size 32] [--batch 4] [--repeats 5]

DIR is a checkout of the original PyTorch code (StyleGAN2-ADA), which this only runs. The two hold
the same weights and are timed alternately (ours, original, ours, ...), so that whatever else the
machine does touches both. Forward runs in evaluation mode, forward + backward in training mode, as
each code base generates and trains; both in float32.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import torch

from benchmarks import machine
from students.stylegan2.generator import Generator


def options(size: int) -> dict[str, Any]:
    """Return the constructor call of a generator 512 channels wide, at size x size pixels."""
    return {
        "z_dim": 512,
        "c_dim": 0,
        "w_dim": 512,
        "img_resolution": size,
        "img_channels": 3,
        "mapping_kwargs": {"num_layers": 2 if size == 32 else 8},
        "synthesis_kwargs": {"channel_base": 32768, "channel_max": 512, "conv_clamp": 256},
    }


def load_original(folder: Path, size: int) -> torch.nn.Module:
    """Return the original generator with random weights from a checkout in folder."""
    if not (folder / "training" / "networks.py").exists():
        raise click.BadParameter(f"{folder} holds no training/networks.py", param_hint="--official")
    sys.path.insert(0, str(folder))
    return importlib.import_module("training.networks").Generator(**options(size))


def forward(generator: torch.nn.Module, z: torch.Tensor) -> Callable[[], None]:
    """Return a function that makes the images of z."""

    def run() -> None:
        with torch.no_grad():
            generator.eval()(z, None, noise_mode="const", force_fp32=True)

    return run


def forward_backward(generator: torch.nn.Module, z: torch.Tensor) -> Callable[[], None]:
    """Return a function that makes the images of z and every parameter's gradient."""

    def run() -> None:
        images = generator.train()(z, None, noise_mode="const", force_fp32=True)
        images.square().mean().backward()
        generator.zero_grad(set_to_none=True)

    return run


def compare(folder: Path, *, size: int, batch: int, repeats: int) -> dict[str, Any]:
    """Return medians in seconds and the ratio of the original's to ours, and how far they agree."""
    original, ours = load_original(folder, size), Generator(**options(size))
    ours.load_state_dict(original.state_dict())
    z = torch.randn(batch, 512, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        images = [net.eval()(z, None, noise_mode="const") for net in (ours, original)]
    found: dict[str, Any] = {
        "size": size,
        "batch": batch,
        "largest_difference": float((images[0] - images[1]).abs().max()),
    }
    for name, step in (("forward", forward), ("forward_backward", forward_backward)):
        ways = {"ours": step(ours, z), "original": step(original, z)}
        times: dict[str, list[float]] = {way: [] for way in ways}
        for run in ways.values():
            run()
        for _ in range(repeats):
            for way, run in ways.items():
                times[way].append(machine.seconds(run))
        spreads: dict[str, Any] = {way: machine.spread(taken) for way, taken in times.items()}
        ratio = spreads["original"]["median"] / spreads["ours"]["median"]
        found[name] = {**spreads, "times_faster": ratio}
    return found


@click.command()
@click.option(
    "--official",
    metavar="DIR",
    required=True,
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    help="A checkout of the original code.",
)
@click.option("--size", type=click.Choice(["32", "256"]), default="32", show_default=True)
@click.option("--batch", metavar="INT", type=click.IntRange(min=1), default=4, show_default=True)
@click.option("--repeats", metavar="INT", type=click.IntRange(min=1), default=5, show_default=True)
@click.option("--threads", metavar="INT", type=click.IntRange(min=1), help="Default: torch's own.")
def main(official: Path, size: str, batch: int, repeats: int, threads: int | None) -> None:
    """Time ours against the original networks on this machine's CPU."""
    if threads is not None:
        torch.set_num_threads(threads)
    found = compare(official, size=int(size), batch=batch, repeats=repeats)
    print(f"{size} x {size}, batch {batch}, torch {torch.__version__}, {repeats} rounds")
    print(f"largest difference of a pixel: {found['largest_difference']:.1e}")
    for name in ("forward", "forward_backward"):
        row = found[name]
        print(
            f"{name:17} ours {row['ours']['median']:.3f} s, original "
            f"{row['original']['median']:.3f} s: {row['times_faster']:.2f} times faster"
        )


if __name__ == "__main__":
    main()
