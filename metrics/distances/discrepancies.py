"""Maximum mean discrepancies from tables of a kernel, whole and without each group of images.

    MMD^2 = mean k(x, x') + mean k(y, y') - 2 mean k(x, y)

unbiased where the pairs of a row with itself are left out of the first two means.
"""

from __future__ import annotations

import torch
from jaxtyping import Float64, Int64
from torch import Tensor


def discrepancies(
    within_real: Float64[Tensor, "n n"],
    across: Float64[Tensor, "n m"],
    within_fake: Float64[Tensor, "m m"],
    group: Int64[Tensor, " m"],
    groups: int,
    *,
    unbiased: bool,
) -> list[float]:
    """MMD^2 of all images, then without each group; `group` is of the generated ones.

    It is made of sums over pairs, so sums over each pair of groups are enough. For the unbiased one
    the diagonals of both tables within are zero. ValueError on too few images for it.
    """
    n, own = len(within_real), int(unbiased)
    one_hot = torch.nn.functional.one_hot(group, max(groups, 1)).double()
    sizes = one_hot.sum(0)
    least = len(group) - (sizes.max() if groups else 0)
    if n <= own or least <= own:
        raise ValueError(
            f"kernel distance of {n} real and {len(group)} generated images in {groups} groups: "
            f"without any one group at least {1 + own} of each must be left; measure more images"
        )
    within = one_hot.T @ within_fake @ one_hot
    mixed = across.sum(0) @ one_hot
    constant = within_real.sum() / (n * (n - own))
    values = []
    for left_out in range(-1, groups):
        kept = torch.arange(len(sizes)) != left_out
        m = sizes[kept].sum()
        step = mixed[kept].sum() / (n * m)
        values.append((constant + within[kept][:, kept].sum() / (m * (m - own)) - 2 * step).item())
    return values
