"""A file's tensors into the network that its options describe; names and shapes must agree."""

from __future__ import annotations

from collections.abc import Callable, Container, Mapping
from typing import Any

import torch
from torch.overrides import TorchFunctionMode

import checkpoints


class NoDraws(TorchFunctionMode):
    """Leave out what torch.randn would draw: on the meta device it imports sympy, for 2 s."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Call the function, or torch.empty instead of torch.randn."""
        return (torch.empty if func is torch.randn else func)(*args, **(kwargs or {}))


def filled(
    make: Callable[[], Any], tensors: Mapping[str, torch.Tensor], complaint: str, *, own: str = ""
) -> Any:
    """Make a network and give it these tensors, in eval mode and without gradients.

    Args:
        make: builds the network; called on the meta device.
        tensors: by name; converted to the network's types, and not copied where they have them.
        complaint: how the message begins where they do not agree.
        own: end of the names of tensors that keep their initial values; "" means none.

    Raises:
        ValueError: tensors that are missing, unknown, of another shape or not finite.
    """
    # Without memory: what the file asks for is not to be believed before its tensors agree.
    with torch.device("meta"), NoDraws():
        module = make()
    wanted = module.state_dict()
    kept = [name for name in wanted if own and name.endswith(own)]
    checkpoints.check_fit(
        tensors, {n: like for n, like in wanted.items() if n not in kept}, complaint
    )
    checkpoints.check_finite(tensors)
    weights = {n: tensors[n].detach() for n in wanted if n in tensors}
    if kept:
        with torch.random.fork_rng(devices=[]):  # the weights drawn here are thrown away
            initial = make().state_dict()
        weights.update({name: initial[name] for name in kept})
    weights = {n: weights[n].to(like.dtype).contiguous() for n, like in wanted.items()}
    module.load_state_dict(weights, assign=True)
    return module.eval().requires_grad_(False)


def keep_frozen(module: torch.nn.Module, names: Container[str]) -> None:
    """Make buffers of the parameters with these names: layers that do not learn (Freeze-D)."""
    for name, value in list(module.named_parameters()):
        if name in names:
            path, _, own = name.rpartition(".")
            layer = module.get_submodule(path)
            delattr(layer, own)
            layer.register_buffer(own, value.detach())


def shape_of(tensors: Mapping[str, torch.Tensor], name: str, dimensions: int) -> tuple[int, ...]:
    """Return a tensor's shape, or raise ValueError unless it has this many dimensions, none 0."""
    shape = tuple(tensors[name].shape) if name in tensors else ()
    if len(shape) != dimensions or 0 in shape:
        raise ValueError(f"{name} is {list(shape) or 'missing'}; it has {dimensions} dimensions")
    return shape
