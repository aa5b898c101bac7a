"""Laws of the U-Nets and their parts, and equality with the original implementation's outputs."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F

import teachers
from teachers import edm
from teachers.networks.blocks import Conv2d, FourierEmbedding, Init, PositionalEmbedding, UNetBlock

XAVIER = Init("xavier_uniform")
CIFAR = {
    "img_resolution": 32,
    "img_channels": 3,
    "model_type": "SongUNet",
    "model_channels": 128,
    "channel_mult": [2, 2, 2],
    "augment_dim": 9,
}
NCSNPP = {
    "embedding_type": "fourier",
    "encoder_type": "residual",
    "channel_mult_noise": 2,
    "resample_filter": [1, 3, 3, 1],
}
FFHQ = {**CIFAR, "img_resolution": 64, "channel_mult": [1, 2, 2, 2]}
IMAGENET = {"img_resolution": 64, "img_channels": 3, "label_dim": 1000, "model_channels": 192}
SAMPLES = (
    "edm-ddpmpp-edm-cifar-cond-small",
    "edm-ncsnpp-ve-cifar-uncond-small",
    "edm-adm-iddpm-32-cond-small",
)
SMALL = {
    "img_resolution": 8,
    "img_channels": 1,
    "channel_mult": [1, 1],
    "num_blocks": 1,
    "attn_resolutions": [],
}
SONG = {**SMALL, "model_type": "SongUNet", "model_channels": 4, "channel_mult_emb": 1}
VARIANTS = {
    "ddpm++": SONG,
    "ncsn++": {**SONG, **NCSNPP},
    "skip": {**SONG, "encoder_type": "skip", "decoder_type": "skip"},
    # Attention needs a head, which has 64 channels.
    "adm": {**SMALL, "model_type": "DhariwalUNet", "model_channels": 64, "channel_mult_emb": 1},
}


def shaken(variant: str) -> Any:
    """A small network with no weight at its special initial value."""
    network = edm.EDMPrecond(**VARIANTS[variant]).eval()
    for parameter in network.parameters():
        parameter.data += 0.1 * torch.randn_like(parameter)
    return network


@pytest.mark.parametrize(
    ("kwargs", "count"),
    [
        (CIFAR, 55_733_891),
        ({**CIFAR, "label_dim": 10}, 55_735_299),
        ({**CIFAR, **NCSNPP}, 56_397_827),
        (FFHQ, 61_805_571),
        (IMAGENET, 295_899_267),
    ],
    ids=["cifar-vp", "cifar-cond-vp", "cifar-ve", "ffhq64-vp", "imagenet64-adm"],
)
def test_published_configurations_have_their_number_of_parameters(kwargs, count):
    with torch.device("meta"):
        network = edm.EDMPrecond(**kwargs)
    assert sum(p.numel() for p in network.parameters()) == count


@pytest.mark.parametrize("name", SAMPLES)
def test_denoised_images_equal_the_originals(samples, name):
    denoiser: Any = teachers.load(samples / f"{name}.pkl")
    arrays = dict(np.load(samples / f"{name}.ref.npz"))
    del arrays["param_names"]
    ref = {key: torch.from_numpy(np.asarray(value)) for key, value in arrays.items()}
    x, sigma, labels = ref["x"], ref["sigma"], ref.get("class_labels")

    def close(got: torch.Tensor, key: str) -> None:
        # Float32 sums in another order; a thousand times below what the eye or a score could see.
        torch.testing.assert_close(
            got, ref[key], rtol=1e-4, atol=1e-5 * float(ref[key].abs().max())
        )

    close(denoiser(x, sigma, labels), "denoised")
    if labels is not None:
        close(denoiser(x, sigma), "denoised_nolabel")
    if "augment_labels" in ref:
        close(denoiser(x, sigma, labels, augment_labels=ref["augment_labels"]), "denoised_aug")
    torch.testing.assert_close(denoiser.c_noise(sigma), ref["model_in_noise"], rtol=1e-6, atol=1e-6)
    close(denoiser.model(ref["model_in_x"], ref["model_in_noise"], labels), "model_out")
    rounded = denoiser.round_sigma(ref["round_sigma_in"])
    torch.testing.assert_close(rounded, ref["round_sigma_out"], rtol=1e-6, atol=0)
    assert (denoiser.sigma_min, denoiser.sigma_max) == (ref["sigma_min"], ref["sigma_max"])


@pytest.mark.parametrize("variant", VARIANTS)
def test_gradients_with_respect_to_the_image_are_right_to_second_order(variant):
    network = shaken(variant).double().requires_grad_(False)
    x = torch.randn(1, 1, 8, 8, dtype=torch.float64, requires_grad=True)
    sigma = torch.tensor([0.6], dtype=torch.float64)
    torch.autograd.gradcheck(lambda x: network(x, sigma), x, fast_mode=True)
    torch.autograd.gradgradcheck(lambda x: network(x, sigma), x, fast_mode=True)


@pytest.mark.parametrize("variant", VARIANTS)
def test_memory_format_does_not_change_the_result(variant):
    network, x = shaken(variant), torch.randn(2, 1, 8, 8)
    expected = network(x, 0.5)
    last = network.to(memory_format=torch.channels_last)
    got = last(x.contiguous(memory_format=torch.channels_last), 0.5)
    torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("variant", VARIANTS)
def test_every_parameter_is_trained(variant):
    network = shaken(variant).train().requires_grad_(True)
    network(torch.randn(2, 1, 8, 8), 0.5).square().sum().backward()
    idle = [n for n, p in network.named_parameters() if p.grad is None or not p.grad.any()]
    assert idle == []


@pytest.mark.parametrize("variant", ["ddpm++", "adm"])
def test_a_network_learns_its_data_from_scratch(variant):
    network = edm.EDMPrecond(**{**VARIANTS[variant], "channel_mult": [1], "dropout": 0.0}).train()
    optimizer = torch.optim.Adam(network.parameters(), lr=5e-3)
    x_0 = torch.full([8, 1, 8, 8], 0.7)
    losses = []
    for _ in range(25):
        loss = (network(x_0 + torch.randn_like(x_0), 1.0) - x_0).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    # The data are one point, so the best network makes no error.
    assert np.mean(losses[-5:]) < 0.2 * losses[0]


@pytest.mark.parametrize("fused", [False, True])
@pytest.mark.parametrize("kernel", [0, 1, 3])
@pytest.mark.parametrize("way", ["up", "down"])
def test_repeating_and_averaging_equal_convolving_with_equal_taps(way, kernel, fused):
    flag: Any = {way: True}
    layer = Conv2d(3, 3, kernel, init=XAVIER, fused_resample=fused, **flag)
    x = torch.randn(2, 3, 6, 6)
    quick = layer(x)
    layer.box_filter = False
    torch.testing.assert_close(quick, layer(x), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("way", ["up", "down"])
def test_fused_resampling_differs_at_the_border_only(way):
    taps: Any = {"resample_filter": [1, 3, 3, 1], way: True}
    apart = Conv2d(2, 3, 3, init=Init("kaiming_normal", bias=1), **taps)
    fused = Conv2d(2, 3, 3, init=XAVIER, fused_resample=True, **taps)
    fused.load_state_dict(apart.state_dict())
    x = torch.randn(1, 2, 16, 16)
    a, b = apart(x), fused(x)
    inside = (..., slice(3, -3), slice(3, -3))
    if way == "up":
        torch.testing.assert_close(b[inside], a[inside], rtol=1e-5, atol=1e-5)
    assert a.shape == b.shape and not torch.allclose(a, b)


@pytest.mark.parametrize("taps", [[1, 1], [1, 3, 3, 1]])
def test_resampling_keeps_constants_inside_the_image(taps):
    x = torch.full([1, 2, 8, 8], 0.3)
    for way, size in (("up", 16), ("down", 4)):
        flag: Any = {way: True}
        y = Conv2d(2, 2, 0, init=XAVIER, resample_filter=taps, **flag)(x)
        assert list(y.shape) == [1, 2, size, size]
        inside = y[..., 1:-1, 1:-1]
        torch.testing.assert_close(inside, torch.full_like(inside, 0.3))


def test_attention_equals_that_of_torch():
    block = UNetBlock(
        128, 128, emb_channels=8, attention=True, init=XAVIER, init_zero=XAVIER, init_attn=XAVIER
    )
    assert block.num_heads == 2
    qkv = 3 * torch.randn(2, 3 * 128, 4, 4)
    q, k, v = qkv.reshape(2, 2, 64, 3, 16).movedim(3, 0).mT
    expected = F.scaled_dot_product_attention(q, k, v).mT.reshape(2, 128, 4, 4)
    torch.testing.assert_close(block._attend(qkv), expected)


def test_a_narrow_block_with_heads_of_64_channels_has_no_attention():
    inits: Any = {"init": XAVIER, "init_zero": XAVIER, "init_attn": XAVIER}
    assert UNetBlock(32, 32, emb_channels=8, attention=True, **inits).num_heads == 0


@pytest.mark.parametrize(
    ("mode", "variance"),
    [
        ("xavier_uniform", 2 / (200 + 600)),
        ("xavier_normal", 2 / (200 + 600)),
        ("kaiming_uniform", 1 / 200),
        ("kaiming_normal", 1 / 200),
    ],
)
def test_initial_weights_have_the_variance_of_their_rule(mode, variance):
    weight = Init(mode).parameter([600, 200], 200, 600, 0.5).detach()
    assert float(weight.var()) == pytest.approx(0.25 * variance, rel=0.03)
    if mode.endswith("uniform"):
        assert float(weight.abs().max()) == pytest.approx(0.5 * math.sqrt(3 * variance), rel=0.01)


def test_embeddings_of_the_noise_level_are_points_on_circles():
    c_noise = torch.tensor([0.0, 0.3, 2.0, 999.0])
    for embedding in (
        PositionalEmbedding(16),
        PositionalEmbedding(16, endpoint=True),
        FourierEmbedding(16),
    ):
        cosines, sines = embedding(c_noise).chunk(2, dim=1)
        torch.testing.assert_close(cosines**2 + sines**2, torch.ones(4, 8))
        torch.testing.assert_close(cosines[0], torch.ones(8))
    slowest = PositionalEmbedding(16, endpoint=True)(torch.tensor([10000 * math.pi]))[0, 7]
    assert float(slowest) == pytest.approx(-1, abs=1e-3)


@pytest.mark.gpu
@pytest.mark.parametrize("variant", VARIANTS)
def test_half_precision_on_cuda_is_close_to_single(variant):
    network, x = shaken(variant).cuda(), torch.randn(4, 1, 8, 8, device="cuda")
    single = network(x, 0.5)
    network.use_fp16 = True
    half = network(x, 0.5)
    assert half.dtype == torch.float32
    assert not torch.equal(half, single)
    # Half precision has 11 bits; errors of some layers add up.
    torch.testing.assert_close(half, single, rtol=0, atol=2e-2)
