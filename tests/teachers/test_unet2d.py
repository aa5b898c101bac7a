"""The networks of diffusers, built here: equal to the package's where it is installed, and laws."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch

from teachers.networks.unet2d import UNet2D
from teachers.networks.unet2d_blocks import FIR, fir_down, fir_up

SMALL: dict[str, Any] = {
    "in_channels": 3,
    "out_channels": 3,
    "block_out_channels": [32, 64],
    "layers_per_block": 1,
    "norm_num_groups": 8,
    "attention_head_dim": 8,
    "down_block_types": ["DownBlock2D", "AttnDownBlock2D"],
    "up_block_types": ["AttnUpBlock2D", "UpBlock2D"],
}
DDPM: dict[str, Any] = {
    "attention_head_dim": None,
    "downsample_padding": 0,
    "flip_sin_to_cos": False,
    "freq_shift": 1,
    "norm_eps": 1e-6,
}
NCSNPP: dict[str, Any] = {
    "attention_head_dim": None,
    "block_out_channels": [32, 64, 128],
    "center_input_sample": True,
    "down_block_types": ["SkipDownBlock2D", "AttnSkipDownBlock2D", "SkipDownBlock2D"],
    "up_block_types": ["SkipUpBlock2D", "AttnSkipUpBlock2D", "SkipUpBlock2D"],
    "mid_block_scale_factor": math.sqrt(2),
    "norm_eps": 1e-6,
    "norm_num_groups": None,
    "time_embedding_type": "fourier",
}
RESNET: dict[str, Any] = {
    "down_block_types": ["ResnetDownsampleBlock2D", "AttnDownBlock2D"],
    "up_block_types": ["ResnetUpsampleBlock2D", "AttnUpBlock2D"],
}
CONFIGS: dict[str, dict[str, Any]] = {
    "usual": {},
    "ddpm": DDPM,
    "ncsn++": NCSNPP,
    "attention first": {
        **NCSNPP,
        "down_block_types": ["AttnSkipDownBlock2D"] * 3,
        "up_block_types": ["AttnSkipUpBlock2D"] * 3,
    },
    "resampling blocks": RESNET,
    "resampling by blocks where there is attention": {
        "block_out_channels": [32, 64, 64],
        "down_block_types": ["AttnDownBlock2D"] * 3,
        "up_block_types": ["AttnUpBlock2D"] * 3,
        "downsample_type": "resnet",
        "upsample_type": "resnet",
    },
    "scale and shift": {"resnet_time_scale_shift": "scale_shift"},
    "other groups": {"resnet_time_scale_shift": "scale_shift", "attn_norm_num_groups": 4},
    "no middle": {"mid_block_type": None},
    "no attention": {"add_attention": False, "time_embedding_dim": 48},
    "classes": {"num_class_embeds": 4, "layers_per_block": 2},
    "variances": {"out_channels": 6, "mid_block_scale_factor": 2.0},
}


def network_of(**config: Any) -> UNet2D:
    network = UNet2D(**{**SMALL, **config}).eval().requires_grad_(False)
    for parameter in network.parameters():
        parameter.data.add_(0.05 * torch.randn_like(parameter))
    return network


def labels_of(config: dict[str, Any]) -> torch.Tensor | None:
    return torch.eye(config["num_class_embeds"])[[0, 3]] if "num_class_embeds" in config else None


@pytest.mark.parametrize("name", CONFIGS)
def test_it_is_the_packages_network_with_the_same_weights(name):
    package: Any = pytest.importorskip("diffusers", reason="the extra [diffusers] is missing")
    config = CONFIGS[name]
    network, labels = network_of(**config), labels_of(config)
    theirs = package.UNet2DModel(**{**SMALL, **config, "sample_size": 16}).eval()
    theirs.load_state_dict(network.state_dict())
    x, t = torch.randn(2, 3, 16, 16), torch.tensor([0.75, 641.0])
    classes = {} if labels is None else {"class_labels": labels.argmax(dim=1)}
    with torch.no_grad():
        expected = theirs(x, t, **classes).sample
    torch.testing.assert_close(network(x, t, labels), expected, rtol=1e-4, atol=1e-5)


def at(i: int | None, levels: int, kind: str = "{}Block2D") -> dict[str, list[str]]:
    """The kinds of levels, with attention at the i-th resolution from the highest."""
    names = [("Attn" if j == i else "") + kind for j in range(levels)]
    return {
        "down_block_types": [name.format("Down") for name in names],
        "up_block_types": [name.format("Up") for name in reversed(names)],
    }


@pytest.mark.parametrize(
    ("config", "parameters"),
    [
        # google/ddpm-cifar10-32; google/ddpm-church-256 and the other four of 256 pixels.
        ({**DDPM, "block_out_channels": [128, 256, 256, 256], **at(1, 4)}, 35_746_307),
        ({**DDPM, "block_out_channels": [128, 128, 256, 256, 512, 512], **at(4, 6)}, 113_673_219),
        # google/ncsnpp-church-256 and the other three of 256 pixels.
        (
            {
                **NCSNPP,
                "block_out_channels": [128, 128, 256, 256, 256, 256, 256],
                **at(4, 7, "Skip{}Block2D"),
            },
            65_574_549,
        ),
    ],
)
def test_the_published_ones_have_as_many_weights_as_is_published(config, parameters):
    config = {**SMALL, "layers_per_block": 2, "norm_num_groups": 32, **config}
    with torch.device("meta"):
        network = UNet2D(**config)
    assert sum(value.numel() for value in network.state_dict().values()) == parameters


@pytest.mark.parametrize("name", CONFIGS)
def test_features_are_what_the_encoders_levels_return_while_denoising(name):
    config = CONFIGS[name]
    network, labels = network_of(**config), labels_of(config)
    returned: list[torch.Tensor] = []
    for level in network.down_blocks:
        level.register_forward_hook(lambda module, given, out: returned.append(out[0]))
    x, t = torch.randn(2, 3, 16, 16), torch.tensor([3.0, 500.0])
    whole = network(x, t, labels)
    maps = network.features(x, t, labels)
    sizes = [list(m.shape[1:]) for m in maps]
    widths = network_widths(config)
    assert sizes == [[width, 16 >> i, 16 >> i] for i, width in enumerate(widths)]
    assert torch.equal(maps[-1], returned[-1])
    assert whole.shape == (2, config.get("out_channels", 3), 16, 16)


def network_widths(config: dict[str, Any]) -> list[int]:
    return config.get("block_out_channels", SMALL["block_out_channels"])


def test_an_image_and_its_mirror_image_denoise_alike_where_padding_is_even():
    # Mirrored kernels on a mirrored image: convolutions, resampling and attention commute with it.
    for config in (NCSNPP, RESNET):
        network = network_of(**config)
        x, t = torch.randn(1, 3, 16, 16), torch.tensor([0.75])
        expected = network(x, t).flip(3)
        for parameter in network.parameters():
            if parameter.ndim == 4:
                parameter.data = parameter.data.flip(3)
        torch.testing.assert_close(network(x.flip(3), t), expected, rtol=1e-4, atol=1e-5)


def test_the_filter_keeps_constants_and_down_is_the_transpose_of_up():
    x, y = torch.randn(2, 5, 4, 4, dtype=torch.float64), torch.randn(2, 5, 8, 8).double()
    inside = fir_up(torch.ones(1, 1, 4, 4))[..., 1:-1, 1:-1]
    torch.testing.assert_close(inside, torch.ones_like(inside))
    inside = fir_down(torch.ones(1, 1, 8, 8))[..., 1:-1, 1:-1]
    torch.testing.assert_close(inside, torch.ones_like(inside))
    torch.testing.assert_close((fir_up(x) * y).sum(), 4 * (x * fir_down(y)).sum())
    # An impulse shows the filter itself, centred between two pixels.
    impulse = torch.zeros(1, 1, 4, 1)
    impulse[0, 0, 1] = 1
    taps = torch.tensor(FIR) / sum(FIR)
    shown = fir_up(impulse.expand(-1, -1, -1, 4))[0, 0, 1:5, 4]
    torch.testing.assert_close(shown, 2 * taps)


def test_time_is_embedded_as_both_papers_say():
    # Vaswani et al.'s waves end at frequency 1 / 10000 in DDPM's, and before it in the usual.
    for shift, last in ((1, 10000.0), (0, 10000 ** (15 / 16))):
        network = network_of(freq_shift=shift, flip_sin_to_cos=False)
        seen: list[torch.Tensor] = []
        network.time_embedding.register_forward_hook(
            lambda module, given, out, seen=seen: seen.append(given[0])
        )
        network(torch.zeros(1, 3, 16, 16), torch.tensor([2.0]))
        sines, cosines = seen[0][0].chunk(2)
        assert float(sines[0]) == pytest.approx(math.sin(2), abs=1e-6)
        assert float(cosines[0]) == pytest.approx(math.cos(2), abs=1e-6)
        assert float(sines[-1]) == pytest.approx(math.sin(2 / last), rel=1e-4)


def test_a_network_that_is_told_the_noise_level_divides_its_output_by_it():
    network = network_of(**NCSNPP)
    for parameter in network.time_embedding.parameters():
        parameter.data.zero_()  # deaf to the level: all that is left of it is the divisor
    x = torch.randn(2, 3, 16, 16)
    one, four = network(x, torch.tensor([1.0, 1.0])), network(x, torch.tensor([4.0, 4.0]))
    torch.testing.assert_close(one, 4 * four)


def test_frequencies_are_held_but_not_trained():
    network = network_of(**NCSNPP).requires_grad_(True)
    assert "time_proj.weight" in network.state_dict()
    assert "time_proj.weight" not in dict(network.named_parameters())


def test_it_is_differentiable_twice():
    network = network_of(**SMALL).double()
    t, weights = torch.tensor([0.8], dtype=torch.float64), torch.randn(1, 3, 4, 4).double()
    x = torch.randn(1, 3, 4, 4, dtype=torch.float64)
    direction = torch.randn_like(x)

    def along(s: torch.Tensor) -> torch.Tensor:
        return (network(x + s * direction, t) * weights).sum()

    s = torch.zeros([], dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(along, (s,)) and torch.autograd.gradgradcheck(along, (s,))


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"down_block_types": ["DownBlock2D", "Other"]}, "a block type is 'Other'; allowed are "),
        ({"block_out_channels": [32]}, "have 2, 2 and 1 entries; they must have as many"),
        ({"norm_num_groups": 24}, "norm_num_groups is 24, which does not divide 32"),
        ({"attention_head_dim": 24}, "attention_head_dim is 24, which does not divide 64 channels"),
    ],
)
def test_what_cannot_be_built_is_named(config, message):
    with pytest.raises(ValueError, match=message):
        network_of(**config)
