"""A checkpoint of score_sde_pytorch is its averaged network under its own SDE."""

from __future__ import annotations

import json
import math
import re
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import checkpoints
import teachers
from checkpoints.fitting import NoDraws
from teachers import score_sde
from teachers.networks.score_unet import ScoreUNet, resampled

NETWORKS: dict[str, dict[str, Any]] = {
    "ve": {
        "name": "ncsnpp",
        "nf": 8,
        "ch_mult": (1, 2),
        "attention_levels": (False, True),
        "embedding_type": "fourier",
        "progressive": "output_skip",
        "progressive_input": "input_skip",
        "fir": True,
    },
    "residual": {
        "name": "ncsnpp",
        "nf": 8,
        "ch_mult": (1, 1, 2),
        "attention_levels": (True, False, False),
        "embedding_type": "positional",
        "progressive": "none",
        "progressive_input": "residual",
        "fir": True,
    },
    "ddpmpp": {
        "name": "ncsnpp",
        "nf": 8,
        "ch_mult": (1, 2),
        "attention_levels": (False, True),
        "embedding_type": "positional",
        "progressive": "none",
        "progressive_input": "none",
        "fir": False,
    },
    "ddpm": {
        "name": "ddpm",
        "nf": 32,
        "ch_mult": (1, 1),
        "attention_levels": (False, True),
        "embedding_type": "positional",
        "progressive": "none",
        "progressive_input": "none",
        "fir": False,
    },
}
SIGMAS = torch.linspace(math.log(50), math.log(0.01), 100, dtype=torch.float64).exp()


def network(name: str, *, blocks: int = 1, **others: Any) -> ScoreUNet:
    options = {**NETWORKS[name], **others}
    net = ScoreUNet(1, num_res_blocks=blocks, **options)
    # A new network's last layers are small; this one has something to say.
    for key, parameter in net.named_parameters():
        if not key.endswith("0.W") or "NIN" in key:
            parameter.data.add_(0.05 * torch.randn_like(parameter))
    return net.eval().requires_grad_(False)


def written(path: Path, net: ScoreUNet, **others: Any) -> Path:
    """Write a checkpoint as the program does: raw weights by name, averages in a list."""
    state = {f"module.{name}": value for name, value in net.state_dict().items()}
    raw = {
        name: value if name.endswith("all_modules.0.W") else value * 0
        for name, value in state.items()
    }
    fourier = net.is_fourier
    shadow = [v for name, v in state.items() if not (fourier and name.endswith("all_modules.0.W"))]
    data = {
        "optimizer": {"state": {}, "param_groups": [{"lr": 2e-4, "betas": (0.9, 0.999)}]},
        "model": {"module.sigmas": SIGMAS, **raw},
        "ema": {"decay": 0.999, "num_updates": 7, "shadow_params": shadow},
        "step": 7,
    }
    torch.save({**data, **others}, path)
    return path


VE = {"image_size": 16, "fir": True}
VP = {"image_size": 16, "sde": "vpsde", "continuous": True, "fir": False}


def test_ve_networks_see_images_of_half_the_size_and_give_the_score(tmp_path):
    net = network("ve")
    denoiser = teachers.load(written(tmp_path / "c.pth", net), facts=VE)
    assert (denoiser.sigma_min, denoiser.sigma_max) == pytest.approx((0.02, 100))
    x, sigma = torch.randn(2, 1, 16, 16) * 3, torch.tensor([0.5, 20.0])
    # As there: images in [0, 1], which the network maps to 2 x - 1; its output over s is the score.
    inner, s = (x + 1) / 2, (sigma / 2)[:, None, None, None]
    score = net(2 * inner - 1, s.log().flatten()) / s
    expected = 2 * (inner + s.square() * score) - 1
    torch.testing.assert_close(denoiser(x, sigma), expected, rtol=1e-4, atol=1e-4)
    centred = teachers.load(tmp_path / "c.pth", facts={**VE, "centered": True})
    assert (centred.sigma_min, centred.sigma_max) == pytest.approx((0.01, 50))
    expected = x + sigma[:, None, None, None] * net(x, sigma.log())
    torch.testing.assert_close(centred(x, sigma), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("sub", [False, True])
def test_vp_networks_are_asked_at_the_time_of_the_noise_level(tmp_path, sub):
    net = network("ddpmpp")
    facts = {**VP, "sde": "subvpsde" if sub else "vpsde"}
    denoiser = teachers.load(written(tmp_path / "c.pth", net), facts=facts)
    x_t = torch.randn(1, 1, 16, 16)
    for t in (1e-3, 0.3, 1.0):
        # Song et al. 2021, Eq. 29.
        m = math.exp(-(t**2) * 19.9 / 4 - t * 0.05)
        std = 1 - m**2 if sub else math.sqrt(1 - m**2)
        expected = (x_t - std * net(x_t, torch.tensor([999 * t]))) / m
        got = denoiser(x_t / m, std / m)
        scale = float(expected.abs().max())
        torch.testing.assert_close(got, expected, rtol=0, atol=1e-3 * scale)
        assert denoiser.sigma_min <= std / m * (1 + 1e-6)
        assert std / m <= denoiser.sigma_max * (1 + 1e-6)


def test_a_discrete_vp_network_is_told_the_number_of_the_step(tmp_path):
    net = network("ddpm")
    facts = {"image_size": 8, "sde": "vpsde", "continuous": False, "num_scales": 1000}
    denoiser = teachers.load(written(tmp_path / "c.pth", net), facts=facts)
    a = float((1 - np.linspace(1e-4, 0.02, 1000)).cumprod()[400])
    x_t = torch.randn(1, 1, 8, 8)
    eps = net(x_t, torch.tensor([400.0]))
    expected = (x_t - math.sqrt(1 - a) * eps) / math.sqrt(a)
    got = denoiser(x_t / math.sqrt(a), math.sqrt((1 - a) / a))
    torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-4)


def test_a_discrete_ve_network_is_told_the_number_of_the_level(tmp_path):
    net = network("residual")
    facts = {"image_size": 16, "sde": "vesde"}
    denoiser = teachers.load(written(tmp_path / "c.pth", net), facts=facts)
    x = torch.randn(1, 1, 16, 16)
    for i in (0, 30, 99):
        sigma = 2 * float(SIGMAS[i])
        expected = x + sigma * net(x, torch.tensor([float(i)]))
        got = denoiser(x, sigma)
        torch.testing.assert_close(got, expected, rtol=1e-3, atol=1e-3 * max(sigma, 1))


@pytest.mark.parametrize("blocks", [1, 2])
@pytest.mark.parametrize("name", NETWORKS)
def test_names_and_shapes_alone_rebuild_the_network(tmp_path, name, blocks):
    net = network(name, blocks=blocks)
    facts = {**VE, "sde": "vesde" if name in ("ve", "residual") else "vpsde"}
    facts |= {"continuous": name not in ("residual", "ddpm"), "fir": NETWORKS[name]["fir"]}
    denoiser: Any = teachers.load(written(tmp_path / "c.pth", net), facts=facts)
    ours, theirs = denoiser.model.state_dict(), net.state_dict()
    assert list(ours) == list(theirs)
    assert all(torch.equal(ours[key], value) for key, value in theirs.items())
    widths = [NETWORKS[name]["nf"] * m for m in NETWORKS[name]["ch_mult"]]
    x, sigma = torch.randn(2, 1, 16, 16), torch.tensor([0.3, 2.0])
    maps = denoiser.features(x, sigma)
    assert [list(m.shape) for m in maps] == [
        [2, width, 16 >> i, 16 >> i] for i, width in enumerate(widths)
    ]
    scales = denoiser.scale(sigma)
    raw = net(scales.c_in[:, None, None, None] * x, scales.c_noise)
    expected = x + scales.c_out[:, None, None, None] * raw
    torch.testing.assert_close(denoiser(x, sigma), expected, rtol=1e-5, atol=1e-5)


def test_the_averages_are_used_and_have_to_fit(tmp_path):
    net = network("ve")
    path = written(tmp_path / "c.pth", net)
    data: Any = checkpoints.read(path)
    shadow = data["ema"]["shadow_params"]
    for broken, message in (
        (shadow[1:], f"its average has {len(shadow) - 1} tensors for {len(shadow)} names"),
        ([shadow[1], *shadow[1:]], "its average of all_modules.1.weight is [32], not [32, 16]"),
        (None, f"its average has no tensors for {len(shadow)} names"),
    ):
        written(path, net, ema={"decay": 0.9, "shadow_params": broken})
        with pytest.raises(ValueError, match=re.escape(message)):
            teachers.load(path, facts=VE)
    # Without an average, the raw weights are all there is.
    torch.save({"model": data["model"]}, path)
    raw: Any = teachers.load(path, facts=VE)
    assert float(raw.model.all_modules[1].weight.abs().max()) == 0


def test_constants_pass_a_resampling_but_for_the_edge():
    x = torch.full([1, 1, 8, 8], 3.0)
    for fir in (False, True):
        for how in ("up", "down"):
            y = resampled(x, how, fir=fir)
            assert y.shape[-1] == (16 if how == "up" else 4)
            inner = y[..., 2:-2, 2:-2] if how == "up" else y[..., 1:-1, 1:-1]
            torch.testing.assert_close(inner, torch.full_like(inner, 3.0))


@pytest.mark.parametrize(
    ("name", "facts", "message"),
    [
        ("ve", {}, "does not hold image_size (pixels); fir (true or false)"),
        ("ddpmpp", {}, "does not hold image_size (pixels); sde (vesde, vpsde or subvpsde);"),
        ("ve", {**VE, "sde": "vpsde"}, "sde is vpsde, but its Fourier embedding is of sde vesde"),
        ("ve", {**VE, "continuous": False}, "continuous is False, but its Fourier embedding"),
        ("ve", {**VE, "sigma_max": 348}, "sigma_max is 348, but its sigmas are of sigma_max 50"),
        ("ve", {**VE, "image_size": 15}, "image_size is 15, but the network halves 1 times"),
        ("ve", {**VE, "fir": "no"}, "fir is 'no'; allowed: True, False"),
        ("ve", {**VE, "num_heads": 4}, "facts: unknown num_heads; allowed are image_size, sde"),
        ("residual", {**VE, "fir": False, "sde": "vesde"}, "fir is False, but its encoder has"),
        ("ddpmpp", {**VP, "sde": "vesde"}, "continuous is True, but with vesde its positional"),
        ("ddpmpp", {**VP, "centered": False}, "centered is False, but vpsde is only read for"),
        ("ddpmpp", {**VP, "beta_min": 30}, "beta_min is 30 and beta_max 20; beta_max is"),
        ("ddpmpp", {**VP, "sde": "subvpsde", "continuous": False}, "continuous is False, but sub"),
    ],
)
def test_facts_that_are_missing_or_cannot_be_right_are_said_in_one_line(
    tmp_path, name, facts, message
):
    path = written(tmp_path / "c.pth", network(name))
    with pytest.raises(ValueError, match=re.escape(message)) as error:
        teachers.load(path, facts=facts)
    assert str(path) in str(error.value)
    assert "\n" not in str(error.value)


def test_tensors_that_are_no_such_network_are_refused(tmp_path):
    path = tmp_path / "c.pth"
    state = {f"module.{key}": value for key, value in network("ve").state_dict().items()}
    levels = {"module.sigmas": SIGMAS}
    for model, message in (
        ({**state, "module.all_modules.90.weight": torch.zeros(2)}, "are not numbered in order"),
        ({"module.all_modules.0.weight": torch.zeros(2)}, "do not begin as those of score_sde"),
        ({**state, "module.sigmas": SIGMAS.flip(0)}, "sigmas is [100]; it must be levels that"),
        ({**levels, **dict(list(state.items())[:20])}, "it has a level without blocks"),
        ({**levels, **dict(list(state.items())[:-1])}, "tensors that do not fit this layout"),
    ):
        torch.save({"model": model}, path)
        with pytest.raises(ValueError, match=re.escape(message)):
            teachers.load(path, facts=VE)


def test_a_published_folder_names_the_rest(tmp_path):
    folder = tmp_path / "ve" / "church_ncsnpp_continuous"
    folder.mkdir(parents=True)
    path = written(folder / "checkpoint_126.pth", network("ve"))
    known, said = teachers.load(path), teachers.load(path, facts={**VE, "image_size": 256})
    assert known.img_resolution == said.img_resolution == 256
    small = teachers.load(path, facts={"image_size": 16})
    x = torch.randn(1, 1, 16, 16)
    expected = teachers.load(path, facts=VE)(x, 1.0)
    torch.testing.assert_close(small(x, 1.0), expected, rtol=0, atol=0)
    cifar = tmp_path / "subvp" / "cifar10_ddpmpp_continuous"
    cifar.mkdir(parents=True)
    path = written(cifar / "checkpoint_8.pth", network("ddpmpp"))
    given = {"sde": "subvpsde", "fir": False, "image_size": 32}
    x = torch.randn(1, 1, 32, 32)
    found, expected = teachers.load(path)(x, 1.0), teachers.load(path, facts=given)(x, 1.0)
    torch.testing.assert_close(found, expected, rtol=0, atol=0)


SAMPLES = [
    "sde-ve-ncsnpp-skip-fourier-small",
    "sde-vp-ddpm-discrete-fp16-small",
    "sde-vp-ddpmpp-continuous-small",
]


@pytest.mark.parametrize("name", SAMPLES)
def test_a_file_of_the_original_denoises_as_there(samples, name):
    manifest = json.loads((samples / f"{name}.manifest.json").read_text())
    keys = ("image_size", "sde", "continuous", "centered")
    facts = {**{key: manifest[key] for key in keys}, "fir": manifest["model"]["fir"]}
    denoiser = teachers.load(samples / f"{name}.pth", facts=facts)
    with np.load(samples / f"{name}.ref.npz") as file:
        x, sigma, expected = (
            torch.from_numpy(file[key]).float() for key in ("x", "sigma", "denoised")
        )
    worst = float((denoiser(x, sigma) - expected).abs().max() / expected.abs().max())
    assert worst < 1e-5


@pytest.mark.parametrize("name", ["sde-256-ffhq-church-bedroom-celebahq", "sde-ffhq-1024"])
def test_a_published_configuration_is_built_exactly(samples, name):
    manifest = json.loads((samples / f"real-{name}.manifest.json").read_text())
    tensors = {
        n.removeprefix("module."): torch.empty(size, device="meta")
        for n, size, _ in manifest["tensors"]
    }
    tensors.pop("sigmas")
    shape = score_sde.Shape.of(tensors)
    with torch.device("meta"), NoDraws():
        net = checkpoints.with_options(ScoreUNet, asdict(shape), fir=True)
    assert [(n, t.shape) for n, t in net.state_dict().items()] == [
        (n, t.shape) for n, t in tensors.items()
    ]
