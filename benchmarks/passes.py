"""Forward and backward passes: operations beside their definitions, networks beside the originals.

    python -m benchmarks.passes ops [--size full|small] [--repeats 3]
    python -m benchmarks.passes generator [--official DIR] [--resolution 32] [--batch 4]
    python -m benchmarks.passes denoiser [--official DIR] [--teacher PKL] [--batch 8]
    python -m benchmarks.passes adm [--official DIR] [--resolution 256] [--width 128] [--batch 1]

`ops` times every operation's kernel beside its definition in torch, in float32, at the shapes of
the CIFAR-10 generator (four images) and of a 256 x 256 generator (one). "of copy" is the rate at
which the forward pass moves what it must read and write once, as a share of what a copy moves in
the same run; convolutions are bound by arithmetic, where it says little. With `--device cuda`,
where the definitions run, torch.compile takes the kernel's place.

DIR is a checkout of stylegan2-ada-pytorch, of NVlabs/edm, or for `adm`, the network of FFHQ's
published 256-pixel teachers, of guided-diffusion; without it ours are timed alone. Both sides hold
the same weights, are in evaluation mode, and how far their outputs lie apart is shown.

All are timed in turn and ratios are of the least times, so that a busy machine slows every side.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
import torch

import stylegan_ops as ops
import teachers
from benchmarks import machine
from benchmarks.published import (
    adm_network,
    cifar_student,
    cifar_teacher,
    official_adm,
    official_network,
)
from stylegan_ops.kernels.choice import available

COPY_NUMBERS = 1 << 25  # 128 MiB: beyond every cache
TAPS = ops.setup_filter([1, 3, 3, 1])
LONG_TAPS = ops.setup_filter([1, 2, 4, 7, 9, 10, 10, 9, 7, 4, 2, 1], separable=True)
LAYOUTS = {"ours": torch.contiguous_format, "ours, channels last": torch.channels_last}
Passes = dict[str, Callable[[], Any]]


@dataclass(frozen=True)
class Case:
    """An operation, its inputs' shapes, the image first, and the arguments that are not drawn."""

    name: str
    op: Callable[..., torch.Tensor]
    shapes: Sequence[Sequence[int]]
    arguments: dict[str, Any]
    layout: torch.memory_format = torch.contiguous_format

    def inputs(self, device: str) -> list[torch.Tensor]:
        """Return normal values of variance one, weights over the root of their fan-in."""
        drawn = [torch.randn(*shape, device=device) for shape in self.shapes]
        drawn = [x / x[0].numel() ** 0.5 if x.shape[2:] == (3, 3) else x for x in drawn]
        drawn[0] = drawn[0].to(memory_format=self.layout)
        return [x.requires_grad_() for x in drawn]

    def ways(self, device: str) -> dict[str, Callable[..., torch.Tensor]]:
        """Return the operation by its kernel, or compiled, and by its definition."""
        moved = {
            name: value.to(device) if isinstance(value, torch.Tensor) else value
            for name, value in self.arguments.items()
        }
        definition = functools.partial(self.op, **moved, impl="reference")
        if device == "cuda":
            return {"compiled": torch.compile(definition), "reference": definition}
        return {"kernel": functools.partial(self.op, **moved, impl="cpu"), "reference": definition}


def cases(size: str) -> list[Case]:
    """Return what is timed; "small" only shows that everything runs."""
    last = torch.channels_last
    bend = {"act": "lrelu", "clamp": 256.0}
    double = {"f": TAPS, "up": 2, "padding": [2, 1, 2, 1]}
    twice = {"up": 2, "padding": 1, "resample_filter": TAPS, "flip_weight": False}
    wide = {"fu": LONG_TAPS, "fd": LONG_TAPS, "up": 2, "down": 2, "padding": 11}
    found = []
    for n, c, r in [(4, 512, 32), (1, 128, 256)] if size == "full" else [(2, 4, 8)]:
        x, b, w, s = (n, c, r, r), (c,), (c, c, 3, 3), (n, c)
        half = (n, c, r // 2, r // 2)
        found += [
            Case("bias_act", ops.bias_act, [x, b], bend),
            Case("bias_act, channels last", ops.bias_act, [x, b], bend, last),
            Case("upfirdn2d up", ops.upfirdn2d, [half], double),
            Case("upfirdn2d down", ops.upfirdn2d, [x], {"f": TAPS, "down": 2, "padding": 1}),
            Case("filtered_lrelu", filtered_lrelu, [x, b], wide),
            Case("modulated_conv2d", ops.modulated_conv2d, [x, w, s], {"padding": 1}, last),
            Case("modulated_conv2d up", ops.modulated_conv2d, [half, w, s], twice, last),
            Case("conv3x3", ops.conv3x3, [x, w], {}, last),
        ]
    return found


def filtered_lrelu(x: torch.Tensor, b: torch.Tensor, **arguments: Any) -> torch.Tensor:
    """Call the operation with the bias as second input."""
    return ops.filtered_lrelu(x, b=b, **arguments)


def passes(call: Callable[[], torch.Tensor], leaves: Sequence[torch.Tensor]) -> Passes:
    """Return what is timed of one way: forward alone, and forward with the leaves' gradients."""

    def forward_backward() -> None:
        y = call()
        torch.autograd.grad(y, leaves, torch.ones_like(y), allow_unused=True)

    return {"forward": torch.no_grad()(call), "forward + backward": forward_backward}


def compare(
    ways: Mapping[str, Passes],
    repeats: int,
    before: Callable[[str], object] = lambda way: None,
) -> dict[str, Any]:
    """Return the spread of seconds of every way and pass, and how far the outputs lie apart.

    Args:
        ways: what is timed, by name.
        repeats: rounds after one that warms up.
        before: called with a way's name before it is timed.
    """
    times: dict[str, dict[str, list[float]]] = {way: {} for way in ways}
    for repeat in range(repeats + 1):
        for way, of_way in ways.items():
            before(way)
            for what, function in of_way.items():
                taken = machine.seconds(function)
                if repeat:
                    times[way].setdefault(what, []).append(taken)
    outputs = []
    for way, of_way in ways.items():
        before(way)
        outputs.append(of_way["forward"]())
    return {
        "difference": max(float((y - outputs[0]).abs().max()) for y in outputs),
        "seconds": {
            way: {what: machine.spread(taken) for what, taken in of_way.items()}
            for way, of_way in times.items()
        },
    }


def measure_op(case: Case, *, device: str, repeats: int) -> dict[str, Any]:
    """Return the times of an operation and of a copy in the same run, and bytes moved."""
    inputs = case.inputs(device)
    ways = {
        way: passes(functools.partial(op, *inputs), inputs) for way, op in case.ways(device).items()
    }
    source, target = torch.ones(2, COPY_NUMBERS, device=device)
    found = compare(ways, repeats)
    copies = machine.in_turn({"copy": lambda: target.copy_(source)}, repeats)["copy"]
    y = ways["reference"]["forward"]()
    return {
        "name": case.name,
        "shape": list(case.shapes[0]),
        "bytes": sum(x.nbytes for x in (*inputs, y)),
        "copy_bytes_per_second": 2 * source.nbytes / min(copies),
        **found,
    }


def ops_table(results: Sequence[Mapping[str, Any]]) -> str:
    """Return the results as text; a ratio above 1 is faster than the definition."""
    lines = [
        f"{'operation':26}{'input':18}{'pass':20}{'ms':>9}{'ratio':>9}{'of copy':>9}{'off by':>9}"
    ]
    for found in results:
        (_, ours), (_, definition) = found["seconds"].items()
        for what, taken in ours.items():
            least = taken["min"]
            share = found["bytes"] / least / found["copy_bytes_per_second"]
            tail = f"{share:9.0%}{found['difference']:9.0e}" if what == "forward" else ""
            shape = "x".join(map(str, found["shape"]))
            ratio = definition[what]["min"] / least
            lines.append(
                f"{found['name']:26}{shape:18}{what:20}{1000 * least:9.2f}{ratio:8.2f}x{tail}"
            )
    return "\n".join(lines)


def networks_table(found: Mapping[str, Any]) -> str:
    """Return a network's times as text; a ratio below 1 is faster than the original."""
    lines = [f"outputs differ by at most {found['difference']:.1e}"]
    original = found["seconds"].get("original")
    for way, of_way in found["seconds"].items():
        for what, times in of_way.items():
            ratio = (
                "" if original is None else f"{times['min'] / original[what]['min']:6.2f} of its"
            )
            columns = " ".join(f"{1000 * times[key]:9.1f}" for key in ("median", "min", "max"))
            lines.append(f"{way:20} {what:18} {columns} ms {ratio}".rstrip())
    return "\n".join(lines)


@click.group()
def main() -> None:
    """Time forward and backward passes."""


@main.command("ops")
@click.option("--device", type=click.Choice(["cpu", "cuda"]), default="cpu", show_default=True)
@click.option("--size", type=click.Choice(["small", "full"]), default="full", show_default=True)
@machine.number_option("--repeats", 3)
@machine.threads_option
@machine.json_option
def time_ops(device: str, size: str, repeats: int, json_file: Path | None) -> None:
    """Time every operation in float32."""
    if device == "cuda" and not torch.cuda.is_available():
        raise click.UsageError("there is no CUDA device here; use --device cpu")
    if device == "cpu" and not available():
        raise click.UsageError("there are no kernels without a C++ compiler")
    found = [measure_op(case, device=device, repeats=repeats) for case in cases(size)]
    machine.report(ops_table(found), {"operations": found}, json_file)


@main.command()
@machine.official_option(of="stylegan2-ada-pytorch")
@machine.number_option("--resolution", 32, least=4)
@click.option("--width", type=float, default=1.0, show_default=True, help="1 is 512 channels.")
@machine.number_option("--batch", 4)
@machine.number_option("--repeats", 5)
@machine.threads_option
@machine.json_option
def generator(
    official: Path | None,
    resolution: int,
    width: float,
    batch: int,
    repeats: int,
    json_file: Path | None,
) -> None:
    """Time a StyleGAN2 generator on the CPU in float32."""
    ours: Any = cifar_student(width, resolution)
    networks = {"ours": ours}
    if official is not None:
        networks["original"] = official_network(official, ours)
    z = torch.randn(batch, ours.z_dim, generator=torch.Generator().manual_seed(0))
    exact = {"noise_mode": "const", "force_fp32": True}
    ways = {}
    for name, network in networks.items():
        call = functools.partial(network.requires_grad_(True), z, None, **exact)
        ways[name] = passes(call, list(network.parameters()))
    found = compare(ways, repeats)
    machine.report(networks_table(found), {"batch": batch, **found}, json_file)


@main.command()
@machine.official_option(of="NVlabs/edm")
@click.option("--teacher", metavar="PKL", type=machine.FILE, help="Default: random weights.")
@click.option("--width", type=float, default=1.0, show_default=True, help="1 is 55.7 M weights.")
@machine.number_option("--batch", 8)
@machine.number_option("--repeats", 5)
@machine.threads_option
@machine.json_option
def denoiser(
    official: Path | None,
    teacher: Path | None,
    width: float,
    batch: int,
    repeats: int,
    json_file: Path | None,
) -> None:
    """Time a denoiser on the CPU in float32."""
    try:
        ours: Any = cifar_teacher(width) if teacher is None else teachers.load(teacher)
    except (OSError, ValueError) as error:
        raise click.UsageError(str(error)) from error
    r, k = ours.img_resolution, ours.label_dim
    x, sigma = torch.randn(batch, ours.img_channels, r, r), torch.full([batch], 0.7)
    labels = torch.eye(k)[torch.arange(batch) % k] if k else None
    networks: dict[str, Any] = dict.fromkeys(LAYOUTS, ours)
    if official is not None:
        networks["original"] = official_network(official, ours)
    ways = {}
    for name, network in networks.items():
        call = functools.partial(network.requires_grad_(True), x, sigma, labels)
        ways[name] = passes(call, list(network.parameters()))

    def lay_out(way: str) -> None:
        if way in LAYOUTS:
            ours.to(memory_format=LAYOUTS[way])

    found = compare(ways, repeats, lay_out)
    machine.report(networks_table(found), {"batch": batch, **found}, json_file)


@main.command()
@machine.official_option(of="guided-diffusion")
@machine.number_option("--resolution", 256)
@machine.number_option("--width", 128)
@machine.number_option("--batch", 1)
@machine.number_option("--repeats", 5)
@machine.threads_option
@machine.json_option
def adm(
    official: Path | None,
    resolution: int,
    width: int,
    batch: int,
    repeats: int,
    json_file: Path | None,
) -> None:
    """Time the forward pass of a network of the guided-diffusion layout on the CPU in float32."""
    ours = adm_network(width)
    networks: dict[str, Any] = {"ours": ours}
    if official is not None:
        networks["original"] = official_adm(official, ours, width)
    x, t = torch.randn(batch, 3, resolution, resolution), torch.full([batch], 300.0)
    # No gradient is asked for, as of a teacher.
    ways = {name: {"forward": functools.partial(net, x, t)} for name, net in networks.items()}
    found = compare(ways, repeats)
    machine.report(networks_table(found), {"batch": batch, **found}, json_file)


if __name__ == "__main__":
    main()
