"""A teacher to train on from: another's weights, brought to the images at hand.

What the images ask for and the network does not have begins as nothing, so that the first loss is
the old teacher's: classes and augmentations are told through layers that start at zero. Images of
another size keep the levels in their order, with the smallest level that much smaller; colours that
there were not are the mean of those that there were.
"""

from __future__ import annotations

from typing import cast

import torch

from teachers.arguments import check_levels
from teachers.denoiser import DenoiserModule
from teachers.edm import Precond

TOLD = ("model.map_label.weight", "model.map_label.bias", "model.map_augment.weight")
LOWEST = 4  # pixels of the smallest level


def started_from(
    teacher: DenoiserModule,
    *,
    img_resolution: int,
    img_channels: int,
    label_dim: int,
    augment_dim: int,
    label_dropout: float,
    dropout: float | None = None,
) -> tuple[Precond, str]:
    """Return a new network that starts as this teacher, and what was changed, in words.

    Args:
        teacher: a denoiser in one of EDM's columns; it is not changed.
        img_resolution: of the images.
        img_channels: 1 or 3, or the teacher's.
        label_dim: number of classes of the images; 0 is unconditional.
        augment_dim: length of the augmentation's label, 0 for none.
        label_dropout: of a network with classes.
        dropout: of features; None is the teacher's.

    Raises:
        ValueError: a network of another kind, or layers that do not allow it.
    """
    if not isinstance(teacher, Precond):
        raise ValueError(
            f"--from is a {type(teacher).__name__}, which cannot be trained on here; give a "
            "teacher in EDM's layout, of class VPPrecond, VEPrecond, iDDPMPrecond or EDMPrecond"
        )
    call = dict(teacher.init_kwargs)
    said: list[str] = []
    levels = teacher.model.init_kwargs["channel_mult"]
    attention = teacher.model.init_kwargs["attn_resolutions"]
    assert isinstance(levels, list) and isinstance(attention, list)
    old, new = teacher.img_resolution, img_resolution
    if old != new:
        check_levels(new, cast("list[int]", levels), 1)
        if new >> (len(levels) - 1) < LOWEST:
            raise ValueError(
                f"--from is a teacher of {old} x {old} images with {len(levels)} levels, the last "
                f"of which would have {new >> (len(levels) - 1)} pixels a side of images of "
                f"{new} x {new}; give images of {LOWEST << (len(levels) - 1)} or more"
            )
        call["attn_resolutions"] = [int(cast("int", r)) * new // old for r in attention]
        said.append(f"levels of {old} x {old} serve {new} x {new}")
    colours = {teacher.img_channels, img_channels}
    if len(colours) == 2:
        if colours != {1, 3}:
            raise ValueError(
                f"--from is a teacher of {teacher.img_channels} channels, the images have "
                f"{img_channels}; only gray and RGB can be brought to each other"
            )
        said.append("gray becomes RGB" if img_channels == 3 else "RGB becomes gray")
    if label_dim != teacher.label_dim:
        said.append(
            f"its {teacher.label_dim or 'no'} classes become {label_dim or 'none'}, unlearned"
        )
    has = teacher.model.init_kwargs["augment_dim"]
    if augment_dim not in (0, has):
        call["augment_dim"] = augment_dim
        said.append("augmentations are new to it")
    if dropout is not None:
        call["dropout"] = dropout
    call |= {"img_resolution": new, "img_channels": img_channels, "label_dim": label_dim}
    call |= {"label_dropout": label_dropout if label_dim else 0.0, "use_fp16": False}
    network = cast("Precond", type(teacher)(**call))  # pyright: ignore[reportArgumentType]
    network.sigma_min, network.sigma_max = teacher.sigma_min, teacher.sigma_max
    network.load_state_dict(_weights(teacher, network))
    return network, "; ".join(said)


@torch.no_grad()
def _weights(teacher: Precond, network: Precond) -> dict[str, torch.Tensor]:
    """Return the teacher's weights under the network's names, in its shapes."""
    theirs = {_by_level(name, teacher): value for name, value in teacher.state_dict().items()}
    found: dict[str, torch.Tensor] = {}
    for name, mine in network.state_dict().items():
        value = theirs.get(_by_level(name, network))
        if name in TOLD and (value is None or value.shape != mine.shape):
            found[name] = torch.zeros_like(mine)
            continue
        assert value is not None, name
        found[name] = value.clone() if value.shape == mine.shape else _recoloured(value, mine)
    return found


def _by_level(name: str, network: Precond) -> str:
    """Return a parameter's name with its level's number in place of its resolution."""
    for i in range(16):
        r = network.img_resolution >> i
        name = name.replace(f".{r}x{r}_", f".level{i}_") if r else name
    return name


def _recoloured(value: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
    """Return a weight whose images had other channels: means of outputs, as much input in all."""
    if value.shape[0] != like.shape[0]:
        smaller = min(value.shape[0], like.shape[0])
        groups, rest = max(smaller, 1), value.shape[1:]
        mean = value.reshape(groups, -1, *rest).mean(dim=1, keepdim=True)
        value = mean.expand(groups, like.shape[0] // groups, *rest).reshape(-1, *rest)
    if value.ndim > 1 and value.shape[1] != like.shape[1]:
        total = value.sum(dim=1, keepdim=True)
        value = total.expand(-1, like.shape[1], *value.shape[2:]) / like.shape[1]
    return value.contiguous()
