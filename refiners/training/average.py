"""Exponential averages of networks, and a frozen view of one."""

from __future__ import annotations

import copy
from typing import TypeVar

import torch
from torch.optim.swa_utils import get_ema_multi_avg_fn

Network = TypeVar("Network", bound=torch.nn.Module)


@torch.no_grad()
def follow(
    average: torch.nn.Module, network: torch.nn.Module, amount: float, half_life: float
) -> None:
    """Move an average towards its network, `amount` of a half-life on; buffers are copied."""
    beta = 0.5 ** (amount / half_life) if half_life > 0 else 0.0
    mine: list[torch.Tensor] = list(average.parameters())
    theirs: list[torch.Tensor] = list(network.parameters())
    if mine:
        get_ema_multi_avg_fn(beta)(mine, theirs, None)
    for a, b in zip(average.buffers(), network.buffers(), strict=True):
        a.copy_(b)


def frozen_view(network: Network) -> Network:
    """Return the network in eval mode and without gradients, on the same tensors.

    The flags of the network that was given stay as they are, and no memory is taken.
    """
    same: dict[int, torch.Tensor] = {id(b): b for b in network.buffers()}
    for parameter in network.parameters():
        same[id(parameter)] = torch.nn.Parameter(parameter.detach(), requires_grad=False)
    return copy.deepcopy(network, same).eval()
