"""Names and sizes in the state dicts of rosinality's stylegan2-pytorch."""

from __future__ import annotations

from collections.abc import Mapping

import torch

from checkpoints import Value
from checkpoints.options import MAX_RESOLUTION, MAX_TAPS
from students.stylegan2.blocks import block_channels

# Ours; theirs end with .kernel, and those that double the size have a gain of 4.
FILTER = "resample_filter"

# Name of a tensor here -> its name there, and how many axes of length 1 it has there before and
# behind those that it has here.
Names = dict[str, tuple[str, int, int]]


def foreign(
    tensors: Mapping[str, torch.Tensor], ours: str, before: int, behind: int
) -> torch.Tensor:
    """Return one of our tensors in the shape that it has there."""
    tensor = tensors[ours]
    return tensor.reshape([1] * before + list(tensor.shape) + [1] * behind)


def names_of(network: str, state: Mapping[str, torch.Tensor]) -> Names:
    """The names of the network that these tensors are of."""
    if network == "D":
        return discriminator_names(resolutions_of(state, "convs.{}.skip.1.weight", 1))
    num_layers = count(state, "style.{}.weight", 1)
    return generator_names(num_layers, resolutions_of(state, "to_rgbs.{}.bias", 0))


def count(state: Mapping[str, torch.Tensor], pattern: str, start: int) -> int:
    """Return for how many numbers in a row, from start, the state has a name of this pattern."""
    count = 0
    while pattern.format(start + count) in state:
        count += 1
    return count


def resolutions_of(state: Mapping[str, torch.Tensor], pattern: str, start: int) -> list[int]:
    """Return 4, 8, ...: one more resolution than the state has names of this pattern."""
    resolutions = [4 << k for k in range(count(state, pattern, start) + 1)]
    if resolutions[-1] > MAX_RESOLUTION:
        raise ValueError(
            f"its layers make images of {resolutions[-1]} pixels; {MAX_RESOLUTION} may be"
        )
    return resolutions


def generator_names(num_layers: int, resolutions: list[int]) -> Names:
    """Return the names of a generator's tensors."""
    table: Names = {}
    for i in range(num_layers):
        for part in ("weight", "bias"):
            table[f"mapping.fc{i}.{part}"] = (f"style.{i + 1}.{part}", 0, 0)
    table["synthesis.b4.const"] = ("input.input", 1, 0)
    layers, images = {"b4.conv1": "conv1"}, {"b4.torgb": "to_rgb1"}
    for k, r in enumerate(resolutions[1:]):
        layers |= {f"b{r}.conv0": f"convs.{2 * k}", f"b{r}.conv1": f"convs.{2 * k + 1}"}
        images[f"b{r}.torgb"] = f"to_rgbs.{k}"
    for ours, theirs in {**layers, **images}.items():
        table[f"synthesis.{ours}.weight"] = (f"{theirs}.conv.weight", 1, 0)
        for part in ("weight", "bias"):
            table[f"synthesis.{ours}.affine.{part}"] = (f"{theirs}.conv.modulation.{part}", 0, 0)
    for number, (ours, theirs) in enumerate(layers.items()):
        table[f"synthesis.{ours}.noise_strength"] = (f"{theirs}.noise.weight", 1, 0)
        table[f"synthesis.{ours}.noise_const"] = (f"noises.noise_{number}", 2, 0)
        table[f"synthesis.{ours}.bias"] = (f"{theirs}.activate.bias", 0, 0)
    for ours, theirs in images.items():
        table[f"synthesis.{ours}.bias"] = (f"{theirs}.bias", 1, 2)
    return table


def discriminator_names(resolutions: list[int]) -> Names:
    """Return the names of a discriminator's tensors."""
    top = resolutions[-1]
    pairs = {
        f"b{top}.fromrgb.weight": "convs.0.0.weight",
        f"b{top}.fromrgb.bias": "convs.0.1.bias",
        "b4.conv.weight": "final_conv.0.weight",
        "b4.conv.bias": "final_conv.1.bias",
    }
    for ours, theirs in (("fc", "final_linear.0"), ("out", "final_linear.1")):
        for part in ("weight", "bias"):
            pairs[f"b4.{ours}.{part}"] = f"{theirs}.{part}"
    for k, r in enumerate(resolutions[:0:-1], start=1):
        for ours, theirs in (
            ("conv0.weight", "conv1.0.weight"),
            ("conv0.bias", "conv1.1.bias"),
            ("conv1.weight", "conv2.1.weight"),
            ("conv1.bias", "conv2.2.bias"),
            ("skip.weight", "skip.1.weight"),
        ):
            pairs[f"b{r}.{ours}"] = f"convs.{k}.{theirs}"
    return {ours: (theirs, 0, 0) for ours, theirs in pairs.items()}


def channel_options(resolutions: list[int], widths: list[int]) -> dict[str, int]:
    """The options channel_base and channel_max that give these widths, if there are any."""
    most = max(widths)
    narrow = [r * width for r, width in zip(resolutions, widths, strict=True) if width < most]
    base = max(narrow, default=most * resolutions[-1])
    if list(block_channels(resolutions[-1], base, most).values()) != widths:
        raise ValueError(f"its widths are {widths}; they must halve from some resolution on")
    return {"channel_base": base, "channel_max": most}


def filter_option(state: Mapping[str, torch.Tensor], *, gain: float) -> dict[str, Value]:
    """The option resample_filter, where the kernels are not those of the default."""
    kernels = [value.float() / gain for name, value in state.items() if name.endswith(".kernel")]
    default = torch.tensor([1.0, 3.0, 3.0, 1.0]) / 8
    first = kernels[0] if kernels else default.outer(default)
    if first.ndim != 2 or max(first.shape) > MAX_TAPS or not bool(first.isfinite().all()):
        raise ValueError(
            f"its kernels are {list(first.shape)}; allowed: up to {MAX_TAPS} x {MAX_TAPS}"
        )
    if any(not torch.equal(kernel, first) for kernel in kernels):
        raise ValueError("its kernels differ; a generator here has one filter")
    return {} if torch.equal(first, default.outer(default)) else {FILTER: first.tolist()}
