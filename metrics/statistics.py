"""Statistics of real images as FID's files hold them: mean, covariance, a sample of features."""

from __future__ import annotations

import os
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Float64, Int
from torch import Tensor

from metrics.distances.frechet_distance import SYMMETRY_TOLERANCE, covariance_root
from metrics.distances.moments import Moments
from metrics.storage import Arrays, read_arrays, text, whole_number, write_arrays

# Of a feature: its cube, squared, is still a number in float64.
MOST = 1e30


@dataclass(frozen=True)
class Statistics:
    """What a statistics file holds: mean and covariance, and what they are of.

    num       number of images
    space     name of the feature space
    features  a sample of the features themselves, for metrics that need those of single images
    labels    classes of that sample, for the table of classes

    Each of the last four is None where the file does not say.
    """

    mu: Float64[np.ndarray, " d"]
    sigma: Float64[np.ndarray, "d d"]
    num: int | None = None
    space: str | None = None
    features: Float[np.ndarray, "m d"] | None = None
    labels: Int[np.ndarray, " m"] | None = None

    @classmethod
    def of(
        cls,
        moments: Moments,
        *,
        space: str | None = None,
        features: Float[Tensor, "m d"] | None = None,
        labels: Int[np.ndarray, " m"] | None = None,
    ) -> Statistics:
        """Statistics of moments, with the unbiased covariance."""
        sample = None if features is None else features.detach().cpu().float().numpy()
        mu, sigma = moments.mean.numpy(), moments.covariance().numpy()
        return cls(mu, sigma, moments.num, space, sample, labels)

    def arrays(self) -> Arrays:
        """The arrays of the file: mu, sigma, and n, name, features, labels where known."""
        optional = {
            "n": self.num,
            "name": self.space,
            "features": self.features,
            "labels": self.labels,
        }
        arrays = {"mu": self.mu, "sigma": self.sigma}
        return arrays | {
            key: np.asarray(value) for key, value in optional.items() if value is not None
        }

    @classmethod
    def from_arrays(
        cls, arrays: Arrays, *, path: str | os.PathLike[str], dim: int | None = None
    ) -> Statistics:
        """Check and take the statistics among `arrays`, ignoring others; `path` is for messages.

        Of `dim` features, where that is known: others are refused before any work is done.
        """
        if "mu" not in arrays and {"m", "s"} <= arrays.keys():  # as TTUR names them
            arrays = {**arrays, "mu": arrays["m"], "sigma": arrays["s"]}
        for key in ("mu", "sigma"):
            if key not in arrays:
                raise ValueError(f"{path}: has no array {key!r}; statistics have 'mu' and 'sigma'")
        mu, sigma, sample = arrays["mu"], arrays["sigma"], arrays.get("features")
        if mu.ndim != 1 or not len(mu) or sigma.shape != (len(mu), len(mu)):
            raise ValueError(
                f"{path}: mu is {mu.shape} and sigma {sigma.shape}; allowed are (d,) and (d, d)"
            )
        if dim is not None and dim != len(mu):
            raise ValueError(
                f"{path}: statistics of {len(mu)} features, and the feature space has {dim}; "
                "use one feature space for both"
            )
        if sample is not None and (sample.ndim != 2 or sample.shape[1] != len(mu)):
            raise ValueError(
                f"{path}: features are {sample.shape} and mu {mu.shape}; allowed is (m, {len(mu)})"
            )
        # Labels are of the sample; without one they are another program's, of something else.
        labels = None if sample is None else arrays.get("labels")
        if labels is not None and (
            sample is None or labels.shape != sample.shape[:1] or labels.dtype.kind not in "iu"
        ):
            raise ValueError(
                f"{path}: labels are {labels.dtype} {labels.shape}; allowed are whole numbers, one "
                "for each row of features"
            )
        for key, most in (("mu", MOST), ("sigma", MOST**2), ("features", MOST)):
            if key in arrays and not (
                arrays[key].dtype.kind == "f" and np.isfinite(arrays[key]).all()
            ):
                raise ValueError(f"{path}: {key!r} must hold finite floating-point numbers")
            if key in arrays and float(np.abs(arrays[key]).max(initial=0)) > most:
                raise ValueError(
                    f"{path}: {key!r} has numbers beyond {most:.0e}, whose distances overflow; "
                    "scale the features"
                )
        if np.abs(sigma - sigma.T).max() > SYMMETRY_TOLERANCE * np.abs(sigma).max():
            raise ValueError(f"{path}: sigma is not symmetric; it must be a covariance matrix")
        # A file may have the bytes of another machine, or numbers that torch does not know.
        mu, sigma = mu.astype(np.float64), sigma.astype(np.float64)
        if sample is not None:
            sample = sample.astype(np.float32 if sample.itemsize <= 4 else np.float64)
        labels = labels if labels is None else labels.astype(np.int64)
        try:
            covariance_root(torch.from_numpy(sigma))
        except ValueError as error:
            raise ValueError(f"{path}: {error}") from None
        num = whole_number(arrays, "n", path=path)
        if num is not None and num < 2:
            raise ValueError(f"{path}: n is {num}; statistics are of at least 2 images")
        space = text(arrays, "name", path=path)
        return cls(mu, sigma, num, space, sample, labels)


def save_statistics(path: str | os.PathLike[str], statistics: Statistics) -> None:
    """Write an .npz with mu and sigma, as EDM and pytorch-fid read it, and what else is known."""
    write_arrays(path, statistics.arrays())


def load_statistics(path: str | os.PathLike[str]) -> Statistics:
    """Read the statistics of an .npz, ours or one with mu and sigma only (EDM, pytorch-fid)."""
    return Statistics.from_arrays(read_arrays(path), path=path)
