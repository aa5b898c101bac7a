"""New teachers by size: EDM's preconditioning around DDPM++ networks of three widths.

Large at 32 x 32 is the published CIFAR-10 network (Karras et al. 2022, Table 7), base a tenth of
its weights, small what two CPU cores can train in an evening. A side twice as long has one level
more at its top, of the base width, so that attention and the widest levels stay where pixels are
few.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import cast

import torch

from checkpoints import Value, with_options
from teachers.edm import EDMPrecond
from teachers.options import UNETS

SIDES = (32, 64, 128, 256)
Kwargs = dict[str, Value]

SIZES: dict[str, Kwargs] = {
    "small": {
        "model_channels": 32,
        "channel_mult": [1, 2, 2],
        "num_blocks": 1,
        "attn_resolutions": [8],
        "dropout": 0.0,
    },
    "base": {
        "model_channels": 64,
        "channel_mult": [1, 2, 2],
        "num_blocks": 2,
        "attn_resolutions": [16],
        "dropout": 0.1,
    },
    "large": {
        "model_channels": 128,
        "channel_mult": [2, 2, 2],
        "num_blocks": 4,
        "attn_resolutions": [16],
        "dropout": 0.13,
    },
}
LABEL_DROPOUT = 0.1  # what makes the unconditional model, which guidance and gan may ask for


def new_teacher(
    size: str,
    *,
    img_resolution: int,
    img_channels: int,
    label_dim: int = 0,
    augment_dim: int = 0,
    sigma_data: float = 0.5,
    changes: Mapping[str, Value] | None = None,
) -> EDMPrecond:
    """Return an untrained teacher, whose weights are drawn from torch's stream.

    Args:
        size: a key of SIZES.
        img_resolution: one of SIDES.
        img_channels: of the images.
        label_dim: number of classes; 0 is unconditional.
        augment_dim: length of the augmentation's label; 0 is none.
        sigma_data: spread of the data.
        changes: arguments of the U-Net in place of the size's, by SongUNet's names.

    Raises:
        ValueError: a size or an argument that there is not, or a network that cannot be.
    """
    if size not in SIZES:
        raise ValueError(f"size is {size!r}; allowed are {', '.join(SIZES)}")
    more_levels = (img_resolution // SIDES[0]).bit_length() - 1
    multiples = SIZES[size]["channel_mult"]
    assert isinstance(multiples, list)
    kwargs: Kwargs = {
        **SIZES[size],
        "channel_mult": [*[1] * more_levels, *multiples],
        "label_dropout": LABEL_DROPOUT if label_dim else 0.0,
        "augment_dim": augment_dim,
        **(changes or {}),
    }
    call: Kwargs = {
        "img_resolution": img_resolution,
        "img_channels": img_channels,
        "label_dim": label_dim,
        "sigma_data": sigma_data,
        "model_type": "SongUNet",
        **kwargs,
    }
    network = with_options(EDMPrecond, call)
    if changes:
        check_passes(network)
    return network


@torch.no_grad()
def check_passes(network: EDMPrecond) -> None:
    """Raise ValueError unless an image passes: a width may not be a multiple of its groups."""
    r = network.img_resolution
    try:
        network(torch.zeros(1, network.img_channels, r, r), 1.0)
    except (RuntimeError, ValueError) as error:
        reason = str(error).splitlines()[0]
        raise ValueError(
            f"a network with these --net cannot be ({reason}); give widths that are multiples of 32"
        ) from error


CHANGEABLE = ("model_channels", "channel_mult", "channel_mult_emb", "num_blocks")
CHANGEABLE += ("attn_resolutions", "dropout", "label_dropout")
LISTS = ("channel_mult", "attn_resolutions")


def parse_changes(texts: Sequence[str]) -> Kwargs:
    """Return arguments of a U-Net from KEY=VALUE texts; lists have commas between.

    Raises:
        ValueError: no such argument, or a value that it cannot have.
    """
    found: Kwargs = {}
    for text in texts:
        key, equals, value = text.partition("=")
        if key not in CHANGEABLE or not equals:
            raise ValueError(
                f"--net is {text!r}; allowed are {', '.join(CHANGEABLE)}, as KEY=VALUE"
            )
        try:
            numbers = [float(part) for part in value.split(",") if part]
        except ValueError:
            raise ValueError(f"--net {key} is {value!r}; give numbers") from None
        whole = [int(n) if n.is_integer() else n for n in numbers]
        try:
            found[key] = cast("Value", UNETS[key](whole if key in LISTS else _only(whole)))
        except ValueError as error:
            raise ValueError(f"--net {key} is {value!r}; it must be {error}") from None
    return found


def _only(numbers: Sequence[float]) -> float:
    if len(numbers) != 1:
        raise ValueError("one number")
    return numbers[0]
