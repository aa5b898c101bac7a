"""A discriminator grown on the teacher's frozen features, where the student's file has none.

Heads on the two lowest resolutions of the teacher's encoder look at noised images; their logits are
averaged. That trained features make a good discriminator, many times quicker to train than one from
scratch, is shown in Sauer et al. 2021 (arXiv:2111.01007); that a diffusion model's do, in
Sauer et al. 2024 (arXiv:2403.12015).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float

from refiners.base import Images, Labels, features_of
from refiners.head import new_head
from refiners.sigma_laws import add_noise, draw_sigma
from roles import Denoiser

LAW = "lognormal:-1.2,1.2"  # of the noise that images are seen under: that of EDM's training


class FeatureDiscriminator(torch.nn.Module):
    """(images, labels) -> logits [n, 1], of heads on a teacher's features; the heads are trained.

    Args:
        teacher: a denoiser with features(); it is held, not copied, and is no part of the state.
        c_dim: number of the student's classes; with some, the teacher is asked with labels.

    Raises:
        ValueError: the teacher gives no features.
    """

    def __init__(self, teacher: Denoiser, *, c_dim: int = 0):
        super().__init__()
        features_of(teacher)
        self.c_dim = c_dim
        self._teacher = (teacher,)  # a tuple, as a module would become a part of this one
        r = teacher.img_resolution
        parameter = next(teacher.parameters())
        with torch.no_grad():
            blank = torch.zeros([1, teacher.img_channels, r, r]).to(parameter)
            maps = self._maps(blank, torch.ones([1], device=blank.device), None)
        self.heads = torch.nn.ModuleList(new_head(m.shape[1], m.shape[2]) for m in maps)
        self.heads.to(blank.device)

    def forward(self, images: Images, labels: Labels = None) -> Float[torch.Tensor, "n 1"]:
        """Return a logit of each image, noised afresh."""
        sigma = draw_sigma(LAW, len(images), images.device)
        maps = self._maps(add_noise(images, sigma), sigma, labels if self.c_dim else None)
        logits = [head(m.float()).flatten() for head, m in zip(self.heads, maps, strict=True)]
        return torch.stack(logits).mean(dim=0)[:, None]

    def _maps(self, x: Images, sigma: torch.Tensor, labels: Labels) -> Sequence[torch.Tensor]:
        (teacher,) = self._teacher
        return features_of(teacher)(x, sigma, labels)[-2:]
