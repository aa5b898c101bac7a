"""A file's tensors into the network that its options describe; names and shapes must agree."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import TypeGuard, TypeVar

import torch
from torch.overrides import TorchFunctionMode

from checkpoints.modules import nonfinite

Network = TypeVar("Network", bound=torch.nn.Module)
Made = TypeVar("Made")


def is_state_dict(value: object) -> TypeGuard[dict[str, torch.Tensor]]:
    """Whether this is a dict of tensors by name."""
    return (
        isinstance(value, dict)
        and bool(value)
        and all(isinstance(key, str) for key in value)
        and all(isinstance(item, torch.Tensor) for item in value.values())
    )


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


_WITHOUT_DRAWS: dict[Callable[..., object], Callable[..., object]] = {torch.randn: torch.empty}


class NoDraws(TorchFunctionMode):
    """Leave out what torch.randn would draw: on the meta device it imports sympy, for 2 s."""

    def __torch_function__(
        self,
        func: Callable[..., object],
        types: Iterable[type],
        args: tuple[object, ...] = (),
        kwargs: Mapping[str, object] | None = None,
    ) -> object:
        """Call the function, or torch.empty instead of torch.randn."""
        return _WITHOUT_DRAWS.get(func, func)(*args, **(kwargs or {}))


def filled(
    make: Callable[[], Network],
    tensors: Mapping[str, torch.Tensor],
    complaint: str,
    *,
    own: str = "",
) -> Network:
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
    check_fit(tensors, {n: like for n, like in wanted.items() if n not in kept}, complaint)
    check_finite(tensors)
    weights = {n: tensors[n].detach() for n in wanted if n in tensors}
    if kept:
        with torch.random.fork_rng(devices=[]):  # the weights drawn here are thrown away
            initial = make().state_dict()
        weights.update({name: initial[name] for name in kept})
    weights = {n: weights[n].to(like.dtype).contiguous() for n, like in wanted.items()}
    module.load_state_dict(weights, assign=True)
    return module.eval().requires_grad_(False)


def with_options(
    make: Callable[..., Made], options: Mapping[str, object], /, *args: object, **others: object
) -> Made:
    """Call a constructor with options of a file, whose types no type checker knows."""
    return make(*args, **others, **options)


def shape_of(tensors: Mapping[str, torch.Tensor], name: str, dimensions: int) -> tuple[int, ...]:
    """Return a tensor's shape, or raise ValueError unless it has this many dimensions, none 0."""
    shape = tuple(tensors[name].shape) if name in tensors else ()
    if len(shape) != dimensions or 0 in shape:
        raise ValueError(f"{name} is {list(shape) or 'missing'}; it has {dimensions} dimensions")
    return shape
