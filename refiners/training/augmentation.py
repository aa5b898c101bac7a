"""Augmentation that does not leak: images changed at random, and a label that says how.

A denoiser that is told the label learns the images of every label, and a sampler asks for that of
unchanged ones, which is zero (Karras et al. 2022, arXiv:2206.00364, Appendix F.2, after Karras et
al. 2020, arXiv:2006.06676). The changes, their order, spreads and places in the label are those of
the published networks, so that one of them can be trained on:

    0  mirrored, always for half of the images    1  upside down
    2  scaled by 2^(0.2 a)                        3, 4  rotated: cos - 1, sin
    5, 6  stretched by 2^(0.2 a) along an axis, and squeezed across: a cos, a sin
    7, 8  shifted by a / 8 of the side: right, down

A stretch and a squeeze share labels there, which leaks nothing: no change has none. What comes in
at the border is the image's mirror image.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F

from stylegan_ops import upfirdn2d

AUGMENT_DIM = 9
SPREAD = 0.2
SHIFT = 1 / 8
TAPS = 12  # of the filter between the sampling grids; even, so that both keep the image's middle
MARGIN = TAPS // 2  # pixels of the finer grid that it needs around


def augmented(images: torch.Tensor, probability: float) -> tuple[torch.Tensor, torch.Tensor]:
    """Change images [n, c, r, r] in [-1, 1] at random; return them and their labels [n, 9].

    Args:
        images: squares of at least 8 pixels.
        probability: of each change but mirroring; draws are from torch's stream on their device.
    """
    n, device = len(images), images.device

    def chosen() -> torch.Tensor:
        return torch.rand([n], device=device) < probability

    def normal() -> torch.Tensor:
        return torch.randn([n], device=device)

    def angle() -> torch.Tensor:
        return (2 * torch.rand([n], device=device) - 1) * math.pi

    mirror = torch.rand([n], device=device) < 0.5
    turned = (torch.rand([n], device=device) < 0.5) & chosen()
    scale, turn, stretch = normal() * chosen(), angle() * chosen(), normal() * chosen()
    axis = angle() * (torch.rand([n], device=device) < 0.5)
    shifted = chosen()
    right, down = normal() * shifted, normal() * shifted
    label = torch.stack(
        [
            *(mirror.float(), turned.float(), scale, turn.cos() - 1, turn.sin()),
            *(stretch * axis.cos(), stretch * axis.sin(), right, down),
        ],
        dim=1,
    )
    images = torch.where(mirror[:, None, None, None], images.flip(3), images)
    images = torch.where(turned[:, None, None, None], images.flip(2), images)
    moved = (label[:, 2:] != 0).any(dim=1).nonzero()[:, 0]
    if len(moved):
        source = source_of(scale, turn, stretch, axis, right, down)[moved]
        images = images.index_copy(0, moved, resampled(images[moved], source))
    return images, label


def source_of(
    scale: torch.Tensor,
    turn: torch.Tensor,
    stretch: torch.Tensor,
    axis: torch.Tensor,
    right: torch.Tensor,
    down: torch.Tensor,
) -> torch.Tensor:
    """Return where a pixel of the result comes from, [n, 2, 3], with the image from -1 to 1.

    Each argument is [n]; 0 of the first, second, third and the last two is no change.
    """
    grown = torch.exp2(SPREAD * stretch)
    back = torch.diag_embed(torch.stack([1 / grown, grown], dim=1))
    linear = rotation(turn) @ rotation(-axis) @ back @ rotation(axis)
    linear = linear * torch.exp2(-SPREAD * scale)[:, None, None]
    # The image is two long, so a share of the side is twice as much.
    shift = -2 * SHIFT * torch.stack([right, down], dim=1)
    return torch.cat([linear, linear @ shift[:, :, None]], dim=2)


def rotation(turn: torch.Tensor) -> torch.Tensor:
    """Return the matrices [n, 2, 2] that turn (x, y) by these angles [n]."""
    cos, sin = turn.cos(), turn.sin()
    return torch.stack([cos, -sin, sin, cos], dim=1).reshape(-1, 2, 2)


def resampled(images: torch.Tensor, source: torch.Tensor) -> torch.Tensor:
    """Return images [n, c, r, r] as seen through the maps [n, 2, 3] of source_of.

    They are sampled linearly between pixels of twice the resolution, which a filter makes and
    another takes back, so that neither blurs what is there nor lets fine detail alias.
    """
    r, f = images.shape[-1], low_pass(images.device)
    padded = F.pad(images, [MARGIN // 2 + 1] * 4, mode="reflect")
    fine = upfirdn2d(padded, f, up=2, padding=[TAPS // 2, TAPS // 2 - 1] * 2, gain=4)
    cut = 2 * (MARGIN // 2 + 1)
    fine = fine[:, :, cut:-cut, cut:-cut]
    wide = 2 * r + 2 * MARGIN
    reach = torch.tensor([wide / (2 * r), wide / (2 * r), 1.0], device=images.device)
    grid = F.affine_grid(
        source * reach, [len(images), images.shape[1], wide, wide], align_corners=False
    )
    seen = F.grid_sample(fine, grid, padding_mode="reflection", align_corners=False)
    return upfirdn2d(seen, f, down=2, padding=[TAPS // 2 - 1 - MARGIN] * 4)


def low_pass(device: torch.device) -> torch.Tensor:
    """Return the taps [12] of a windowed sinc that keeps the lower half of the frequencies."""
    at = torch.arange(TAPS, dtype=torch.float64) - (TAPS - 1) / 2
    taps = torch.sinc(at / 2) * torch.kaiser_window(
        TAPS, periodic=False, beta=4.0, dtype=torch.float64
    )
    return (taps / taps.sum()).float().to(device)
