"""Which of a denoiser's modules is its encoder's innermost, by what it does and not by its name."""

from __future__ import annotations

import weakref

import torch

from refiners.base import features_of
from roles import Denoiser

INNERMOST = "innermost"  # as the name of a layer


@torch.no_grad()
def layer_that_gives(denoiser: Denoiser) -> str:
    """Return the name of the module whose output is the last of a denoiser's features.

    Raises:
        ValueError: the denoiser gives no features, or makes the last of them outside its modules.
    """
    assert isinstance(denoiser, torch.nn.Module)
    features = features_of(denoiser)
    parameter, r = next(denoiser.parameters()), denoiser.img_resolution
    x = torch.zeros([1, denoiser.img_channels, r, r]).to(parameter)
    classes = denoiser.label_dim
    labels = torch.zeros([1, classes], device=x.device) if classes else None
    seen: list[tuple[str, weakref.ref[torch.Tensor]]] = []

    def note_as(name: str) -> torch.utils.hooks.RemovableHandle:
        def note(module: torch.nn.Module, arguments: object, output: object) -> None:
            if isinstance(output, torch.Tensor):  # weakly, as all of them would fill a GPU
                seen.append((name, weakref.ref(output)))

        return denoiser.get_submodule(name).register_forward_hook(note)

    hooks = [note_as(name) for name, _ in denoiser.named_modules() if name]
    try:
        wanted = features(x, torch.ones([1], device=x.device), labels)[-1]
    finally:
        for hook in hooks:
            hook.remove()
    found = [name for name, output in seen if output() is wanted]
    if not found:
        raise ValueError(
            f"no module of this {type(denoiser).__name__} returns the last of its features; name "
            "the innermost of its encoder by --set layer=NAME"
        )
    return found[-1]
