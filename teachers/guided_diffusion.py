"""Files of the guided-diffusion layout as teachers: a dict of named tensors and nothing else.

improved-diffusion, guided-diffusion and what grew from it (ILVR, DPS, P2 weighting, RePaint,
DifFace), and consistency_models' EDM denoisers. Names and shapes give the network but for the
attention heads; those, the noise schedule and the size of the images are facts (`teachers.facts`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

import torch

import checkpoints
from checkpoints import shape_of
from checkpoints.options import Options
from teachers import facts, published_facts
from teachers.converted import ConvertedDenoiser
from teachers.networks.guided_unet import GROUPS, GuidedUNet, Heads
from teachers.noise_scales import EDMScale, NoiseScale, Steps, schedule

TIME, FIRST, LAST = "time_embed.0.weight", "input_blocks.0.0.weight", "out.2.weight"
NEEDED_OF_STEPS = ("noise_schedule", "diffusion_steps")


@dataclass(frozen=True)
class Shape:
    """What a file's names and shapes say, see GuidedUNet; factors are of the resolution."""

    in_channels: int
    out_channels: int
    model_channels: int
    channel_mult: tuple[float, ...]
    num_res_blocks: tuple[int, ...]
    attention_levels: tuple[bool, ...]
    num_classes: int
    use_scale_shift_norm: bool
    resblock_updown: bool
    qkv_ndim: int

    @classmethod
    def of(cls, tensors: Mapping[str, torch.Tensor]) -> Shape:
        """Read it off the tensors.

        Raises:
            ValueError: they are no such network.
        """
        emb, mc = shape_of(tensors, TIME, 2)
        if emb != 4 * mc:
            raise ValueError(f"{TIME} is [{emb}, {mc}]; this layout has [4 C, C]")
        first, last = shape_of(tensors, FIRST, 4), shape_of(tensors, LAST, 4)
        block = "input_blocks.1.0."
        width = shape_of(tensors, f"{block}in_layers.2.weight", 4)[0]
        updown = not any(name.endswith(".op.weight") for name in tensors)
        levels = _levels_of_decoder(tensors) if updown else _levels_of_encoder(tensors)
        widths = [width for width, _, _ in levels]
        odd = [w for w in (first[0], *widths) if w % GROUPS]
        if odd:
            raise ValueError(
                f"a level has {odd[0]} channels; this layout has multiples of {GROUPS}"
            )
        qkv = [t.ndim for name, t in tensors.items() if name.endswith(".qkv.weight")]
        classes = (
            shape_of(tensors, "label_emb.weight", 2)[0] if "label_emb.weight" in tensors else 0
        )
        return cls(
            in_channels=first[1],
            out_channels=last[0],
            model_channels=mc,
            channel_mult=tuple(w / mc for w in widths),
            num_res_blocks=tuple(blocks for _, blocks, _ in levels),
            attention_levels=tuple(attends for _, _, attends in levels),
            num_classes=classes,
            use_scale_shift_norm=shape_of(tensors, f"{block}emb_layers.1.weight", 2)[0]
            == 2 * width,
            resblock_updown=updown,
            qkv_ndim=4 if qkv and qkv[0] == 4 else 3,
        )

    def network(self, heads: Heads) -> GuidedUNet:
        """Return the network."""
        return checkpoints.with_options(GuidedUNet, asdict(self), heads=heads)

    @property
    def attention_factors(self) -> tuple[int, ...]:
        """By how much smaller than the image the levels with attention are."""
        return tuple(1 << i for i, attends in enumerate(self.attention_levels) if attends)

    def __str__(self) -> str:
        mults = " ".join(f"{m:g}" for m in self.channel_mult)
        classes = f"{self.num_classes} classes" if self.num_classes else "no classes"
        return f"width {self.model_channels} times {mults}, {classes}"


def _levels_of_decoder(tensors: Mapping[str, torch.Tensor]) -> list[tuple[int, int, bool]]:
    """(width, blocks, attention) of each level, the full resolution first.

    A level ends with an entry whose last child is a block that resamples.
    """
    levels: list[tuple[int, int, bool]] = []
    entries, attends = 0, False
    for j in _counted(tensors, "output_blocks.{}.0.in_layers.2.weight"):
        entries += 1
        attends = attends or f"output_blocks.{j}.1.qkv.weight" in tensors
        ends = any(f"output_blocks.{j}.{k}.in_layers.2.weight" in tensors for k in (1, 2))
        is_last = f"output_blocks.{j + 1}.0.in_layers.2.weight" not in tensors
        if ends or is_last:
            width = shape_of(tensors, f"output_blocks.{j}.0.in_layers.2.weight", 4)[0]
            levels.append((width, entries - 1, attends))
            entries, attends = 0, False
    return levels[::-1]


def _levels_of_encoder(tensors: Mapping[str, torch.Tensor]) -> list[tuple[int, int, bool]]:
    """As _levels_of_decoder; a level ends with an entry that is a convolution of stride 2."""
    levels: list[tuple[int, int, bool]] = []
    width, blocks, attends = 0, 0, False
    i = 1
    while True:
        conv = f"input_blocks.{i}.0.in_layers.2.weight"
        if conv in tensors:
            width = shape_of(tensors, conv, 4)[0]
            blocks += 1
            attends = attends or f"input_blocks.{i}.1.qkv.weight" in tensors
        else:
            levels.append((width, blocks, attends))
            blocks, attends = 0, False
            if f"input_blocks.{i}.0.op.weight" not in tensors:
                return levels
        i += 1


def _counted(tensors: Mapping[str, torch.Tensor], pattern: str) -> list[int]:
    """Return 0, 1, ... as far as a tensor has that name."""
    found: list[int] = []
    while pattern.format(len(found)) in tensors:
        found.append(len(found))
    return found


def is_layout(tensors: Mapping[str, torch.Tensor]) -> bool:
    """Whether these names are of this layout."""
    return TIME in tensors and FIRST in tensors


def load(
    tensors: Mapping[str, torch.Tensor], source: str | Path, given: Mapping[str, object]
) -> ConvertedDenoiser:
    """Build a teacher of a file's tensors and of facts.

    Raises:
        ValueError: it is no denoiser of images, facts are missing, do not fit, or are not allowed.
    """
    try:
        check_denoises(tensors)
        shape = Shape.of(tensors)
        said = facts.gather(source, given, facts.GUIDED)
        known = published_facts.of_guided(Path(str(source)).name, shape)
        compare(shape, {**known, **said})
        found = with_all(shape, source, known, said)
        heads = heads_of(shape, found)
        unet = checkpoints.filled(
            lambda: shape.network(heads), tensors, "tensors that do not fit this layout"
        )
        return ConvertedDenoiser(
            unet,
            scale_of(found),
            img_channels=shape.in_channels,
            img_resolution=size_of(shape, found),
            label_dim=shape.num_classes,
        ).eval()
    except ValueError as error:
        raise ValueError(f"{source}: {error}") from error


def check_denoises(tensors: Mapping[str, torch.Tensor]) -> None:
    """Raise ValueError for the classifiers and upsamplers of the same programs, and for latents."""
    if "output_blocks.0.0.in_layers.2.weight" not in tensors:
        raise ValueError(
            "it is a classifier of guided-diffusion, which scores noised images; give the "
            "diffusion model that it guides"
        )
    channels = shape_of(tensors, FIRST, 4)[1]
    out = shape_of(tensors, LAST, 4)[0]
    if channels == 6:
        raise ValueError(
            "it is an upsampler, whose network also takes a small image (6 channels); give a "
            "diffusion model of 3 channels"
        )
    if channels not in (1, 3):
        raise ValueError(
            f"its images have {channels} channels, so they are most likely latents of an "
            "autoencoder, which are not read yet; give a model of pixels, of 1 or 3 channels"
        )
    if out not in (channels, 2 * channels):
        raise ValueError(
            f"it makes {out} channels of {channels}; a denoiser makes {channels}, or "
            f"{2 * channels} with variances"
        )


def with_all(shape: Shape, source: str | Path, known: Options, said: Options) -> Options:
    """Return all facts of a network, or say which are missing.

    Raises:
        ValueError: some are, or it is a consistency model.
    """
    found = {**known, **said}
    name = Path(str(source)).name
    of_consistency = shape.qkv_ndim == 4
    if of_consistency and name.startswith(("cd_", "ct_")) and "preconditioning" not in said:
        raise ValueError(
            "by its name it is a consistency model, which goes to the image in one step and does "
            "not denoise; give the edm_ file of the same data, or preconditioning=edm if it is one"
        )
    names = [] if "image_size" in found else ["image_size"]
    if not {"num_heads", "num_head_channels"} & found.keys():
        names.append("num_heads")
    if of_consistency and "preconditioning" not in found:
        names.append("preconditioning")
    elif found.get("preconditioning") != "edm":
        names += [key for key in NEEDED_OF_STEPS if key not in found]
        if found.get("diffusion_steps", 1000) != 1000 and "rescale_timesteps" not in found:
            names.append("rescale_timesteps")
    if names:
        open_order = not of_consistency and "use_new_attention_order" not in found
        raise facts.missing(
            source,
            f"a network of the guided-diffusion layout ({shape})",
            names,
            default="use_new_attention_order is false unless given" if open_order else "",
            hint=published_facts.hint_of_guided(shape),
        )
    return found


def heads_of(shape: Shape, found: Options) -> Heads:
    """Return how attention is divided; the originals' -1 is none.

    consistency_models has the new order, whatever its flag says.
    """
    counts = {
        key: value
        for key, value in found.items()
        if key in ("num_heads", "num_head_channels", "num_heads_upsample") and value != -1
    }
    if any(value == 0 for value in counts.values()) or not counts:
        raise ValueError("num_heads and num_head_channels are 0 or -1; give one of them above 0")
    order = shape.qkv_ndim == 4 or bool(found.get("use_new_attention_order", False))
    return checkpoints.with_options(Heads, counts, use_new_attention_order=order)


def scale_of(found: Options) -> NoiseScale:
    """Return how the network is told the noise level."""
    if found.get("preconditioning") == "edm":
        levels = {key: found[key] for key in ("sigma_min", "sigma_max") if key in found}
        return checkpoints.with_options(EDMScale, levels)
    steps, name = found["diffusion_steps"], found["noise_schedule"]
    assert isinstance(steps, int) and isinstance(name, str)
    # A cosine schedule's last step is what is left when beta is clipped.
    top = -2 if name == "cosine" and steps > 1 else None
    factor = 1000 / steps if found.get("rescale_timesteps") else 1
    return Steps(
        schedule(name, steps),
        prediction="sample" if found.get("predict_xstart") else "epsilon",
        factor=factor,
        top=top,
    )


def size_of(shape: Shape, found: Options) -> int:
    """Return the images' resolution."""
    size, step = found["image_size"], 1 << (len(shape.channel_mult) - 1)
    assert isinstance(size, int)
    if size % step:
        raise ValueError(
            f"image_size is {size}, but the network halves {len(shape.channel_mult) - 1} times; "
            f"give a multiple of {step}"
        )
    return size


def compare(shape: Shape, found: Options) -> None:
    """Raise ValueError where a fact contradicts the tensors."""
    mults = ",".join(f"{m:g}" for m in shape.channel_mult)
    blocks = shape.num_res_blocks
    size = found.get("image_size", 0)
    assert isinstance(size, int)
    seen: Options = {
        "num_channels": shape.model_channels,
        "num_res_blocks": blocks[0] if len(set(blocks)) == 1 else list(blocks),
        "channel_mult": mults,
        "learn_sigma": shape.out_channels == 2 * shape.in_channels,
        "class_cond": bool(shape.num_classes),
        "use_scale_shift_norm": shape.use_scale_shift_norm,
        "resblock_updown": shape.resblock_updown,
        "attention_resolutions": ",".join(str(size // f) for f in shape.attention_factors[::-1]),
    }
    for key, value in seen.items():
        said = found.get(key, "")
        if key == "attention_resolutions" and isinstance(said, str):
            same = not size or set(said.split(",")) == set(str(value).split(","))
        else:
            same = said == value
        if said != "" and not same:
            raise ValueError(f"{key} is {said}, but its tensors are of {key} {value}")
