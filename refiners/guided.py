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
from typing import Any, ClassVar

import torch
from jaxtyping import Float

from refiners.base import Images, Labels, Levels, Scalar
from refiners.knob import check_knobs, knob, same_as
from refiners.progressive import WEIGHTS, Progressive
from refiners.sigma_laws import add_noise
from roles import Denoiser

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

    def __init__(self, denoiser: Denoiser, *, layer: str, guidance: float = 1.0):
        super().__init__()
        assert isinstance(denoiser, torch.nn.Module)
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
        # Hung up once, as a hook for each call would break torch.compile's graph.
        self.added: torch.Tensor | None = None
        self.hook_id = denoiser.get_submodule(layer).register_forward_hook(self._add).id

    def forward(
        self,
        x: Images,
        sigma: Levels,
        labels: Labels = None,
        *,
        guidance: Levels | None = None,
    ) -> Images:
        """Return D(x; sigma) at the weights guidance."""
        g = torch.full([len(x)], self.guidance, device=x.device) if guidance is None else guidance
        self.added = self.embed(fourier_features(g.to(self.embed.weight)))
        denoised = self.denoiser(x, sigma, labels)
        self.added = None
        return denoised

    def _add(
        self, module: torch.nn.Module, arguments: object, output: torch.Tensor
    ) -> torch.Tensor | None:
        return None if self.added is None else output + self.added.to(output)

    def at(self, g: float) -> Denoiser:
        """Return a copy of the denoiser within, whatever it was, with the weight g built in.

        What one weight adds to the layer's output is a constant, so it joins the layer's bias.

        Raises:
            ValueError: the layer has no bias of that size.
        """
        plain = copy.deepcopy(self.denoiser)
        plain.get_submodule(self.layer)._forward_hooks.pop(self.hook_id)
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


def fourier_features(g: Levels) -> Float[torch.Tensor, "n 64"]:
    """Return cosines and sines of g at frequencies from 1/8 to 4 turns a unit."""
    powers = torch.linspace(-3, 2, FREQUENCIES, device=g.device, dtype=g.dtype)
    angles = 2 * math.pi * g[:, None] * 2**powers
    return torch.cat([angles.cos(), angles.sin()], dim=1)


@dataclass(frozen=True)
class Guided:
    """Guided distillation's knobs, and those of the halving."""

    equation: ClassVar = (
        "stage 1: w |(1 + g) D_p(x; label) - g D_p(x) - D(x; g)|², g uniform; then as above"
    )
    source: ClassVar = "Meng et al. 2023, [2210.03142](https://arxiv.org/abs/2210.03142), Eq. 1, 2"
    needs: ClassVar = "images, a conditional teacher with label dropout"
    settings: ClassVar[dict[str, Any]] = Progressive.settings

    guidance_min: float = knob(
        0.0,
        "Lowest guidance weight.",
        useful="0 is no guidance",
        outside="-1 is the unconditional model.",
        symbol="g_min",
    )
    guidance_max: float = knob(
        4.0,
        "Highest guidance weight.",
        useful="4 for pixels (published)",
        outside="Above, colours saturate.",
        symbol="g_max",
    )
    guidance: float = knob(
        1.0,
        "Guidance weight of pictures, figures and the network that is written.",
        useful="between guidance_min and guidance_max",
        outside="Outside, the network was not trained, and it is refused.",
        symbol="g",
    )
    layer: str = knob(
        "model.map_layer0",
        "The teacher's module that embeds the noise level, see GuidedDenoiser.",
        useful="model.map_layer0 for EDM's networks",
        outside="Another name is refused.",
    )
    num_steps: int = same_as(Progressive, "num_steps")
    end_steps: int = same_as(Progressive, "end_steps")
    weight: str = same_as(Progressive, "weight")
    sigma_min: float = same_as(Progressive, "sigma_min")
    sigma_max: float = same_as(Progressive, "sigma_max")
    stochastic: bool = same_as(Progressive, "stochastic")

    def __post_init__(self) -> None:
        check_knobs(self)
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
            end_steps=self.end_steps,
            weight=self.weight,
            sigma_min=self.sigma_min,
            sigma_max=self.sigma_max,
            stochastic=self.stochastic,
        )

    @property
    def init_sigma(self) -> float:
        """Where the one step begins."""
        return self.sigma_max

    @property
    def stages(self) -> tuple[int, ...]:
        """Stage 1 as 0 steps, then the student's number of steps in each halving."""
        return (0, *self.halving.stages)

    def new_student(self, teacher: Denoiser) -> GuidedDenoiser:
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
        x_0: Images,
        labels: Labels,
        *,
        student: Denoiser,
        teacher: Denoiser,
        original: Denoiser,
        num_steps: int,
    ) -> Scalar:
        """Return the loss of stage 1 (num_steps 0) or of a halving, on clean images x_0."""
        assert isinstance(student, GuidedDenoiser) and isinstance(teacher, GuidedDenoiser)
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


def guided(denoiser: Denoiser, x: Images, sigma: Levels, labels: Labels, g: Levels) -> Images:
    """Return (1 + g) D(x; label) - g D(x; no label)."""
    share = g[:, None, None, None]
    return (1 + share) * denoiser(x, sigma, labels) - share * denoiser(x, sigma)
