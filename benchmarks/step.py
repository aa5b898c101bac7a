"""Time our Diff-Instruct step against the official loop's, in one run, in turn.

    python -m benchmarks.step [--student edm|stylegan2] [--official DIR] [--official-gan DIR]
                              [--channels-last] [--share-pass] [--device cpu|cuda]
                              [--precision fp32|tf32|bf16] [--compile] [--cuda-graphs]

--official is a checkout of the official Diff-Instruct repository: its networks and loss are then
the other side. Without it that side is the published recipe with our networks. Its repository has
no GAN; for --student stylegan2, --official-gan is a checkout of stylegan2-ada-pytorch, whose
generator takes that place. Both sides have the same weights, batch and settings, and each makes
one update of the auxiliary and one of the student.

The published loop makes a second batch of images for the student's update, and computes the
auxiliary's and the teacher's denoising for it; ours uses one batch for both. Dropout is the
official networks' own; the published loop computes in float32 without TF32, as its code does. The
other flags are our program's. --channels-last changes the order in memory alone; --share-pass lets
one pass of our auxiliary serve both updates, which is not the same step any more
(refiners/training/shared_pass.py).

"of mm" is the work of a step (a multiplication and an addition are two) over its least time, as a
share of the speed of a large matrix product in our precision, taken in the same rounds.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import click
import torch
from refiners.runs.speed import matmul_peak

from benchmarks import machine, networks
from benchmarks.published import (
    PlainLoss,
    PublishedLoop,
    official_denoiser,
    official_generator,
    published_settings,
    without_cuda_streams,
)
from refiners import Refinement
from refiners.diff_instruct import DiffInstruct
from refiners.training.precision import check_device, tensor_cores
from refiners.training.settings import PRECISIONS
from roles.device import pick_device
from students.adapters.one_step import OneStep

INIT_SIGMA = 1.0
STUDENTS = ("edm", "stylegan2")


def from_latents(student: Any, batch: int) -> torch.Tensor:
    """Return images of a GAN."""
    return student(torch.randn([batch, 512], device=device_of(student)), None)


def from_noise(student: Any, batch: int) -> torch.Tensor:
    """Return images of a denoiser at one level of noise."""
    z = INIT_SIGMA * torch.randn([batch, 3, 32, 32], device=device_of(student))
    return student(z, torch.full([batch], INIT_SIGMA, device=z.device), None)


def device_of(network: Any) -> torch.device:
    """Return where a network's weights are."""
    return next(network.parameters()).device


def published(
    kind: str, batch: int, device: str, official: Path | None, official_gan: Path | None
) -> Any:
    """Build the other side."""
    torch.manual_seed(0)
    teacher: Any = networks.cifar_teacher()
    loss: Any = PlainLoss()
    student: Any = copy.deepcopy(teacher) if kind == "edm" else networks.cifar_student()
    if official is not None:
        teacher, loss = official_denoiser(official, teacher)
        student = copy.deepcopy(teacher) if kind == "edm" else student
    if kind == "stylegan2" and official_gan is not None:
        student = official_generator(official_gan, student)
    student, teacher = student.to(device), teacher.to(device)
    generate = from_noise if kind == "edm" else from_latents
    return PublishedLoop(student, generate, teacher, loss, batch=batch)


def ours(kind: str, batch: int, device: str, flags: Mapping[str, Any]) -> Any:
    """Build our side, with the published settings and our own flags."""
    torch.manual_seed(0)
    teacher = networks.cifar_teacher()
    student: Any = networks.cifar_student()
    if kind == "edm":
        student = OneStep(copy.deepcopy(teacher), sigma_init=INIT_SIGMA)
    settings = published_settings(batch=batch, **flags)
    return Refinement(student.to(device), teacher.to(device), DiffInstruct(), settings)


def peak_of_two_steps(build: Callable[..., Any], *arguments: Any) -> float:
    """Return what this process held at most when it has built one side and made two steps."""
    side = build(*arguments)
    with without_cuda_streams():
        side.advance()
        side.advance()
    return machine.peak_megabytes()


def measure(
    kind: str,
    *,
    batch: int,
    repeats: int,
    device: str,
    official: Path | None,
    official_gan: Path | None,
    flags: Mapping[str, Any],
) -> dict[str, Any]:
    """Return seconds of a step of each side, taken in turn, their work, and memory."""
    other = (kind, batch, device, official, official_gan)
    theirs, mine = published(*other), ours(kind, batch, device, flags)
    timed = {"published": theirs.advance, "ours": mine.advance}
    times: dict[str, list[float]] = {name: [] for name in timed}
    speeds = []
    with without_cuda_streams(), tensor_cores("fp32", torch.device(device)):
        # Compiled code hides its products; the work is the same without.
        plain = ours(kind, batch, device, {**flags, "compile": False, "cuda_graphs": False})
        flop = {
            "published": machine.count_flop(theirs.advance),
            "ours": machine.count_flop(plain.advance),
        }
        del plain
        for repeat in range(repeats + 1):
            for name, function in timed.items():
                seconds = machine.seconds(function)
                if repeat:  # the first warms up
                    times[name].append(seconds)
            speeds.append(matmul_peak(torch.device(device), flags["precision"]))
    ratios = [a / b for a, b in zip(times["published"], times["ours"], strict=True)]
    threads = torch.get_num_threads()
    del theirs, mine
    return {
        "machine": machine.describe(),
        "student": kind,
        "batch": batch,
        "repeats": repeats,
        "device": device,
        "flags": dict(flags),
        "networks": {"denoiser": _named(official), "generator": _named(official_gan)},
        "seconds": {name: machine.spread(of) for name, of in times.items()},
        "ratio": machine.spread(ratios),
        "matmul_gflops": max(speeds) / 1e9,
        "share_of_matmul_speed": {
            name: flop[name] / min(times[name]) / max(speeds) for name in flop
        },
        "peak_mb": {
            "published": machine.in_own_process(
                peak_of_two_steps, published, *other, threads=threads
            ),
            "ours": machine.in_own_process(
                peak_of_two_steps, ours, kind, batch, device, flags, threads=threads
            ),
        },
    }


def told(flags: Mapping[str, Any]) -> list[str]:
    """Return the flags that are not at their defaults, as text."""
    return [
        name if given is True else str(given)
        for name, given in flags.items()
        if given not in (False, "fp32")
    ]


def _named(folder: Path | None) -> str:
    return "ours" if folder is None else "official"


def table(result: dict[str, Any]) -> str:
    """Return the result as text."""
    batch, lines = result["batch"], []
    for side in ("published", "ours"):
        spread = result["seconds"][side]
        lines.append(
            f"{side:10} {spread['median']:8.2f} {spread['min']:8.2f} {spread['max']:8.2f} "
            f"{batch / spread['median']:9.3f} {result['peak_mb'][side]:9.0f} "
            f"{100 * result['share_of_matmul_speed'][side]:5.0f} %"
        )
    used, ratio = result["networks"], result["ratio"]
    return "\n".join(
        [
            machine.headline(result["machine"]),
            f"student {result['student']}, batch {batch}, {result['repeats']} repeats in turn; "
            f"the published loop has the {used['denoiser']} denoiser"
            + ("" if result["student"] == "edm" else f" and the {used['generator']} generator")
            + "".join(f"; ours with {flag}" for flag in told(result["flags"])),
            "",
            f"{'step':10} {'s':>8} {'min':>8} {'max':>8} {'images/s':>9} {'peak MB':>9} "
            f"{'of mm':>7}",
            *lines,
            "",
            f"Ours is {ratio['median']:.2f} times as fast by the median of the pairs "
            f"({ratio['min']:.2f} to {ratio['max']:.2f}); a matrix product does "
            f"{result['matmul_gflops']:.0f} GFLOP/s.",
        ]
    )


@click.command()
@click.option("--student", type=click.Choice(STUDENTS), default="edm", show_default=True)
@click.option("--official", metavar="DIR", type=click.Path(path_type=Path, exists=True))
@click.option("--official-gan", metavar="DIR", type=click.Path(path_type=Path, exists=True))
@click.option("--channels-last", is_flag=True, help="Keep our denoisers' weights channels last.")
@click.option(
    "--share-pass", is_flag=True, help="Let one pass of the auxiliary serve both updates."
)
@click.option("--device", type=click.Choice(["cpu", "cuda"]), default="cpu", show_default=True)
@click.option("--precision", type=click.Choice(PRECISIONS), default="fp32", show_default=True)
@click.option("--compile", is_flag=True, help="Compile our networks.")
@click.option("--cuda-graphs", is_flag=True, help="Record them as CUDA graphs too.")
@click.option("--batch", metavar="INT", type=click.IntRange(min=1), default=4, show_default=True)
@click.option("--repeats", metavar="INT", type=click.IntRange(min=1), default=5, show_default=True)
@click.option("--threads", metavar="INT", type=click.IntRange(min=1), help="Default: torch's own.")
@click.option("--json", "json_file", metavar="FILE", type=click.Path(path_type=Path))
def main(
    student: str,
    official: Path | None,
    official_gan: Path | None,
    channels_last: bool,
    share_pass: bool,
    device: str,
    precision: str,
    compile: bool,
    cuda_graphs: bool,
    batch: int,
    repeats: int,
    threads: int | None,
    json_file: Path | None,
) -> None:
    """Time our Diff-Instruct step against the published loop on networks of CIFAR-10's size."""
    if threads is not None:
        torch.set_num_threads(threads)
    flags = {
        "channels_last": channels_last,
        "share_pass": share_pass,
        "precision": precision,
        "compile": compile,
        "cuda_graphs": cuda_graphs,
    }
    try:
        check_device(published_settings(batch=batch, **flags), torch.device(pick_device(device)))
    except ValueError as error:
        raise click.UsageError(str(error)) from error
    result = measure(
        student,
        batch=batch,
        repeats=repeats,
        device=device,
        official=official,
        official_gan=official_gan,
        flags=flags,
    )
    click.echo(table(result))
    if json_file is not None:
        machine.write_json(json_file, result)


if __name__ == "__main__":
    main()
