"""Two samples, as most distances take them."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor


@pytest.fixture
def sets() -> tuple[Tensor, Tensor]:
    """Real and generated rows; 83 is no multiple of 5 groups."""
    real = torch.randn(90, 6, dtype=torch.float64)
    return real, torch.randn(83, 6, dtype=torch.float64) + 0.4


@pytest.fixture
def kept() -> Callable[[Tensor, int], list[Tensor]]:
    """Generated rows whole, then without each of so many interleaved groups."""

    def parts(fake: Tensor, groups: int) -> list[Tensor]:
        group = torch.arange(len(fake)) % groups
        return [fake[group != left_out] for left_out in range(-1, groups)]

    return parts


@pytest.fixture
def normal() -> Callable[..., Tensor]:
    """Rows [n, d] of unit Gaussian numbers of a seed."""

    def rows(n: int, d: int, seed: int = 0) -> Tensor:
        generator = torch.Generator().manual_seed(seed)
        return torch.randn(n, d, generator=generator, dtype=torch.float64)

    return rows
