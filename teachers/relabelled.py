"""A teacher under a student's class numbers: each of them stands for one of the teacher's."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import cast

import torch
from jaxtyping import Float

from roles import Denoiser, Sigma, WithFeatures
from teachers.denoiser import DenoiserModule


class Relabelled(DenoiserModule):
    """A denoiser with other class numbers: class i of it is class class_map[i] of the inner one.

    Args:
        inner: a conditional denoiser.
        class_map: for each class of the student, its number in the teacher; several may share one.

    Raises:
        ValueError: no classes, or a number that the teacher does not have.
    """

    class_map: torch.Tensor

    def __init__(self, inner: Denoiser, class_map: Sequence[int]):
        if not inner.label_dim:
            raise ValueError("a class map needs a conditional teacher; this one has no classes")
        wrong = [k for k in class_map if not 0 <= k < inner.label_dim]
        if not class_map or wrong:
            what = f"class {wrong[0]}" if wrong else "no class"
            raise ValueError(
                f"the class map names {what}; the teacher's are 0 to {inner.label_dim - 1}"
            )
        super().__init__(inner.img_channels, inner.img_resolution, label_dim=len(class_map))
        self.inner = inner
        self.sigma_min, self.sigma_max = inner.sigma_min, inner.sigma_max
        self.register_buffer("class_map", torch.tensor(list(class_map)), persistent=False)

    @property
    def label_dropout(self) -> float:
        """How often the inner one was trained without its label."""
        return getattr(self.inner, "label_dropout", 0.0)

    def round_sigma(self, sigma: float | Float[torch.Tensor, "*s"]) -> Float[torch.Tensor, "*s"]:
        """Return the nearest noise level that the inner one was trained for."""
        return getattr(self.inner, "round_sigma", torch.as_tensor)(sigma)

    @property
    def features(self) -> Callable[..., list[torch.Tensor]]:
        """What the inner one makes of noised images under labels, where it has features."""
        features = cast("WithFeatures", self.inner).features
        return lambda x, sigma, labels=None: features(x, sigma, self._theirs(x, sigma, labels))

    def forward(
        self,
        x: Float[torch.Tensor, "n c h w"],
        sigma: Sigma,
        labels: Float[torch.Tensor, "#n label_dim"] | None = None,
    ) -> Float[torch.Tensor, "n c h w"]:
        """Return D(x; sigma) [n, c, h, w] under labels [n, len(class_map)]. See Denoiser."""
        return self.inner(x, sigma, self._theirs(x, sigma, labels))

    def _theirs(
        self, x: torch.Tensor, sigma: Sigma, labels: torch.Tensor | None
    ) -> Float[torch.Tensor, "#n inner_dim"] | None:
        """Return labels [n, len(class_map)] as the inner one numbers its classes."""
        if labels is None:
            return None
        *_, labels = self.check_inputs(x, sigma, labels, dtype=x.dtype)
        assert labels is not None
        theirs = labels.new_zeros([len(labels), self.inner.label_dim])
        return theirs.index_add(1, self.class_map, labels)
