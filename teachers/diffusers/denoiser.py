"""A network (x, t, labels) with its schedule as D(x; sigma)."""

from __future__ import annotations

from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float

from roles import Network, Sigma
from teachers.denoiser import DenoiserModule
from teachers.diffusers.schedules import Schedule


@runtime_checkable
class TimedNetwork(Network, Protocol):
    """A network that is told a time."""

    def __call__(
        self, x: torch.Tensor, t: torch.Tensor, labels: torch.Tensor | None
    ) -> torch.Tensor:
        """Return what it predicts, [n, c or more, h, w].

        Args:
            x: scaled images [n, c, h, w].
            t: [n].
            labels: [n, k] in sum 1, or None where there are no classes.
        """
        ...

    def features(
        self, x: torch.Tensor, t: torch.Tensor, labels: torch.Tensor | None
    ) -> list[torch.Tensor]:
        """Return its encoder's last maps [n, width, r, r], highest resolution first."""
        ...


class DiffusersDenoiser(DenoiserModule):
    """A network with its schedule as D(x; sigma).

    Args:
        network: may return more channels than the images have, which are variances and not used.
        schedule: how it is asked, and what its answer means.
        img_channels: channels of the images.
        img_resolution: height and width of the images.
        label_dim: number of classes, the null class of the network included; 0 is unconditional.
    """

    def __init__(
        self,
        network: TimedNetwork,
        schedule: Schedule,
        *,
        img_channels: int,
        img_resolution: int,
        label_dim: int = 0,
    ):
        super().__init__(img_channels, img_resolution, label_dim=label_dim)
        self.network = network
        self.schedule = schedule
        self.sigma_min, self.sigma_max = schedule.sigma_min, schedule.sigma_max

    def forward(
        self,
        x: Float[torch.Tensor, "n c h w"],
        sigma: Sigma,
        labels: Float[torch.Tensor, "#n label_dim"] | None = None,
    ) -> Float[torch.Tensor, "n c h w"]:
        """Return D(x; sigma) [n, c, h, w]. See Denoiser; a conditional network needs the labels.

        Raises:
            ValueError: a shape does not fit, or the labels are missing.
        """
        if self.label_dim and labels is None:
            raise ValueError(
                f"this teacher has {self.label_dim} classes and no model without a class; "
                f"give one-hot labels [{len(x)}, {self.label_dim}]"
            )
        x, sigma, labels = self.check_inputs(x, sigma, labels, dtype=self._wide())
        raw = self.network(*self._scaled(x, sigma, labels))
        return self.schedule.denoised(x, sigma, raw[:, : self.img_channels].to(x.dtype))

    def features(
        self,
        x: Float[torch.Tensor, "n c h w"],
        sigma: Sigma,
        labels: Float[torch.Tensor, "#n label_dim"] | None = None,
    ) -> list[torch.Tensor]:
        """Return what the network's encoder makes of a noised image, a map for each resolution.

        The arguments and errors are those of forward, but labels None is the mean of all classes.
        The decoder does not run.

        Returns:
            [n, width, r, r] for each resolution r, from the highest down.
        """
        if self.label_dim and labels is None:
            labels = x.new_full([1, self.label_dim], 1 / self.label_dim)
        x, sigma, labels = self.check_inputs(x, sigma, labels, dtype=self._wide())
        return self.network.features(*self._scaled(x, sigma, labels))

    def round_sigma(self, sigma: float | Float[torch.Tensor, "*s"]) -> Float[torch.Tensor, "*s"]:
        """Return the nearest noise level of the schedule, in sigma's type."""
        return self.schedule.round_sigma(torch.as_tensor(sigma))

    def _wide(self) -> torch.dtype:
        """Type in which images and noise levels meet."""
        return torch.promote_types(next(self.network.parameters()).dtype, torch.float32)

    def _scaled(
        self, x: torch.Tensor, sigma: torch.Tensor, labels: torch.Tensor | None
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor | None]:
        """Return what the network is called with."""
        scaled, t = self.schedule.scaled(x, sigma)
        labels = None if labels is None else labels.expand(len(x), -1)
        narrow = next(self.network.parameters()).dtype
        return scaled.to(narrow), t.expand(len(x)), labels
