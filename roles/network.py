"""What every room asks of a torch.nn.Module, beside calling it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Protocol

import torch


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

    def modules(self) -> Iterator[torch.nn.Module]:
        """Yield this module and all within it."""
        ...

    def state_dict(self) -> dict[str, Any]:
        """Return parameters and buffers by name."""
        ...

    def load_state_dict(self, state_dict: Mapping[str, Any], strict: bool = True) -> object:
        """Take parameters and buffers by name."""
        ...

    def train(self, mode: bool = True) -> Any:
        """Go into training mode, or out of it."""
        ...

    def eval(self) -> Any:
        """Go out of training mode."""
        ...

    def requires_grad_(self, requires_grad: bool = True) -> Any:
        """Ask for gradients of all parameters, or for none."""
        ...

    def to(self, *args: Any, **kwargs: Any) -> Any:
        """Move to a device or another type of number."""
        ...
