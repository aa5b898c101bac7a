"""DINOv2 and CLIP: small networks of random weights, beside what their package makes of them."""

from __future__ import annotations

import hashlib
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

import metrics
from metrics.spaces import choice as spaces
from metrics.spaces import resize, vision_transformers

# ImageNet's and CLIP's mean and deviation of levels 0 to 1, as their authors state them.
DINOV2 = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
CLIP = ((0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711))


def images(n: int, size: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.randint(0, 256, (n, 3, size, size), generator=generator, dtype=torch.uint8)


def standardised(x: torch.Tensor, levels: Any) -> torch.Tensor:
    mean, deviation = (torch.tensor(level)[:, None, None] for level in levels)
    return (x / 255 - mean) / deviation


@pytest.fixture(scope="module")
def package() -> Any:
    return pytest.importorskip("transformers", reason="pip install transformers")


@pytest.fixture(scope="module")
def dinov2(package, tmp_path_factory) -> Path:
    """A folder as the hub has it, of the full number of places: nothing is resampled."""
    torch.manual_seed(0)
    config = package.Dinov2Config(
        hidden_size=128, num_hidden_layers=2, num_attention_heads=2, image_size=224, patch_size=14
    )
    folder = tmp_path_factory.mktemp("dinov2")
    network = package.Dinov2Model(config)
    nn.init.normal_(network.embeddings.position_embeddings)
    network.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def clip(package, tmp_path_factory) -> Path:
    torch.manual_seed(0)
    config = package.CLIPVisionConfig(
        hidden_size=64,
        intermediate_size=96,
        num_hidden_layers=2,
        num_attention_heads=1,
        image_size=28,
        patch_size=14,
        projection_dim=24,
    )
    folder = tmp_path_factory.mktemp("clip")
    package.CLIPVisionModelWithProjection(config).save_pretrained(folder)
    return folder


def test_dinov2s_features_are_the_packages_class_token(package, dinov2):
    file = dinov2 / "model.safetensors"
    space = metrics.choose_features(f"dinov2={file}")
    assert (space.name, space.dim) == ("DINOv2 ViT-128/14", 128)
    assert space.sha256 == hashlib.sha256(file.read_bytes()).hexdigest()
    x = images(2, 224)
    network = package.Dinov2Model.from_pretrained(dinov2).eval()
    with torch.no_grad():
        want = network(pixel_values=standardised(x, DINOV2)).last_hidden_state[:, 0]
    features, probabilities = space(x)
    torch.testing.assert_close(features, want, rtol=1e-4, atol=1e-4)
    assert probabilities is None


def test_clips_features_are_the_packages_embedding_of_unit_length(package, clip, tmp_path):
    weights = load_file(clip / "model.safetensors")
    # The file of the whole network: text, and a table of places that is no weight.
    extra = {
        "text_model.final_layer_norm.weight": torch.ones(64),
        "vision_model.embeddings.position_ids": torch.arange(5)[None],
        "logit_scale": torch.tensor(2.6),
    }
    torch.save(weights | extra, tmp_path / "pytorch_model.bin")
    space = metrics.choose_features(f"clip={tmp_path / 'pytorch_model.bin'}")
    assert (space.name, space.dim) == ("CLIP ViT-64/14 (28 pixels)", 24)
    x = images(3, 28)
    network = package.CLIPVisionModelWithProjection.from_pretrained(clip).eval()
    with torch.no_grad():
        embedding = network(pixel_values=standardised(x, CLIP)).image_embeds
    features, _ = space(x)
    want = embedding / embedding.norm(dim=1, keepdim=True)
    torch.testing.assert_close(features, want, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"layernorm.bias": None}, "'layernorm.bias' is among the missing keys"),
        ({"embeddings.register_tokens": torch.zeros(1, 4, 128)}, "among the unexpected keys"),
        ({"layernorm.bias": torch.zeros(3)}, "weights of another network"),
        ({"layernorm.bias": torch.full([128], torch.nan)}, "'layernorm.bias' must hold finite"),
        ({"embeddings.position_embeddings": None}, "'embeddings.position_embeddings' is missing"),
    ],
)
def test_weights_that_do_not_fit_are_refused_by_name(dinov2, tmp_path, capfd, change, message):
    weights = load_file(dinov2 / "model.safetensors") | change
    save_file({k: v for k, v in weights.items() if v is not None}, tmp_path / "x.safetensors")
    with pytest.raises(ValueError, match=message) as caught:
        metrics.choose_features(f"dinov2={tmp_path / 'x.safetensors'}")
    assert "x.safetensors" in str(caught.value)
    assert "\n" not in str(caught.value)
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize("name", ["dinov2", "clip"])
def test_without_the_package_one_line_says_what_to_install_before_anything_is_fetched(
    monkeypatch, name
):
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(ValueError, match=r"need the package transformers: pip install .*\]'$"):
        metrics.choose_features(name)


def test_a_file_that_is_no_safetensors_is_one_line(package, tmp_path):
    (tmp_path / "x.safetensors").write_bytes(b"nothing of the kind")
    with pytest.raises(ValueError, match=r"x\.safetensors: no complete safetensors file"):
        metrics.choose_features(f"clip={tmp_path / 'x.safetensors'}")


def test_position_embeddings_are_resampled_to_the_grid_and_a_little_more():
    ramp = torch.arange(37.0).expand(37, 37)
    table = torch.cat([torch.tensor([5.0]), ramp.flatten()])[None, :, None]
    found = vision_transformers._positions(table, 16)
    assert found.shape == (1, 257, 1)
    assert found[0, 0, 0] == 5
    # 16.1 stand for the 37: at the end of the line that is a fifth of a place. Torch's cubic filter
    # bends a line by less than a sixteenth.
    want = (torch.arange(16) + 0.5) * 37 / 16.1 - 0.5
    row = found[0, 1:, 0].view(16, 16)[7]
    torch.testing.assert_close(row[1:-1], want[1:-1], rtol=0, atol=0.0625)
    assert vision_transformers._positions(table, 37) is table


class Means(nn.Module):
    """Channel means for features, and no logits."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(()))

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, None]:
        return self.weight * x.mean((2, 3)), None


def test_every_channel_has_its_own_zero_and_unit():
    space = spaces.NetworkFeatures(
        Means(),
        name="means",
        dim=3,
        sha256="",
        size=8,
        resize=resize.resize_antialiased,
        levels=((10.0, 20.0, 30.0), (1.0, 2.0, 4.0)),
    )
    x = torch.tensor([12, 22, 42], dtype=torch.uint8)[:, None, None].expand(2, 3, 5, 7)
    features, probabilities = space(x)
    torch.testing.assert_close(features, torch.tensor([[2.0, 1.0, 3.0]] * 2), rtol=0, atol=1e-4)
    assert probabilities is None
