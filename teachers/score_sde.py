"""Checkpoints of score_sde_pytorch as teachers: NCSN++, DDPM++ and DDPM under three SDEs.

Song et al. 2021 (arXiv:2011.13456). A file holds the raw weights by name, and their average, which
is what samples are made with, as a list without names: it follows the names in order, but for
Fourier frequencies, which are not trained, and the table of noise levels.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch

import checkpoints
from checkpoints import Value
from checkpoints.options import Options
from teachers import facts, published_facts
from teachers.converted import ConvertedDenoiser
from teachers.networks.score_unet import ScoreUNet
from teachers.noise_scales import NoiseScale, Steps, VEScale, VPScale, linear_schedule

LEVELS = "sigmas"
LAYERS = "all_modules."
FREQUENCIES = f"{LAYERS}0.W"
Layer = Mapping[str, tuple[int, ...]]
# What the published configurations have where a file or its owner does not say it.
BETA_MIN, BETA_MAX = 0.1, 20.0
DEFAULT_CENTERED = "centered is false for vesde and true for the others unless given"


@dataclass(frozen=True)
class Shape:
    """What a file's names and shapes say, see ScoreUNet."""

    img_channels: int
    name: str
    nf: int
    ch_mult: tuple[int, ...]
    num_res_blocks: int
    attention_levels: tuple[bool, ...]
    embedding_type: str
    progressive: str
    progressive_input: str

    @classmethod
    def of(cls, tensors: Mapping[str, torch.Tensor]) -> Shape:
        """Read it off the tensors.

        Raises:
            ValueError: they are no such network.
        """
        fourier = FREQUENCIES in tensors
        layers = _layers(tensors)[int(fourier) + 2 :]  # those of the embedding come first
        if not layers or len(layers[0].get("weight", ())) != 4:
            raise ValueError("its layers do not begin as those of score_sde_pytorch")
        (nf, img_channels, _, _), layers = layers[0]["weight"], layers[1:]
        is_ddpm = any("NIN_0.W" in layer and _is_block(layer) for layer in layers)
        turns = [i for i, layer in enumerate(layers) if _turns(layer, is_ddpm)]
        ahead = layers[: turns[0]] if turns else layers
        num_blocks = sum(map(_is_block, ahead))
        if not turns:
            num_blocks = (num_blocks - 3) // 2  # without two in the middle and one more on the way
        if num_blocks < 1:
            raise ValueError("it has a level without blocks, so it is no network of score_sde")
        after = layers[turns[0] + 1] if turns else {}
        pyramid = "residual" if "Conv2d_0.weight" in after else "none"
        if not is_ddpm and "Conv_0.weight" in after and not _is_block(after):
            pyramid = "input_skip"
        levels: list[tuple[int, bool]] = []
        i = 0
        while True:
            attends = i + 1 < len(layers) and "NIN_3.W" in layers[i + 1]
            levels.append((_width(layers, i), attends))
            i += num_blocks * (1 + attends)
            if i >= len(layers) or not _turns(layers[i], is_ddpm):
                break
            i += 1 if pyramid == "none" else 2
        odd = [width for width, _ in levels if width % nf]
        if odd:
            raise ValueError(f"a level has {odd[0]} channels, which is no multiple of {nf}")
        norms = sum(len(layer.get("weight", ())) == 1 for layer in layers)
        return cls(
            img_channels=img_channels,
            name="ddpm" if is_ddpm else "ncsnpp",
            nf=nf,
            ch_mult=tuple(width // nf for width, _ in levels),
            num_res_blocks=num_blocks,
            attention_levels=tuple(attends for _, attends in levels),
            embedding_type="fourier" if fourier else "positional",
            progressive="output_skip" if norms > 1 else "none",
            progressive_input=pyramid,
        )

    def __str__(self) -> str:
        mults = " ".join(map(str, self.ch_mult))
        return f"{self.name}, width {self.nf} times {mults}, {self.embedding_type} embedding"


def _layers(tensors: Mapping[str, torch.Tensor]) -> list[Layer]:
    """Return the shapes of each layer's tensors by their names in it."""
    layers: dict[str, dict[str, tuple[int, ...]]] = {}
    for name, tensor in tensors.items():
        if name.startswith(LAYERS):
            number, _, inner = name.removeprefix(LAYERS).partition(".")
            layers.setdefault(number, {})[inner] = tuple(tensor.shape)
    if list(layers) != [str(i) for i in range(len(layers))]:
        raise ValueError("its layers are not numbered in order")
    return list(layers.values())


def _is_block(layer: Layer) -> bool:
    return "Conv_1.weight" in layer


def _turns(layer: Layer, is_ddpm: bool) -> bool:
    """Whether a layer changes the resolution.

    Of NCSN++ it is a block that keeps the width and still has a shortcut of its own.
    """
    weight = layer.get("Conv_0.weight", ())
    if is_ddpm or len(weight) != 4:
        return is_ddpm and len(weight) == 4 and not _is_block(layer)
    return _is_block(layer) and "Conv_2.weight" in layer and weight[0] == weight[1]


def _width(layers: Sequence[Layer], i: int) -> int:
    weight = layers[i].get("Conv_0.weight", ()) if i < len(layers) else ()
    if len(weight) != 4 or not weight[0]:
        raise ValueError("its layers are not in the order of score_sde_pytorch")
    return weight[0]


def is_layout(data: Value) -> bool:
    """Whether this is a file of score_sde_pytorch."""
    tensors = data.get("model", data) if isinstance(data, Mapping) else None
    return checkpoints.is_state_dict(tensors) and any(LAYERS in name for name in tensors)


def averaged(data: Mapping[str, object]) -> dict[str, torch.Tensor]:
    """Return the averaged weights by name, with what is not trained; without an average the raw.

    Raises:
        ValueError: the list of averages is not of these names and shapes.
    """
    raw = data.get("model", data)
    assert checkpoints.is_state_dict(raw)
    tensors = {name.removeprefix("module."): tensor for name, tensor in raw.items()}
    ema = data.get("ema")
    if not isinstance(ema, Mapping):
        return tensors
    shadow = ema.get("shadow_params")
    names = [name for name in tensors if name not in (LEVELS, FREQUENCIES)]
    if not isinstance(shadow, list) or len(shadow) != len(names):
        count = len(shadow) if isinstance(shadow, list) else "no"
        raise ValueError(f"its average has {count} tensors for {len(names)} names")
    for name, tensor in zip(names, shadow, strict=True):
        if not isinstance(tensor, torch.Tensor) or tensor.shape != tensors[name].shape:
            found = list(tensor.shape) if isinstance(tensor, torch.Tensor) else "no tensor"
            raise ValueError(f"its average of {name} is {found}, not {list(tensors[name].shape)}")
    return {**tensors, **dict(zip(names, shadow, strict=True))}


def load(data: Value, source: str | Path, given: Mapping[str, object]) -> ConvertedDenoiser:
    """Build a teacher of a file's data and of facts.

    Raises:
        ValueError: it is no such network, facts are missing, do not fit, or are not allowed.
    """
    assert isinstance(data, Mapping)
    try:
        tensors = averaged({str(key): value for key, value in data.items()})
        levels = levels_of(tensors.pop(LEVELS, None))
        shape = Shape.of(tensors)
        said = facts.gather(source, given, facts.SCORE)
        found = with_all(shape, source, {**published_facts.of_score(source), **said})
        fir = bool(found["fir"])
        unet = checkpoints.filled(
            lambda: checkpoints.with_options(ScoreUNet, asdict(shape), fir=fir),
            tensors,
            "tensors that do not fit this layout",
        )
        size, step = found["image_size"], 1 << (len(shape.ch_mult) - 1)
        assert isinstance(size, int)
        if size % step:
            raise ValueError(
                f"image_size is {size}, but the network halves {len(shape.ch_mult) - 1} times; "
                f"give a multiple of {step}"
            )
        scale = scale_of(shape, found, levels)
    except ValueError as error:
        raise ValueError(f"{source}: {error}") from error
    channels = shape.img_channels
    return ConvertedDenoiser(unet, scale, img_channels=channels, img_resolution=size).eval()


def levels_of(tensor: torch.Tensor | None) -> torch.Tensor | None:
    """Return the table of noise levels, falling, float64; None where a file has none.

    Raises:
        ValueError: it is no such table.
    """
    if tensor is None:
        return None
    levels = tensor.to(torch.float64)
    falls = levels.ndim == 1 and len(levels) > 1 and bool((levels.diff() < 0).all())
    if not falls or not 0 < float(levels[-1]) < float(levels[0]) < float("inf"):
        raise ValueError(
            f"{LEVELS} is {list(levels.shape)}; it must be levels that fall to above 0"
        )
    return levels


def with_all(shape: Shape, source: str | Path, found: Options) -> Options:
    """Return all facts of a network, or say which are missing.

    Raises:
        ValueError: some are, or contradict the tensors.
    """
    found = dict(found)
    if shape.embedding_type == "fourier":
        for key, value in (("sde", "vesde"), ("continuous", True)):
            if found.setdefault(key, value) != value:
                raise ValueError(
                    f"{key} is {found[key]}, but its Fourier embedding is of {key} {value}"
                )
    sde = found.get("sde")
    if sde == "subvpsde" and found.setdefault("continuous", True) is False:
        raise ValueError("continuous is False, but subvpsde is always continuous; leave it out")
    fourier = shape.embedding_type == "fourier"
    if sde == "vesde" and found.setdefault("continuous", fourier) != fourier:
        raise ValueError(
            "continuous is True, but with vesde its positional embedding is of numbered levels"
        )
    if shape.progressive_input == "residual" and found.setdefault("fir", True) is False:
        raise ValueError("fir is False, but its encoder has filtered convolutions; leave it out")
    if shape.name == "ddpm":
        found["fir"] = False
    names = [key for key in ("image_size", "sde", "continuous", "fir") if key not in found]
    if names:
        raise facts.missing(
            source,
            f"a network of score_sde_pytorch ({shape})",
            names,
            default="" if "centered" in found else DEFAULT_CENTERED,
            hint=published_facts.HINT_OF_SCORE,
        )
    return found


def scale_of(shape: Shape, found: Options, levels: torch.Tensor | None) -> NoiseScale:
    """Return how the network is told the noise level.

    Raises:
        ValueError: facts that contradict the file, or that no network of the program has.
    """
    numbers = {
        key: float(value)
        for key, value in found.items()
        if isinstance(value, (int, float)) and key.startswith(("sigma_", "beta_"))
    }
    centered = bool(found.get("centered", found["sde"] != "vesde"))
    if found["sde"] == "vesde":
        low, high = _range(levels, numbers)
        factor = 1 if centered else 0.5  # images of standard deviation s are half as wide in [0, 1]
        table = None if shape.embedding_type == "fourier" else levels
        if table is None and shape.embedding_type != "fourier":
            raise ValueError(f"it has no {LEVELS}, the table that its embedding numbers")
        return VEScale(low / factor, high / factor, factor=factor, levels=table)
    if not centered:
        raise ValueError(
            f"centered is False, but {found['sde']} is only read for images in [-1, 1]"
        )
    low, high = numbers.get("beta_min", BETA_MIN), numbers.get("beta_max", BETA_MAX)
    if not low < high:
        raise ValueError(f"beta_min is {low:g} and beta_max {high:g}; beta_max is the larger")
    if found["continuous"]:
        return VPScale(low, high, sub=found["sde"] == "subvpsde")
    steps = found.get("num_scales", 1000 if levels is None else len(levels))
    assert isinstance(steps, int)
    return Steps(linear_schedule(low, high, steps))


def _range(levels: torch.Tensor | None, numbers: Mapping[str, float]) -> tuple[float, float]:
    """Return the lowest and highest noise level of the file's table, or else of the facts."""
    if levels is None:
        if not {"sigma_min", "sigma_max"} <= numbers.keys():
            raise ValueError(f"it has no {LEVELS}; give sigma_min and sigma_max")
        return numbers["sigma_min"], numbers["sigma_max"]
    ends = {"sigma_min": float(levels[-1]), "sigma_max": float(levels[0])}
    for key, value in ends.items():
        said = numbers.get(key, value)
        if abs(said / value - 1) > 1e-3:
            raise ValueError(f"{key} is {said:g}, but its {LEVELS} are of {key} {value:g}")
    return ends["sigma_min"], ends["sigma_max"]
