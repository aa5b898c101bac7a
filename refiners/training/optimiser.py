"""One guarded step of an optimiser, what of a student moves, and the average that follows it."""

from __future__ import annotations

import contextlib
import copy
import warnings
from collections.abc import Iterable
from typing import TypeVar

import torch
from torch.nn.parallel import DistributedDataParallel
from torch.optim.swa_utils import get_ema_multi_avg_fn

from refiners.training.figures import Figures
from refiners.training.settings import Settings
from roles import Denoiser, Network, Processes, Student

AnyNetwork = TypeVar("AnyNetwork", bound=Network)


def trainable(student: Student, train: str) -> tuple[Network, list[torch.nn.Parameter]]:
    """Switch on the gradients of the part of the student that moves; return it, its parameters."""
    part = student if train == "all" else getattr(student, train, None)
    chosen = list(part.parameters()) if part is not None else []
    if part is None or not chosen:
        raise ValueError(f"the student has no part named {train!r}; use train='all'")
    for parameter in chosen:
        parameter.requires_grad_(True)
    return part, chosen


def new_adam(
    parameters: Iterable[torch.nn.Parameter], rate: float, settings: Settings
) -> torch.optim.Adam:
    """Return Adam; fused, as torch's own choice on a CPU goes over the weights one by one.

    With a weight decay, that is decoupled: AdamW (Loshchilov and Hutter 2019, arXiv:1711.05101).
    """
    betas, decay = (float(settings.beta1), float(settings.beta2)), float(settings.weight_decay)
    if decay:
        return torch.optim.AdamW(parameters, lr=rate, betas=betas, weight_decay=decay, fused=True)
    return torch.optim.Adam(parameters, lr=rate, betas=betas, fused=True)


def replicated(network: torch.nn.Module, processes: Processes) -> torch.nn.Module:
    """Return a network whose gradients are the mean over the processes; alone, itself.

    A file's network may have parameters that no pass of ours uses, as those of EDM's augmentation.
    """
    if processes.size == 1:
        return network
    with warnings.catch_warnings():
        # torch 2.13 says that broadcast_buffers will go; until then it asks for what we need.
        warnings.simplefilter("ignore", FutureWarning)
        return DistributedDataParallel(
            network, broadcast_buffers=False, find_unused_parameters=True
        )


def summing_up(network: Network, *, last: bool) -> contextlib.AbstractContextManager[None]:
    """Return where a pass and its backward pass are done: the last piece's alone waits for all."""
    if last or not isinstance(network, DistributedDataParallel):
        return contextlib.nullcontext()
    return network.no_sync()


def step_if_finite(
    optimiser: torch.optim.Optimizer,
    loss: torch.Tensor,
    rate: float,
    figures: Figures,
    *,
    names: tuple[str, str],
    clip: float = 0.0,
    clip_each: float = 0.0,
) -> bool:
    """Step at this rate if the step's figures, with loss and gradient's norm, are all finite.

    Returns False where the host knows that they are not. On a GPU the optimiser looks at the flag.

    Args:
        optimiser: of the parameters whose gradients are there; Adam or AdamW, fused.
        loss: what they are the slope of.
        rate: the learning rate.
        figures: of the step, which take the loss and the gradient's norm before it is clipped.
        names: of the two.
        clip: largest L2 norm of all gradients together, 0 for any.
        clip_each: largest size of each element, 0 for any.
    """
    moving = [p for group in optimiser.param_groups for p in group["params"]]
    norm = torch.nn.utils.get_total_norm([p.grad for p in moving if p.grad is not None])
    figures.add(dict(zip(names, (loss, norm), strict=True)))
    if figures.are_bad:
        return False
    if clip:
        torch.nn.utils.clip_grads_with_norm_(moving, clip, norm)
    if clip_each:
        torch.nn.utils.clip_grad_value_(moving, clip_each)
    for group in optimiser.param_groups:
        group["lr"] = rate
    # What a gradient scaler tells a fused Adam, which then leaves everything as it is.
    vars(optimiser)["found_inf"] = figures.bad
    optimiser.step()
    return True


def pixels_of(denoiser: Denoiser) -> int:
    """Return how many numbers an image has; losses are sums over them, published ones means."""
    return denoiser.img_channels * denoiser.img_resolution**2


@torch.no_grad()
def follow(average: Network, network: Network, amount: float, half_life: float) -> None:
    """Move an average towards its network, `amount` of a half-life on; buffers are copied.

    On a GPU it does so after a step that was not finite too: the network has not moved.
    """
    beta = 0.5 ** (amount / half_life) if half_life > 0 else 0.0
    mine: list[torch.Tensor] = list(average.parameters())
    theirs: list[torch.Tensor] = list(network.parameters())
    if mine:
        get_ema_multi_avg_fn(beta)(mine, theirs, None)
    for a, b in zip(average.buffers(), network.buffers(), strict=True):
        a.copy_(b)


def half_life_of(settings: Settings, num_images: float) -> float:
    """Return the half-life in images of the student's average after so many, limited by them."""
    half_life = settings.ema * 1000
    if settings.ema_rampup_ratio:
        half_life = min(half_life, num_images * settings.ema_rampup_ratio)
    return half_life


def frozen_view(network: AnyNetwork) -> AnyNetwork:
    """Return the network in eval mode and without gradients, on the same tensors.

    The flags of the network that was given stay as they are, and no memory is taken.
    """
    same: dict[int, torch.Tensor] = {id(b): b for b in network.buffers()}
    for parameter in network.parameters():
        same[id(parameter)] = torch.nn.Parameter(parameter.detach(), requires_grad=False)
    return copy.deepcopy(network, same).eval()
