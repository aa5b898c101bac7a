"""What every room asks of a torch.nn.Module, beside calling it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Protocol, TypeVar, runtime_checkable

import torch

Self = TypeVar("Self")


@runtime_checkable
class Network(Protocol):
    """The parts of torch.nn.Module that are used of a student or a denoiser."""

    training: bool

    def parameters(self, recurse: bool = True) -> Iterator[torch.nn.Parameter]:
        """Yield the parameters."""
        ...

    def named_parameters(
        self, prefix: str = "", recurse: bool = True, remove_duplicate: bool = True
    ) -> Iterator[tuple[str, torch.nn.Parameter]]:
        """Yield the parameters with their names."""
        ...

    def buffers(self, recurse: bool = True) -> Iterator[torch.Tensor]:
        """Yield the buffers."""
        ...

    def named_buffers(
        self, prefix: str = "", recurse: bool = True, remove_duplicate: bool = True
    ) -> Iterator[tuple[str, torch.Tensor]]:
        """Yield the buffers with their names."""
        ...

    def named_modules(self) -> Iterator[tuple[str, torch.nn.Module]]:
        """Yield this module and all within it with their names."""
        ...

    def modules(self) -> Iterator[torch.nn.Module]:
        """Yield this module and all within it."""
        ...

    def state_dict(self) -> dict[str, torch.Tensor]:
        """Return parameters and buffers by name."""
        ...

    def load_state_dict(
        self, state_dict: Mapping[str, torch.Tensor], strict: bool = True
    ) -> object:
        """Take parameters and buffers by name."""
        ...

    def train(self: Self, mode: bool = True) -> Self:
        """Go into training mode, or out of it."""
        ...

    def eval(self: Self) -> Self:
        """Go out of training mode."""
        ...

    def requires_grad_(self: Self, requires_grad: bool = True) -> Self:
        """Ask for gradients of all parameters, or for none."""
        ...

    def to(self: Self, device: torch.device | str) -> Self:
        """Move to a device."""
        ...
