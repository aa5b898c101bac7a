"""Whether the tensors of a file are those that a network asks for."""

from __future__ import annotations

from collections.abc import Mapping

import torch

from checkpoints.modules import nonfinite


def check_fit(
    given: Mapping[str, torch.Tensor], wanted: Mapping[str, torch.Tensor], complaint: str
) -> None:
    """Raise ValueError unless the tensors given have the names and shapes of those wanted."""
    faults = [f"{name} is missing" for name in wanted if name not in given]
    faults += [f"{name} is unknown" for name in given if name not in wanted]
    faults += [
        f"{name} is {list(given[name].shape)} instead of {list(like.shape)}"
        for name, like in wanted.items()
        if name in given and given[name].shape != like.shape
    ]
    if faults:
        more = f" and {len(faults) - 3} more" if len(faults) > 3 else ""
        raise ValueError(f"{complaint}: {'; '.join(faults[:3])}{more}")


def check_finite(tensors: Mapping[str, torch.Tensor]) -> None:
    """Raise ValueError if a tensor holds an infinity or a NaN."""
    bad = nonfinite(tensors)
    if bad:
        raise ValueError(f"tensors that are not finite: {', '.join(bad[:3])}")
