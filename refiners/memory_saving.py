"""Less memory for more work: activations computed twice, a teacher that waits beside the GPU.

Both give the same numbers as without.
"""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Iterator
from typing import Any

import torch
from torch.utils.checkpoint import checkpoint

CONTAINERS = (torch.nn.ModuleDict, torch.nn.ModuleList)  # have no pass of their own


def blocks_of(network: torch.nn.Module) -> list[torch.nn.Module]:
    """Return the outermost modules with parts, of a kind that the network has several of."""
    kinds = Counter(type(m) for m in network.modules() if any(True for _ in m.children()))

    def within(module: torch.nn.Module) -> Iterator[torch.nn.Module]:
        for child in module.children():
            if kinds[type(child)] > 1 and not isinstance(child, CONTAINERS):
                yield child
            else:
                yield from within(child)

    return list(within(network))


def checkpoint_blocks(network: torch.nn.Module) -> int:
    """Let each block keep its input alone for the backward pass, which computes the rest again.

    Changes the methods of these instances, as precision.prepare does, and returns how many.
    """
    blocks = blocks_of(network)
    for block in blocks:
        block.__dict__["forward"] = _computed_again(block)
    return len(blocks)


def _computed_again(block: torch.nn.Module) -> Any:
    forward = block.forward

    def run(*args: Any, **kwargs: Any) -> Any:
        if not torch.is_grad_enabled():
            return forward(*args, **kwargs)
        # In training a pass moves running means, and the second one may neither see nor repeat it.
        before = [b.clone() for b in block.buffers()] if block.training else []

        def contexts() -> tuple[Any, Any]:
            return contextlib.nullcontext(), _with_buffers(block, before)

        return checkpoint(forward, *args, use_reentrant=False, context_fn=contexts, **kwargs)

    return run


@contextlib.contextmanager
def _with_buffers(block: torch.nn.Module, values: list[torch.Tensor]) -> Iterator[None]:
    """Compute inside as when running means were these, if any, and leave them as they are now."""
    buffers = list(block.buffers()) if values else []
    now = [b.clone() for b in buffers]
    for b, value in zip(buffers, values, strict=True):
        b.copy_(value)
    try:
        yield
    finally:
        for b, value in zip(buffers, now, strict=True):
            b.copy_(value)


class Offloaded:
    """A frozen network that can wait in the CPU's memory between its uses.

    Its storages are emptied meanwhile, so that no other view of it holds memory on the device, and
    none may be used then. Before `away` is entered, and after, all is as if this did not exist.
    """

    def __init__(self, network: torch.nn.Module):
        tensors = [*network.parameters(), *network.buffers()]
        found = (t.untyped_storage() for t in tensors)
        self.storages = list({storage.data_ptr(): storage for storage in found}.values())
        self.copies: list[torch.UntypedStorage] = []
        self.is_here = True

    @contextlib.contextmanager
    def away(self) -> Iterator[None]:
        """Keep the network in the CPU's memory inside, but for within `here`."""
        self.copies = [_on_cpu(storage) for storage in self.storages]
        self._leave()
        try:
            yield
        finally:
            self._come()
            self.copies = []

    @contextlib.contextmanager
    def here(self) -> Iterator[None]:
        """Have the network on its device inside."""
        if self.is_here:
            yield
            return
        self._come()
        try:
            yield
        finally:
            self._leave()

    def _come(self) -> None:
        for storage, copy in zip(self.storages, self.copies, strict=True):
            storage.resize_(copy.nbytes())
            storage.copy_(copy, non_blocking=True)
        self.is_here = True

    def _leave(self) -> None:
        for storage in self.storages:
            storage.resize_(0)
        self.is_here = False


def _on_cpu(storage: torch.UntypedStorage) -> torch.UntypedStorage:
    """Return a copy whence a GPU can read by itself."""
    return storage.cpu().pin_memory() if storage.device.type == "cuda" else storage.clone()
