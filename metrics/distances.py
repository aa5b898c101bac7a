"""Distances between two sets of image features: pure functions of arrays, all in float64.

Frechet distance (Heusel et al. 2017, arXiv:1706.08500, Eq. 6)

    |mu1 - mu2|^2 + tr(S1) + tr(S2) - 2 tr((S1 S2)^(1/2)),

Inception Score (Salimans et al. 2016, arXiv:1606.03498), kernel distance (Binkowski et al. 2018,
arXiv:1801.01401) and precision / recall (Kynkaanniemi et al. 2019, arXiv:1904.06991).

With roots R1, R2 of the covariances (S = R R^T) the last trace of the Frechet distance is the sum
of the singular values of R1^T R2. Written so, the spectrum need not be squared: a null direction
costs eps where eigenvalues of S1 S2 cost sqrt(eps), and nothing complex or negative can come out.
Only where the spectrum is so even that squaring it costs nothing are they taken from eigenvalues,
in half the time. The matrix square root of S1 S2 is never formed, and no multiple of the identity
is ever added.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor

Array = ArrayLike | Tensor

# Covariances come from files that may hold float32: they are symmetric and positive only to this.
SYMMETRY_TOLERANCE = 1e-6
NEGATIVE_TOLERANCE = 1e-3

# Share of a nuclear norm that its way by eigenvalues may cost at most; it costs far less mostly.
NORM_TOLERANCE = 1e-11
# Least share of a Cholesky factor's largest pivot that others may be for that way to be tried: with
# spectra evenly spread in logarithm 0.05 is a condition of 100, where it begins to fail.
EVEN_SPECTRUM = 0.03

# Rows of one block of a pairwise table. 1024 x 50,000 float64 numbers are 400 MiB.
BLOCK = 1024


class PrecisionRecall(NamedTuple):
    """Share of generated images that look real, of real images that can be generated; 0 to 1."""

    precision: float
    recall: float


def frechet_distance(mu1: Array, sigma1: Array, mu2: Array, sigma2: Array) -> float:
    """Frechet distance of two Gaussians, in squared units of the features.

    `mu1`, `mu2` are [d], `sigma1`, `sigma2` are [d, d]: numpy or torch, any real dtype. ValueError
    on shapes that do not fit, on numbers that are not finite, and on matrices that are no
    covariances.
    """
    mu1, sigma1 = gaussian("1", mu1, sigma1)
    mu2, sigma2 = gaussian("2", mu2, sigma2)
    if len(mu1) != len(mu2):
        raise ValueError(
            f"mu1 has {len(mu1)} features and mu2 has {len(mu2)}: use one feature space for both"
        )
    roots = covariance_root(sigma1), covariance_root(sigma2)
    return frechet_of_roots(mu1, roots[0], sigma1.trace(), mu2, roots[1], sigma2.trace())


@contextmanager
def _one_thread() -> Iterator[None]:
    """Give torch one thread: factorising waits for memory, so a second one gains little.

    On a busy machine the threads wait for each other at every column instead: at d = 1024 on two
    cores with other work, svdvals took 0.27 s in one thread and 1.7 s in two, eigh 0.43 s and 17 s.
    """
    num_threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(num_threads)


def frechet_distance_of_features(x: Array, y: Array, *, ddof: int = 1) -> float:
    """Frechet distance of two samples [n, d] and [m, d]; covariances divide by n - ddof, m - ddof.

    A sample of fewer rows than columns is its own root (S = X^T X / (n - ddof), X centred): neither
    its covariance nor a factorisation of it is needed, and its null space costs no accuracy.
    """
    x, y = features_pair(x, y, at_least=ddof + 1)
    return frechet_of_roots(*sample_root(x, ddof=ddof), *sample_root(y, ddof=ddof))


def sample_root(x: Tensor, *, ddof: int = 1) -> tuple[Tensor, Tensor, Tensor]:
    """Mean, a root and the trace of the covariance of a float64 sample [n, d]."""
    mean = x.mean(0)
    root = (x - mean) / (len(x) - ddof) ** 0.5
    trace = root.square().sum()
    return mean, root.T if len(x) < x.shape[1] else covariance_root(root.T @ root), trace


@_one_thread()
def frechet_of_roots(
    mu1: Tensor, root1: Tensor, trace1: Tensor, mu2: Tensor, root2: Tensor, trace2: Tensor
) -> float:
    """Frechet distance of Gaussians by mean [d], root of the covariance [d, any], and trace."""
    is_even = _is_even(root1) and _is_even(root2)
    overlap = _nuclear_norm(root1.T @ root2, is_even=is_even)
    return ((mu1 - mu2).square().sum() + trace1 + trace2 - 2 * overlap).item()


@_one_thread()
def covariance_root(sigma: Tensor, *, rounding: float = 0.0) -> Tensor:
    """R with R R^T = sigma, float64 [d, rank]: Cholesky's, or eigenvectors where it is not safe.

    Eigenvalues of at most `rounding` count as zeros, of either sign: what is left of a difference
    of matrices that are much larger. ValueError where one is more negative than rounding explains.
    """
    root, failed = torch.linalg.cholesky_ex(sigma)
    pivots = root.diagonal().square()
    # A singular matrix can pass Cholesky on rounding errors alone; its last pivots are then noise.
    noise = len(sigma) * torch.finfo(sigma.dtype).eps
    if not failed and pivots.min() > max(noise * pivots.max(), rounding):
        return root
    values, vectors = torch.linalg.eigh(sigma)
    if values[0] < -max(NEGATIVE_TOLERANCE * values[-1], rounding):
        raise ValueError(
            f"covariance has eigenvalues from {values[0]:.3g} to {values[-1]:.3g}: they must not "
            "be negative; compute the statistics again in float64"
        )
    # Rounding leaves +-noise where the spectrum has zeros; its root would be far above rounding.
    kept = values > max(noise * values[-1], rounding)
    return vectors[:, kept] * values[kept].sqrt()


def inception_score(probabilities: Array, *, splits: int = 10) -> tuple[float, float]:
    """Mean and standard deviation (over splits, ddof 0) of exp(mean KL(p(y|x) || p(y))); 1 to k.

    `probabilities` is [n, k], rows summing to 1. Splits are consecutive, unshuffled: the score
    depends on their size, so quote their number and n. ValueError on fewer rows than splits or on
    no distributions.
    """
    p = float64("probabilities", probabilities, ndim=2)
    if splits < 1 or len(p) < splits:
        raise ValueError(f"{len(p)} rows in {splits} splits: give at least one row for each split")
    if p.min() < 0 or (p.sum(1) - 1).abs().max() > 1e-3:
        raise ValueError(
            "probabilities must be >= 0 and sum to 1 in every row: apply a softmax to logits"
        )
    scores = []
    for i in range(splits):
        part = p[i * len(p) // splits : (i + 1) * len(p) // splits]
        marginal = part.mean(0)
        divergence = torch.xlogy(part, part).sum(1).mean() - torch.xlogy(marginal, marginal).sum()
        scores.append(divergence.exp())
    mean = torch.stack(scores).mean()
    return mean.item(), (torch.stack(scores) - mean).square().mean().sqrt().item()


def kernel_distance(x: Array, y: Array) -> float:
    """Squared maximum mean discrepancy with k(a, b) = (a.b / d + 1)^3, unbiased, over all pairs.

    `x` is [n, d], `y` is [m, d], n and m at least 2. The full U-statistic: no random subsets, so no
    seed and less variance than the usual mean over subsets, of which it is the expectation. Can be
    negative.
    """
    x, y = features_pair(x, y, at_least=2)
    n, m = len(x), len(y)
    within_x = _kernel_sum(x, x) - _kernel_diagonal(x)
    within_y = _kernel_sum(y, y) - _kernel_diagonal(y)
    across = _kernel_sum(x, y)
    return (within_x / (n * (n - 1)) + within_y / (m * (m - 1)) - 2 * across / (n * m)).item()


def precision_recall(real: Array, fake: Array, *, k: int = 3) -> PrecisionRecall:
    """Share of `fake` [m, d] inside the manifold of `real` [n, d], and the reverse.

    The manifold of a set is the union of balls round its points that reach to the k-th nearest
    neighbour (Kynkaanniemi et al. 2019, Eq. 1 and 2). Values depend on n and m: compare only at
    equal counts.
    """
    real, fake = features_pair(real, fake, at_least=k + 1)
    # Distances do not depend on the origin; near it they lose the fewest digits.
    origin = real.mean(0)
    real, fake = real - origin, fake - origin
    in_real = in_manifold(fake, real, manifold_radii(real, k=k))
    in_fake = in_manifold(real, fake, manifold_radii(fake, k=k))
    return PrecisionRecall(in_real.double().mean().item(), in_fake.double().mean().item())


def manifold_radii(x: Tensor, *, k: int) -> Tensor:
    """Squared distance from each point of x [n, d] to its k-th nearest other point, [n]."""
    if not 1 <= k < len(x):
        raise ValueError(
            f"k = {k} nearest neighbours of {len(x)} points: k must be 1 to {len(x) - 1}"
        )
    return torch.cat(
        [squared_distances(block, x).kthvalue(k + 1, dim=1).values for block in x.split(BLOCK)]
    )


def in_manifold(points: Tensor, centres: Tensor, radii: Tensor) -> Tensor:
    """Whether points [m, d] lie in any ball round centres [n, d] of squared radii [n]; bool [m]."""
    return torch.cat(
        [(squared_distances(block, centres) <= radii).any(1) for block in points.split(BLOCK)]
    )


def squared_distances(x: Tensor, y: Tensor) -> Tensor:
    """[n, m]; pairs that agree to about a millionth of their norms have distance zero, exactly."""
    norms = x.square().sum(1)[:, None] + y.square().sum(1)
    distances = norms - 2 * (x @ y.T)
    return torch.where(distances > 1e-12 * norms, distances, 0.0)


def polynomial_kernel(products: Tensor, d: int) -> Tensor:
    """(a.b / d + 1)^3 of inner products a.b of d features."""
    return (products / d + 1) ** 3


def _kernel_sum(x: Tensor, y: Tensor) -> Tensor:
    sums = [polynomial_kernel(rows @ y.T, x.shape[1]).sum() for rows in x.split(BLOCK)]
    return torch.stack(sums).sum()


def _kernel_diagonal(x: Tensor) -> Tensor:
    return polynomial_kernel(x.square().sum(1), x.shape[1]).sum()


def _is_even(root: Tensor) -> bool:
    """Whether the squared spectrum might still say it all: the pivots of a square root tell."""
    pivots = root.diagonal().square()
    return root.shape[0] != root.shape[1] or bool(pivots.min() > EVEN_SPECTRUM * pivots.max())


def _nuclear_norm(product: Tensor, *, is_even: bool) -> Tensor:
    """Sum of the singular values of a matrix [n, m], which may be empty."""
    if not product.numel():
        return product.sum()
    wide = product if len(product) <= product.shape[1] else product.T
    norm = _norm_by_eigenvalues(wide) if is_even else None
    return torch.linalg.svdvals(product).sum() if norm is None else norm


def _norm_by_eigenvalues(wide: Tensor) -> Tensor | None:
    """Sum of the roots of the eigenvalues of W W^T, None where these do not say it to 1e-11."""
    # Numpy sees that this is symmetric and computes half of it.
    gram = torch.from_numpy(wide.numpy() @ wide.numpy().T)
    values = torch.linalg.eigvalsh(gram)
    # Eigenvalues are exact to this; the root of one that is as small is no longer known.
    error = len(gram) * torch.finfo(gram.dtype).eps * values[-1]
    if values[0] <= 2 * error:
        return None
    roots = values.sqrt()
    return roots.sum() if (error / roots).sum() <= NORM_TOLERANCE * roots.sum() else None


def float64(name: str, value: Array, *, ndim: int) -> Tensor:
    """The array as a float64 CPU tensor of `ndim` axes, all finite; else ValueError."""
    if isinstance(value, Tensor):
        tensor = value.detach()
    else:
        array = np.asarray(value)
        if array.dtype.kind not in "fiub":
            raise ValueError(f"{name} holds {array.dtype}: give an array of real numbers")
        tensor = torch.from_numpy(array.astype(np.float64))
    if tensor.is_complex():
        raise ValueError(f"{name} holds {tensor.dtype}: give an array of real numbers")
    tensor = tensor.to("cpu", torch.float64)
    if tensor.ndim != ndim or not tensor.numel():
        axes = "[d]" if ndim == 1 else "[rows, columns]"
        raise ValueError(f"{name} has shape {tuple(tensor.shape)}: give {axes}, not empty")
    if not tensor.isfinite().all():
        raise ValueError(
            f"{name} has {(~tensor.isfinite()).sum()} numbers that are NaN or infinite"
        )
    return tensor


def gaussian(which: str, mu: Array, sigma: Array) -> tuple[Tensor, Tensor]:
    """Mean [d] and symmetric covariance [d, d] in float64, checked; `which` is for messages."""
    mu, sigma = float64(f"mu{which}", mu, ndim=1), float64(f"sigma{which}", sigma, ndim=2)
    if sigma.shape != (len(mu), len(mu)):
        raise ValueError(
            f"sigma{which} has shape {tuple(sigma.shape)} and mu{which} has {len(mu)} features: "
            f"give a covariance of {len(mu)} x {len(mu)}"
        )
    if torch.equal(sigma, sigma.T):
        return mu, sigma
    if (sigma - sigma.T).abs().max() > SYMMETRY_TOLERANCE * sigma.abs().max():
        raise ValueError(f"sigma{which} is not symmetric: give a covariance matrix")
    return mu, (sigma + sigma.T) / 2


def features_pair(x: Array, y: Array, *, at_least: int) -> tuple[Tensor, Tensor]:
    """Two samples [n, d] and [m, d] in float64, checked to be of one d and of enough rows."""
    x, y = float64("first features", x, ndim=2), float64("second features", y, ndim=2)
    if x.shape[1] != y.shape[1]:
        raise ValueError(
            f"features have {x.shape[1]} and {y.shape[1]} columns: use one feature space for both"
        )
    if min(len(x), len(y)) < at_least:
        raise ValueError(
            f"{len(x)} and {len(y)} rows of features: give at least {at_least} of each"
        )
    return x, y
