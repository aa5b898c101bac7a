"""What every teacher is: (x, sigma, labels) -> D(x; sigma), the mean of the clean image."""

from __future__ import annotations

import math

import torch
from jaxtyping import Float

from roles import Sigma


class DenoiserModule(torch.nn.Module):
    """D(x; sigma) = E[x_0 | x_0 + sigma eps = x] (Karras et al. 2022, arXiv:2206.00364, Section 2).

    Attributes:
        img_channels: channels of the images.
        img_resolution: height and width of the images.
        label_dim: number of classes; 0 is unconditional.
        sigma_min: lowest noise level the denoiser knows.
        sigma_max: highest noise level the denoiser knows.
        autoencoder: None; what a denoiser of latents would encode images with.
    """

    autoencoder: None = None

    def __init__(self, img_channels: int, img_resolution: int, *, label_dim: int = 0):
        super().__init__()
        self.img_channels = img_channels
        self.img_resolution = img_resolution
        self.label_dim = label_dim
        self.sigma_min: float = 0.0
        self.sigma_max: float = math.inf

    def forward(
        self,
        x: Float[torch.Tensor, "n c h w"],
        sigma: Sigma,
        labels: Float[torch.Tensor, "#n label_dim"] | None = None,
    ) -> Float[torch.Tensor, "n c h w"]:
        """Return D(x; sigma) [n, c, h, w].

        Args:
            x: clean images in about [-1, 1] plus sigma times unit Gaussian noise, [n, c, h, w].
            sigma: noise level, a number, [] or [n].
            labels: one-hot [n, label_dim]; None is all zero, which is the unconditional model where
                the denoiser was trained with label dropout.

        Raises:
            ValueError: a shape does not fit the denoiser.
        """
        raise NotImplementedError

    def round_sigma(self, sigma: float | Float[torch.Tensor, "*s"]) -> Float[torch.Tensor, "*s"]:
        """Return the nearest noise level the denoiser was trained for; here every level is one."""
        return torch.as_tensor(sigma)

    def check_inputs(
        self,
        x: torch.Tensor,
        sigma: torch.Tensor | float,
        labels: torch.Tensor | None,
        *,
        dtype: torch.dtype,
    ) -> tuple[
        Float[torch.Tensor, "n c h w"],
        Float[torch.Tensor, "#n 1 1 1"],
        Float[torch.Tensor, "#n label_dim"] | None,
    ]:
        """Return x, sigma as [n or 1, 1, 1, 1] and labels as [n or 1, label_dim], in dtype.

        The labels are zeros where None was given, and None where the denoiser is unconditional.

        Raises:
            ValueError: a shape does not fit the denoiser.
        """
        c, r, label_dim = self.img_channels, self.img_resolution, self.label_dim
        if x.ndim != 4 or list(x.shape[1:]) != [c, r, r]:
            raise ValueError(f"x is {list(x.shape)}; this teacher takes [n, {c}, {r}, {r}]")
        n = len(x)
        if not isinstance(
            sigma, torch.Tensor
        ):  # filled there, as a copy would keep the host waiting
            sigma = torch.full([1], sigma, dtype=dtype, device=x.device)
        sigma = sigma.to(device=x.device, dtype=dtype).reshape(-1, 1, 1, 1)
        if len(sigma) not in (1, n):
            raise ValueError(f"sigma has {len(sigma)} elements for {n} images; give 1 or {n}")
        if labels is not None and list(labels.shape) not in ([n, label_dim], [1, label_dim]):
            allowed = f"one-hot [{n}, {label_dim}]" if label_dim else "None, as it is unconditional"
            raise ValueError(f"labels are {list(labels.shape)}; this teacher takes {allowed}")
        if not label_dim:
            labels = None
        elif labels is None:
            labels = torch.zeros([1, label_dim], dtype=dtype, device=x.device)
        else:
            labels = labels.to(dtype)
        return x.to(dtype), sigma, labels
