"""What the constructor calls in StyleGAN2 files may say, and what they mean when they say nothing.

A file records the call that made each network; the readers are those of `checkpoints.options`.
"""

from __future__ import annotations

from checkpoints.options import (
    CLAMP,
    FLAG,
    MAX_LAYERS,
    MAX_RESOLUTION,
    MAX_TAPS,
    MAX_WIDTH,
    OPTIONAL_WIDTH,
    WIDTH,
    Options,
    Reader,
    number,
    one_of,
    options,
    taps,
    whole,
)
from students.stylegan2.blocks import ARCHITECTURES
from stylegan_ops import ACTIVATIONS

ACTIVATION = one_of(*ACTIVATIONS)
SQUARE = (4, 4)  # height and width that images of StyleGAN2 grow from

GENERATOR: dict[str, Reader] = {
    "z_dim": whole(0, MAX_WIDTH),
    "c_dim": whole(0, MAX_WIDTH),
    "w_dim": WIDTH,
    "img_resolution": whole(4, MAX_RESOLUTION),
    "img_channels": WIDTH,
}
MAPPING: dict[str, Reader] = {
    "num_layers": whole(0, MAX_LAYERS),
    "embed_features": OPTIONAL_WIDTH,
    "layer_features": OPTIONAL_WIDTH,
    "activation": ACTIVATION,
    "lr_multiplier": number(1e-6, 1e6),
    "w_avg_beta": number(0, 1, optional=True),
}
BLOCKS: dict[str, Reader] = {
    "channel_base": whole(1, MAX_WIDTH * MAX_RESOLUTION),
    "channel_max": WIDTH,
    "num_fp16_res": whole(0, MAX_LAYERS),
    "conv_clamp": CLAMP,
    "architecture": one_of(*ARCHITECTURES),
}
SYNTHESIS: dict[str, Reader] = {
    **BLOCKS,
    "resample_filter": taps,
    "fp16_channels_last": FLAG,
    "kernel_size": whole(1, MAX_TAPS),
    "use_noise": FLAG,
    "activation": ACTIVATION,
    "fused_modconv_default": one_of(True, False, "inference_only"),
}
DISCRIMINATOR: dict[str, Reader] = {
    "c_dim": whole(0, MAX_WIDTH),
    "img_resolution": whole(4, MAX_RESOLUTION),
    "img_channels": WIDTH,
}
DISCRIMINATOR_OPTIONS: dict[str, Reader] = {
    **BLOCKS,
    "cmap_dim": OPTIONAL_WIDTH,
    "block_kwargs": options,
    "mapping_kwargs": options,
    "epilogue_kwargs": options,
}
DISCRIMINATOR_BLOCK: dict[str, Reader] = {
    "activation": ACTIVATION,
    "resample_filter": taps,
    "fp16_channels_last": FLAG,
    "freeze_layers": whole(0, MAX_LAYERS),
}
# Labels alone are mapped, and no w is averaged.
DISCRIMINATOR_MAPPING = {name: MAPPING[name] for name in MAPPING if name != "w_avg_beta"}
DISCRIMINATOR_EPILOGUE: dict[str, Reader] = {
    "mbstd_group_size": whole(1, MAX_WIDTH, optional=True),
    "mbstd_num_channels": whole(0, MAX_WIDTH),
    "activation": ACTIVATION,
}

# Two programs write such files; options that a call does not name take the writer's defaults.
DEFAULTS: dict[str, dict[str, Options]] = {
    "stylegan2-ada": {
        "mapping": {"w_avg_beta": 0.995},
        "synthesis": {"num_fp16_res": 0, "conv_clamp": None},
        "discriminator": {"num_fp16_res": 0, "conv_clamp": None},
    },
    "stylegan3": {
        "mapping": {"w_avg_beta": 0.998},
        "synthesis": {"num_fp16_res": 4, "conv_clamp": 256},
        "discriminator": {"num_fp16_res": 4, "conv_clamp": 256},
    },
}
