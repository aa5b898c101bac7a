"""What a network's pass costs, counted from its layers: for estimates where nothing is measured."""

from __future__ import annotations

import torch

from roles import Denoiser

TRAINING = 3  # passes that a step costs: forward, and backward by features and by weights


@torch.no_grad()
def flops_of_pass(denoiser: Denoiser) -> int:
    """Return the floating-point operations of one image through a denoiser.

    Those of convolutions, linear maps and attention, a multiplication and an addition being two;
    the rest is a few percent.
    """
    total = 0

    def count(module: torch.nn.Module, given: object, found: object) -> None:
        nonlocal total
        weight = getattr(module, "weight", None)
        if not isinstance(found, torch.Tensor) or not isinstance(weight, torch.Tensor):
            return
        if weight.ndim in (2, 4):
            total += 2 * weight.numel() * found[0, 0].numel()

    def attend(module: torch.nn.Module, given: object, found: object) -> None:
        nonlocal total
        assert isinstance(found, torch.Tensor)
        total += 4 * found.shape[1] // 3 * found[0, 0].numel() ** 2

    hooks = [module.register_forward_hook(count) for module in denoiser.modules()]
    named = denoiser.named_modules()
    hooks += [m.register_forward_hook(attend) for name, m in named if name.endswith(".qkv")]
    r, device = denoiser.img_resolution, next(denoiser.parameters()).device
    labels = torch.zeros(1, denoiser.label_dim, device=device) if denoiser.label_dim else None
    denoiser(torch.zeros(1, denoiser.img_channels, r, r, device=device), 1.0, labels)
    for hook in hooks:
        hook.remove()
    return total
