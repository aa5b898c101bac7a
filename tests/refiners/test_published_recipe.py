"""The loop step for step against the official one-step distillation of Diff-Instruct.

The recipe is written out here from Luo et al. 2023 and the settings of its public code for
CIFAR-10: Adam (0, 0.999), EDM's log-normal law for both networks, EDM's loss for the auxiliary, the
difference of the denoisers for the student, the auxiliary first, a half-life that ramps up.
"""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch

from refiners import Refinement, Settings
from refiners.diff_instruct import DiffInstruct
from teachers.edm import EDMPrecond

BATCH, STEPS, SEED, RATE, INIT_SIGMA = 8, 10, 3, 1e-3, 1.0
P_MEAN, P_STD, SIGMA_DATA = -1.2, 1.2, 0.5
EMA_KIMG, EMA_RAMPUP = 500.0, 0.05


class OneStep(torch.nn.Module):
    """The denoiser at one level of pure noise, as the recipe's generator: D(sigma z; sigma)."""

    def __init__(self, denoiser: Any):
        super().__init__()
        self.denoiser = denoiser
        self.z_dim, self.c_dim = 64, 0
        self.img_resolution, self.img_channels = 8, 1

    def sample_latents(self, n: int, *, generator: torch.Generator | None = None) -> torch.Tensor:
        return torch.randn([n, 64], generator=generator)

    def forward(self, z: torch.Tensor, c: torch.Tensor | None = None) -> torch.Tensor:
        x = INIT_SIGMA * z.reshape(-1, 1, 8, 8)
        return self.denoiser(x, torch.full([len(z)], INIT_SIGMA))


def small_edm(dropout: float = 0.0) -> EDMPrecond:
    """A DDPM++, whose last layers are not the zeros of a new network."""
    sizes: dict[str, Any] = {"model_channels": 8, "channel_mult": [1], "num_blocks": 1}
    network = EDMPrecond(8, 1, model_type="SongUNet", dropout=dropout, **sizes)
    for parameter in network.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    return network


def recipe(teacher: torch.nn.Module, *, new_z: bool) -> tuple[Any, Any, Any]:
    """Run the official loop on our stream: per step z, then sigma and noise of each update.

    With new_z the student's update has latents of its own, as published, and what of the networks
    drops features is in training mode where it is there: the generator in its own update alone.
    """
    generator, auxiliary = copy.deepcopy(teacher).train(), copy.deepcopy(teacher).train()
    generator_ema = copy.deepcopy(teacher).eval()
    teacher = copy.deepcopy(teacher).train().requires_grad_(False)
    # Fused as ours: while Adam's steps are those of signs, rounding alone grows to 3e-5 in ten.
    kwargs: dict[str, Any] = {"lr": RATE, "betas": (0.0, 0.999), "eps": 1e-8, "fused": True}
    fake_optimizer = torch.optim.Adam(auxiliary.parameters(), **kwargs)
    g_optimizer = torch.optim.Adam(generator.parameters(), **kwargs)

    def noised(y: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        sigma = (torch.randn([len(y)]) * P_STD + P_MEAN).exp()
        return y + torch.randn_like(y) * sigma[:, None, None, None], sigma

    cur_nimg = 0
    for step in range(STEPS):
        torch.manual_seed(SEED * 1_000_003 + step)
        z = INIT_SIGMA * torch.randn([BATCH, 64]).reshape(-1, 1, 8, 8)
        init = torch.full([BATCH], INIT_SIGMA)
        generator.train(not new_z)
        with torch.no_grad():
            y = generator(z, init)
        generator.train()
        yn, sigma = noised(y)
        weight = (sigma**2 + SIGMA_DATA**2) / (sigma * SIGMA_DATA) ** 2
        loss = weight[:, None, None, None] * (auxiliary(yn, sigma) - y) ** 2
        fake_optimizer.zero_grad(set_to_none=True)
        (loss.sum() / BATCH).backward()
        fake_optimizer.step()

        if new_z:
            z = INIT_SIGMA * torch.randn([BATCH, 64]).reshape(-1, 1, 8, 8)
        y = generator(z, init)
        masks = int(torch.randint(2**62, [])) if new_z else 0
        yn, sigma = noised(y)
        with torch.no_grad():
            torch.manual_seed(masks)
            d_fake = auxiliary(yn, sigma)
            torch.manual_seed(masks)
            difference = d_fake - teacher(yn, sigma)
        g_optimizer.zero_grad(set_to_none=True)
        ((difference * y).sum() / BATCH).backward()
        g_optimizer.step()

        half_life = min(EMA_KIMG * 1000, cur_nimg * EMA_RAMPUP)
        beta = 0.5 ** (BATCH / max(half_life, 1e-8))
        for p_ema, p in zip(generator_ema.parameters(), generator.parameters(), strict=True):
            p_ema.data.copy_(p.detach().lerp(p_ema.detach(), beta))
        cur_nimg += BATCH
    return generator, auxiliary, generator_ema


def relative_error(ours: Any, theirs: Any) -> float:
    """Largest error of a tensor, in norm, relative to that tensor."""
    pairs = zip(ours.parameters(), theirs.parameters(), strict=True)
    return max(((a - b).norm() / b.norm()).item() for a, b in pairs)


@pytest.mark.parametrize("dropout", [0.0, 0.13])
def test_ten_steps_move_every_parameter_as_the_official_recipe_does(dropout: float) -> None:
    teacher, as_published = small_edm(dropout), dropout > 0
    more: dict[str, Any] = {}
    if as_published:
        more = {"fresh_images": "all", "dropout": dropout, "dropout_in_gradient": True}
    settings = Settings(
        kimg=STEPS * BATCH / 1000, batch=BATCH, glr=RATE, lr=RATE, beta1=0.0, beta2=0.999,
        rampup_kimg=0, decay_kimg=0, ema=EMA_KIMG, ema_rampup_ratio=EMA_RAMPUP, warmup_kimg=0,
        auxiliary_steps=1, auxiliary_ema=0, seed=SEED, **more,
    )  # fmt: skip
    student = OneStep(copy.deepcopy(teacher).eval())
    job = Refinement(student, teacher, DiffInstruct(), settings)
    for _ in range(STEPS):
        job.advance()
    generator, auxiliary, generator_ema = recipe(teacher, new_z=as_published)
    assert relative_error(generator, teacher) > 1e-3  # it has moved
    assert relative_error(generator_ema, generator) > 1e-5  # and the average lags
    assert relative_error(job.student, generator) < 1e-5
    assert relative_error(job.auxiliary, auxiliary) < 1e-5
    assert relative_error(job.average, generator_ema) < 1e-5
