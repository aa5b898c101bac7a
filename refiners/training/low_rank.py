"""Low-rank training on: W + B A with W frozen, of 1 x 1 convolutions, those of attention included.

Hu et al. 2021, "LoRA: Low-Rank Adaptation of Large Language Models" (arXiv:2106.09685), Section
4.1: A is drawn, B is zero, so that training starts from the network as it is; their product is
added to the weights when the network is written, which then is one like any other. The layers that
tell a network of labels and augmentations are trained whole, as they may be new.
"""

from __future__ import annotations

import copy
import math

import torch
from torch.nn.utils import parametrize

from refiners.denoising import Trainable

TOLD = ("map_label", "map_augment")


class LowRank(torch.nn.Module):
    """W -> W + B A for a weight [out, in, 1, 1], of a rank."""

    def __init__(self, weight: torch.Tensor, rank: int):
        super().__init__()
        width, given = weight.shape[:2]
        # Drawn on a CPU, so that a seed gives the same everywhere.
        down = torch.randn([rank, given]) / math.sqrt(given)
        self.down = torch.nn.Parameter(down.to(weight))
        self.up = torch.nn.Parameter(weight.new_zeros([width, rank]))

    def forward(self, weight: torch.Tensor) -> torch.Tensor:
        """Return the weight with the product added."""
        return weight + (self.up @ self.down)[:, :, None, None]


def add_low_rank(network: Trainable, rank: int) -> None:
    """Let nothing of a network move but low-rank changes, and the layers of TOLD.

    Raises:
        ValueError: it has no 1 x 1 convolutions.
    """
    network.requires_grad_(False)
    found = [module for module in network.modules() if _is_pointwise(module)]
    if not found:
        raise ValueError("the network has no 1 x 1 convolutions; leave rank out")
    for module in found:
        weight = module.weight
        assert isinstance(weight, torch.Tensor)
        parametrize.register_parametrization(module, "weight", LowRank(weight, rank))
        module.parametrizations["weight"].original.requires_grad_(False)  # pyright: ignore
    for name, parameter in network.named_parameters():
        if any(part in TOLD for part in name.split(".")):
            parameter.requires_grad_(True)


def _is_pointwise(module: torch.nn.Module) -> bool:
    weight = getattr(module, "weight", None)
    return isinstance(weight, torch.Tensor) and weight.ndim == 4 and weight.shape[2:] == (1, 1)


def merged(network: Trainable) -> Trainable:
    """Return a copy of a network with its low-rank changes in its weights; without any, itself."""
    if not any(parametrize.is_parametrized(module) for module in network.modules()):
        return network
    whole = copy.deepcopy(network)
    for module in [*whole.modules()]:
        if parametrize.is_parametrized(module, "weight"):
            # torch's own way back changes the class, which the copy shares with the network.
            weight = module.weight
            assert isinstance(weight, torch.Tensor)
            module.__class__ = parametrize.type_before_parametrizations(module)
            del module.parametrizations
            module.register_parameter("weight", torch.nn.Parameter(weight.detach()))
    return whole


def changes_of(network: Trainable) -> dict[str, torch.Tensor]:
    """Return what low-rank training moves, by name: LAYER.down [rank, in], LAYER.up [out, rank]."""
    found: dict[str, torch.Tensor] = {}
    for name, value in network.state_dict().items():
        layer, has, part = name.partition(".parametrizations.weight.0.")
        if has:
            found[f"{layer}.{part}"] = value.detach().cpu().contiguous()
        elif any(part in TOLD for part in name.split(".")):
            found[name] = value.detach().cpu().contiguous()
    return found
