"""Networks of kinds that are not built here, by the package diffusers."""

from __future__ import annotations

from collections.abc import Mapping
from types import ModuleType

import torch

import checkpoints
from checkpoints import Json
from teachers.networks.blocks import last_of_each_size

INSTALL = "pip install 'stylegan-refiner[diffusers]'"


class PackageUNet(torch.nn.Module):
    """A UNet2DModel of the package, called as ours is."""

    def __init__(self, unet: torch.nn.Module):
        super().__init__()
        self.unet = unet

    def forward(
        self, x: torch.Tensor, t: torch.Tensor, labels: torch.Tensor | None = None
    ) -> torch.Tensor:
        """Return what the network predicts; of labels [n, k] the largest counts."""
        classes = {} if labels is None else {"class_labels": labels.argmax(dim=1)}
        narrow = next(self.unet.parameters()).dtype
        return self.unet(x, t.to(narrow), return_dict=False, **classes)[0]

    def features(
        self, x: torch.Tensor, t: torch.Tensor, labels: torch.Tensor | None = None
    ) -> list[torch.Tensor]:
        """Return the encoder's last maps, highest resolution first; the decoder runs as well."""
        found: list[torch.Tensor] = []

        def note(module: torch.nn.Module, arguments: object, output: object) -> None:
            # A level returns its output, and a tuple of all that the decoder will ask for.
            maps = output[1] if isinstance(output, tuple) else [output]
            assert isinstance(maps, (tuple, list))
            found.extend(m for m in maps if isinstance(m, torch.Tensor))

        levels = self.unet.get_submodule("down_blocks").children()
        layers = [self.unet.get_submodule("conv_in"), *levels]
        hooks = [layer.register_forward_hook(note) for layer in layers]
        try:
            self(x, t, labels)
        finally:
            for hook in hooks:
                hook.remove()
        return last_of_each_size(found)


def build(
    config: Mapping[str, Json], weights: Mapping[str, torch.Tensor], why: str, complaint: str
) -> PackageUNet:
    """Build what config.json asks for and give it these weights.

    Args:
        config: the arguments of UNet2DModel.
        weights: by today's names.
        why: what is not built here.
        complaint: how the message begins where weights and config do not agree.

    Raises:
        ValueError: the package is not installed, or does not build it.
    """
    package = _diffusers(why)
    from diffusers.models.attention_processor import Attention, AttnProcessor  # pyright: ignore[reportMissingImports]  # optional

    arguments = {key: value for key, value in config.items() if not key.startswith("_")}
    unet = checkpoints.filled(lambda: package.UNet2DModel(**arguments), weights, complaint)
    # Torch's fused attention, the default, has no second derivative on a CPU.
    for module in unet.modules():
        if isinstance(module, Attention):
            module.set_processor(AttnProcessor())
    return PackageUNet(unet)


def _diffusers(why: str) -> ModuleType:
    try:
        import diffusers
    except ImportError as error:
        raise ValueError(f"{why}, which only the package diffusers builds: {INSTALL}") from error
    return diffusers
