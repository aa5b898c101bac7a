"""The variables of TensorFlow's StyleGAN2 networks: their names, and how they store our tensors.

TensorFlow keeps kernels as [height, width, in, out] and matrices as [in, out]. Its upsampling
convolutions store kernels turned by 180 degrees, and its style biases are stored less the 1 that is
added to them when they are used.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

import numpy as np

from students.stylegan2.blocks import grown

# Pattern of a tensor's name here, the variable's name there, and how it is stored there.
GENERATOR_TENSORS = (
    (r"mapping\.w_avg", "dlatent_avg", "same"),
    (r"mapping\.embed\.weight", "mapping/LabelEmbed/weight", "matrix"),
    (r"mapping\.embed\.bias", "mapping/LabelEmbed/bias", "same"),
    (r"mapping\.fc(\d+)\.weight", r"mapping/Dense\1/weight", "matrix"),
    (r"mapping\.fc(\d+)\.bias", r"mapping/Dense\1/bias", "same"),
    (r"synthesis\.(b4\.const)", r"synthesis/\1/const", "constant"),
    (r"synthesis\.(b\d+\.\w+)\.noise_const", r"synthesis/\1", "noise"),
    (r"synthesis\.(b\d+\.\w+)\.noise_strength", r"synthesis/\1/noise_strength", "same"),
    (r"synthesis\.(b\d+\.\w+)\.bias", r"synthesis/\1/bias", "same"),
    (r"synthesis\.(b\d+\.\w+)\.affine\.weight", r"synthesis/\1/mod_weight", "matrix"),
    (r"synthesis\.(b\d+\.\w+)\.affine\.bias", r"synthesis/\1/mod_bias", "less one"),
    (r"synthesis\.(b\d+\.(?:conv0|skip))\.weight", r"synthesis/\1/weight", "turned kernel"),
    (r"synthesis\.(b\d+\.\w+)\.weight", r"synthesis/\1/weight", "kernel"),
)
DISCRIMINATOR_TENSORS = (
    (r"mapping\.embed\.weight", "LabelEmbed/weight", "matrix"),
    (r"mapping\.embed\.bias", "LabelEmbed/bias", "same"),
    (r"mapping\.fc(\d+)\.weight", r"Mapping\1/weight", "matrix"),
    (r"mapping\.fc(\d+)\.bias", r"Mapping\1/bias", "same"),
    (r"(b4\.fc)\.weight", r"\1/weight", "matrix"),
    (r"(b4\.fc)\.bias", r"\1/bias", "same"),
    (r"b4\.out\.weight", "Output/weight", "matrix"),
    (r"b4\.out\.bias", "Output/bias", "same"),
    (r"(b\d+\.\w+)\.weight", r"\1/weight", "kernel"),
    (r"(b\d+\.\w+)\.bias", r"\1/bias", "same"),
)
GENERATOR_LAYERS = {
    "const": "Const",
    "conv0": "Conv0_up",
    "conv1": "Conv1",
    "torgb": "ToRGB",
    "skip": "Skip",
}
DISCRIMINATOR_LAYERS = {
    "fromrgb": "FromRGB",
    "conv0": "Conv0",
    "conv1": "Conv1_down",
    "skip": "Skip",
    "conv": "Conv",
    "fc": "Dense0",
}
# Form: its number of dimensions, and how many leading ones are 1 and left out here.
FORMS = {
    "same": (None, 0),
    "matrix": (2, 0),
    "less one": (1, 0),
    "kernel": (4, 0),
    "turned kernel": (4, 0),
    "constant": (4, 1),
    "noise": (4, 2),
}
FILTER = "resample_filter"  # no variable there


def scope(init_res: Sequence[int], resolution: int) -> str:
    """What a block is called there: its height and width."""
    height, width = grown(init_res, resolution)
    return f"{height}x{width}"


def variable_of(
    name: str,
    tensors: tuple[tuple[str, str, str], ...],
    layers: Mapping[str, str],
    init_res: Sequence[int],
) -> tuple[str, str]:
    """Name and form of the variable that a tensor of ours comes from.

    Args:
        name: of the tensor, such as synthesis.b8.conv0.weight.
        tensors: GENERATOR_TENSORS or DISCRIMINATOR_TENSORS.
        layers: GENERATOR_LAYERS or DISCRIMINATOR_LAYERS.
        init_res: height and width of the block that is called b4 here.
    """

    def place(match: re.Match[str]) -> str:
        r, layer = match[1], match[2]
        if form == "noise":  # one number for each layer: 4x4 has one, the others two
            return f"noise{2 * int(r).bit_length() - 7 + (layer == 'conv1')}"
        theirs = "Conv" if (r, layer) == ("4", "conv1") else layers[layer]
        return f"{scope(init_res, int(r))}/{theirs}"

    for pattern, variable, form in tensors:
        match = re.fullmatch(pattern, name)
        if match:
            return re.sub(r"b(\d+)\.(\w+)", place, match.expand(variable)), form
    raise ValueError(f"TensorFlow's networks have no {name}")


def read_variable(value: np.ndarray, name: str, form: str) -> np.ndarray:
    """The variable's values as PyTorch keeps them, float32 in memory of their own.

    Raises:
        ValueError: a variable whose shape is not one of its form (FORMS).
    """
    dimensions, leading = FORMS[form]
    if dimensions not in (None, value.ndim) or value.shape[:leading] != (1,) * leading:
        raise ValueError(f"the variable {name} is {list(value.shape)}, which is no {form}")
    if form == "matrix":
        value = value.T
    elif form == "less one":
        value = value + 1
    elif form == "turned kernel":
        value = value[::-1, ::-1].transpose(3, 2, 0, 1)
    elif form == "kernel":
        value = value.transpose(3, 2, 0, 1)
    else:
        value = value[(0,) * leading]
    return np.array(value, dtype=np.float32, order="C")
