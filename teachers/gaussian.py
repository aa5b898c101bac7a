"""Exact denoisers, for tests and toys: of Gaussian data, the mean of x_0 given x has a closed form.

With x_0 ~ N(m, s^2 I) and x = x_0 + sigma eps: D(x; sigma) = (s^2 x + sigma^2 m) / (s^2 + sigma^2)
(Bishop 2006, Eq. 2.116). In a mixture, each component's D counts with its posterior probability.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from teachers.denoiser import Denoiser


class GaussianMixture(Denoiser):
    """The denoiser of sum_k weights_k N(means_k, stds_k^2 I).

    Args:
        means: [k, c, r, r].
        stds: k numbers, 0 or more.
        weights: k positive numbers; they are divided by their sum.

    Raises:
        ValueError: sizes that do not agree, a negative std, a weight that is not positive.
    """

    means: torch.Tensor
    stds: torch.Tensor
    log_weights: torch.Tensor

    def __init__(
        self,
        means: torch.Tensor,
        stds: Sequence[float] | torch.Tensor,
        weights: Sequence[float] | torch.Tensor,
    ):
        k = means.size(0)
        s = torch.as_tensor(stds, dtype=means.dtype)
        w = torch.as_tensor(weights, dtype=means.dtype)
        if means.ndim != 4 or means.shape[2] != means.shape[3]:
            raise ValueError(f"means are {list(means.shape)}; give square images [k, c, r, r]")
        if list(s.shape) != [k] or list(w.shape) != [k]:
            raise ValueError(f"give {k} stds and {k} weights, one for each of the means")
        if not bool((s >= 0).all()) or not bool((w > 0).all()):
            raise ValueError("stds must be 0 or more, weights above 0")
        super().__init__(means.size(1), means.size(2))
        self.register_buffer("means", means)
        self.register_buffer("stds", s)
        self.register_buffer("log_weights", (w / w.sum()).log())

    def forward(
        self, x: torch.Tensor, sigma: torch.Tensor | float, labels: torch.Tensor | None = None
    ) -> torch.Tensor:
        """Return D(x; sigma) [n, c, h, w]; sigma must be above 0 where a std is 0. See Denoiser."""
        dtype = torch.promote_types(x.dtype, self.means.dtype)
        x, level, _ = self.check_inputs(x, sigma, labels, dtype=dtype)
        prior, noise = self.stds.square()[:, None, None, None], level.square()[:, None]
        total = prior + noise  # [n or 1, k, 1, 1, 1]
        distance = (x[:, None] - self.means).square().sum(dim=[2, 3, 4])
        variance = total[:, :, 0, 0, 0]
        dims = self.means[0].numel()
        log_posterior = self.log_weights - distance / (2 * variance) - dims / 2 * variance.log()
        posterior = log_posterior.softmax(dim=1)[:, :, None, None, None]
        return (posterior * (prior * x[:, None] + noise * self.means) / total).sum(dim=1)


class Gaussian(Denoiser):
    """The denoiser of N(mean, std^2 I).

    Args:
        mean: [c, r, r], or a number.
        std: a number, 0 or more.
        img_channels: needed where mean is a number.
        img_resolution: needed where mean is a number.

    Raises:
        ValueError: sizes that do not agree, a negative std.
    """

    mean: torch.Tensor

    def __init__(
        self,
        mean: torch.Tensor | float,
        std: float,
        *,
        img_channels: int | None = None,
        img_resolution: int | None = None,
    ):
        m = torch.as_tensor(mean)
        if m.ndim == 0:
            if img_channels is None or img_resolution is None:
                raise ValueError("mean is a number; give img_channels and img_resolution too")
            m = m.expand(img_channels, img_resolution, img_resolution).clone()
        if m.ndim != 3 or m.shape[1] != m.shape[2]:
            raise ValueError(f"mean is {list(m.shape)}; give a square image [c, r, r]")
        if std < 0:
            raise ValueError(f"std is {std}; it must be 0 or more")
        super().__init__(m.size(0), m.size(1))
        self.register_buffer("mean", m)
        self.std = std

    def forward(
        self, x: torch.Tensor, sigma: torch.Tensor | float, labels: torch.Tensor | None = None
    ) -> torch.Tensor:
        """Return D(x; sigma) [n, c, h, w]; sigma must be above 0 where std is 0. See Denoiser."""
        dtype = torch.promote_types(x.dtype, self.mean.dtype)
        x, level, _ = self.check_inputs(x, sigma, labels, dtype=dtype)
        prior, noise = self.std**2, level.square()
        return (prior * x + noise * self.mean) / (prior + noise)
