"""What a run will take, before it begins: memory by part, and the measured cost of one step.

A few images are measured and the rest is in proportion, so no GPU is needed for the plan of one.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from dataclasses import fields, replace
from typing import TypeAlias

import torch

from refiners.base import Method
from refiners.runs.schedule import Run
from refiners.training.distillation import Distiller
from refiners.training.settings import Settings

AnyMethod: TypeAlias = Method | Distiller

MEASURED_IMAGES = 4
NETWORKS = ("student", "average", "teacher", "auxiliary", "auxiliary_average")
NETWORKS += ("discriminator", "original", "memory")
OPTIMISERS = ("student_adam", "auxiliary_adam", "discriminator_adam")
# A method's memory looks at thousands of images once; for the cost of a step few will do.
FEW: dict[str, int] = {"num_reference": 100, "memory": 1, "num_features": 32}


# (method, settings) -> a new refinement or distillation with noise for images.
Start = Callable[[AnyMethod, Settings], Run]


def plan_run(start: Start, method: AnyMethod, settings: Settings) -> dict[str, object]:
    """Return a run's memory by part in MiB and the cost of a step, measured on a few images.

    Args:
        start: begins a run like this one.
        method: the run's.
        settings: the run's.
    """
    n = min(MEASURED_IMAGES, settings.batch)
    alone = replace(alone_in(settings), batch=n, batch_gpu=0)
    job = start(few(method), alone)
    held: dict[int, int] = {}

    def note(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        held[storage.data_ptr()] = storage.nbytes()
        return tensor.detach()

    # What autograd holds for backward passes; memory that is given back is taken again, and so the
    # addresses of a step are about its peak.
    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        job.advance()  # warms up, too
    weights = {tensor.untyped_storage().data_ptr() for tensor in tensors_of(job)}
    activations = sum(size for address, size in held.items() if address not in weights)
    began = time.perf_counter()
    job.advance()
    seconds = (time.perf_counter() - began) * settings.batch / n
    at_a_time = settings.batch_gpu or settings.batch
    parts = bytes_of_parts(job) | {"activations": activations * at_a_time // n}
    warms_up = "auxiliary" in parts or "discriminator" in parts
    steps = settings.num_steps + (settings.num_warmup_steps if warms_up else 0)
    mib = {name: round(size / 2**20, 1) for name, size in parts.items()}
    return {
        "memory_mib": mib | {"total": round(sum(parts.values()) / 2**20, 1)},
        "step": {
            "measured_images": n,
            "device": str(job.device),
            "seconds": round(seconds, 4),
            "images_per_sec": round(settings.batch / seconds, 2),
        },
        "run": {"steps": steps, "hours": round(steps * seconds / 3600, 2)},
    }


def fitting_batch_gpu(trial: Callable[[int], object], share: int) -> int:
    """Return how many images at a time fit into a GPU, by halving its share; 0 is all of it.

    Args:
        trial: does a step with so many at a time.
        share: of the batch, in this process.

    Raises:
        ValueError: not even one image fits.
    """
    n = share
    while not fits(trial, n):
        if n == 1:
            raise ValueError(
                "not even one image at a time fits into the GPU's memory; use --precision bf16, or "
                "smaller networks"
            )
        n = -(-n // 2)
    return 0 if n == share else n


def fits(trial: Callable[[int], object], n: int) -> bool:
    """Return whether a trial with n images at a time runs."""
    try:
        trial(n)
    except torch.OutOfMemoryError:
        return False
    finally:
        torch.cuda.empty_cache()
    return True


def measured_batch_gpu(
    start: Start,
    method: AnyMethod,
    settings: Settings,
    *,
    device: str,
    size: int,
) -> int:
    """Return batch_gpu as a step of this very run allows it; a CPU takes its whole share.

    Args:
        start: see plan_run.
        method: the run's.
        settings: the run's.
        device: where it computes.
        size: how many processes share the batch.
    """
    if not device.startswith("cuda"):
        return 0

    def trial(n: int) -> None:
        start(few(method), replace(alone_in(settings), batch_gpu=n)).advance()

    return fitting_batch_gpu(trial, settings.batch // size)


def alone_in(settings: Settings) -> Settings:
    """Return the settings of a trial of steps that move the student, in one process."""
    return replace(settings, warmup_kimg=0.0)


def few(method: AnyMethod) -> AnyMethod:
    """Return a method that begins quickly, with steps that cost the same."""
    known = {field.name for field in fields(method)}
    return replace(method, **{k: v for k, v in FEW.items() if k in known and v < vars(method)[k]})


def tensors_of(job: Run) -> list[torch.Tensor]:
    """Return the parameters and buffers of every network of a run."""
    networks = [getattr(job, name, None) for name in NETWORKS]
    modules = [network for network in networks if isinstance(network, torch.nn.Module)]
    return [t for network in modules for t in [*network.parameters(), *network.buffers()]]


def bytes_of_parts(job: Run) -> dict[str, int]:
    """Return the bytes of each network, of gradients and of optimisers; a shared tensor is one."""
    seen: set[int] = set()
    parts: dict[str, int] = {}
    for name in NETWORKS:
        network = getattr(job, name, None)
        if isinstance(network, torch.nn.Module):
            size = bytes_of([*network.parameters(), *network.buffers()], seen)
            if size:
                parts[name] = size
    optimisers = [getattr(job, name, None) for name in OPTIMISERS]
    groups = [group for adam in optimisers if adam is not None for group in adam.param_groups]
    trained = sum(p.numel() * p.element_size() for group in groups for p in group["params"])
    return parts | {"gradients": trained, "optimisers": 2 * trained}  # Adam's two moments


def bytes_of(tensors: Iterable[torch.Tensor], seen: set[int]) -> int:
    """Return the bytes of the storages that were not seen before."""
    total = 0
    for tensor in tensors:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in seen:
            seen.add(storage.data_ptr())
            total += storage.nbytes()
    return total
