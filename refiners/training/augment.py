"""EDM's augmentations of images, which a denoiser is told of (Karras et al. 2022, Appendix F.2).

Half of the images are mirrored. With a probability for each and each image there are a flip, a
change of scale, a turn, a stretch and a shift (Table 6), geometric ones of StyleGAN2-ADA (Karras et
al. 2020, arXiv:2006.06676, Appendix B). What was done goes to the denoiser in nine numbers, and so
does not leak into what it makes without them. One-step distillations train their auxiliary so.
"""

from __future__ import annotations

import math

import torch
from jaxtyping import Float

from refiners.base import Images, Levels
from roles import Denoiser

LABELS = 9  # mirrored, flipped, scale, cos - 1 and sin of the turn, two of the stretch, two shifts
STD_SCALE, STD_STRETCH, STD_SHIFT = 0.2, 0.2, 0.125  # of log2, of log2, of the image's width

Labels = Float[torch.Tensor, "n 9"]
Affine = Float[torch.Tensor, "n 3 3"]


def augmented(x: Images, p: float) -> tuple[Images, Labels]:
    """Return images changed with probability p for each way, and what was done to each.

    Draws are from torch's stream on the images' device. An image that no geometric change hits is
    its own pixels; others are resampled by cubic splines, mirrored at the borders.

    Args:
        x: about [-1, 1].
        p: EDM's is 0.12.
    """
    n, device = len(x), x.device

    def chance(values: Levels, p: float) -> Levels:
        return torch.where(torch.rand([n], device=device) < p, values, 0.0)

    def normal() -> Levels:
        return torch.randn([n], device=device)

    def angle() -> Levels:
        return (torch.rand([n], device=device) * 2 - 1) * math.pi

    mirrored, flipped = (torch.randint(2, [n], device=device).float() for _ in range(2))
    flipped = chance(flipped, p)
    scale, turn = chance(normal(), p), chance(angle(), p)
    stretch, along = chance(normal(), p), chance(angle(), 0.5)
    shifts = torch.where(torch.rand([n], device=device) < p, torch.stack([normal(), normal()]), 0.0)
    told = torch.stack(
        [
            *(mirrored, flipped, scale, turn.cos() - 1, turn.sin()),
            *(stretch * along.cos(), stretch * along.sin(), shifts[0], shifts[1]),
        ],
        dim=1,
    ).to(x.dtype)
    x = torch.where(mirrored[:, None, None, None] > 0, x.flip(3), x)
    x = torch.where(flipped[:, None, None, None] > 0, x.flip(2), x)
    # From where each pixel of the result comes, so each change is undone.
    s, t = (STD_SCALE * scale).exp2(), (STD_STRETCH * stretch).exp2()
    source = (
        scaling(1 / s, 1 / s)
        @ turning(turn)
        @ turning(-along)
        @ scaling(1 / t, t)
        @ turning(along)
        # An image is two units wide.
        @ shifting(-2 * STD_SHIFT * shifts)
    )
    grid = torch.nn.functional.affine_grid(source[:, :2].to(x.dtype), list(x.shape), False)
    moved = torch.nn.functional.grid_sample(
        x, grid, mode="bicubic", padding_mode="reflection", align_corners=False
    )
    is_moved = (told[:, 2:] != 0).any(dim=1)
    return torch.where(is_moved[:, None, None, None], moved, x), told


def scaling(by_x: Levels, by_y: Levels) -> Affine:
    """Return the map (x, y) -> (by_x x, by_y y)."""
    one = torch.ones_like(by_x)
    return torch.diag_embed(torch.stack([by_x, by_y, one], dim=1))


def turning(angle: Levels) -> Affine:
    """Return the map that turns x towards y."""
    c, s, zero, one = angle.cos(), angle.sin(), torch.zeros_like(angle), torch.ones_like(angle)
    rows = (c, -s, zero), (s, c, zero), (zero, zero, one)
    return torch.stack([torch.stack(row, dim=1) for row in rows], dim=1)


def shifting(by: Float[torch.Tensor, "2 n"]) -> Affine:
    """Return the map (x, y) -> (x, y) + by."""
    found = torch.eye(3, device=by.device).repeat(by.shape[1], 1, 1)
    found[:, :2, 2] = by.T
    return found


class Told(torch.nn.Module):
    """A denoiser of images that were augmented, which is told how at each call."""

    def __init__(self, denoiser: Denoiser, told: Labels):
        super().__init__()
        self.denoiser, self.told = denoiser, told
        self.img_resolution, self.img_channels = denoiser.img_resolution, denoiser.img_channels
        self.label_dim = denoiser.label_dim
        self.sigma_min, self.sigma_max = denoiser.sigma_min, denoiser.sigma_max

    def forward(
        self, x: Images, sigma: Levels, labels: Float[torch.Tensor, "n k"] | None = None
    ) -> Images:
        """Return D(x; sigma)."""
        network: torch.nn.Module = self.denoiser  # pyright: ignore[reportAssignmentType]
        return network(x, sigma, labels, augment_labels=self.told)
