"""Arrays that come from anywhere, checked and made float64: what every distance begins with."""

from __future__ import annotations

import numpy as np
import torch
from jaxtyping import Float64
from numpy.typing import ArrayLike
from torch import Tensor

Array = ArrayLike | Tensor

# Features, a row for each image: of one set, and of another in the same space.
Rows = Float64[Tensor, "n d"]
OtherRows = Float64[Tensor, "m d"]

# Rows of one block of a table of distances. 1024 x 50,000 float64 numbers are 400 MiB.
BLOCK = 1024


def float64(name: str, value: Array, *, ndim: int) -> Float64[Tensor, "*shape"]:
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
    tensor = tensor.cpu().double()
    if tensor.ndim != ndim or not tensor.numel():
        axes = "[d]" if ndim == 1 else "[rows, columns]"
        raise ValueError(f"{name} has shape {tuple(tensor.shape)}: give {axes}, not empty")
    if not tensor.isfinite().all():
        raise ValueError(
            f"{name} has {(~tensor.isfinite()).sum()} numbers that are NaN or infinite"
        )
    return tensor


def two_samples(x: Array, y: Array, *, at_least: int) -> tuple[Rows, OtherRows]:
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
