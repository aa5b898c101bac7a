"""Exact denoisers: of Gaussian data, mixtures and image sets, E[x_0 | x] has a closed form.

With x_0 ~ N(m, s^2 I) and x = x_0 + sigma eps: D(x; sigma) = (s^2 x + sigma^2 m) / (s^2 + sigma^2)
(Bishop 2006, Eq. 2.116). In a mixture, each component's D counts with its posterior probability.
An image set with a Gaussian kernel at each image is such a mixture (Parzen 1962; Karras et al.
2022, arXiv:2206.00364, Appendix B.3 without the kernel): a teacher that needs no training.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from jaxtyping import Float

from roles import Sigma
from roles.device import widest
from roles.pixels import from_uint8
from teachers.denoiser import DenoiserModule


class GaussianMixture(DenoiserModule):
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
        self,
        x: Float[torch.Tensor, "n c h w"],
        sigma: Sigma,
        labels: Float[torch.Tensor, "#n label_dim"] | None = None,
    ) -> Float[torch.Tensor, "n c h w"]:
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


class Gaussian(DenoiserModule):
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
        self,
        x: Float[torch.Tensor, "n c h w"],
        sigma: Sigma,
        labels: Float[torch.Tensor, "#n label_dim"] | None = None,
    ) -> Float[torch.Tensor, "n c h w"]:
        """Return D(x; sigma) [n, c, h, w]; sigma must be above 0 where std is 0. See Denoiser."""
        dtype = torch.promote_types(x.dtype, self.mean.dtype)
        x, level, _ = self.check_inputs(x, sigma, labels, dtype=dtype)
        prior, noise = self.std**2, level.square()
        return (prior * x + noise * self.mean) / (prior + noise)


class KernelDensity(DenoiserModule):
    """The denoiser of a set of images, each smoothed by N(0, bandwidth^2 I) (kernel density).

    With a bandwidth of 0 its samples are the images themselves. It takes memory for the images once
    more in float64 (where the device has it) where gradients are kept, else for a part of them.

    Args:
        images: [k, c, r, r], uint8 in [0, 255] or float in [-1, 1]; uint8 is kept as it is.
        bandwidth: standard deviation of the kernel, 0 or more.
        labels: one-hot [k, label_dim], or None; D under a label is that of its images alone.
        chunk: images that are worked on at a time.

    Raises:
        ValueError: sizes that do not agree, a negative bandwidth, a class without images.
    """

    images: torch.Tensor
    labels: torch.Tensor | None

    def __init__(
        self,
        images: torch.Tensor,
        bandwidth: float,
        *,
        labels: torch.Tensor | None = None,
        chunk: int = 4096,
    ):
        if images.ndim != 4 or images.shape[2] != images.shape[3] or not len(images):
            raise ValueError(f"images are {list(images.shape)}; give square images [k, c, r, r]")
        if not 0 <= bandwidth < math.inf:
            raise ValueError(f"bandwidth is {bandwidth}; it must be 0 or more, and finite")
        if chunk < 1:
            raise ValueError(f"chunk is {chunk}; it must be at least 1")
        if labels is not None:
            if labels.ndim != 2 or len(labels) != len(images):
                raise ValueError(
                    f"labels are {list(labels.shape)} for {len(images)} images; give one-hot "
                    f"[{len(images)}, label_dim]"
                )
            empty = (labels.sum(dim=0) == 0).nonzero().flatten().tolist()
            if empty:
                raise ValueError(f"class {empty[0]} has no images; every class needs one")
        label_dim = 0 if labels is None else labels.size(1)
        super().__init__(images.size(1), images.size(2), label_dim=label_dim)
        self.register_buffer("images", images)
        self.register_buffer("labels", None if labels is None else labels.float())
        self.bandwidth = bandwidth
        self.chunk = chunk
        # Without labels it is the model of all images, as if it had been trained with dropout.
        self.label_dropout = 0.5 if label_dim else 0.0

    def forward(
        self,
        x: Float[torch.Tensor, "n c h w"],
        sigma: Sigma,
        labels: Float[torch.Tensor, "#n label_dim"] | None = None,
    ) -> Float[torch.Tensor, "n c h w"]:
        """Return D(x; sigma) [n, c, h, w] in x's type; sigma must be above 0 at bandwidth 0.

        No labels, or all zero, is the whole set. See Denoiser.
        """
        given = x.dtype
        # Squares over a small variance: float32 would round the exponents to whole units.
        x, level, labels = self.check_inputs(x, sigma, labels, dtype=widest(x.device))
        flat = x.flatten(1)
        variance = self.bandwidth**2 + level.flatten(1).square()
        chunks = range(0, len(self.images), self.chunk)
        logits = torch.cat([self._log_density(flat, variance, i) for i in chunks], dim=1)
        posterior = (logits + self._log_prior(labels)).softmax(dim=1)
        parts = posterior.split(self.chunk, dim=1)
        mean = torch.stack([p @ self._flat(i) for p, i in zip(parts, chunks, strict=True)]).sum(0)
        share = self.bandwidth**2 / variance
        return (share * flat + (1 - share) * mean).reshape(x.shape).to(given)

    def _flat(self, start: int) -> torch.Tensor:
        part = self.images[start : start + self.chunk]
        is_bytes, wide = part.dtype == torch.uint8, widest(part.device)
        return (from_uint8(part, wide) if is_bytes else part.to(wide)).flatten(1)

    def _log_density(self, x: torch.Tensor, variance: torch.Tensor, start: int) -> torch.Tensor:
        """Return -|x - x_i|^2 / (2 variance) + |x|^2 / (2 variance), [n, chunk]."""
        part = self._flat(start)
        return (x @ part.T - part.square().sum(dim=1) / 2) / variance

    def _log_prior(self, labels: torch.Tensor | None) -> torch.Tensor:
        """Return 0 for the images that the labels leave, -inf for others, [n or 1, k]."""
        if labels is None or self.labels is None:
            return torch.zeros([1, 1], device=self.images.device)
        free = (labels == 0).all(dim=1, keepdim=True)
        return torch.where(free, 1.0, labels @ self.labels.to(labels).T).log()
