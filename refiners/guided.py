"""Distillation of a guided diffusion model (Meng et al. 2023, arXiv:2210.03142).

Stage 1: one network learns the guided denoiser for all weights g of a range (Eq. 1 and 2),

    D^g(x) = (1 + g) D(x; label) - g D(x; no label),    loss w |D^g - D_student(x; g)|^2,

with g ~ U[min, max] as a further input. Stage 2 halves its steps as progressive distillation does,
each student for all g. A network gets its input g by the Fourier features of g, through a linear
layer that starts at zero, added to what its own embedding of the noise level gives.
"""

from __future__ import annotations

import copy
import math
from dataclasses import dataclass
from typing import Any

import torch

from refiners.base import Denoiser
from refiners.progressive import WEIGHTS, Progressive
from refiners.sigma_laws import add_noise

FREQUENCIES = 32


class GuidedDenoiser(torch.nn.Module):
    """A denoiser (x, sigma, labels, guidance=g) that starts as the one given, whatever g.

    Args:
        denoiser: its parameters are this module's.
        layer: name of the module within it whose output [n or 1, d] takes what g adds.

    Attributes:
        guidance: the weight where a call gives none.

    Raises:
        ValueError: there is no such module, or its output is no [n, d].
    """

    def __init__(self, denoiser: Any, *, layer: str, guidance: float = 1.0):
        super().__init__()
        self.denoiser = denoiser
        self.layer = layer
        self.guidance = guidance
        self.img_resolution: int = denoiser.img_resolution
        self.img_channels: int = denoiser.img_channels
        self.label_dim: int = denoiser.label_dim
        self.sigma_min: float = denoiser.sigma_min
        self.sigma_max: float = denoiser.sigma_max
        width = self._width_of_layer()
        self.embed = torch.nn.Linear(2 * FREQUENCIES, width)
        torch.nn.init.zeros_(self.embed.weight)
        torch.nn.init.zeros_(self.embed.bias)
        self.embed.to(next(denoiser.parameters()).device)

    def forward(
        self,
        x: torch.Tensor,
        sigma: torch.Tensor,
        labels: torch.Tensor | None = None,
        *,
        guidance: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Return D(x; sigma) [n, c, h, w] at the weights guidance [n]."""
        g = torch.full([len(x)], self.guidance, device=x.device) if guidance is None else guidance
        added = self.embed(fourier_features(g.to(self.embed.weight)))
        hook = self.denoiser.get_submodule(self.layer).register_forward_hook(
            lambda module, arguments, output: output + added.to(output)
        )
        try:
            return self.denoiser(x, sigma, labels)
        finally:
            hook.remove()

    def at(self, g: float) -> Any:
        """Return a copy of the denoiser within, whatever it was, with the weight g built in.

        What one weight adds to the layer's output is a constant, so it joins the layer's bias.

        Raises:
            ValueError: the layer has no bias of that size.
        """
        plain = copy.deepcopy(self.denoiser)
        bias = getattr(plain.get_submodule(self.layer), "bias", None)
        if not isinstance(bias, torch.Tensor) or list(bias.shape) != [self.embed.out_features]:
            raise ValueError(
                f"{self.layer!r} has no bias of {self.embed.out_features} numbers, so no single "
                "weight can be built in; choose a linear layer"
            )
        with torch.no_grad():
            added = self.embed(fourier_features(torch.tensor([g]).to(self.embed.weight)))
            bias += added[0].to(bias)
        return plain

    def _width_of_layer(self) -> int:
        try:
            module = self.denoiser.get_submodule(self.layer)
        except AttributeError:
            raise ValueError(
                f"layer is {self.layer!r}, which this teacher lacks; name the module that embeds "
                "the noise level"
            ) from None
        widths: list[int] = []
        hook = module.register_forward_hook(
            lambda module, arguments, output: widths.append(output.shape[-1])
        )
        r, device = self.img_resolution, next(self.denoiser.parameters()).device
        x = torch.zeros([1, self.img_channels, r, r], device=device)
        try:
            with torch.no_grad():
                self.denoiser(x, torch.ones([1], device=device))
        finally:
            hook.remove()
        if not widths:
            raise ValueError(f"{self.layer!r} takes no part in denoising; name a layer that does")
        return widths[0]


def fourier_features(g: torch.Tensor) -> torch.Tensor:
    """Return cosines and sines of g [n] at frequencies from 1/8 to 4 turns a unit, [n, 64]."""
    powers = torch.linspace(-3, 2, FREQUENCIES, device=g.device, dtype=g.dtype)
    angles = 2 * math.pi * g[:, None] * 2**powers
    return torch.cat([angles.cos(), angles.sin()], dim=1)


@dataclass(frozen=True)
class Guided:
    """Guided distillation's knobs, and those of the halving.

    Attributes:
        guidance_min: lowest weight g; 0 is no guidance, -1 the unconditional model.
        guidance_max: highest weight; 4 for pixels where published.
        guidance: the weight at which the result is sampled, where a call gives none.
        layer: the teacher's module that embeds the noise level, see GuidedDenoiser.
        num_steps, weight, sigma_min, sigma_max, stochastic: see Progressive.
    """

    guidance_min: float = 0.0
    guidance_max: float = 4.0
    guidance: float = 1.0
    layer: str = "model.map_layer0"
    num_steps: int = 32
    weight: str = "snr_trunc"
    sigma_min: float = 0.002
    sigma_max: float = 80.0
    stochastic: bool = False

    def __post_init__(self) -> None:
        if not -1 <= self.guidance_min <= self.guidance_max < math.inf:
            raise ValueError(
                f"guidance_min, guidance_max are {self.guidance_min}, {self.guidance_max}; "
                "it must hold -1 <= guidance_min <= guidance_max"
            )
        if not self.guidance_min <= self.guidance <= self.guidance_max:
            raise ValueError(
                f"guidance is {self.guidance}; it must be in guidance_min to guidance_max, "
                f"{self.guidance_min} to {self.guidance_max}"
            )
        _ = self.halving

    @property
    def halving(self) -> Progressive:
        """Stage 2."""
        return Progressive(
            num_steps=self.num_steps,
            weight=self.weight,
            sigma_min=self.sigma_min,
            sigma_max=self.sigma_max,
            stochastic=self.stochastic,
        )

    @property
    def stages(self) -> tuple[int, ...]:
        """Stage 1 as 0 steps, then the student's number of steps in each halving."""
        return (0, *self.halving.stages)

    def new_student(self, teacher: Any) -> GuidedDenoiser:
        """Return a copy of the teacher with an input for g.

        Raises:
            ValueError: the teacher has no classes, or no unconditional model.
        """
        dropout = getattr(teacher, "label_dropout", 0)
        if not teacher.label_dim or not dropout:
            raise ValueError(
                f"the teacher has {teacher.label_dim} classes and label dropout {dropout}; "
                "guidance needs a conditional teacher trained with label dropout"
            )
        return GuidedDenoiser(copy.deepcopy(teacher), layer=self.layer, guidance=self.guidance)

    def loss(
        self,
        x_0: torch.Tensor,
        labels: torch.Tensor | None,
        *,
        student: Any,
        teacher: Any,
        original: Any,
        num_steps: int,
    ) -> torch.Tensor:
        """Return the scalar loss of stage 1 (num_steps 0) or of a halving, on clean images x_0."""
        low, high = self.guidance_min, self.guidance_max
        g = low + (high - low) * torch.rand([len(x_0)], device=x_0.device)
        if num_steps:
            return self.halving.loss_of(
                x_0,
                num_steps,
                student=lambda x, sigma: student(x, sigma, labels, guidance=g),
                teacher=lambda x, sigma: teacher(x, sigma, labels, guidance=g),
            )
        sigma = self.halving.sigma(torch.rand([len(x_0)], device=x_0.device))
        x = add_noise(x_0, sigma)
        with torch.no_grad():
            target = guided(original, x, sigma, labels, g)
        error = (student(x, sigma, labels, guidance=g) - target).square().sum(dim=[1, 2, 3])
        return (WEIGHTS[self.weight](sigma) * error).mean()


def guided(
    denoiser: Denoiser,
    x: torch.Tensor,
    sigma: torch.Tensor,
    labels: torch.Tensor | None,
    g: torch.Tensor,
) -> torch.Tensor:
    """Return (1 + g) D(x; label) - g D(x; no label), g [n]."""
    share = g[:, None, None, None]
    return (1 + share) * denoiser(x, sigma, labels) - share * denoiser(x, sigma)
