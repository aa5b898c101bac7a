"""A network between two of one architecture."""

from __future__ import annotations

import copy
from typing import TypeVar

import torch

from refiners.training.state import check_tensors
from roles import Network

AnyNetwork = TypeVar("AnyNetwork", bound=Network)


@torch.no_grad()
def blend(a: AnyNetwork, b: AnyNetwork, alpha: float) -> AnyNetwork:
    """Return a copy of a with (1 - alpha) a + alpha b in every floating-point tensor.

    0 is a and 1 is b, to the bit; beyond, it is extrapolated. Tensors of other types are b's.

    Raises:
        ValueError: the networks are of different architectures.
    """
    theirs, found = b.state_dict(), copy.deepcopy(a)
    mine = found.state_dict()
    check_tensors("the second network", theirs, mine)
    mixed = {}
    for name, x in mine.items():
        y = theirs[name]
        if alpha in (0, 1) or not x.is_floating_point():
            mixed[name] = (x if alpha == 0 else y).clone()
        else:
            mixed[name] = x.lerp(y.to(x.device), alpha)
    found.load_state_dict(mixed)
    return found
