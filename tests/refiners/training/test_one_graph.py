"""All parts of a step are one graph each to torch.compile, with the numbers that they have alone.

The backend runs what was traced as it is, so no compiler is needed: what counts is that tracing
meets nothing that it cannot see through.
"""

from __future__ import annotations

import copy
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from refiners.feature_discriminator import FeatureDiscriminator
from refiners.guided import GuidedDenoiser
from refiners.head import HeadedDenoiser
from students.adapters.bridge import Bridge
from students.adapters.one_step import OneStep
from students.r3gan.generator import R3Generator, Stage
from students.stylegan2.discriminator import Discriminator
from students.stylegan2.generator import Generator
from students.stylegan3.generator import Generator as Generator3
from teachers.edm import EDMPrecond
from teachers.edm2 import Precond as EDM2Precond
from teachers.guidance import autoguidance, classifier_free

ROOT = Path(__file__).parents[3]
CLASSES, N = 3, 2
WIDTH: dict[str, Any] = {"channel_base": 64, "channel_max": 6}
UNET: dict[str, Any] = {"model_channels": 4, "channel_mult": [1], "num_blocks": 1}


def noisy() -> tuple[torch.Tensor, ...]:
    return torch.randn(N, 1, 8, 8), torch.rand(N) + 0.1, torch.eye(CLASSES)[:N]


def ddpmpp(**options: Any) -> EDMPrecond:
    about = {"label_dim": CLASSES, "label_dropout": 0.1, "attn_resolutions": [8]}
    return EDMPrecond(8, 1, model_type="SongUNet", **{**UNET, **about, **options}).eval()


def generator(img_resolution: int = 8) -> Generator:
    return Generator(
        z_dim=5, c_dim=CLASSES, w_dim=4, img_resolution=img_resolution, img_channels=1,
        mapping_kwargs={"num_layers": 2}, synthesis_kwargs={**WIDTH, "conv_clamp": 256},
    ).eval()  # fmt: skip


def generator3() -> Generator3:
    return Generator3(
        z_dim=5, c_dim=CLASSES, w_dim=4, img_resolution=16, img_channels=1,
        mapping_kwargs={"num_layers": 2}, **WIDTH, num_layers=4,
    ).eval()  # fmt: skip


def r3generator() -> R3Generator:
    made = R3Generator(
        stages=(Stage(8, 16, 4, 1), Stage(6, 12, 3, 1)), z_dim=5, c_dim=CLASSES, embed_dim=4
    )
    for tensor in made.state_dict().values():
        torch.nn.init.normal_(tensor, std=0.3)
    return made.eval()


def latents() -> tuple[torch.Tensor, ...]:
    return torch.randn(N, 5), torch.eye(CLASSES)[:N]


CASES: dict[str, Callable[[], tuple[Any, tuple[Any, ...]]]] = {
    "teacher, DDPM++": lambda: (ddpmpp(), noisy()),
    "teacher, ADM": lambda: (EDMPrecond(8, 1, CLASSES, **UNET).eval(), noisy()),
    "teacher, EDM2": lambda: (EDM2Precond(8, 1, CLASSES, **UNET).eval(), noisy()),
    "teacher at a number": lambda: (ddpmpp(), (noisy()[0], 0.5)),
    "features": lambda: (ddpmpp().features, noisy()),
    "guided by no class": lambda: (classifier_free(ddpmpp(), weight=2.0), noisy()),
    "guided in an interval": lambda: (
        autoguidance(ddpmpp(), ddpmpp(), weight=2.0, interval=(0.2, 0.6)), noisy(),
    ),
    "auxiliary with a head": lambda: (HeadedDenoiser(ddpmpp(), layer="model.enc"), noisy()),
    "judge": lambda: (HeadedDenoiser(ddpmpp(), layer="model.enc").judge, noisy()),
    "distilled by guidance": lambda: (GuidedDenoiser(ddpmpp(), layer="model.map_layer0"), noisy()),
    "grown discriminator": lambda: (FeatureDiscriminator(ddpmpp()), noisy()[:1]),
    "discriminator": lambda: (
        Discriminator(c_dim=CLASSES, img_resolution=8, img_channels=1, **WIDTH).eval(),
        (noisy()[0], noisy()[2]),
    ),
    "student, StyleGAN2": lambda: (generator(), latents()),
    "student, StyleGAN3": lambda: (generator3(), latents()),
    "student, R3GAN": lambda: (r3generator(), latents()),
    "student of one step": lambda: (
        OneStep(ddpmpp(), sigma_init=2.5), (torch.randn(N, 64), torch.eye(CLASSES)[:N]),
    ),
    "student behind a bridge": lambda: (
        Bridge(generator(16), img_resolution=8, img_channels=3), latents(),
    ),
}  # fmt: skip


def as_tensors(found: Any) -> list[torch.Tensor]:
    return [found] if isinstance(found, torch.Tensor) else list(found)


def trace(name: str) -> bool:
    """Whether a part, compiled as one graph, gives the numbers that it gives alone."""
    part, arguments = CASES[name]()
    torch._dynamo.reset()
    compiled = torch.compile(part, fullgraph=True, backend="eager")
    found = []
    for way in (part, compiled, compiled):
        torch.manual_seed(3)
        found.append(as_tensors(way(*arguments)))
    pairs = [pair for tensors in found[1:] for pair in zip(tensors, found[0], strict=True)]
    return all(torch.equal(ours, wanted) for ours, wanted in pairs)


# In a process of its own, as torch.compile does not see through the shapes that tests check.
TRACE = """
from tests.refiners.training.test_one_graph import CASES, trace
for name in CASES:
    try:
        print(name, trace(name), flush=True)
    except Exception as error:
        print(name, type(error).__name__, str(error)[:300], flush=True)
"""


@pytest.mark.slow
def test_each_part_of_a_step_is_one_graph_of_the_same_numbers() -> None:
    command = [sys.executable, "-c", TRACE]
    told = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=600)
    assert told.stdout.splitlines() == [f"{name} True" for name in CASES], told.stderr[-2000:]


def test_a_copy_with_a_head_hears_its_own_features() -> None:
    headed = HeadedDenoiser(ddpmpp(), layer="model.enc")
    moved = copy.deepcopy(headed)
    for parameter in moved.denoiser.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    x, sigma, labels = noisy()
    before = headed.judge(x, sigma, labels)[1]
    assert not torch.equal(moved.judge(x, sigma, labels)[1], before)
    assert torch.equal(headed.judge(x, sigma, labels)[1], before)
