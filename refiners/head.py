"""A head on a denoiser's innermost features that tells the student's images from real ones.

DMD2 (Yin et al. 2024, arXiv:2405.14867, Section 4.3): the auxiliary network already looks at noised
images of both kinds, so its encoder with a few convolutions on top is the discriminator. f-distill
(Xu et al. 2025, arXiv:2502.15681) leaves the auxiliary alone and looks through the frozen teacher.
SiDA (Zhou et al. 2024, arXiv:2410.14919) adds no layer: the mean over the channels of the
auxiliary's innermost features is a map of logits.
"""

from __future__ import annotations

import math

import torch
from jaxtyping import Float

from refiners.base import Images, Labels, Levels
from refiners.innermost import INNERMOST, layer_that_gives
from roles import Denoiser

GROUPS = 32
Logits = Float[torch.Tensor, "n places"]


class Shared:
    """A network that is no part of the module that has this, nor of its copies."""

    def __init__(self, network: torch.nn.Module):
        self.network = network

    def __deepcopy__(self, memo: object) -> Shared:
        return self


class HeadedDenoiser(torch.nn.Module):
    """A denoiser as before, and judge(): an image and the logits of each sample, above 0 for real.

    Args:
        denoiser: its parameters and the head's are this module's.
        layer: name of the module within the denoiser whose output is judged; of one that holds
            others in order, its last; INNERMOST is the one that gives the last of its features.
        eyes: the denoiser whose layer is judged in place of its own; it stays as it is.
        is_bare: there is no head but the mean over the features' channels.

    Raises:
        ValueError: there is no such module, or its output is no [n, c, h, w].
    """

    def __init__(
        self,
        denoiser: Denoiser,
        *,
        layer: str,
        eyes: Denoiser | None = None,
        is_bare: bool = False,
    ):
        super().__init__()
        assert isinstance(denoiser, torch.nn.Module)
        assert eyes is None or isinstance(eyes, torch.nn.Module)
        self.denoiser = denoiser
        self.eyes = None if eyes is None else Shared(eyes)
        self.layer = layer_that_gives(eyes or denoiser) if layer == INNERMOST else layer
        self.heard: torch.Tensor | None = None
        if eyes is None:
            # Hung up once, as a hook for each call would break torch.compile's graph; a copy of
            # this module is heard by its own. Eyes are others' too, and are heard in a call alone.
            _innermost(denoiser, self.layer).register_forward_hook(self._hear)
        self.img_resolution: int = denoiser.img_resolution
        self.img_channels: int = denoiser.img_channels
        self.label_dim: int = denoiser.label_dim
        self.sigma_min: float = denoiser.sigma_min
        self.sigma_max: float = denoiser.sigma_max
        parameter = next(denoiser.parameters())
        r = self.img_resolution
        x = torch.zeros([1, self.img_channels, r, r]).to(parameter)
        labels = torch.zeros([1, self.label_dim], device=x.device) if self.label_dim else None
        with torch.no_grad():
            _, features = self._with_features(x, torch.ones([1], device=x.device), labels)
        if features.ndim != 4:
            raise ValueError(
                f"{self.layer!r} returns {list(features.shape)}; name a layer of images"
            )
        self.head = None
        if not is_bare:
            self.head = new_head(features.shape[1], features.shape[2]).to(parameter)

    def forward(self, x: Images, sigma: Levels, labels: Labels = None) -> Images:
        """Return D(x; sigma)."""
        denoised = self.denoiser(x, sigma, labels)
        self.heard = None
        return denoised

    def judge(self, x: Images, sigma: Levels, labels: Labels = None) -> tuple[Images, Logits]:
        """Return D(x; sigma) of the denoiser that sees for the head, and each sample's logits.

        They are of one pass, [n, 1] or, without a head, one at each place of the features.
        """
        denoised, features = self._with_features(x, sigma, labels)
        if self.head is None:
            return denoised, features.mean(dim=1).flatten(1).to(denoised)
        parameter = next(self.head.parameters())
        return denoised, self.head(features.to(parameter)).flatten(1)

    def _with_features(
        self, x: Images, sigma: Levels, labels: Labels
    ) -> tuple[Images, Float[torch.Tensor, "n d s s"]]:
        self.heard = None
        if self.eyes is None:
            denoised = self.denoiser(x, sigma, labels)
        else:
            seeing = self.eyes.network
            hook = _innermost(seeing, self.layer).register_forward_hook(self._hear)
            try:
                denoised = seeing(x, sigma, labels)
            finally:
                hook.remove()
        features, self.heard = self.heard, None
        if features is None:
            raise ValueError(f"{self.layer!r} takes no part in denoising; name a layer that does")
        return denoised, features

    def _hear(self, module: torch.nn.Module, arguments: object, output: torch.Tensor) -> None:
        if self.heard is None:  # a guided denoiser's reference comes after it
            self.heard = output


def judge(auxiliary: Denoiser, x: Images, sigma: Levels, labels: Labels) -> tuple[Images, Logits]:
    """Return what an auxiliary with a head sees, see HeadedDenoiser.judge."""
    return auxiliary.judge(x, sigma, labels)  # pyright: ignore[reportAttributeAccessIssue]


def _innermost(denoiser: torch.nn.Module, layer: str) -> torch.nn.Module:
    """Return the module of that name, or the last of those in it where it holds them in order."""
    try:
        module = denoiser.get_submodule(layer)
    except AttributeError:
        names = [name for name, _ in denoiser.named_modules() if name.count(".") < 2 and name]
        raise ValueError(
            f"layer is {layer!r}, which this teacher lacks; it has {', '.join(names[:12])}"
        ) from None
    if isinstance(module, (torch.nn.ModuleDict, torch.nn.ModuleList, torch.nn.Sequential)):
        return list(module.children())[-1]
    return module


def new_head(channels: int, size: int) -> torch.nn.Sequential:
    """Return a head [n, channels, size, size] -> [n, 1, 1, 1].

    It halves the features to 4 x 4 and sums them up; 8 x 8 gives the published head.
    """
    layers: list[torch.nn.Module] = []
    groups = math.gcd(GROUPS, channels)
    while size > 4:
        layers += [torch.nn.Conv2d(channels, channels, 4, stride=2, padding=1)]
        layers += [torch.nn.GroupNorm(groups, channels), torch.nn.SiLU()]
        size //= 2
    layers += [torch.nn.Conv2d(channels, channels, size)]
    # Over a single pixel: where a group is one channel there is nothing to normalise.
    if channels > groups:
        layers += [torch.nn.GroupNorm(groups, channels)]
    return torch.nn.Sequential(*layers, torch.nn.SiLU(), torch.nn.Conv2d(channels, 1, 1))
