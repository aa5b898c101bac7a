"""Less memory for more work: activations computed twice, a teacher that waits or is in shards.

All give the same numbers as without, shards but for rounding.
"""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Iterator
from typing import Any

import torch
from torch.cpu import Stream as CPUStream
from torch.utils.checkpoint import checkpoint

from refiners.training.average import frozen_view
from refiners.training.settings import Settings

CONTAINERS = (torch.nn.ModuleDict, torch.nn.ModuleList)  # have no pass of their own


def blocks_of(network: torch.nn.Module) -> list[torch.nn.Module]:
    """Return the outermost modules with parts, of a kind that the network has several of.

    A denoiser within it, as in a guided pair, is no block but has some.
    """
    kinds = Counter(type(m) for m in network.modules() if any(True for _ in m.children()))

    def within(module: torch.nn.Module) -> Iterator[torch.nn.Module]:
        for child in module.children():
            if hasattr(child, "label_dim"):
                yield from blocks_of(child)
            elif kinds[type(child)] > 1 and not isinstance(child, CONTAINERS):
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
    """Frozen networks that can wait in the CPU's memory between their uses.

    Their storages are emptied meanwhile, so that no other view of them holds memory on the device,
    and none may be used then. Before `away` is entered, and after, all is as if this did not exist.
    """

    def __init__(self, *networks: torch.nn.Module):
        tensors = [t for network in networks for t in [*network.parameters(), *network.buffers()]]
        # NumPy's memory, which a CPU's tensor may be a view of, cannot be emptied and stays.
        found = (s for s in (t.untyped_storage() for t in tensors) if s.resizable())
        self.storages = list({storage.data_ptr(): storage for storage in found}.values())
        self.copies: list[torch.UntypedStorage] = []
        self.is_here = True

    @contextlib.contextmanager
    def away(self) -> Iterator[None]:
        """Keep the networks in the CPU's memory inside, but for within `here`."""
        self.copies = [_on_cpu(storage) for storage in self.storages]
        self._leave()
        try:
            yield
        finally:
            self._come()
            self.copies = []

    @contextlib.contextmanager
    def here(self) -> Iterator[None]:
        """Have the networks on their device inside."""
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


class Sharded(torch.nn.Module):
    """A frozen denoiser of whose weights each process holds its share, rows of each (FSDP2).

    A pass fetches those of a block from the others and drops them behind it, so all processes have
    to ask it equally often. It shares no memory with the denoiser that was given.

    Args:
        denoiser: on this process' device; the group of processes exists.

    Raises:
        ValueError: it has no blocks.
    """

    def __init__(self, denoiser: Any):
        # Only here, as it takes its time.
        from torch.distributed.fsdp import fully_shard

        super().__init__()
        self.denoiser = frozen_view(denoiser)
        self.img_resolution: int = denoiser.img_resolution
        self.img_channels: int = denoiser.img_channels
        self.label_dim: int = denoiser.label_dim
        self.sigma_min: float = denoiser.sigma_min
        self.sigma_max: float = denoiser.sigma_max
        _own_buffers(self.denoiser)
        blocks = blocks_of(self.denoiser)
        if not blocks:
            raise ValueError(
                "shard_teacher finds no blocks, modules of a kind that a network has several of, "
                f"in {type(denoiser).__name__}; leave it out"
            )
        for block in blocks:
            fully_shard(block)
        fully_shard(self)

    def forward(self, *args: Any, method: str = "__call__", **kwargs: Any) -> Any:
        """Call a method of the denoiser, with what lies outside of its blocks fetched too."""
        return getattr(self.denoiser, method)(*args, **kwargs)

    def features(self, *args: Any, **kwargs: Any) -> Any:
        """Return the denoiser's features."""
        return self(*args, method="features", **kwargs)


def _own_buffers(network: torch.nn.Module) -> None:
    """Give a network buffers of its own, and single numbers as such: FSDP has no rows of those."""
    for module in network.modules():
        for name, parameter in list(module.named_parameters(recurse=False)):
            if parameter.ndim == 0:
                delattr(module, name)
                module.register_buffer(name, parameter.detach())
        for name, buffer in module.named_buffers(recurse=False):
            setattr(module, name, buffer.clone())


def check_shard_teacher(settings: Settings, size: int, device: torch.device) -> None:
    """Raise ValueError where there are no processes to share the teacher, or torch cannot."""
    if settings.shard_teacher and size == 1:
        raise ValueError(
            "shard_teacher shares the teacher among processes, and there is one; start several "
            "with torchrun, or leave it out"
        )
    # torch 2.6 has no such method yet, and its FSDP2 calls it.
    if settings.shard_teacher and device.type == "cpu" and not hasattr(CPUStream, "record_event"):
        raise ValueError(
            f"shard_teacher: FSDP2 of torch {torch.__version__} knows GPUs alone; leave it out, or "
            "install a newer torch"
        )
