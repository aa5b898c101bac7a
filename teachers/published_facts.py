"""What published files do not hold: facts by the name they are published under, and their shape.

A name alone could be anyone's file, and the shape alone anyone's network, so both must agree. The
sources are the programs' own README files and configurations.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from checkpoints.options import Options


class GuidedShape(Protocol):
    """What names and shapes of a file of the guided-diffusion layout say."""

    @property
    def model_channels(self) -> int:
        """The width that channel_mult multiplies."""
        ...

    @property
    def channel_mult(self) -> tuple[float, ...]:
        """Relative width of each level."""
        ...

    @property
    def num_res_blocks(self) -> tuple[int, ...]:
        """Blocks of each level."""
        ...

    @property
    def attention_factors(self) -> tuple[int, ...]:
        """By how much smaller than the image the levels with attention are."""
        ...

    @property
    def num_classes(self) -> int:
        """0 is unconditional."""
        ...

    @property
    def use_scale_shift_norm(self) -> bool:
        """Whether the embedding scales too."""
        ...

    @property
    def resblock_updown(self) -> bool:
        """Whether blocks resample."""
        ...

    @property
    def qkv_ndim(self) -> int:
        """Dimensions of the weights of qkv."""
        ...


@dataclass(frozen=True)
class Published:
    """Files of one configuration.

    Attributes:
        files: their names.
        shape: model_channels, channel_mult, num_res_blocks (of all levels, or of each),
            attention_factors, num_classes, use_scale_shift_norm, resblock_updown, qkv_ndim.
        facts: what they do not hold.
    """

    files: tuple[str, ...]
    shape: tuple[
        int, tuple[float, ...], int | tuple[int, ...], tuple[int, ...], int, bool, bool, int
    ]
    facts: Options

    def fits(self, shape: GuidedShape) -> bool:
        """Whether a file has this shape."""
        mc, mult, blocks, factors, classes, scale_shift, updown, ndim = self.shape
        blocks = (blocks,) * len(mult) if isinstance(blocks, int) else blocks
        return (
            (mc, mult, blocks) == (shape.model_channels, shape.channel_mult, shape.num_res_blocks)
            and (factors, classes) == (shape.attention_factors, shape.num_classes)
            and (scale_shift, updown) == (shape.use_scale_shift_norm, shape.resblock_updown)
            and ndim == shape.qkv_ndim
        )


def _steps(schedule: str, steps: int, **others: bool) -> Options:
    return {"noise_schedule": schedule, "diffusion_steps": steps, **others}


W64: Options = {"num_head_channels": 64}
HEADS4: Options = {"num_heads": 4}
OLD: Options = {"use_new_attention_order": False}
LINEAR = _steps("linear", 1000)
EDM: Options = {"preconditioning": "edm"}
MULT256 = (1, 1, 2, 2, 4, 4)

GUIDED = (
    Published(
        (
            *("lsun_bedroom.pt", "lsun_cat.pt", "lsun_horse.pt", "lsun_horse_nodropout.pt"),
            *("256x256_diffusion_uncond.pt", "celeba256_250000.pt", "places256_300000.pt"),
        ),
        (256, MULT256, 2, (8, 16, 32), 0, True, True, 3),
        {"image_size": 256, **W64, **OLD, **LINEAR},
    ),
    Published(
        ("256x256_diffusion.pt",),
        (256, MULT256, 2, (8, 16, 32), 1000, True, True, 3),
        {"image_size": 256, **W64, **OLD, **LINEAR},
    ),
    Published(
        ("512x512_diffusion.pt",),
        (256, (0.5, 1, 1, 2, 2, 4, 4), 2, (16, 32, 64), 1000, True, True, 3),
        {"image_size": 512, **W64, **OLD, **LINEAR},
    ),
    Published(
        ("128x128_diffusion.pt",),
        (256, (1, 1, 2, 3, 4), 2, (4, 8, 16), 1000, True, True, 3),
        {"image_size": 128, **HEADS4, **OLD, **LINEAR},
    ),
    Published(
        ("64x64_diffusion.pt",),
        (192, (1, 2, 3, 4), 3, (2, 4, 8), 1000, True, True, 3),
        {"image_size": 64, **W64, "use_new_attention_order": True, **_steps("cosine", 1000)},
    ),
    Published(
        (
            *("ffhq_10m.pt", "afhq_dog_4m.pt"),
            *("ffhq_p2.pt", "ffhq_baseline.pt", "celebahq_p2.pt", "cub_p2.pt", "cub_baseline.pt"),
            *("afhq_p2.pt", "afhq_baseline.pt", "flower_p2.pt", "flower_baseline.pt"),
            *("metface_p2.pt", "metface_baseline.pt"),
        ),
        (128, MULT256, 1, (16,), 0, True, True, 3),
        {"image_size": 256, **W64, **OLD, **LINEAR},
    ),
    Published(
        ("iddpm_ffhq512_ema500000.pth",),
        (32, (1, 2, 4, 8, 8, 16, 16), (1, 2, 2, 2, 2, 3, 4), (16, 32, 64), 0, True, False, 3),
        {"image_size": 512, **W64, **OLD, **LINEAR},
    ),
    Published(
        ("cifar10_uncond_50M_500K.pt", "cifar10_uncond_vlb_50M_500K.pt"),
        (128, (1, 2, 2, 2), 3, (2, 4), 0, True, False, 3),
        {"image_size": 32, **HEADS4, **OLD, **_steps("cosine", 4000, rescale_timesteps=True)},
    ),
    Published(
        ("imagenet64_uncond_100M_1500K.pt", "imagenet64_uncond_vlb_100M_1500K.pt"),
        (128, (1, 2, 3, 4), 3, (4, 8), 0, True, False, 3),
        {"image_size": 64, **HEADS4, **OLD, **_steps("cosine", 4000, rescale_timesteps=True)},
    ),
    Published(
        ("imagenet64_cond_270M_250K.pt",),
        (192, (1, 2, 3, 4), 3, (4, 8), 1000, True, False, 3),
        {"image_size": 64, **HEADS4, **OLD, **_steps("cosine", 4000, rescale_timesteps=False)},
    ),
    Published(
        ("lsun_uncond_100M_1200K_bs128.pt", "lsun_uncond_100M_2400K_bs64.pt"),
        (128, MULT256, 2, (16,), 0, False, False, 3),
        {"image_size": 256, "num_heads": 1, **OLD, **LINEAR},
    ),
    Published(
        ("edm_bedroom256_ema.pt", "edm_cat256_ema.pt"),
        (256, MULT256, 2, (8, 16, 32), 0, False, True, 4),
        {"image_size": 256, **W64, **EDM},
    ),
    Published(
        ("edm_imagenet64_ema.pt",),
        (192, (1, 2, 3, 4), 3, (2, 4, 8), 1000, True, True, 4),
        {"image_size": 64, **W64, **EDM},
    ),
)


def of_guided(file: str, shape: GuidedShape) -> Options:
    """Return the facts of a file by its name, where it has the published shape; else none.

    The ending may be another or none, as where a model is asked for by its published name.
    """
    known = next((row for row in GUIDED if _stem(file) in map(_stem, row.files)), None)
    return dict(known.facts) if known is not None and known.fits(shape) else {}


def _stem(file: str) -> str:
    return file.removesuffix(".pt").removesuffix(".pth")


def hint_of_guided(shape: GuidedShape) -> str:
    """Return what to give if the file is a published one under another name, or ""."""
    row = next((row for row in GUIDED if row.fits(shape)), None)
    return "" if row is None else _hint(", ".join(row.files[:4]), row.facts)


def _hint(files: str, facts: Mapping[str, object]) -> str:
    flags = " ".join(f"{key}={str(value).lower()}" for key, value in facts.items())
    return f"published files of this shape ({files}) have {flags}"


# By folder, as score_sde_pytorch's files are all called checkpoint_N.pth: the images' resolution.
VE_FOLDERS = {
    "ffhq_1024_ncsnpp_continuous": 1024,
    "ffhq_256_ncsnpp_continuous": 256,
    "celebahq_256_ncsnpp_continuous": 256,
    "church_ncsnpp_continuous": 256,
    "bedroom_ncsnpp_continuous": 256,
}
# These networks of 32 pixels were trained under all three SDEs, so the folder above counts too.
CIFAR_FOLDERS = ("cifar10_ncsnpp", "cifar10_ddpmpp", "cifar10_ddpm")
SDE_FOLDERS = {"ve": "vesde", "vp": "vpsde", "subvp": "subvpsde"}
HINT_OF_SCORE = (
    "the published files of FFHQ, CelebA-HQ, church and bedroom have sde=vesde continuous=true "
    "fir=true, those of CIFAR-10 called ddpmpp image_size=32 fir=false"
)


def of_score(source: str | Path) -> Options:
    """Return the facts of a checkpoint_N.pth in a folder of the published name; else none."""
    above, folder = ("", "", *str(source).replace("\\", "/").split("/")[:-1])[-2:]
    if folder in VE_FOLDERS:
        return {
            "image_size": VE_FOLDERS[folder],
            "sde": "vesde",
            "continuous": True,
            "centered": False,
            "fir": True,
        }
    if not folder.startswith(CIFAR_FOLDERS) or above not in SDE_FOLDERS:
        return {}
    return {
        "image_size": 32,
        "sde": SDE_FOLDERS[above],
        "continuous": folder.endswith("_continuous"),
        "centered": above != "ve",
        "fir": "ncsnpp" in folder,
    }
