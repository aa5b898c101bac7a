"""Guidance: D_g = D_ref + weight (D - D_ref), a denoiser that goes further from a worse one.

Classifier-free guidance (Ho and Salimans 2022, arXiv:2207.12598, Eq. 6, with weight = 1 + w) takes
the model without the class for D_ref; autoguidance (Karras et al. 2024, arXiv:2406.02507, Eq. 3) a
weaker copy of the same model. Weight 1 is no guidance. The guidance interval (Kynkaanniemi et al.
2024, arXiv:2404.07724, Eq. 5) guides where low < sigma <= high and leaves D alone elsewhere.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import cast

import torch
import torch.nn.functional as F
from jaxtyping import Float

from roles import Denoiser, Sigma, WithFeatures
from teachers.denoiser import DenoiserModule


class Guided(DenoiserModule):
    """A denoiser guided away from another; made by classifier_free and autoguidance.

    Args:
        main: D, which gets the labels.
        reference: D_ref; None is main itself, which then gets the null label.
        weight: 0 or more; 1 is no guidance.
        interval: noise levels (low, high] at which to guide.
        null_label: number of the class that stands for no class; None is labels None.

    Attributes:
        main: D. A method's auxiliary network starts from it, not from the guided pair.
    """

    def __init__(
        self,
        main: Denoiser,
        reference: Denoiser | None,
        *,
        weight: float,
        interval: tuple[float, float] = (0.0, math.inf),
        null_label: int | None = None,
    ):
        low, high = interval
        if not 0 <= weight < math.inf:
            raise ValueError(f"the guidance weight is {weight}; it must be 0 or more, and finite")
        if not 0 <= low < high:
            raise ValueError(f"the guidance interval is {low} to {high}; give 0 <= low < high")
        if reference is not None:
            _check_same_images(main, reference)
        super().__init__(main.img_channels, main.img_resolution, label_dim=main.label_dim)
        self.main = main
        self.reference = reference
        self.weight = float(weight)
        self.interval = (float(low), float(high))
        self.null_label = null_label
        both = [main] if reference is None else [main, reference]
        self.sigma_min = max(denoiser.sigma_min for denoiser in both)
        self.sigma_max = min(denoiser.sigma_max for denoiser in both)

    @property
    def label_dropout(self) -> float:
        """How often main was trained without its label; above 0, labels None is a model too."""
        return getattr(self.main, "label_dropout", 0.0)

    @property
    def features(self) -> Callable[..., list[torch.Tensor]]:
        """What main makes of noised images, where it has features."""
        return cast("WithFeatures", self.main).features

    def round_sigma(self, sigma: float | Float[torch.Tensor, "*s"]) -> Float[torch.Tensor, "*s"]:
        """Return the nearest noise level that main was trained for."""
        return getattr(self.main, "round_sigma", torch.as_tensor)(sigma)

    def forward(
        self,
        x: Float[torch.Tensor, "n c h w"],
        sigma: Sigma,
        labels: Float[torch.Tensor, "#n label_dim"] | None = None,
    ) -> Float[torch.Tensor, "n c h w"]:
        """Return D_g(x; sigma) [n, c, h, w]; D_ref is not where sigma is a number outside."""
        denoised = self.main(x, sigma, labels)
        low, high = self.interval
        # Of levels on a device the host knows nothing; asking would keep it waiting.
        known = not isinstance(sigma, torch.Tensor)
        if self.weight == 1 or (known and not low < sigma <= high):
            return denoised
        away = torch.lerp(self._reference(x, sigma, labels).to(denoised), denoised, self.weight)
        if known:
            return away
        level = sigma.reshape(-1, 1, 1, 1)
        return torch.where((level > low) & (level <= high), away, denoised)

    def _reference(
        self,
        x: Float[torch.Tensor, "n c h w"],
        sigma: Sigma,
        labels: Float[torch.Tensor, "#n label_dim"] | None,
    ) -> Float[torch.Tensor, "n c h w"]:
        if self.reference is not None:
            return self.reference(x, sigma, labels if self.reference.label_dim else None)
        null = None
        if self.null_label is not None:
            number = torch.full([1], self.null_label, device=x.device)
            null = F.one_hot(number, self.label_dim).to(x.dtype)
        return self.main(x, sigma, null)


def classifier_free(
    conditional: Denoiser,
    unconditional: Denoiser | None = None,
    *,
    weight: float,
    interval: tuple[float, float] = (0.0, math.inf),
    null_label: int | None = None,
) -> Guided:
    """Guide a conditional denoiser away from the model without the class.

    Args:
        conditional: D, with labels.
        unconditional: D_ref, without labels; None is the conditional network with no label.
        weight: 0 or more; 1 is no guidance, and 0 the model without the class.
        interval: noise levels (low, high] at which to guide.
        null_label: the class that was trained as no class, where the network has one; None is zero
            labels, which needs a network that was trained with label dropout.

    Raises:
        ValueError: no classes to guide by, no second network and no null label to stand for it,
            networks of different images, a weight or interval out of range.
    """
    if not conditional.label_dim:
        raise ValueError(
            "classifier-free guidance needs classes, and this teacher has none; choose a "
            "conditional teacher, or guide by a weaker copy (autoguidance)"
        )
    if unconditional is not None and unconditional.label_dim:
        raise ValueError(
            f"the second network has {unconditional.label_dim} classes; classifier-free guidance "
            "needs one without, and autoguidance takes one with"
        )
    if null_label is not None and not 0 <= null_label < conditional.label_dim:
        raise ValueError(
            f"null_label is {null_label}; it must be in 0 to {conditional.label_dim - 1}"
        )
    knows_none = null_label is not None or getattr(conditional, "label_dropout", 0) > 0
    if unconditional is None and not knows_none and weight != 1:
        raise ValueError(
            f"the guidance weight is {weight} without a second network, and this teacher was "
            "trained without label dropout; give an unconditional network, or weight 1"
        )
    return Guided(
        conditional, unconditional, weight=weight, interval=interval, null_label=null_label
    )


def autoguidance(
    main: Denoiser,
    weak: Denoiser | None,
    *,
    weight: float,
    interval: tuple[float, float] = (0.0, math.inf),
) -> Guided:
    """Guide a denoiser away from a weaker one: smaller, or trained for less time.

    Args:
        main: D.
        weak: D_ref of the same images, with the same classes or with none.
        weight: 0 or more; 1 is no guidance.
        interval: noise levels (low, high] at which to guide.

    Raises:
        ValueError: no second network, networks of different images or classes, a weight or interval
            out of range.
    """
    if weak is None:
        raise ValueError(
            f"the guidance weight is {weight} without a second network; autoguidance needs a "
            "weaker copy of the teacher"
        )
    if weak.label_dim not in (0, main.label_dim):
        raise ValueError(
            f"the second network has {weak.label_dim} classes, the teacher {main.label_dim}; "
            "give one with the same classes or with none"
        )
    return Guided(main, weak, weight=weight, interval=interval)


def _check_same_images(main: Denoiser, reference: Denoiser) -> None:
    sizes = [(d.img_channels, d.img_resolution) for d in (main, reference)]
    if sizes[0] != sizes[1]:
        (c, r), (other_c, other_r) = sizes
        raise ValueError(
            f"the second network takes {other_c} x {other_r} x {other_r} images, the teacher "
            f"{c} x {r} x {r}; give one of the same size"
        )
