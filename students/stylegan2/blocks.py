"""What the blocks of StyleGAN2's generator and discriminator share: sizes and precision."""

from __future__ import annotations

from collections.abc import Sequence

ARCHITECTURES = ("orig", "skip", "resnet")


def check_architecture(architecture: str) -> None:
    """Raise ValueError unless architecture is one of ARCHITECTURES."""
    if architecture not in ARCHITECTURES:
        raise ValueError(
            f"architecture is {architecture!r}; allowed are {', '.join(ARCHITECTURES)}"
        )


def block_channels(img_resolution: int, channel_base: int, channel_max: int) -> dict[int, int]:
    """Return resolution -> feature channels for 4, 8, ..., img_resolution.

    They are min(channel_base // resolution, channel_max).

    Raises:
        ValueError: the resolution is not a power of two of at least 4, or one has no channel.
    """
    if img_resolution < 4 or img_resolution & (img_resolution - 1):
        raise ValueError(f"img_resolution is {img_resolution}; allowed: powers of two from 4")
    if channel_base < img_resolution or channel_max < 1:
        raise ValueError(
            f"channel_base is {channel_base} and channel_max {channel_max}; allowed: at least "
            f"img_resolution, {img_resolution}, and at least 1"
        )
    resolutions = [1 << k for k in range(2, img_resolution.bit_length())]
    return {r: min(channel_base // r, channel_max) for r in resolutions}


def grown(init_res: Sequence[int], resolution: int) -> tuple[int, int]:
    """Return height and width of the block of this resolution; that of 4 has init_res."""
    height, width = init_res
    return height * resolution // 4, width * resolution // 4


def fp16_from(img_resolution: int, num_fp16_res: int) -> int:
    """Return the lowest resolution whose block was trained in half precision."""
    return max(2 * img_resolution >> num_fp16_res, 8)
