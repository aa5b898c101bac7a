"""Laws of a teacher's features: what its encoder makes of a noised image."""

from __future__ import annotations

import copy

import pytest
import torch

from teachers.edm import EDMPrecond, VPPrecond
from teachers.pairs import fingerprint

SONG = {"model_type": "SongUNet", "model_channels": 8, "channel_mult": [1, 2], "num_blocks": 2}
ADM = {"model_type": "DhariwalUNet", "model_channels": 16, "channel_mult": [1, 2], "num_blocks": 1}


@pytest.fixture(params=[SONG, ADM], ids=["song", "adm"])
def denoiser(request):
    torch.manual_seed(0)
    network = EDMPrecond(
        img_resolution=8, img_channels=1, label_dim=3, attn_resolutions=[], **request.param
    )
    for parameter in network.parameters():  # off zero, so that every branch counts
        parameter.data.add_(0.1 * torch.randn_like(parameter))
    return network.eval().requires_grad_(False)


def test_there_is_one_feature_map_a_resolution_highest_first(denoiser):
    maps = denoiser.features(torch.randn(2, 1, 8, 8), 0.5)
    width = denoiser.model.enc["8x8_conv"].out_channels
    assert [list(m.shape) for m in maps] == [[2, width, 8, 8], [2, 2 * width, 4, 4]]


def test_features_are_what_the_encoders_last_blocks_return_while_denoising(denoiser):
    seen = {}
    for name, layer in denoiser.model.enc.items():
        layer.register_forward_hook(
            lambda module, a, output, name=name: seen.update({name: output})
        )
    x, labels = torch.randn(2, 1, 8, 8), torch.eye(3)[:2]
    denoiser(x, 0.7, labels)
    last = [[v for k, v in seen.items() if k.startswith(f"{r}x{r}")][-1] for r in (8, 4)]
    for one, other in zip(denoiser.features(x, 0.7, labels), last, strict=True):
        torch.testing.assert_close(one, other)


def test_features_depend_on_noise_level_and_label(denoiser):
    x = torch.randn(1, 1, 8, 8)
    a, b = (denoiser.features(x, sigma)[-1] for sigma in (0.1, 2.0))
    c = denoiser.features(x, 0.1, torch.eye(3)[:1])[-1]
    assert float((a - b).abs().max()) > 1e-3 and float((a - c).abs().max()) > 1e-3


def test_features_are_differentiable_by_the_image(denoiser):
    x = torch.randn(1, 1, 8, 8, dtype=torch.float64, requires_grad=True)
    network = denoiser.double()
    gradient = torch.autograd.grad(network.features(x, 0.5)[-1].square().sum(), x)[0]
    step = 1e-5 * torch.randn_like(x)

    def energy(shift):
        return float(network.features(x.detach() + shift, 0.5)[-1].square().sum())

    assert energy(step) - energy(-step) == pytest.approx(2 * float((gradient * step).sum()))


def test_a_wrong_size_is_named():
    network = VPPrecond(img_resolution=8, img_channels=1, **SONG, attn_resolutions=[])
    with pytest.raises(ValueError, match=r"takes \[n, 1, 8, 8\]"):
        network.features(torch.zeros(1, 1, 4, 4), 0.5)


def test_the_fingerprint_is_of_values_whatever_their_strides(denoiser):
    strided = copy.deepcopy(denoiser)
    for parameter in strided.parameters():  # torch calls any stride of a size of 1 contiguous
        size, stride = parameter.shape, parameter.stride()
        odd = [7 if n == 1 else s for n, s in zip(size, stride, strict=True)]
        parameter.data = parameter.data.as_strided(size, odd)
    assert fingerprint(strided) == fingerprint(denoiser)
    assert fingerprint(strided.to(memory_format=torch.channels_last)) == fingerprint(denoiser)
