"""How large the networks are that train.py makes: small enough for what they are trained on."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Sizes:
    """The networks for a data set of 32 x 32 images, or such as are padded to that.

    Attributes:
        img_channels: of the images.
        classifier: widths of its three convolutions.
        z_dim: of the student, its w as well.
        student: width of the student's layers, as StyleGAN2 names it.
        teacher: arguments of the teacher's U-Net.
    """

    img_channels: int
    classifier: tuple[int, int, int]
    z_dim: int
    student: Mapping[str, int]
    teacher: Mapping[str, Any]


SIZES = {
    "mnist": Sizes(
        img_channels=1,
        classifier=(16, 32, 64),
        z_dim=64,
        student={"channel_base": 1024, "channel_max": 64},
        teacher={
            "model_channels": 16,
            "channel_mult": [1, 2, 2],
            "num_blocks": 1,
            "attn_resolutions": [],
            "dropout": 0.0,
        },
    ),
    # A tenth of the published networks' weights, so that minutes on a GPU show something.
    "cifar10": Sizes(
        img_channels=3,
        classifier=(64, 128, 256),
        z_dim=256,
        student={"channel_base": 8192, "channel_max": 256},
        teacher={
            "model_channels": 64,
            "channel_mult": [1, 2, 2],
            "num_blocks": 2,
            "attn_resolutions": [16],
            "dropout": 0.1,
        },
    ),
}
