"""What tensors hold while a step is done: the peak, and whose they are at it.

Every storage that an operation of torch makes is counted from then until it is freed, on whatever
device, so the peak of a GPU can be told on a CPU. What an operation takes inside of itself is not
seen.
"""

from __future__ import annotations

import itertools
import weakref
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager

import torch
from torch.utils._python_dispatch import TorchDispatchMode

REST = "rest"  # made while no network's forward pass runs: slopes, noise, images


class Holdings(TorchDispatchMode):
    """Notes each storage that is made inside, and when it is freed.

    Attributes:
        owner: of what is made now.
    """

    def __init__(self) -> None:
        super().__init__()
        self.owners: list[str] = []
        self._ids = itertools.count()
        self._alive: dict[int, int] = {}  # address of a storage's data -> its number
        self._made: dict[int, tuple[int, str]] = {}  # number -> bytes, owner
        self._events: list[int] = []  # numbers: not negative where made, -1 - number where freed
        self._kept: set[int] = set()

    def __torch_dispatch__(
        self,
        func: Callable[..., object],
        types: Iterable[type],
        args: tuple[object, ...] = (),
        kwargs: Mapping[str, object] | None = None,
    ) -> object:
        """Carry an operation out and note what it made."""
        made = func(*args, **(kwargs or {}))
        given: set[int] | None = None
        for tensor in _tensors_in(made):
            storage = tensor.untyped_storage()
            if storage._cdata in self._alive:
                continue
            if given is None:
                parts = (args, *kwargs.values()) if kwargs else (args,)
                given = {t.untyped_storage()._cdata for t in _tensors_in(parts)}
            if storage._cdata not in given:  # else a view of a weight, or one that was changed
                self._note(storage)
        return made

    def _note(self, storage: torch.UntypedStorage) -> None:
        number = next(self._ids)
        self._alive[storage._cdata] = number
        self._made[number] = (storage.nbytes(), self.owners[-1] if self.owners else REST)
        self._events.append(number)
        weakref.finalize(storage, self._freed, storage._cdata, number).atexit = False

    def _freed(self, address: int, number: int) -> None:
        if self._alive.get(address) == number:
            del self._alive[address]
        self._events.append(-1 - number)

    def keep(self, tensor: torch.Tensor) -> None:
        """Take a tensor for one that stays, as a gradient or an optimiser's; it is left out."""
        number = self._alive.get(tensor.untyped_storage()._cdata)
        if number is not None:
            self._kept.add(number)

    def peak(self) -> dict[str, int]:
        """Return the bytes by owner at the moment at which all together are the most."""
        return max(self._moments(), key=lambda held: sum(held.values()), default={})

    def most(self) -> dict[str, int]:
        """Return the most bytes of each owner, which need not be at the same moment."""
        found: dict[str, int] = {}
        for held in self._moments():
            for owner, size in held.items():
                found[owner] = max(size, found.get(owner, 0))
        return found

    def _moments(self) -> Iterator[dict[str, int]]:
        """Give the bytes by owner after each storage that was made."""
        held: Counter[str] = Counter()
        for event in self._events:
            number = event if event >= 0 else -1 - event
            if number in self._kept:
                continue
            size, owner = self._made[number]
            held[owner] += size if event >= 0 else -size
            if event >= 0:
                yield {owner: size for owner, size in held.items() if size > 0}


def _tensors_in(value: object) -> Iterator[torch.Tensor]:
    """Give the tensors in what an operation takes or returns: one, or lists of some."""
    if isinstance(value, torch.Tensor):
        yield value
    elif isinstance(value, (tuple, list)):
        for part in value:
            yield from _tensors_in(part)


@contextmanager
def holdings(
    networks: Mapping[str, Iterable[torch.nn.Module]],
    optimisers: Iterable[torch.optim.Optimizer],
) -> Iterator[Holdings]:
    """Note what is made inside, by the network in whose passes; gradients stay out.

    Args:
        networks: owner -> its networks; one that two have is the first's. What an inner module is
            called for counts, too.
        optimisers: whose gradients and states are no activations.
    """
    held = Holdings()
    with ExitStack() as hooks:

        def note(handle: torch.utils.hooks.RemovableHandle) -> None:
            hooks.callback(handle.remove)

        hooked: set[torch.nn.Module] = set()
        for owner, owned in networks.items():
            for module in {m for network in owned for m in network.modules()} - hooked:
                hooked.add(module)
                note(module.register_forward_pre_hook(_entering(held, owner)))
                note(module.register_forward_hook(_leaving(held), always_call=True))
        groups = [group for optimiser in optimisers for group in optimiser.param_groups]
        for parameter in [p for group in groups for p in group["params"]]:
            note(parameter.register_post_accumulate_grad_hook(lambda p: held.keep(p.grad)))
        with held:
            yield held
        for optimiser in optimisers:
            for state in optimiser.state.values():
                for tensor in _tensors_in(list(state.values())):
                    held.keep(tensor)


def _entering(held: Holdings, owner: str) -> Callable[..., None]:
    def enter(module: torch.nn.Module, args: object) -> None:
        held.owners.append(owner)

    return enter


def _leaving(held: Holdings) -> Callable[..., None]:
    def leave(module: torch.nn.Module, args: object, result: object) -> None:
        held.owners.pop()

    return leave
