"""DINOv2 and CLIP as feature spaces: vision transformers, built by the package transformers.

dinov2  Oquab et al. 2023 (arXiv:2304.07193): the class token after the last norm, of 224 x 224
        images. Frechet distances in it: Stein et al. 2023 (arXiv:2306.04675), EDM2's FD-DINOv2
clip    Radford et al. 2021 (arXiv:2103.00020), OpenAI's weights: the image's embedding, of unit
        length. MMD in it is CMMD (Jayasumana et al. 2024, arXiv:2401.09603)

All sizes are those of the weights, whose names are the hub's. Every published network of both
families has heads of 64 features.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from types import ModuleType

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

INSTALL = "pip install 'stylegan-refiner[transformers]'"
HEAD = 64
LETTERS = {384: "S", 768: "B", 1024: "L", 1536: "g"}

DINOV2_SIZE = 224
# Added to the new side before the ratio of sides is taken: DINO's way with position embeddings,
# and features depend on it.
POSITION_OFFSET = 0.1

# Mean and deviation of what the networks were trained on, of levels 0 to 255.
DINOV2_LEVELS = ((123.675, 116.28, 103.53), (58.395, 57.12, 57.375))
CLIP_LEVELS = (
    (122.7709383, 116.7460125, 104.09373615),
    (68.5005327, 66.6321579, 70.32316305),
)


class VisionTransformer(nn.Module):
    """Images float [n, 3, size, size], standardised by channel, to features [n, dim] and no logits.

    name  what the network is called, as "DINOv2 ViT-L/14"
    """

    def __init__(self, network: nn.Module, *, name: str, dim: int, size: int) -> None:
        super().__init__()
        self.network = network
        self.name, self.dim, self.size = name, dim, size

    def forward(self, x: Float[Tensor, "n c h w"]) -> tuple[Float[Tensor, "n d"], None]:
        """The class token, or the embedding of unit length."""
        found = self.network(pixel_values=x)
        embedding = found.get("image_embeds")
        if embedding is None:
            return found.pooler_output, None
        return F.normalize(embedding, dim=1), None


def require_package() -> ModuleType:
    """The package transformers; ValueError saying how to install it where it is not."""
    try:
        import transformers  # pyright: ignore[reportMissingImports]  # optional
    except ImportError as error:
        raise ValueError(f"DINOv2 and CLIP need the package transformers: {INSTALL}") from error
    return transformers


def load_dinov2(weights: Mapping[str, Tensor]) -> VisionTransformer:
    """The network of DINOv2's model.safetensors on the hub; ValueError naming what does not fit."""
    patches = _tensor(weights, "embeddings.patch_embeddings.projection.weight", 4)
    dim, _, _, patch = patches.shape
    grid = DINOV2_SIZE // patch
    table = "embeddings.position_embeddings"
    weights = dict(weights) | {table: _positions(_tensor(weights, table, 3), grid)}
    network = _built(
        "Dinov2",
        "Dinov2Model",
        weights,
        hidden_size=dim,
        num_hidden_layers=_count_layers(weights, "encoder.layer."),
        num_attention_heads=dim // HEAD,
        image_size=DINOV2_SIZE,
        patch_size=patch,
        use_swiglu_ffn="encoder.layer.0.mlp.weights_in.weight" in weights,
    )
    name = f"DINOv2 ViT-{LETTERS.get(dim, dim)}/{patch}"
    return VisionTransformer(network, name=name, dim=dim, size=DINOV2_SIZE)


def load_clip(weights: Mapping[str, Tensor]) -> VisionTransformer:
    """The image side of CLIP's weights on the hub; ValueError naming what does not fit."""
    prefix = "vision_model.embeddings."
    dim, _, _, patch = _tensor(weights, f"{prefix}patch_embedding.weight", 4).shape
    places = len(_tensor(weights, f"{prefix}position_embedding.weight", 2)) - 1
    size = patch * math.isqrt(places)
    features = len(_tensor(weights, "visual_projection.weight", 2))
    seen = {
        name: tensor
        for name, tensor in weights.items()
        # Old files also hold the places' numbers, which are no weights.
        if name.startswith(("vision_model.", "visual_")) and not name.endswith(".position_ids")
    }
    wide = _tensor(weights, "vision_model.encoder.layers.0.mlp.fc1.weight", 2)
    network = _built(
        "CLIPVision",
        "CLIPVisionModelWithProjection",
        seen,
        hidden_size=dim,
        intermediate_size=len(wide),
        num_hidden_layers=_count_layers(seen, "vision_model.encoder.layers."),
        num_attention_heads=dim // HEAD,
        image_size=size,
        patch_size=patch,
        projection_dim=features,
    )
    name = f"CLIP ViT-{LETTERS.get(dim, dim)}/{patch} ({size} pixels)"
    return VisionTransformer(network, name=name, dim=features, size=size)


def _tensor(weights: Mapping[str, Tensor], name: str, ndim: int) -> Tensor:
    tensor = weights.get(name)
    if not isinstance(tensor, Tensor) or tensor.ndim != ndim or not tensor.numel():
        got = tuple(tensor.shape) if isinstance(tensor, Tensor) else "missing"
        raise ValueError(
            f"weight {name!r} is {got}; give the weights file of the hub, of {ndim} axes there"
        )
    return tensor


def _count_layers(weights: Mapping[str, Tensor], prefix: str) -> int:
    numbers = {name.removeprefix(prefix).split(".")[0] for name in weights if prefix in name}
    return len(numbers)


def _positions(table: Tensor, grid: int) -> Tensor:
    """Position embeddings [1, 1 + places, d] of a grid of another side, as DINO resamples them."""
    side = math.isqrt(table.shape[1] - 1)
    if side == grid:
        return table
    places = table[:, 1:].float().unflatten(1, (side, side)).permute(0, 3, 1, 2)
    ratio = (grid + POSITION_OFFSET) / side
    resampled = F.interpolate(places, scale_factor=(ratio, ratio), mode="bicubic")
    return torch.cat([table[:, :1].float(), resampled.flatten(2).transpose(1, 2)], dim=1)


def _built(kind: str, model: str, weights: Mapping[str, Tensor], **sizes: int) -> nn.Module:
    """A network of the package with these weights, every one of them and no other."""
    transformers = require_package()
    odd = next((n for n, t in weights.items() if not t.isfinite().all()), None)
    if odd is not None:
        raise ValueError(f"weight {odd!r} must hold finite numbers")
    config = getattr(transformers, f"{kind}Config")(**sizes)
    with _quiet(transformers):
        try:
            network, found = getattr(transformers, model).from_pretrained(
                None, config=config, state_dict=dict(weights), output_loading_info=True
            )
        except RuntimeError as error:
            raise ValueError(f"weights of another network: {str(error).splitlines()[0]}") from error
    for what in ("missing_keys", "unexpected_keys", "mismatched_keys"):
        if found[what]:
            first = min(map(str, found[what]))
            raise ValueError(f"weight {first!r} is among the {what.replace('_', ' ')} of {model}")
    return network.float().eval().requires_grad_(False)


@contextmanager
def _quiet(transformers: ModuleType) -> Iterator[None]:
    """Without the package's progress bar and its table of weights that do not fit: we say which."""
    logging = transformers.utils.logging
    level, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(level)
        if bars:
            logging.enable_progress_bar()
