"""From the tensors of a FastGAN file to the arguments of the network here.

Projected GAN's classes (and Diffusion-GAN's, which are the same) record no constructor call: sizes
are their attributes and shapes, and agreement of all tensors is checked afterwards. Their layers
carry PyTorch's hook for spectral norms, which is read as data (`checkpoints`) and computed here.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch

import checkpoints
from checkpoints import Record, shape_of
from students.fastgan.generator import RESOLUTIONS

MODULE = "pg_modules.networks_fastgan"
OWN = "models"  # FastGAN's own module, whose files hold tensors alone
FIRST = "init.init.0.weight_orig"
NGF_SHARE = 32  # channels of the first layer, before the gate, as a multiple of ngf


def is_generator(record: Record) -> bool:
    """Tell a FastGAN generator by its class."""
    return record.class_name == "Generator" and record.module in (MODULE, OWN)


def generator_kwargs(record: Record) -> dict[str, object]:
    """Return FastGANGenerator's arguments for a file's generator.

    Raises:
        ValueError: tensors or attributes that no such generator has.
    """
    tensors = checkpoints.tensors(record)
    z_dim, width = shape_of(tensors, f"synthesis.{FIRST}", 4)[:2]
    resolution = record.state.get("img_resolution")
    if resolution not in RESOLUTIONS:
        sizes = ", ".join(map(str, RESOLUTIONS))
        raise ValueError(f"its img_resolution is {str(resolution)[:20]!a}; allowed: {sizes}")
    if width % NGF_SHARE or not width:
        raise ValueError(f"its first layer has {width} channels; allowed: multiples of {NGF_SHARE}")
    last = shape_of(tensors, "synthesis.to_big.weight_orig", 4)
    embed = "synthesis.embed.weight"
    num_classes = shape_of(tensors, embed, 2)[0] if embed in tensors else 0
    c_dim = record.state.get("c_dim", 0) if num_classes else 0
    if type(c_dim) is not int or not 0 <= c_dim <= num_classes or (num_classes and not c_dim):
        raise ValueError(f"its c_dim is {str(c_dim)[:20]!a}; it embeds {num_classes} classes")
    return {
        "z_dim": z_dim,
        "c_dim": c_dim,
        "num_classes": num_classes,
        "img_resolution": resolution,
        "img_channels": last[0],
        "ngf": width // NGF_SHARE,
        "kind": _kind(record, tensors),
    }


def _kind(record: Record, tensors: Mapping[str, torch.Tensor]) -> str:
    if record.module == OWN:
        return "own"
    lite = ("feat_8.5.weight_orig", "feat_8.conv2.weight_orig")
    return "big" if any(f"synthesis.{name}" in tensors for name in lite) else "lite"
