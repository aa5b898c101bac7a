"""What ours is compared with: the published loop, official networks, networks of published sizes.

The loop body is written anew from the paper and the public code's settings; networks and losses
are imported from checkouts that the user names. Sizes are those of the published CIFAR-10 files:
StyleGAN2-ADA's configuration "cifar" (Karras et al. 2020, arXiv:2006.06676) and EDM's DDPM++
(Karras et al. 2022, arXiv:2206.00364), with random weights, so that nothing is downloaded.
"""

from __future__ import annotations

import copy
import importlib
import sys
from collections.abc import Callable
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

import click
import torch

from refiners import Settings
from refiners.training.optimiser import follow
from students.stylegan2.generator import Generator
from teachers.edm import EDMPrecond
from teachers.networks.guided_unet import GuidedUNet, Heads

RATE = 1e-5
P_MEAN, P_STD, SIGMA_DATA = -1.2, 1.2, 0.5


@dataclass
class PlainLoss:
    """The recipe's two losses (Luo et al. 2023, Algorithm 1, with EDM's law and weight)."""

    def __call__(self, net: Any, images: torch.Tensor, labels: Any) -> torch.Tensor:
        """Return EDM's denoising loss, pixel by pixel."""
        sigma = (torch.randn([len(images), 1, 1, 1], device=images.device) * P_STD + P_MEAN).exp()
        weight = (sigma**2 + SIGMA_DATA**2) / (sigma * SIGMA_DATA) ** 2
        noised = images + torch.randn_like(images) * sigma
        return weight * (net(noised, sigma.flatten(), labels) - images) ** 2

    def gloss(self, Sd: Any, Sg: Any, images: torch.Tensor, labels: Any) -> torch.Tensor:
        """Return the images times the difference of the denoisers, a constant."""
        sigma = (torch.randn([len(images), 1, 1, 1], device=images.device) * P_STD + P_MEAN).exp()
        with torch.no_grad():
            noised = images + torch.randn_like(images) * sigma
            difference = Sg(noised, sigma.flatten(), labels) - Sd(noised, sigma.flatten(), labels)
        return difference * images


def published_settings(*, batch: int, rate: float = RATE, **more: Any) -> Settings:
    """Return what PublishedLoop does, as the settings of our loop."""
    more = {"precision": "fp32", **more}
    return Settings(
        kimg=1e9,
        batch=batch,
        lr=rate,
        glr=rate,
        rampup_kimg=0,
        decay_kimg=0,
        ema=500,
        ema_rampup_ratio=0,
        warmup_kimg=0,
        auxiliary_steps=1,
        auxiliary_ema=0,
        **more,
    )


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


# One width is the published one.
WIDTH: dict[str, Any] = {"channel_base": 32768, "num_fp16_res": 4, "conv_clamp": 256}


def cifar_student(width: float = 1.0, resolution: int = 32) -> Generator:
    """Return an unconditional StyleGAN2 generator: 512 channels wide, 19.9 M parameters."""
    return (
        Generator(
            z_dim=512,
            c_dim=0,
            w_dim=512,
            img_resolution=resolution,
            img_channels=3,
            mapping_kwargs={"num_layers": 2 if resolution == 32 else 8},
            synthesis_kwargs={**WIDTH, "channel_max": round(512 * width)},
        )
        .eval()
        .requires_grad_(False)
    )


def cifar_teacher(width: float = 1.0) -> EDMPrecond:
    """Return an unconditional DDPM++ denoiser: twice 128 channels wide, 55.7 M parameters."""
    return (
        EDMPrecond(
            img_resolution=32,
            img_channels=3,
            model_type="SongUNet",
            model_channels=round(128 * width),
            channel_mult=[2, 2, 2],
            augment_dim=9,
            dropout=0.13,
        )
        .eval()
        .requires_grad_(False)
    )


def official_module(folder: Path, name: str) -> Any:
    """Import a module of a checkout, and forget its own modules, which others have the names of.

    Raises:
        click.UsageError: the folder has no such file.
    """
    if not (folder / Path(*name.split("."))).with_suffix(".py").is_file():
        raise click.UsageError(f"{folder} has no {name.replace('.', '/')}.py; is it the checkout?")
    sys.path.insert(0, str(folder))
    try:
        return importlib.import_module(name)
    finally:
        sys.path.remove(str(folder))
        packages = ("training", "torch_utils", "dnnlib", "legacy")
        for known in [n for n in sys.modules if n.split(".")[0] in packages]:
            del sys.modules[known]


def official_network(folder: Path, ours: Any) -> Any:
    """Return the official network of the same class, call and weights as ours."""
    kwargs = ours.init_kwargs
    if isinstance(ours, Generator) and not torch.cuda.is_available():
        # Its half-precision layers stay so on a CPU, and take ten times as long; ours do not.
        kwargs = {**kwargs, "synthesis_kwargs": {**kwargs["synthesis_kwargs"], "num_fp16_res": 0}}
    network = getattr(official_module(folder, "training.networks"), type(ours).__name__)(**kwargs)
    network.load_state_dict(ours.state_dict())
    return network.eval()


ADM_MULT = (1, 1, 2, 2, 4, 4)


def adm_network(width: int) -> GuidedUNet:
    """Return ffhq_10m's network at 128 channels of width (Choi et al. 2021, arXiv:2108.02938).

    It has random weights, also where a new network's are zero, and asks for no gradient.
    """
    network = GuidedUNet(
        3,
        6,
        model_channels=width,
        channel_mult=ADM_MULT,
        num_res_blocks=[1] * len(ADM_MULT),
        attention_levels=[i == 4 for i in range(len(ADM_MULT))],
        num_classes=0,
        use_scale_shift_norm=True,
        resblock_updown=True,
        heads=Heads(num_head_channels=width // 2),
    )
    for parameter in network.parameters():
        parameter.data.add_(0.02 * torch.randn_like(parameter))
    return network.eval().requires_grad_(False)


def official_adm(folder: Path, ours: GuidedUNet, width: int) -> Any:
    """Return guided-diffusion's network of the same shape and weights as ours."""
    network = official_module(folder, "guided_diffusion.unet").UNetModel(
        image_size=256,
        in_channels=3,
        model_channels=width,
        out_channels=6,
        num_res_blocks=1,
        attention_resolutions=(16,),
        channel_mult=ADM_MULT,
        num_head_channels=width // 2,
        use_scale_shift_norm=True,
        resblock_updown=True,
    )
    network.load_state_dict(ours.state_dict())
    return network.eval().requires_grad_(False)


def official_loss(folder: Path | None) -> Any:
    """Return the official loss, or that of the recipe."""
    return (
        PlainLoss() if folder is None else official_module(folder, "training.di_loss").DI_EDMLoss()
    )


@contextmanager
def without_cuda_streams() -> Any:
    """Let the official loss run without a GPU: it saves and restores a stream of CUDA's."""
    if torch.cuda.is_available():
        yield
        return
    with mock.patch("torch.cuda.get_rng_state"), mock.patch("torch.cuda.set_rng_state"):
        yield
