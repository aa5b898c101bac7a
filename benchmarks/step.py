"""Time our Diff-Instruct step against the official loop's, in one run, in turn.

    python -m benchmarks.step [--student edm|stylegan2] [--official DIR] [--official-gan DIR]
                              [--channels-last] [--share-pass]

--official is a checkout of the official Diff-Instruct repository: its networks and loss are then
the other side. Without it that side is the published recipe with our networks. Its repository has
no GAN; for --student stylegan2, --official-gan is a checkout of stylegan2-ada-pytorch, whose
generator takes that place. Both sides have the same weights, batch and settings, and each makes
one update of the auxiliary and one of the student.

The published loop makes a second batch of images for the student's update, and computes the
auxiliary's and the teacher's denoising for it; ours uses one batch for both. Dropout is the
official networks' own. --channels-last and --share-pass are our program's flags: the first changes
the order in memory alone; the second lets one pass of our auxiliary serve both updates, which is
not the same step any more (refiners/shared_pass.py).
"""

from __future__ import annotations

import copy
import importlib
import sys
from collections.abc import Callable, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

import click
import torch

from benchmarks import machine, networks
from refiners import Refinement, Settings
from refiners.average import follow
from refiners.diff_instruct import DiffInstruct
from students.one_step import OneStep

RATE = 1e-5
INIT_SIGMA = 1.0
P_MEAN, P_STD, SIGMA_DATA = -1.2, 1.2, 0.5
STUDENTS = ("edm", "stylegan2")


@dataclass
class PlainLoss:
    """The recipe's two losses (Luo et al. 2023, Algorithm 1, with EDM's law and weight)."""

    def __call__(self, net: Any, images: torch.Tensor, labels: Any) -> torch.Tensor:
        """Return EDM's denoising loss, pixel by pixel."""
        sigma = (torch.randn([len(images), 1, 1, 1]) * P_STD + P_MEAN).exp()
        weight = (sigma**2 + SIGMA_DATA**2) / (sigma * SIGMA_DATA) ** 2
        noised = images + torch.randn_like(images) * sigma
        return weight * (net(noised, sigma.flatten(), labels) - images) ** 2

    def gloss(self, Sd: Any, Sg: Any, images: torch.Tensor, labels: Any) -> torch.Tensor:
        """Return the images times the difference of the denoisers, a constant."""
        sigma = (torch.randn([len(images), 1, 1, 1]) * P_STD + P_MEAN).exp()
        with torch.no_grad():
            noised = images + torch.randn_like(images) * sigma
            difference = Sg(noised, sigma.flatten(), labels) - Sd(noised, sigma.flatten(), labels)
        return difference * images


class PublishedLoop:
    """The loop body of the official code: two generated batches, two losses, two optimisers.

    Args:
        student: the generator, trained in place.
        generate: (student, batch) -> images.
        teacher: the frozen denoiser.
        loss: its call and its gloss, as PlainLoss has them.
        batch: images.
        rate: of both optimisers.
    """

    def __init__(
        self,
        student: Any,
        generate: Callable[..., Any],
        teacher: Any,
        loss: Any,
        *,
        batch: int,
        rate: float = RATE,
    ):
        self.student = student.train().requires_grad_(True)
        self.average = copy.deepcopy(student).eval().requires_grad_(False)
        self.generate = generate
        self.teacher = teacher.eval().requires_grad_(False)
        self.auxiliary = copy.deepcopy(teacher).train().requires_grad_(True)
        self.loss = loss
        self.batch = batch
        options: dict[str, Any] = {"lr": rate, "betas": (0.0, 0.999), "eps": 1e-8}
        self.auxiliary_adam = torch.optim.Adam(self.auxiliary.parameters(), **options)
        self.student_adam = torch.optim.Adam(self.student.parameters(), **options)

    def advance(self) -> None:
        """Update the auxiliary on one batch, then the student on another."""
        with torch.no_grad():
            images = self.generate(self.student.eval(), self.batch)
        self.student.train()
        self.auxiliary_adam.zero_grad(set_to_none=True)
        self.loss(net=self.auxiliary, images=images, labels=None).sum().div(self.batch).backward()
        self._move(self.auxiliary, self.auxiliary_adam)

        self.student_adam.zero_grad(set_to_none=True)
        images = self.generate(self.student, self.batch)
        loss = self.loss.gloss(Sd=self.teacher, Sg=self.auxiliary, images=images, labels=None)
        loss.sum().div(self.batch).backward()
        self._move(self.student, self.student_adam)
        follow(self.average, self.student, self.batch, 500_000)

    @staticmethod
    def _move(network: Any, adam: torch.optim.Optimizer) -> None:
        for parameter in network.parameters():
            if parameter.grad is not None:
                torch.nan_to_num_(parameter.grad, nan=0, posinf=1e5, neginf=-1e5)
        adam.step()


@contextmanager
def checkout(folder: Path, *packages: str) -> Any:
    """Import from a repository's folder inside, and forget its modules after."""
    sys.path.insert(0, str(folder))
    try:
        yield
    finally:
        sys.path.remove(str(folder))
        for name in [n for n in sys.modules if n.split(".")[0] in packages]:
            del sys.modules[name]


def official_denoiser(folder: Path, ours: Any) -> tuple[Any, Any]:
    """Return the official network of the same sizes and weights as ours, and the official loss."""
    with checkout(folder, "training", "torch_utils", "dnnlib"):
        network = importlib.import_module("training.networks").EDMPrecond(**ours.init_kwargs)
        network.load_state_dict(ours.state_dict())
        return network, importlib.import_module("training.di_loss").DI_EDMLoss()


def official_generator(folder: Path, ours: Any) -> Any:
    """Return the official StyleGAN2 generator of the same sizes and weights as ours."""
    kwargs = ours.init_kwargs
    if not torch.cuda.is_available():
        # Its half-precision layers stay so on a CPU, and take ten times as long; ours do not.
        kwargs = {**kwargs, "synthesis_kwargs": {**kwargs["synthesis_kwargs"], "num_fp16_res": 0}}
    with checkout(folder, "training", "torch_utils", "dnnlib"):
        network = importlib.import_module("training.networks").Generator(**kwargs)
        network.load_state_dict(ours.state_dict())
        return network


def from_latents(student: Any, batch: int) -> torch.Tensor:
    """Return images of a GAN."""
    return student(torch.randn([batch, 512]), None)


def from_noise(student: Any, batch: int) -> torch.Tensor:
    """Return images of a denoiser at one level of noise."""
    z = INIT_SIGMA * torch.randn([batch, 3, 32, 32])
    return student(z, torch.full([batch], INIT_SIGMA), None)


def published(kind: str, batch: int, official: Path | None, official_gan: Path | None) -> Any:
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
    generate = from_noise if kind == "edm" else from_latents
    return PublishedLoop(student, generate, teacher, loss, batch=batch)


def ours(kind: str, batch: int, flags: Mapping[str, Any]) -> Any:
    """Build our side, with the published settings and our own flags."""
    torch.manual_seed(0)
    teacher = networks.cifar_teacher()
    student: Any = networks.cifar_student()
    if kind == "edm":
        student = OneStep(copy.deepcopy(teacher), sigma_init=INIT_SIGMA)
    settings = Settings(
        kimg=1e9,
        batch=batch,
        lr=RATE,
        glr=RATE,
        warmup_kimg=0,
        rampup_kimg=0,
        auxiliary_steps=1,
        auxiliary_ema=0,
        ema_kimg=500,
        **flags,
    )
    return Refinement(student, teacher, DiffInstruct(), settings)


@contextmanager
def without_cuda_streams() -> Any:
    """Let the official loss run without a GPU: it saves and restores a stream of CUDA's."""
    if torch.cuda.is_available():
        yield
        return
    with mock.patch("torch.cuda.get_rng_state"), mock.patch("torch.cuda.set_rng_state"):
        yield


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
    official: Path | None,
    official_gan: Path | None,
    flags: Mapping[str, Any],
) -> dict[str, Any]:
    """Return seconds of a step of each side and of a matrix product, taken in turn, and memory."""
    theirs = published(kind, batch, official, official_gan)
    mine = ours(kind, batch, flags)
    timed = {"published": theirs.advance, "ours": mine.advance, "product": machine.matmul()}
    times: dict[str, list[float]] = {name: [] for name in timed}
    with without_cuda_streams():
        for repeat in range(repeats + 1):
            for name, function in timed.items():
                seconds = machine.seconds(function)
                if repeat:  # the first warms up
                    times[name].append(seconds)
    ratios = [a / b for a, b in zip(times["published"], times["ours"], strict=True)]
    threads = torch.get_num_threads()
    del theirs, mine
    return {
        "machine": machine.describe(),
        "student": kind,
        "batch": batch,
        "repeats": repeats,
        "flags": dict(flags),
        "networks": {"denoiser": _named(official), "generator": _named(official_gan)},
        "seconds": {name: machine.spread(of) for name, of in times.items()},
        "ratio": machine.spread(ratios),
        "peak_mb": {
            "published": machine.in_own_process(
                peak_of_two_steps, published, kind, batch, official, official_gan, threads=threads
            ),
            "ours": machine.in_own_process(
                peak_of_two_steps, ours, kind, batch, flags, threads=threads
            ),
        },
    }


def _named(folder: Path | None) -> str:
    return "ours" if folder is None else "official"


def table(result: dict[str, Any]) -> str:
    """Return the result as text."""
    batch, lines = result["batch"], []
    for side in ("published", "ours"):
        spread = result["seconds"][side]
        lines.append(
            f"{side:10} {spread['median']:8.2f} {spread['min']:8.2f} {spread['max']:8.2f} "
            f"{batch / spread['median']:9.3f} {result['peak_mb'][side]:9.0f}"
        )
    used, ratio = result["networks"], result["ratio"]
    return "\n".join(
        [
            machine.headline(result["machine"]),
            f"student {result['student']}, batch {batch}, {result['repeats']} repeats in turn; "
            f"the published loop has the {used['denoiser']} denoiser"
            + ("" if result["student"] == "edm" else f" and the {used['generator']} generator")
            + "".join(f"; ours with {name}" for name, given in result["flags"].items() if given),
            "",
            f"{'step':10} {'s':>8} {'min':>8} {'max':>8} {'images/s':>9} {'peak MB':>9}",
            *lines,
            "",
            f"Ours is {ratio['median']:.2f} times as fast by the median of the pairs "
            f"({ratio['min']:.2f} to {ratio['max']:.2f}).",
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
    batch: int,
    repeats: int,
    threads: int | None,
    json_file: Path | None,
) -> None:
    """Time our Diff-Instruct step against the published loop on networks of CIFAR-10's size."""
    if threads is not None:
        torch.set_num_threads(threads)
    result = measure(
        student,
        batch=batch,
        repeats=repeats,
        official=official,
        official_gan=official_gan,
        flags={"channels_last": channels_last, "share_pass": share_pass},
    )
    click.echo(table(result))
    if json_file is not None:
        machine.write_json(json_file, result)


if __name__ == "__main__":
    main()
