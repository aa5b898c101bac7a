"""Our Diff-Instruct step beside the official loop's: how fast, and how far apart.

    python -m benchmarks.step time [--student edm|stylegan2] [--official DIR] [--official-gan DIR]
                                   [--channels-last] [--share-pass] [--device cpu|cuda]
                                   [--precision fp32|tf32|bf16] [--compile]
    python -m benchmarks.step agreement [--official DIR] [--steps 10] [--seed 0]

--official is a checkout of the official Diff-Instruct repository: its networks and loss are then
the other side. Without it that side is the published recipe with our networks. Its repository has
no GAN; for --student stylegan2, --official-gan is a checkout of stylegan2-ada-pytorch, whose
generator takes that place. Both sides have the same weights, batch and settings, and each makes
one update of the auxiliary and one of the student.

`time`: the published loop makes a second batch of images for the student's update, and computes the
auxiliary's and the teacher's denoising for it; ours uses one batch for both. Dropout is the
official networks' own; the published loop computes in float32 without TF32 and with cuDNN's
benchmark, as its code does. The other flags are our program's. --channels-last changes the order
in memory alone; --share-pass lets one pass of our auxiliary serve both updates, which is not the
same step any more (refiners/training/shared_pass.py). "of mm" is the work of a step (a
multiplication and an addition are two) over its least time, as a share of the speed of a large
matrix product in our precision, taken in the same rounds.

`agreement`: both sides begin with the same small DDPM++ (random weights, no dropout) as teacher,
student and auxiliary, and draw from one random stream; the official loop's second batch of images
is given the noise of its first, as ours makes one. Printed is the error in norm, relative: of all
parameters together, and of the worst tensor.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import click
import torch

from benchmarks import machine
from benchmarks.published import (
    PublishedLoop,
    cifar_student,
    cifar_teacher,
    official_loss,
    official_network,
    published_settings,
    without_cuda_streams,
)
from refiners import Refinement
from refiners.diff_instruct import DiffInstruct
from refiners.training.pieces import seed_of
from refiners.training.precision import arithmetic, check_device
from refiners.training.settings import PRECISIONS
from roles.device import pick_device
from roles.streams import random_stream
from students.adapters.one_step import OneStep
from teachers.edm import EDMPrecond

INIT_SIGMA = 1.0
SMALL_BATCH, SMALL_RATE, SMALL_RESOLUTION = 8, 1e-3, 8


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
    kind: str, width: float, batch: int, device: str, official: Path | None, gan: Path | None
) -> Any:
    """Build the other side."""
    torch.manual_seed(0)
    teacher: Any = cifar_teacher(width)
    if official is not None:
        teacher = official_network(official, teacher)
    if kind == "edm":
        student = copy.deepcopy(teacher)
    else:
        student = cifar_student(width)
        student = student if gan is None else official_network(gan, student)
    generate = from_noise if kind == "edm" else from_latents
    pair = student.to(device), teacher.to(device)
    return PublishedLoop(pair[0], generate, pair[1], official_loss(official), batch=batch)


def ours(kind: str, width: float, batch: int, device: str, flags: Mapping[str, Any]) -> Any:
    """Build our side, with the published settings and our own flags."""
    torch.manual_seed(0)
    teacher = cifar_teacher(width)
    student: Any = cifar_student(width)
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


def time_sides(
    theirs: tuple[Any, ...], mine: tuple[Any, ...], *, repeats: int
) -> dict[str, dict[str, Any]]:
    """Return seconds of a step of each side, taken in turn, their work, and memory.

    Args:
        theirs: arguments of `published`.
        mine: arguments of `ours`.
        repeats: rounds after one that warms up.
    """
    kind, width, batch, device, flags = mine
    precision = flags["precision"]
    product = machine.matmul(device, torch.bfloat16 if precision == "bf16" else torch.float32)

    def multiply() -> None:
        with arithmetic(published_settings(batch=batch, **flags), torch.device(device)):
            product()

    sides = {"published": published(*theirs), "ours": ours(*mine)}
    with without_cuda_streams(), arithmetic(published_settings(batch=batch), torch.device(device)):
        # Compiled code hides its products; the work is the same without.
        plain = ours(kind, width, batch, device, {**flags, "compile": False})
        counted = {"published": sides["published"], "ours": plain}
        flop = {name: machine.count_flop(side.advance) for name, side in counted.items()}
        del plain, counted
        timed = {name: side.advance for name, side in sides.items()}
        times = machine.in_turn({**timed, "product": multiply}, repeats)
    del sides, timed
    speed = 2 * machine.MATRIX_SIZE[device] ** 3 / min(times.pop("product"))
    threads = torch.get_num_threads()
    builders = {"published": (published, *theirs), "ours": (ours, *mine)}
    return {
        name: {
            "times": taken,
            "seconds": machine.spread(taken),
            "share_of_matmul_speed": flop[name] / min(taken) / speed,
            "peak_mb": machine.in_own_process(peak_of_two_steps, *builders[name], threads=threads),
        }
        for name, taken in times.items()
    }


def table(sides: Mapping[str, Mapping[str, Any]], batch: int) -> str:
    """Return the times as text."""
    lines = [
        f"{'step':10} {'s':>8} {'min':>8} {'max':>8} {'images/s':>9} {'peak MB':>9} {'of mm':>7}"
    ]
    for name, side in sides.items():
        of = side["seconds"]
        lines.append(
            f"{name:10} {of['median']:8.2f} {of['min']:8.2f} {of['max']:8.2f} "
            f"{batch / of['median']:9.3f} {side['peak_mb']:9.0f} "
            f"{100 * side['share_of_matmul_speed']:5.0f} %"
        )
    pairs = zip(sides["published"]["times"], sides["ours"]["times"], strict=True)
    ratio = machine.shown([a / b for a, b in pairs], "times as fast by the median of the pairs")
    return "\n".join([*lines, f"Ours is {ratio.strip()}."])


def small_denoiser() -> EDMPrecond:
    """Return a DDPM++ whose last layers are not the zeros of a new network."""
    network = EDMPrecond(
        SMALL_RESOLUTION, 1, model_type="SongUNet", model_channels=8, channel_mult=[1],
        num_blocks=1, augment_dim=9, dropout=0.0,
    )  # fmt: skip
    for parameter in network.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    return network


class NoiseTwice:
    """Generates from new noise and then from the same again, in turn."""

    def __init__(self) -> None:
        self.z: torch.Tensor | None = None

    def __call__(self, student: Any, batch: int) -> torch.Tensor:
        """Return images [batch, 1, h, w]."""
        z = torch.randn([batch, SMALL_RESOLUTION**2]) if self.z is None else self.z
        self.z = z if self.z is None else None
        x = INIT_SIGMA * z.reshape(batch, 1, SMALL_RESOLUTION, SMALL_RESOLUTION)
        return student(x, torch.full([batch], INIT_SIGMA), None)


def errors(official: Path | None, *, steps: int, seed: int) -> dict[str, tuple[float, float]]:
    """Return the relative errors of each network, and how far ours moved."""
    torch.manual_seed(seed)
    teacher = small_denoiser()
    settings = published_settings(batch=SMALL_BATCH, rate=SMALL_RATE, seed=seed)
    student = OneStep(copy.deepcopy(teacher), sigma_init=INIT_SIGMA)
    ours: Any = Refinement(student, teacher, DiffInstruct(), settings)
    network = teacher if official is None else official_network(official, teacher)
    start, loss = copy.deepcopy(network), official_loss(official)
    theirs = PublishedLoop(
        start, NoiseTwice(), copy.deepcopy(network), loss, batch=SMALL_BATCH, rate=SMALL_RATE
    )
    for step in range(steps):
        ours.advance()
        with random_stream(seed_of(seed, step), ours.device), without_cuda_streams():
            theirs.advance()
    return {
        "student": relative(ours.student.denoiser, theirs.student),
        "its average": relative(ours.average.denoiser, theirs.average),
        "auxiliary": relative(ours.auxiliary, theirs.auxiliary),
        "for scale, student to teacher": relative(ours.student.denoiser, teacher),
    }


def relative(ours: torch.nn.Module, theirs: torch.nn.Module) -> tuple[float, float]:
    """Return the relative error in norm of all parameters together, and of the worst tensor."""
    pairs = list(zip(ours.parameters(), theirs.parameters(), strict=True))
    error = torch.stack([(a - b).norm() for a, b in pairs])
    size = torch.stack([b.norm() for _, b in pairs])
    return (error.norm() / size.norm()).item(), (error / size).max().item()


@click.group()
def main() -> None:
    """Hold our step beside the official loop's."""


@main.command()
@click.option(
    "--student", type=click.Choice(["edm", "stylegan2"]), default="edm", show_default=True
)
@machine.official_option(of="the official Diff-Instruct repository")
@machine.official_option("--official-gan", of="stylegan2-ada-pytorch")
@click.option("--channels-last", is_flag=True, help="Keep our denoisers' weights channels last.")
@click.option(
    "--share-pass", is_flag=True, help="Let one pass of the auxiliary serve both updates."
)
@click.option("--device", type=click.Choice(["cpu", "cuda"]), default="cpu", show_default=True)
@click.option("--precision", type=click.Choice(PRECISIONS), default="fp32", show_default=True)
@click.option("--compile", is_flag=True, help="Compile our networks.")
@click.option("--width", type=float, default=1.0, show_default=True, help="1 is CIFAR-10's files'.")
@machine.number_option("--batch", 4)
@machine.number_option("--repeats", 5)
@machine.threads_option
@machine.json_option
def time(
    student: str,
    official: Path | None,
    official_gan: Path | None,
    device: str,
    width: float,
    batch: int,
    repeats: int,
    json_file: Path | None,
    **flags: Any,
) -> None:
    """Time our Diff-Instruct step against the published loop on networks of CIFAR-10's size."""
    torch.backends.cudnn.benchmark = True  # as both programs do
    try:
        check_device(published_settings(batch=batch, **flags), torch.device(pick_device(device)))
    except ValueError as error:
        raise click.UsageError(str(error)) from error
    network = (student, width, batch, device)
    sides = time_sides((*network, official, official_gan), (*network, flags), repeats=repeats)
    given = {name: value for name, value in flags.items() if value not in (False, "fp32")}
    told = f"student {student}, batch {batch}, {repeats} repeats in turn"
    told += f", ours with {given}" if given else ""
    result = {"student": student, "batch": batch, "width": width, "flags": flags, "sides": sides}
    machine.report(f"{told}\n\n{table(sides, batch)}", result, json_file)


@main.command()
@machine.official_option(of="the official Diff-Instruct repository")
@machine.number_option("--steps", 10)
@machine.number_option("--seed", 0, least=0)
@machine.json_option
def agreement(official: Path | None, steps: int, seed: int, json_file: Path | None) -> None:
    """Compare our parameters with those of the official networks and losses after some steps."""
    found = errors(official, steps=steps, seed=seed)
    lines = [f"{name:30} {whole:8.1e} {worst:8.1e}" for name, (whole, worst) in found.items()]
    machine.report("\n".join([f"{'':30} {'all':>8} {'worst':>8}", *lines]), found, json_file)


if __name__ == "__main__":
    main()
