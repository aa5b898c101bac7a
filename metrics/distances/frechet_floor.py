"""What a perfect generator would measure: the reference against itself at the same count.

A Frechet distance of N images is above zero even where both laws are one. For Gaussian features the
covariance of N draws follows Wishart's law, which is drawn directly (Bartlett 1933): with A lower
triangular, A_ii^2 ~ chi^2(N - i) for i = 1 ... d, A_ij ~ N(0, 1) below, and sigma = L L^T,

    covariance = L A A^T L^T / (N - 1),    mean = mu + L e / sqrt(N).
"""

from __future__ import annotations

import numpy as np
import torch

from metrics.distances.arrays import Array
from metrics.distances.frechet_distance import covariance_root, frechet_of_roots, gaussian


def frechet_floor(mu: Array, sigma: Array, num_images: int, *, seed: int = 0) -> float:
    """Frechet distance of num_images draws of the Gaussian (mu [d], sigma [d, d]) from itself.

    One draw: its spread is small beside its value wherever there are many features.
    """
    if num_images < 2:
        raise ValueError(f"num_images is {num_images}; a covariance needs at least 2")
    mu, sigma = gaussian("", mu, sigma)
    root = covariance_root(sigma)
    rank = root.shape[1]
    rng = np.random.default_rng(seed)
    freedom = num_images - 1
    if freedom >= rank:
        factor = np.tril(rng.standard_normal((rank, rank)), -1)
        factor[np.diag_indices(rank)] = np.sqrt(rng.chisquare(freedom - np.arange(rank)))
    else:
        factor = rng.standard_normal((rank, freedom))
    drawn = root @ torch.from_numpy(factor) / freedom**0.5
    mean = mu + root @ torch.from_numpy(rng.standard_normal(rank)) / num_images**0.5
    return frechet_of_roots(mean, drawn, drawn.square().sum(), mu, root, sigma.trace())
