"""Time every operation's kernel beside its definition in torch, shape by shape, in one run.

    python -m benchmarks.ops [--device cpu|cuda] [--size small|full] [--repeats 3] [--json FILE]

Shapes are those of the CIFAR-10 generator (four images) and of a 256 x 256 generator (one). On
CUDA the definition through torch.compile is timed as well. All are timed in turn and ratios are
of the least times, so that a busy machine slows every side. "of copy" is the rate at which the
forward pass moves what it must read and write once, as a share of what a copy moves in the same
run; convolutions are bound by arithmetic, where it says little.
"""

from __future__ import annotations

import functools
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
import torch

import stylegan_ops as ops
from benchmarks import machine

COPY_NUMBERS = 1 << 25  # 128 MiB: beyond every cache
TAPS = ops.setup_filter([1, 3, 3, 1])
LONG_TAPS = ops.setup_filter([1, 2, 4, 7, 9, 10, 10, 9, 7, 4, 2, 1], separable=True)


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

    def on(self, device: str, impl: str) -> Callable[..., torch.Tensor]:
        """Return the operation by one implementation, its filters on the device."""
        moved = {
            name: value.to(device) if isinstance(value, torch.Tensor) else value
            for name, value in self.arguments.items()
        }
        return functools.partial(self.op, **moved, impl=impl)


def cases(size: str, device: str) -> list[Case]:
    """Return what is timed; "small" only shows that everything runs."""
    full, last = size == "full", torch.channels_last
    images = [(4, 512, 32), (1, 128, 256)] if full else [(2, 4, 8)]
    bend = {"act": "lrelu", "clamp": 256.0}
    double = {"f": TAPS, "up": 2, "padding": [2, 1, 2, 1]}
    twice = {"up": 2, "padding": 1, "resample_filter": TAPS, "flip_weight": False}
    wide = {"fu": LONG_TAPS, "fd": LONG_TAPS, "up": 2, "down": 2, "padding": 11}
    found = []
    for n, c, r in images:
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
        ]
        if device == "cpu":
            found.append(Case("conv3x3", ops.conv3x3, [x, w], {}, last))
    return found


def filtered_lrelu(x: torch.Tensor, b: torch.Tensor, **arguments: Any) -> torch.Tensor:
    """Call the operation with the bias as second input."""
    return ops.filtered_lrelu(x, b=b, **arguments)


def seconds(function: Callable[[], object], device: str) -> float:
    """Call once and return how long it took, a GPU's work included."""
    wait = torch.cuda.synchronize if device == "cuda" else lambda: None
    wait()
    start = time.perf_counter()
    function()
    wait()
    return time.perf_counter() - start


def passes(op: Callable[..., torch.Tensor], inputs: list[torch.Tensor]) -> dict[str, Any]:
    """Return what is timed of one way: forward alone, and forward with backward."""

    def forward() -> torch.Tensor:
        with torch.no_grad():
            return op(*inputs)

    def forward_backward() -> Any:
        y = op(*inputs)
        return torch.autograd.grad(y, inputs, torch.ones_like(y))

    return {"forward": forward, "forward + backward": forward_backward}


def measure(case: Case, *, device: str, repeats: int) -> dict[str, Any]:
    """Return the least times in seconds of every way and pass, and of a copy, and bytes moved."""
    inputs = case.inputs(device)
    ways = {"kernel": case.on(device, device), "reference": case.on(device, "reference")}
    if device == "cuda":
        ways["compiled"] = torch.compile(ways["reference"])
    timed = {way: passes(op, inputs) for way, op in ways.items()}
    source, target = torch.ones(2, COPY_NUMBERS, device=device)
    times: dict[str, dict[str, list[float]]] = {way: {} for way in ways}
    copies = []
    for repeat in range(repeats + 1):
        for way, one in timed.items():
            for what, function in one.items():
                taken = seconds(function, device)
                if repeat:  # the first calls compile and warm up
                    times[way].setdefault(what, []).append(taken)
        copies.append(seconds(lambda: target.copy_(source), device))
    y = timed["kernel"]["forward"]()
    wanted = timed["reference"]["forward"]()
    return {
        "name": case.name,
        "shape": list(case.shapes[0]),
        "difference": float((y - wanted).abs().max()),
        "bytes": sum(x.nbytes for x in (*inputs, y)),
        "copy_bytes_per_second": 2 * source.nbytes / min(copies),
        "seconds": {way: {what: min(t) for what, t in one.items()} for way, one in times.items()},
    }


def table(results: list[dict[str, Any]], about: dict[str, Any]) -> str:
    """Return the results as text; ratios above 1 are faster than the other way."""
    lines = [machine.headline(about), ""]
    others = [way for way in results[0]["seconds"] if way != "kernel"]
    heads = "".join(f"{'to ' + way:>14}" for way in others)
    lines.append(
        f"{'operation':26}{'input':18}{'pass':20}{'ms':>9}{heads}{'of copy':>9}{'off by':>9}"
    )
    for found in results:
        kernel = found["seconds"]["kernel"]
        for what, taken in kernel.items():
            ratios = "".join(f"{found['seconds'][way][what] / taken:13.2f}x" for way in others)
            share = found["bytes"] / taken / found["copy_bytes_per_second"]
            tail = f"{share:9.0%}{found['difference']:9.0e}" if what == "forward" else ""
            shape = "x".join(map(str, found["shape"]))
            lines.append(f"{found['name']:26}{shape:18}{what:20}{1000 * taken:9.2f}{ratios}{tail}")
    return "\n".join(lines)


@click.command()
@click.option("--device", type=click.Choice(["cpu", "cuda"]), default="cpu", show_default=True)
@click.option("--size", type=click.Choice(["small", "full"]), default="full", show_default=True)
@click.option("--repeats", metavar="INT", type=click.IntRange(min=1), default=3, show_default=True)
@click.option("--threads", metavar="INT", type=click.IntRange(min=1), help="Default: torch's own.")
@click.option("--json", "json_file", metavar="FILE", type=click.Path(path_type=Path))
def main(device: str, size: str, repeats: int, threads: int | None, json_file: Path | None) -> None:
    """Time every operation in float32."""
    if threads is not None:
        torch.set_num_threads(threads)
    if device == "cuda" and not torch.cuda.is_available():
        raise click.UsageError("there is no CUDA device here; use --device cpu")
    found = [measure(case, device=device, repeats=repeats) for case in cases(size, device)]
    about = machine.describe()
    click.echo(table(found, about))
    if json_file is not None:
        machine.write_json(json_file, {"machine": about, "operations": found})


if __name__ == "__main__":
    main()
