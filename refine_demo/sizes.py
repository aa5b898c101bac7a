"""How large the networks are that train.py makes, and how each size is trained."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from refine_demo.augment import Augmentation


@dataclass(frozen=True)
class Recipe:
    """How the networks of a size are trained; the defaults are those of the embedded MNIST ones.

    Attributes:
        flips: half of the training images are mirrored, drawn for each.
        sigma: mean and standard deviation of ln sigma in the teacher's training.
        teacher_batch: images of a step of the teacher's.
        teacher_rate: its learning rate after the ramp.
        decay: share of the teacher's training, at its end, in which the rate falls to zero; 0 keeps
            it constant, so that the training can be made longer at any time.
        average: the teacher's average has a half-life of this share of the images seen,
        average_most: and at most of this many images. The same for the student's, where
        student_average: is None; else its half-life in updates.
        student_batch: images of a step of the student's.
        r1: weight gamma of R1 (Mescheder et al. 2018, arXiv:1801.04406).
        augmentation: of what the discriminator sees; None is nothing.
    """

    flips: bool = False
    sigma: tuple[float, float] = (-0.8, 1.2)
    teacher_batch: int = 128
    teacher_rate: float = 2e-3
    decay: float = 0.4
    average: float = 0.1
    average_most: int = 20_000
    student_average: float | None = 138.28  # a factor of 0.995 each
    student_batch: int = 32
    r1: float = 1.0
    augmentation: Augmentation | None = None


@dataclass(frozen=True)
class Sizes:
    """The networks for a data set of 32 x 32 images, or such as are padded to that.

    Attributes:
        data: what the data set is called.
        img_channels: of the images.
        classifier: widths of its three convolutions.
        num_features: of the classifier, its space's dimension.
        z_dim: of the student, its w as well.
        student: width of the student's layers, as StyleGAN2 names it.
        teacher: arguments of the teacher's U-Net.
        recipe: how they are trained.
    """

    data: str
    img_channels: int
    classifier: tuple[int, int, int]
    num_features: int
    z_dim: int
    student: Mapping[str, int]
    teacher: Mapping[str, Any]
    recipe: Recipe = Recipe()


def _teacher(width: int, *multiples: int) -> dict[str, Any]:
    """Arguments of a teacher for two cores: a block a level, attention where pixels are few."""
    return {
        "model_channels": width,
        "channel_mult": list(multiples),
        "num_blocks": 1,
        "attn_resolutions": [8],
        "dropout": 0.0,
    }


# ln sigma and the averages' half-lives are those of EDM (Karras et al. 2022, Table 1 and
# Appendix F.1); R1's weight is that of Zhao et al. 2020 for CIFAR-10.
_COLOUR = Recipe(
    flips=True,
    sigma=(-1.2, 1.2),
    teacher_batch=32,
    teacher_rate=1e-3,
    decay=0.0,
    average=0.05,
    average_most=500_000,
    student_average=None,
    r1=0.1,
    augmentation=Augmentation(),
)

# For one core: 0.7, 1.3 and 2.5 million weights in the teacher. 128 channels is where the fast
# kernels begin. Which was chosen and why: docs/cifar10.md.
_CIFAR10 = Sizes(
    data="CIFAR-10",
    img_channels=3,
    classifier=(64, 128, 256),
    num_features=128,
    z_dim=128,
    student={"channel_base": 1024, "channel_max": 128},
    teacher=_teacher(32, 1, 4, 2),
    recipe=_COLOUR,
)

SIZES = {
    "mnist": Sizes(
        data="MNIST",
        img_channels=1,
        classifier=(16, 32, 64),
        num_features=64,
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
    "cifar10-s": dataclasses.replace(_CIFAR10, teacher=_teacher(24, 1, 2, 2)),
    "cifar10-m": dataclasses.replace(_CIFAR10, teacher=_teacher(32, 1, 2, 2)),
    "cifar10-l": _CIFAR10,
    # A tenth of the published networks' weights, so that minutes on a GPU show something.
    "cifar10-gpu": Sizes(
        data="CIFAR-10",
        img_channels=3,
        classifier=(64, 128, 256),
        num_features=128,
        z_dim=256,
        student={"channel_base": 8192, "channel_max": 256},
        teacher={
            "model_channels": 64,
            "channel_mult": [1, 2, 2],
            "num_blocks": 2,
            "attn_resolutions": [16],
            "dropout": 0.1,
        },
        recipe=dataclasses.replace(_COLOUR, teacher_batch=256, student_batch=64),
    ),
}
