"""Fused multiply-add with broadcasting."""

from __future__ import annotations

import torch


def fma(a: torch.Tensor, b: torch.Tensor, c: torch.Tensor) -> torch.Tensor:
    """Return a * b + c; the three shapes broadcast against each other."""
    return torch.addcmul(c, a, b)
