"""StyleGAN3: its laws, its files, and the original's outputs where they are there to compare."""

from __future__ import annotations

import math
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import checkpoints
import students
from checkpoints import Record
from students import originals
from students.files import build
from students.stylegan3.generator import Generator
from students.stylegan3.synthesis import plan_layers

SMALL: dict[str, Any] = {"channel_base": 64, "channel_max": 6, "num_layers": 4}
WAYS: list[dict[str, Any]] = [
    {},
    {"conv_kernel": 1, "use_radial_filters": True},
    {"c_dim": 3, "img_channels": 1, "conv_clamp": None, "num_critical": 1},
    {"margin_size": 4, "output_scale": 1, "filter_size": 4, "lrelu_upsampling": 4},
]


def make(**options: Any) -> Generator:
    """A small frozen generator of 16 x 16 images in which every weight and buffer counts."""
    sizes = {"z_dim": 5, "c_dim": 0, "w_dim": 4, "img_resolution": 16, "img_channels": 2}
    generator = Generator(**{**sizes, **SMALL, **options})
    for name, tensor in generator.state_dict().items():
        if name.endswith("magnitude_ema"):
            tensor.mul_(0.5 + torch.rand([]))
        elif name.endswith(("bias", "w_avg", "input.affine.weight")):
            tensor.add_(0.3 * torch.randn_like(tensor))
    return generator.eval().requires_grad_(False)


def inputs(generator: Any, n: int = 3) -> tuple[torch.Tensor, torch.Tensor | None]:
    c = torch.eye(generator.c_dim)[[0] * n] if generator.c_dim else None
    return torch.randn(n, generator.z_dim), c


def as_record(generator: Generator, **call: Any) -> Record:
    record = originals.describe(generator)
    kwargs = {**record.init_kwargs, **call}
    return record.with_state({**record.state, "_init_kwargs": kwargs})


@pytest.mark.parametrize("way", WAYS)
def test_a_network_written_and_read_back_is_the_same(way, tmp_path):
    generator = make(**way)
    z, c = inputs(generator)
    checkpoints.write({"G_ema": as_record(generator)}, tmp_path / "a.pkl")
    loaded = students.load(tmp_path / "a.pkl")
    assert loaded.init_kwargs == generator.init_kwargs
    assert torch.equal(loaded(z, c), generator(z, c))
    assert loaded(z, c).shape == (3, generator.img_channels, 16, 16)


def test_the_files_filters_and_magnitudes_win_over_our_own_design(tmp_path):
    generator = make()
    layer: Any = generator.synthesis.get_submodule("L1_36_6")
    layer.up_filter.mul_(0.5)
    layer.magnitude_ema.fill_(7)
    checkpoints.write({"G_ema": as_record(generator)}, tmp_path / "a.pkl")
    loaded = students.load(tmp_path / "a.pkl")
    students.save(loaded, tmp_path / "b.pkl", like=tmp_path / "a.pkl")
    again = students.load(tmp_path / "b.pkl").state_dict()
    assert all(torch.equal(again[name], value) for name, value in generator.state_dict().items())


@pytest.mark.parametrize("way", WAYS)
def test_the_gradient_of_the_images_reaches_every_parameter_and_the_latent(way):
    generator = make(**way).requires_grad_(True)
    z, c = inputs(generator)
    z.requires_grad_()
    generator(z, c).square().sum().backward()
    tensors = {**dict(generator.named_parameters()), "z": z}
    assert [n for n, t in tensors.items() if t.grad is None or not t.grad.any()] == []


def test_first_and_second_derivatives_are_exact():
    synthesis = make(num_layers=2, num_critical=1).double().synthesis
    ws = torch.randn(1, synthesis.num_ws, 4, dtype=torch.float64, requires_grad=True)

    def some_pixels(ws: torch.Tensor) -> torch.Tensor:
        return synthesis(ws)[:, :, ::5, ::5]

    assert torch.autograd.gradcheck(some_pixels, ws, fast_mode=True)
    assert torch.autograd.gradgradcheck(some_pixels, ws, fast_mode=True)


def test_the_transform_shifts_the_input_of_the_synthesis():
    source = make().synthesis.input
    w = torch.randn(2, 4)
    # The learned turn comes after the user's shift, so it is taken out of this law.
    source.affine.weight.zero_()
    source.affine.bias.copy_(torch.tensor([1.0, 0.0, 0.1, -0.2]))
    before = source(w)
    source.transform[0, 2] = 3 / source.sampling_rate
    shifted = source(w)
    torch.testing.assert_close(shifted[..., :-3], before[..., 3:], rtol=0, atol=1e-4)


def test_zooming_out_fades_frequencies_that_the_samples_cannot_carry():
    source = make().synthesis.input
    source.transform[:2] *= 100
    torch.testing.assert_close(source(torch.randn(1, 4)), torch.zeros(1, 6, 36, 36))


def test_magnitudes_follow_the_inputs_only_when_asked():
    generator = make().train()
    z, _ = inputs(generator)
    before = {n: b.clone() for n, b in generator.synthesis.named_buffers()}
    generator(z)
    assert all(torch.equal(b, before[n]) for n, b in generator.synthesis.named_buffers())
    layer: Any = generator.synthesis.get_submodule("L0_36_6")
    features = generator.synthesis.input(generator.get_submodule("mapping")(z)[:, 0])
    generator(z, update_emas=True)
    past = before["L0_36_6.magnitude_ema"]
    expected = past + (1 - 0.999) * (features.square().mean() - past)
    torch.testing.assert_close(layer.magnitude_ema, expected)


def test_noise_mode_changes_nothing_and_is_checked():
    generator = make()
    z, _ = inputs(generator)
    assert torch.equal(generator(z, noise_mode="random"), generator(z, noise_mode="none"))
    with pytest.raises(ValueError, match="noise_mode is 'loud'"):
        generator(z, noise_mode="loud")


def test_cutoffs_grow_to_half_the_resolution_and_rates_hold_the_stopbands():
    plans = plan_layers(img_resolution=256, img_channels=3)
    cutoffs = [plan.after.cutoff for plan in plans]
    assert cutoffs[0] == 2 and cutoffs[-3:] == [128, 128, 128]
    ratios = [b / a for a, b in pairwise(cutoffs[:13])]
    assert max(ratios) - min(ratios) < 1e-9
    assert all(2 * p.after.cutoff <= p.after.sampling_rate for p in plans)
    assert [p.is_critically_sampled for p in plans] == [False] * 12 + [True] * 3
    assert [p.is_torgb for p in plans] == [False] * 14 + [True]
    assert math.log2(plans[-1].after.sampling_rate) == 8


@pytest.mark.parametrize(
    ("call", "message"),
    [
        ({"num_layers": 2}, "num_critical is 2; it must be below num_layers, 2"),
        ({"conv_kernel": 0}, "conv_kernel is 0; allowed: a whole number from 1"),
        ({"colour": 1}, "unknown options: 'colour'"),
        ({"mapping_kwargs": {"depth": 1}}, "mapping_kwargs has unknown options: 'depth'"),
        ({"first_cutoff": 30}, "a cutoff up to half the samples"),
        ({"img_resolution": 4}, "the bandwidth 2 at 4 samples"),
        ({"channel_max": 5}, "tensors do not fit"),
        # Nothing of this size is made: the tensors are compared before.
        (
            {
                "img_resolution": 16384,
                "channel_base": 65536,
                "num_critical": 0,
                "filter_size": 64,
                "use_radial_filters": True,
            },
            "do not fit",
        ),
    ],
)
def test_a_call_that_no_network_has_or_does_not_fit_is_refused(call, message):
    record = as_record(make(), **call)
    with pytest.raises(ValueError, match=message):
        build(record)


def test_outputs_are_those_of_the_original(samples: Path):
    generator = students.load(samples / "sg3t-32-uncond-small.pkl")
    with np.load(samples / "sg3t-32-uncond-small.ref.npz") as file:
        ref = {key: torch.from_numpy(file[key]) for key in file if file[key].dtype.kind != "U"}
    z = ref["z"]
    cut = generator.get_submodule("mapping")(z, truncation_psi=0.7, truncation_cutoff=3)
    torch.testing.assert_close(generator.get_submodule("mapping")(z), ref["ws"], rtol=0, atol=1e-5)
    torch.testing.assert_close(cut, ref["ws_psi0p7_cut3"], rtol=0, atol=1e-5)
    torch.testing.assert_close(generator(z), ref["img_const"], rtol=0, atol=1e-4)
    ws = ref["ws"].clone().requires_grad_()
    (slope,) = torch.autograd.grad((generator.get_submodule("synthesis")(ws) * ref["y"]).sum(), ws)
    limit = 1e-3 * float(ref["grad_ws"].abs().max())
    torch.testing.assert_close(slope, ref["grad_ws"], rtol=0, atol=limit)
    generator.get_buffer("synthesis.input.transform").copy_(ref["transform"])
    torch.testing.assert_close(generator(z), ref["img_transform"], rtol=0, atol=1e-4)
