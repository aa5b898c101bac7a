"""A network that predicts something else, told the noise level in another way, as D(x; sigma)."""

from __future__ import annotations

from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float

from roles import Sigma
from teachers.denoiser import DenoiserModule
from teachers.noise_scales import NoiseScale, Scales


@runtime_checkable
class RawNetwork(Protocol):
    """F(c_in x; c_noise, labels), and what its encoder makes of them."""

    def __call__(
        self, x: torch.Tensor, c_noise: torch.Tensor, labels: torch.Tensor | None = None, /
    ) -> torch.Tensor:
        """Return F [n, channels or more, h, w]."""
        ...

    def features(
        self, x: torch.Tensor, c_noise: torch.Tensor, labels: torch.Tensor | None = None, /
    ) -> list[torch.Tensor]:
        """Return the encoder's last output at each resolution, highest first."""
        ...


class ConvertedDenoiser(DenoiserModule):
    """D(x; sigma) = c_skip x + c_out F(c_in x; c_noise), see teachers.noise_scales.

    Args:
        model: the network F, also a torch module; channels beyond the images' are not used.
        scale: c_skip, c_out, c_in, c_noise and the range of noise levels.
        img_channels: channels of the images.
        img_resolution: height and width of the images.
        label_dim: number of classes; 0 is unconditional.
    """

    model: RawNetwork

    def __init__(
        self,
        model: RawNetwork,
        scale: NoiseScale,
        *,
        img_channels: int,
        img_resolution: int,
        label_dim: int = 0,
    ):
        super().__init__(img_channels, img_resolution, label_dim=label_dim)
        self.model = model
        self.scale = scale
        self.sigma_min, self.sigma_max = scale.sigma_min, scale.sigma_max

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
        x, scales, scaled, c_noise, labels = self._told(x, sigma, labels)
        raw = self.model(scaled, c_noise, labels)[:, : self.img_channels]
        return scales.c_skip * x + scales.c_out * raw.to(x.dtype)

    def features(
        self,
        x: Float[torch.Tensor, "n c h w"],
        sigma: Sigma,
        labels: Float[torch.Tensor, "#n label_dim"] | None = None,
    ) -> list[torch.Tensor]:
        """Return what the network's encoder makes of a noised image, a tensor for each resolution.

        The arguments and errors are those of forward, but labels None is no class: the encoder has
        maps without one, though the network has no prediction. The decoder does not run.

        Returns:
            [n, width, r, r] for each resolution r, from the highest down.
        """
        _, _, scaled, c_noise, labels = self._told(x, sigma, labels)
        return self.model.features(scaled, c_noise, labels)

    def _told(
        self, x: torch.Tensor, sigma: Sigma, labels: torch.Tensor | None
    ) -> tuple[torch.Tensor, Scales, torch.Tensor, torch.Tensor, torch.Tensor | None]:
        """Return x in at least float32, the scales, and the network's arguments."""
        assert isinstance(self.model, torch.nn.Module)
        weights = next(self.model.parameters()).dtype
        wide = torch.promote_types(weights, torch.float32)
        x, sigma, labels = self.check_inputs(x, sigma, labels, dtype=wide)
        scales = self.scale(sigma)
        return x, scales, (scales.c_in * x).to(weights), scales.c_noise.flatten(), labels
