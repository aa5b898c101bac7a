"""A folder that diffusers wrote: which files count, what they may say, and a denoiser of them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch

import checkpoints
from checkpoints import Json
from checkpoints.options import (
    FLAG,
    MAX_LAYERS,
    MAX_RESOLUTION,
    MAX_WIDTH,
    OPTIONAL_WIDTH,
    WHOLE,
    WIDTH,
    Option,
    Reader,
    number,
    one_of,
    read_options,
    whole,
)
from roles.shown import shown
from teachers.converted import ConvertedDenoiser, RawNetwork
from teachers.diffusers import package
from teachers.diffusers.schedulers import scale_of
from teachers.networks.unet2d import UNet2D
from teachers.networks.unet2d_blocks import DOWN, UP
from teachers.options import list_of

KIND = "UNet2DModel"
STEM = "diffusion_pytorch_model"
WEIGHTS = (f"{STEM}.safetensors", f"{STEM}.bin")
# Where a folder has no weights of those names, its variants, in order of preference.
VARIANTS = ("ema", "fp32", "fp16", "bf16", "non_ema")
LATENT = ("vae", "vqvae", "movq", "image_encoder", "text_encoder", "transformer", "bert")
# What diffusers' training script writes into the config.json of an averaged network.
OF_AVERAGES = {
    *("decay", "inv_gamma", "min_decay", "optimization_step", "power", "update_after_step"),
    "use_ema_warmup",
}
# The names that attention had before diffusers 0.17, which all uploads of 2022 have.
OLD_NAMES = {"query": "to_q", "key": "to_k", "value": "to_v", "proj_attn": "to_out.0"}
COMPLAINT = "tensors that do not fit config.json"

MAX_LEVELS = MAX_RESOLUTION.bit_length()
WIDTHS = list_of(WHOLE, 1, MAX_WIDTH, MAX_LEVELS)


def names_of(kinds: Mapping[str, object]) -> Reader:
    """Read a list of names of levels."""

    def read(value: object) -> list[Option]:
        if isinstance(value, list) and 0 < len(value) <= MAX_LEVELS:
            found = [n for n in value if isinstance(n, str) and n.removeprefix("UNetRes") in kinds]
            if len(found) == len(value):
                return list(found)
        raise ValueError(f"a list of up to {MAX_LEVELS} of {', '.join(kinds)}")

    return read


def nothing(value: object) -> None:
    """Read null."""
    if value is not None:
        raise ValueError("null")


# What the network here can be; the package builds more of the rows of NOT_HERE.
NETWORK: dict[str, Reader] = {
    "in_channels": WIDTH,
    "out_channels": WIDTH,
    "center_input_sample": FLAG,
    "time_embedding_type": one_of("positional", "fourier"),
    "time_embedding_dim": OPTIONAL_WIDTH,
    "freq_shift": whole(0, 1),
    "flip_sin_to_cos": FLAG,
    "down_block_types": names_of(DOWN),
    "mid_block_type": lambda value: None if value is None else one_of("UNetMidBlock2D")(value),
    "up_block_types": names_of(UP),
    "block_out_channels": WIDTHS,
    "layers_per_block": whole(1, MAX_LAYERS),
    "mid_block_scale_factor": number(1e-6, 1e6),
    "downsample_padding": whole(0, 1),
    "downsample_type": one_of("conv", "resnet"),
    "upsample_type": one_of("conv", "resnet"),
    "attention_head_dim": OPTIONAL_WIDTH,
    "norm_num_groups": OPTIONAL_WIDTH,
    "attn_norm_num_groups": OPTIONAL_WIDTH,
    "norm_eps": number(0, 1),
    "resnet_time_scale_shift": one_of("default", "scale_shift"),
    "add_attention": FLAG,
    "num_class_embeds": whole(1, MAX_WIDTH, optional=True),
}
# Of no consequence here, or fixed.
BESIDE: dict[str, Reader] = {
    "act_fn": one_of("silu", "swish"),
    "class_embed_type": nothing,
    "dropout": number(0, 1),
    "num_train_timesteps": whole(1, 10**9, optional=True),
}
NOT_HERE = ("down_block_types", "up_block_types", "act_fn", "resnet_time_scale_shift")


def load_folder(folder: str | Path) -> ConvertedDenoiser:
    """Load a folder that diffusers wrote: a UNet2DModel, or a pipeline of pixels with one.

    A pipeline has model_index.json, unet/ and scheduler/, or as those of 2022 all in one folder; a
    model alone has config.json and weights, and is taken for one of DDPM's schedule (1000 steps,
    beta 0.0001 to 0.02) that predicts epsilon, unless a scheduler_config.json lies beside it.

    Returns:
        The denoiser in eval mode without gradients, in float32.

    Raises:
        ValueError: no such folder, a network or schedule of another kind, a pipeline that works on
            latents, weights that are missing, unknown, of another shape or not finite, the package
            diffusers is needed and not installed.
        OSError: a file cannot be read.
    """
    root, unet, scheduler = pipeline_of(folder)
    config = _read_json(unet / "config.json")
    kind = config.get("_class_name", KIND)
    if kind != KIND:
        raise ValueError(f"{unet} holds a {shown(kind)}; allowed is {KIND}")
    try:
        fourier = config.get("time_embedding_type") == "fourier"
        given = {} if scheduler is None else checkpoints.read_json(scheduler)
        scale = scale_of(given, fourier=fourier)
        sizes = _sizes(config)
        network = _build(config, _read_weights(unet))
        denoiser = ConvertedDenoiser(OfUnitImages(network) if fourier else network, scale, **sizes)
    except (TypeError, ValueError, LookupError, AttributeError, RuntimeError) as error:
        raise ValueError(f"{root}: {' '.join(str(error).split())}") from error
    return denoiser.eval().requires_grad_(False)


class OfUnitImages(torch.nn.Module):
    """A network of score_sde's pipelines as VEScale calls one.

    It takes images in [0, 1] and their noise level s, and returns F / s.
    """

    def __init__(self, network: RawNetwork):
        super().__init__()
        self.network = network

    def forward(
        self, x: torch.Tensor, c_noise: torch.Tensor, labels: torch.Tensor | None = None
    ) -> torch.Tensor:
        """Return F of images in [-1, 1] at c_noise = ln(s), [n or 1]."""
        s = c_noise.exp()
        return s[:, None, None, None] * self.network((x + 1) / 2, s, labels)

    def features(
        self, x: torch.Tensor, c_noise: torch.Tensor, labels: torch.Tensor | None = None
    ) -> list[torch.Tensor]:
        """Return the encoder's last output at each resolution, highest first."""
        return self.network.features((x + 1) / 2, c_noise.exp(), labels)


def pipeline_of(folder: str | Path) -> tuple[Path, Path, Path | None]:
    """Return the folder of a pipeline, that of its network, and its scheduler_config.json if any.

    The folder may be the pipeline's or its unet/.

    Raises:
        ValueError: it is a pipeline that works on latents, or holds other networks.
        OSError: a file cannot be read.
    """
    root = Path(folder)
    if root.name == "unet" and (root.parent / "model_index.json").is_file():
        root = root.parent
    index = root / "model_index.json"
    parts = checkpoints.read_json(index) if index.is_file() else {}
    # A part is [library, class], and [null, null] where a pipeline has none.
    named = {k for k, v in parts.items() if isinstance(v, list) and any(v)} | {
        name for name in LATENT if (root / name).is_dir()
    }
    if others := sorted(named - {"unet", "scheduler"}):
        name = shown(parts.get("_class_name", "a pipeline"), quoted=False)
        raise ValueError(
            f"{root} holds {name} with {', '.join(shown(n, quoted=False) for n in others)}: its "
            "network denoises latents or is told more than a class; give a pipeline of pixels, of "
            "a unet and a scheduler alone"
        )
    unet = root / "unet" if (root / "unet").is_dir() else root
    places = (root / "scheduler", root, unet)
    found = (p / "scheduler_config.json" for p in places)
    return root, unet, next((path for path in found if path.is_file()), None)


def weight_files(folder: str | Path) -> list[Path]:
    """Return the file of a network's weights, or the files that they are split into.

    Raises:
        ValueError: there is none, or an index that names something else than files beside it.
        OSError: a file cannot be read.
    """
    folder = Path(folder)
    names = [*WEIGHTS]
    for variant in VARIANTS:
        names += [f"{STEM}.{variant}.safetensors", f"{STEM}.{variant}.bin"]
    path = next((folder / name for name in names if (folder / name).is_file()), None)
    if path is not None:
        return [path]
    for suffix in ("safetensors", "bin"):
        index = folder / f"{STEM}.{suffix}.index.json"
        if index.is_file():
            return _parts(index)
    raise ValueError(f"{folder} has no weights; there should be {' or '.join(WEIGHTS)}")


def _parts(index: Path) -> list[Path]:
    """Return the files that an index names, each once."""
    named = checkpoints.read_json(index, max_bytes=2**24).get("weight_map")
    files = sorted({str(name) for name in named.values()}) if isinstance(named, dict) else []
    paths = [index.with_name(name) for name in files if Path(name).name == name]
    missing = [path.name for path in paths if not path.is_file()]
    if not files or len(paths) < len(files) or missing:
        what = shown(missing[0], quoted=False) if missing else "no files beside it"
        raise ValueError(f"{index} names {what}; give the whole folder")
    return paths


def _read_json(path: Path) -> dict[str, Json]:
    if not path.is_file():
        raise ValueError(
            f"{path.parent} has no {path.name}; give a network pickle, or a folder with a "
            "UNet2DModel or a DDPM pipeline as diffusers writes them"
        )
    return checkpoints.read_json(path)


def _read_weights(folder: Path) -> dict[str, torch.Tensor]:
    """Return a network's weights by today's names."""
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    found: dict[str, torch.Tensor] = {}
    for path in weight_files(folder):
        try:
            data = load_file(path) if path.suffix == ".safetensors" else checkpoints.read(path)
        except SafetensorError as error:
            raise ValueError(f"{path.name} is broken: {error}") from error
        if not checkpoints.is_state_dict(data):
            raise ValueError(f"{path.name} holds something else than named tensors")
        found |= data
    return {_name_today(name): value for name, value in found.items() if not _is_twin(name, found)}


def _name_today(name: str) -> str:
    """Return the name that a tensor has since diffusers 0.17."""
    parts = name.split(".")
    if "attentions" in parts and len(parts) > 1 and parts[-2] in OLD_NAMES:
        parts[-2] = OLD_NAMES[parts[-2]]
    return "time_proj.weight" if name == "time_proj.W" else ".".join(parts)


def _is_twin(name: str, tensors: Mapping[str, torch.Tensor]) -> bool:
    """Whether this is a second name of the Fourier frequencies, as in files of early 2022."""
    return name == "time_proj.W" and "time_proj.weight" in tensors


def _build(
    config: Mapping[str, Json], weights: Mapping[str, torch.Tensor]
) -> UNet2D | package.PackageUNet:
    """Build the network without memory first: its sizes are believed once the tensors agree."""
    given = {
        key: value
        for key, value in config.items()
        if not key.startswith("_") and key not in OF_AVERAGES and key != "sample_size"
    }
    beyond = _not_here(given)
    if beyond:
        return package.build(
            {**given, "sample_size": config["sample_size"]}, weights, beyond, COMPLAINT
        )
    options = read_options(given, {**NETWORK, **BESIDE}, "config.json")
    arguments = {key: value for key, value in options.items() if key in NETWORK}
    # A level has several tensors: more than there are is refused before it costs anything.
    blocks, levels = options.get("layers_per_block", 2), options.get("block_out_channels", [])
    assert isinstance(blocks, int) and isinstance(levels, list)
    if blocks * len(levels) > len(weights):
        raise ValueError(f"layers_per_block is {blocks} with {len(weights)} tensors")
    make = lambda: checkpoints.with_options(UNet2D, arguments)  # noqa: E731
    return checkpoints.filled(make, weights, COMPLAINT)


def _not_here(config: Mapping[str, Json]) -> str:
    """Say what of a config.json the network here cannot be and the package's may; else nothing."""
    table = {**NETWORK, **BESIDE}
    for name in NOT_HERE:
        if name in config:
            try:
                table[name](config[name])
            except ValueError:
                return f"{name} is {shown(config[name])}"
    return ""


def _sizes(config: Mapping[str, Json]) -> dict[str, int]:
    size, channels = config.get("sample_size"), config.get("in_channels", 3)
    if isinstance(size, list) and len(size) == 2 and size[0] == size[1]:
        size = size[0]
    if not isinstance(size, int) or not 1 <= size <= MAX_RESOLUTION:
        raise ValueError(
            f"sample_size is {shown(size)}; it must be one number, the images' resolution: "
            "write it into config.json"
        )
    classes = config.get("num_class_embeds") or 0
    if not isinstance(channels, int) or not isinstance(classes, int):
        raise ValueError(
            f"in_channels is {shown(channels)} and num_class_embeds {shown(classes)}; they must be "
            "numbers"
        )
    levels = config.get("block_out_channels")
    num_levels = len(levels) if isinstance(levels, list) and levels else 4
    if size % (1 << (num_levels - 1)):
        raise ValueError(
            f"sample_size is {size} with {num_levels} levels; it must be a multiple of "
            "2 ** (number of levels - 1)"
        )
    if config.get("out_channels", 3) not in (channels, 2 * channels):
        raise ValueError(
            f"out_channels is {shown(config.get('out_channels', 3))} with in_channels {channels}; "
            f"it must be {channels}, or {2 * channels} with variances"
        )
    return {"img_channels": channels, "img_resolution": size, "label_dim": classes}
