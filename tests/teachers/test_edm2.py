"""Laws of EDM2's magnitude-preserving network, and equality with the original's outputs."""

from __future__ import annotations

import math
import re
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F

import checkpoints
import teachers
from teachers.edm2 import Precond
from teachers.gaussian import Gaussian
from teachers.networks.edm2_blocks import (
    MPConv,
    MPFourier,
    mp_cat,
    mp_silu,
    mp_sum,
    resample,
    unit_rms,
)

TINY: dict[str, Any] = {
    "img_resolution": 8,
    "img_channels": 2,
    "label_dim": 3,
    "model_channels": 8,
    "channel_mult": [1, 2],
    "num_blocks": 1,
    "attn_resolutions": [4],
    "channels_per_head": 8,
    "logvar_channels": 8,
}


def shaken(**kwargs: Any) -> Precond:
    """A small network whose gains are not at 0, where an untrained one has them."""
    network = Precond(**{**TINY, **kwargs}).eval()
    for name, parameter in network.named_parameters():
        if name.endswith("gain"):
            parameter.data.fill_(0.7)
    return network


def rms(x: torch.Tensor) -> float:
    return float(x.detach().square().mean().sqrt())


def test_denoised_images_and_uncertainty_equal_the_originals(samples):
    name = "edm2-img64-cond-small"
    denoiser: Any = teachers.load(samples / f"{name}.pkl")
    arrays = np.load(samples / f"{name}.ref.npz")
    ref = {key: torch.from_numpy(arrays[key]) for key in arrays}
    x, sigma, labels = ref["x"].requires_grad_(), ref["sigma"], ref["class_labels"]
    denoised = denoiser(x, sigma, labels)
    (slope,) = torch.autograd.grad((denoised * ref["y"]).sum(), x)
    # Float32 sums in another order; the values are about 1.
    for got, key in (
        (denoised, "denoised"),
        (denoiser(x, sigma), "denoised_nolabel"),
        (denoiser.logvar(sigma), "logvar"),
        (slope, "grad_x"),
    ):
        torch.testing.assert_close(got, ref[key], rtol=1e-5, atol=1e-5)


def test_half_precision_weights_are_loaded_as_they_are(tmp_path):
    teachers.save(shaken().half(), tmp_path / "teacher.pkl")
    data: Any = checkpoints.read(tmp_path / "teacher.pkl")
    stored = checkpoints.tensors(data["ema"])
    loaded = teachers.load(tmp_path / "teacher.pkl").state_dict()
    assert {value.dtype for value in stored.values()} == {torch.float16}
    assert loaded.keys() == stored.keys()
    assert all(torch.equal(loaded[name].half(), value) for name, value in stored.items())


def test_gains_of_half_precision_files_are_divided_as_the_original_does(tmp_path):
    """It divides a gain by sqrt(fan-in) in the type of the file, and goes on in float32."""
    saved = shaken()
    saved.unet.out_gain.data.fill_(0.6)  # 0.6 / sqrt(72) is far from a number of half precision
    teachers.save(saved.half(), tmp_path / "teacher.pkl")
    loaded: Any = teachers.load(tmp_path / "teacher.pkl")
    exact, rounded = shaken(), shaken()
    for network in (exact, rounded):
        network.requires_grad_(False).load_state_dict(loaded.state_dict())
    gain, root = rounded.unet.out_gain, math.sqrt(8 * 9)
    # The other gains are divided by sqrt(16), which is exact.
    gain.data = (gain / root).half().float() * root
    x, sigma = torch.randn(2, 2, 8, 8), torch.tensor([0.5, 5.0])
    torch.testing.assert_close(loaded(x, sigma), rounded(x, sigma), rtol=1e-6, atol=1e-6)
    assert float((loaded(x, sigma) - exact(x, sigma)).abs().max()) > 2e-5
    # In training every digit counts.
    trained = loaded.requires_grad_(True)(x, sigma).detach()
    torch.testing.assert_close(trained, exact(x, sigma), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("kwargs", [{}, {"label_dim": 0}, {"img_channels": 4, "clip_act": None}])
def test_a_saved_network_loads_bit_for_bit(tmp_path, kwargs):
    saved = shaken(**kwargs)
    teachers.save(saved, tmp_path / "teacher.pkl")
    loaded: Any = teachers.load(tmp_path / "teacher.pkl")
    assert loaded.init_kwargs == saved.init_kwargs
    x, sigma = torch.randn(2, loaded.img_channels, 8, 8), torch.tensor([0.1, 3.0])
    torch.testing.assert_close(loaded(x, sigma), saved(x, sigma), rtol=0, atol=0)


def test_an_untrained_network_takes_the_data_for_gaussian():
    x, sigma = torch.randn(3, 2, 8, 8), torch.tensor([0.02, 1.0, 80.0])
    exact = Gaussian(0.0, 0.5, img_channels=2, img_resolution=8)
    torch.testing.assert_close(Precond(**TINY)(x, sigma), exact(x, sigma))


def test_the_scale_of_weights_does_not_matter():
    network, x = shaken(), torch.randn(2, 2, 8, 8)
    expected = network(x, 0.7, torch.eye(3)[:2])
    for name, parameter in network.named_parameters():
        if name.endswith("weight"):
            parameter.data *= 3
    # But for the 1e-4 that normalisation adds.
    torch.testing.assert_close(network(x, 0.7, torch.eye(3)[:2]), expected, rtol=1e-3, atol=1e-3)


def test_training_keeps_weights_at_unit_magnitude_and_the_output_the_same():
    network, x = shaken(), torch.randn(2, 2, 8, 8)
    expected = network(x, 0.7)
    trained = network.train()(x, 0.7)
    torch.testing.assert_close(trained, expected, rtol=1e-3, atol=1e-3)
    for name, parameter in network.unet.named_parameters():
        if name.endswith("weight"):
            size = parameter.flatten(1).square().mean(1).sqrt()
            torch.testing.assert_close(size, torch.ones_like(size), rtol=1e-3, atol=1e-3)


def test_every_operation_keeps_unit_magnitude():
    a, b = torch.randn(2, 20_000, 32)
    for t in (0.2, 0.5):
        assert rms(mp_sum(a, b, t)) == pytest.approx(1, rel=0.01)
        joined = mp_cat(a[:, :8], b, t)
        assert rms(joined) == pytest.approx(1, rel=0.01)
        # The two inputs have shares in the ratio t to 1 - t, whatever their widths.
        left, right = joined[:, :8].square().sum(), joined[:, 8:].square().sum()
        assert float((right / left).sqrt()) == pytest.approx(t / (1 - t), rel=0.02)
    assert rms(mp_silu(a)) == pytest.approx(1, rel=0.01)
    assert rms(unit_rms(5 * a, [1])) == pytest.approx(1, rel=0.01)
    assert rms(MPConv(32, 64, [])(a)) == pytest.approx(1, rel=0.05)
    assert rms(MPFourier(2000)(torch.randn(500))) == pytest.approx(1, rel=0.05)


@pytest.mark.parametrize("mode", ["up", "down"])
def test_repeating_and_averaging_equal_filtering_with_equal_taps(mode):
    x = torch.randn(2, 3, 6, 6)
    torch.testing.assert_close(resample(x, [1, 1], mode), resample(x, [0, 1, 1, 0], mode))


def test_a_narrow_block_has_no_attention_and_a_wide_one_has():
    names = [n for n, _ in shaken(channels_per_head=64).named_parameters() if "attn" in n]
    assert names == []
    assert any("attn_qkv" in n for n, _ in shaken().named_parameters())


def test_activations_are_clipped_where_the_file_says():
    bound = 0.1
    block: Any = shaken(clip_act=bound).unet.enc["8x8_block0"]
    y = block(10 * torch.randn(2, 8, 8, 8), torch.randn(2, 16))
    assert float(y.detach().abs().max()) == pytest.approx(bound)


def test_features_are_the_encoders_last_output_at_each_resolution():
    network, x = shaken(), torch.randn(2, 2, 8, 8)
    assert [list(f.shape) for f in network.features(x, 1.0)] == [[2, 8, 8, 8], [2, 16, 4, 4]]


def test_uncertainty_depends_on_the_noise_level_alone():
    network = shaken()
    each = network.logvar(torch.tensor([0.1, 2.0]))
    assert list(each.shape) == [2, 1, 1, 1]
    torch.testing.assert_close(network.logvar(2.0), each[1:])
    assert not torch.allclose(each[0], each[1])


def test_gradients_in_the_image_are_right_to_second_order():
    network = shaken(model_channels=4, channels_per_head=4).double()
    x = torch.randn(1, 2, 8, 8, dtype=torch.float64, requires_grad=True)
    direction = torch.randn_like(x)
    weights = torch.randn_like(x)

    def along(s: torch.Tensor) -> torch.Tensor:
        return (network(x + s * direction, 0.8) * weights).sum()

    s = torch.zeros([], dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(along, (s,))
    assert torch.autograd.gradgradcheck(along, (s,))


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"resample_filter": [1]}, "resample_filter is [1]; give 2, 4, ... taps"),
        ({"img_resolution": 9}, "img_resolution is 9 with channel_mult [1, 2]"),
    ],
)
def test_arguments_that_make_no_network_are_refused(kwargs, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        Precond(**{**TINY, **kwargs})


def test_inputs_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match=r"x is \[2, 3, 8, 8\]; this teacher takes \[n, 2, 8, 8\]"):
        shaken()(torch.zeros(2, 3, 8, 8), 1.0)
    with pytest.raises(ValueError, match=r"labels are \[2, 4\]; .* one-hot \[2, 3\]"):
        shaken()(torch.zeros(2, 2, 8, 8), 1.0, torch.zeros(2, 4))


def test_attention_equals_that_of_torch_on_normalised_features():
    block: Any = shaken().unet.enc["4x4_block0"]
    qkv = torch.randn(2, 48, 4, 4)
    q, k, v = unit_rms(qkv.reshape(2, 2, 8, 3, 16), [2]).unbind(3)
    expected = F.scaled_dot_product_attention(q.mT, k.mT, v.mT).mT.reshape(2, 16, 4, 4)
    torch.testing.assert_close(block._attend(qkv), expected)
    assert math.isclose(rms(q), 1, rel_tol=1e-2)
