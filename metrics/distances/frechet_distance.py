"""Frechet distance of two Gaussians (Heusel et al. 2017, arXiv:1706.08500, Eq. 6), in float64.

    |mu1 - mu2|^2 + tr(S1) + tr(S2) - 2 tr((S1 S2)^(1/2))

With roots R1, R2 of the covariances (S = R R^T) the last trace is the sum of the singular values of
R1^T R2. Written so, the spectrum need not be squared: a null direction costs eps where eigenvalues
of S1 S2 cost sqrt(eps), and nothing complex or negative can come out. Only where the spectrum is so
even that squaring it costs nothing are they taken from eigenvalues, in half the time. The matrix
square root of S1 S2 is never formed, and no multiple of the identity is ever added.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from jaxtyping import Float64
from torch import Tensor

from metrics.distances.arrays import Array, Rows, float64, two_samples
from metrics.distances.metric import Metric
from metrics.distances.streams import Stream

# Covariances come from files that may hold float32: they are symmetric and positive only to this.
SYMMETRY_TOLERANCE = 1e-6
NEGATIVE_TOLERANCE = 1e-3

# Share of a nuclear norm that its way by eigenvalues may cost at most; it costs far less mostly.
NORM_TOLERANCE = 1e-11
# Least share of a Cholesky factor's largest pivot that others may be for that way to be tried: with
# spectra evenly spread in logarithm 0.05 is a condition of 100, where it begins to fail.
EVEN_SPECTRUM = 0.03


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


def frechet_distance_of_features(x: Array, y: Array, *, ddof: int = 1) -> float:
    """Frechet distance of two samples [n, d] and [m, d]; covariances divide by n - ddof, m - ddof.

    A sample of fewer rows than columns is its own root (S = X^T X / (n - ddof), X centred): neither
    its covariance nor a factorisation of it is needed, and its null space costs no accuracy.
    """
    x, y = two_samples(x, y, at_least=ddof + 1)
    return frechet_of_roots(*sample_root(x, ddof=ddof), *sample_root(y, ddof=ddof))


def frechet_distances(stream: Stream, left_out: Sequence[int]) -> Iterator[float]:
    """Yield the distance of a stream to its reference without each of these groups."""
    root, trace = covariance_root(stream.sigma), stream.sigma.trace()
    whole = stream.moments.without(-1)
    # What taking a group from the whole leaves where the other images are all alike.
    size = whole.covariance().trace() + whole.mean.square().sum()
    rounding = torch.finfo(size.dtype).eps * size.item()
    for group in left_out:
        part = stream.moments.without(group)
        own = part.covariance()
        own_root = covariance_root(own, rounding=rounding if group >= 0 else 0.0)
        yield frechet_of_roots(part.mean, own_root, own.trace(), stream.mu, root, trace)


def gaussian(
    which: str, mu: Array, sigma: Array
) -> tuple[Float64[Tensor, " d"], Float64[Tensor, "d d"]]:
    """Mean and symmetric covariance in float64, checked; `which` is for messages."""
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


def sample_root(
    x: Rows, *, ddof: int = 1
) -> tuple[Float64[Tensor, " d"], Float64[Tensor, "d rank"], Float64[Tensor, ""]]:
    """Mean, a root and the trace of the covariance of a sample."""
    mean = x.mean(0)
    root = (x - mean) / (len(x) - ddof) ** 0.5
    trace = root.square().sum()
    return mean, root.T if len(x) < x.shape[1] else covariance_root(root.T @ root), trace


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


@_one_thread()
def covariance_root(
    sigma: Float64[Tensor, "d d"], *, rounding: float = 0.0
) -> Float64[Tensor, "d rank"]:
    """R with R R^T = sigma: Cholesky's, or eigenvectors where it is not safe.

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


@_one_thread()
def frechet_of_roots(
    mu1: Float64[Tensor, " d"],
    root1: Float64[Tensor, "d rank1"],
    trace1: Float64[Tensor, ""],
    mu2: Float64[Tensor, " d"],
    root2: Float64[Tensor, "d rank2"],
    trace2: Float64[Tensor, ""],
) -> float:
    """Frechet distance of Gaussians by mean, root of the covariance, and trace."""
    is_even = _is_even(root1) and _is_even(root2)
    overlap = _nuclear_norm(root1.T @ root2, is_even=is_even)
    return ((mu1 - mu2).square().sum() + trace1 + trace2 - 2 * overlap).item()


def _is_even(root: Float64[Tensor, "d rank"]) -> bool:
    """Whether the squared spectrum might still say it all: the pivots of a square root tell."""
    pivots = root.diagonal().square()
    return root.shape[0] != root.shape[1] or bool(pivots.min() > EVEN_SPECTRUM * pivots.max())


def _nuclear_norm(product: Float64[Tensor, "n m"], *, is_even: bool) -> Float64[Tensor, ""]:
    """Sum of the singular values of a matrix, which may be empty."""
    if not product.numel():
        return product.sum()
    wide = product if len(product) <= product.shape[1] else product.T
    norm = _norm_by_eigenvalues(wide) if is_even else None
    return torch.linalg.svdvals(product).sum() if norm is None else norm


def _norm_by_eigenvalues(wide: Float64[Tensor, "n m"]) -> Float64[Tensor, ""] | None:
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


METRIC = Metric(
    title="Fréchet distance",
    help="between Gaussians fitted to both sets; too large by about 1 / count",
    unit="squared features",
    lower_is_better=True,
    needs="moments",
    values=frechet_distances,
    by_default=True,
)
