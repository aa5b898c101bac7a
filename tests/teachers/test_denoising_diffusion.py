"""A milestone of denoising-diffusion-pytorch says its schedule and its objective itself."""

from __future__ import annotations

import math
import re
from pathlib import Path
from typing import Any

import pytest
import torch

import teachers
from teachers.networks.denoising_unet import Attention, DenoisingUNet, Kind
from teachers.noise_scales import schedule

LINEAR, FULL = Kind(2, 4, 3, True), Kind(2, 4, 3, False)
NETWORKS: dict[str, dict[str, Any]] = {
    "usual": {"widths": (8, 8, 16, 16), "attention": (LINEAR, LINEAR, FULL, FULL)},
    "itself": {"widths": (4, 8), "attention": (FULL, FULL), "self_condition": True},
}
OBJECTIVES = {
    "epsilon": lambda snr, clipped: clipped / snr,
    "sample": lambda snr, clipped: clipped,
    "v_prediction": lambda snr, clipped: clipped / (snr + 1),
}


def network(name: str = "usual") -> DenoisingUNet:
    net = DenoisingUNet(1, dim=8, **{"self_condition": False, **NETWORKS[name]})
    for parameter in net.parameters():
        parameter.data.add_(0.05 * torch.randn_like(parameter))
    return net.eval().requires_grad_(False)


def written(
    path: Path,
    net: DenoisingUNet,
    objective: str = "v_prediction",
    *,
    name: str = "cosine",
    gamma: float = math.inf,
    **others: Any,
) -> Path:
    """Write a milestone as the program does; the raw weights are zero."""
    a = schedule(name, 500)
    betas = 1 - a / torch.cat([torch.ones(1, dtype=a.dtype), a[:-1]])
    snr = a / (1 - a)
    weight = OBJECTIVES[objective](snr, snr.clamp_max(gamma))
    buffers = {"betas": betas.float(), "loss_weight": weight.float()}
    state = {f"model.{key}": value for key, value in net.state_dict().items()}
    data = {
        "step": 7,
        "model": {**buffers, **{key: value * 0 for key, value in state.items()}},
        "opt": {"state": {}, "param_groups": []},
        "ema": {
            "initted": torch.tensor([True]),
            "step": torch.tensor([7]),
            **{f"ema_model.{key}": value for key, value in {**buffers, **state}.items()},
        },
        "scaler": None,
        "version": "2.3.1",
    }
    torch.save({**data, **others}, path)
    return path


@pytest.mark.parametrize("gamma", [math.inf, 5.0])
@pytest.mark.parametrize("objective", OBJECTIVES)
def test_the_weight_of_the_loss_tells_what_the_network_predicts(tmp_path, objective, gamma):
    net = network()
    path = written(tmp_path / "model-1.pt", net, objective, gamma=gamma)
    denoiser = teachers.load(path, facts={"image_size": 16})
    x_t = torch.randn(1, 1, 16, 16)
    for t in (5, 250, 490):
        a = float(schedule("cosine", 500)[t])
        raw = net(x_t, torch.tensor([float(t)]))
        # Salimans and Ho 2022, Appendix D.
        expected = {
            "epsilon": (x_t - math.sqrt(1 - a) * raw) / math.sqrt(a),
            "sample": raw,
            "v_prediction": math.sqrt(a) * x_t - math.sqrt(1 - a) * raw,
        }[objective]
        got = denoiser(x_t / math.sqrt(a), math.sqrt((1 - a) / a))
        scale = float(expected.abs().max())
        torch.testing.assert_close(got, expected, rtol=0, atol=1e-3 * scale)


def test_the_noise_range_leaves_out_a_clipped_last_step(tmp_path):
    for name in ("linear", "cosine"):
        path = written(tmp_path / "model-1.pt", network(), name=name)
        denoiser = teachers.load(path, facts={"image_size": 8})
        levels = ((1 - schedule(name, 500)) / schedule(name, 500)).sqrt()
        assert denoiser.sigma_min == pytest.approx(float(levels[0]), rel=1e-3)
        last = float(levels[-2 if name == "cosine" else -1])
        assert denoiser.sigma_max == pytest.approx(last, rel=1e-3)


@pytest.mark.parametrize("name", NETWORKS)
def test_names_and_shapes_alone_rebuild_the_averaged_network(tmp_path, name):
    net = network(name)
    path = written(tmp_path / "model-1.pt", net)
    denoiser: Any = teachers.load(path, facts={"image_size": 16})
    ours, theirs = denoiser.model.state_dict(), net.state_dict()
    assert list(ours) == list(theirs)
    assert all(torch.equal(ours[key], value) for key, value in theirs.items())
    widths = NETWORKS[name]["widths"]
    maps = denoiser.features(torch.randn(2, 1, 16, 16), 0.5)
    expected = [[2, w, 16 >> i, 16 >> i] for i, w in enumerate(widths[:-1])]
    expected[-1][1] = widths[-1]
    assert [list(m.shape) for m in maps] == expected


def test_one_token_is_all_that_attention_gives_where_it_outweighs_the_pixels():
    # A token whose key meets every query takes the whole softmax: what comes out is its value.
    attention = Attention(8, Kind(2, 4, 1, linear=False))
    x = torch.randn(2, 8, 3, 3)
    with torch.no_grad():
        attention.to_qkv.weight.zero_()
        attention.to_qkv.weight[:8, 0] = 1
        attention.norm.g[:, 0] = 1e4  # queries far from zero, of the sign of a channel
        attention.mem_kv[0] = 1.0
        out: Any = attention.to_out
        value = attention.mem_kv[1].reshape(8)
        expected = out.weight[:, :, 0, 0] @ value + out.bias
        y = attention(x.abs())
    torch.testing.assert_close(y, expected[None, :, None, None].expand_as(y), rtol=1e-4, atol=1e-4)


def test_linear_attention_is_that_of_its_definition():
    attention = Attention(8, LINEAR).requires_grad_(False)
    x = torch.randn(1, 8, 2, 2)
    rows = attention.to_qkv(attention.norm(x)).reshape(3, 2, 4, 4)
    heads: list[torch.Tensor] = []
    for h in range(2):
        q, k, v = rows[:, h]
        k = torch.cat([attention.mem_kv[0, h], k], dim=1).softmax(dim=1)
        v = torch.cat([attention.mem_kv[1, h], v], dim=1)
        # Shen et al. 2021, Eq. 4: the context of keys and values, asked by queries.
        heads.append(v @ k.T @ (q.softmax(dim=0) / 2))
    out: Any = attention.to_out
    expected = out["1"](out["0"](torch.cat(heads).reshape(1, 8, 2, 2)))
    torch.testing.assert_close(attention(x), expected)


@pytest.mark.parametrize(
    ("others", "facts", "message"),
    [
        ({}, {}, "it is a milestone of denoising-diffusion-pytorch, and does not hold image_size"),
        ({}, {"image_size": 6}, "image_size is 6, but the network halves 2 times; give a multiple"),
        ({}, {"num_heads": 2}, "facts: unknown num_heads; allowed are image_size"),
        (
            {"ema": {"ema_model.model.init_conv.weight": torch.zeros(8, 1, 7, 7)}, "version": "1"},
            {"image_size": 16},
            "of version '1', whose network is not read; those of 2.x are",
        ),
    ],
)
def test_what_is_missing_or_of_another_version_is_said_in_one_line(
    tmp_path, others, facts, message
):
    path = written(tmp_path / "model-1.pt", network(), **others)
    with pytest.raises(ValueError, match=re.escape(message)) as error:
        teachers.load(path, facts=facts)
    assert str(path) in str(error.value) and "\n" not in str(error.value)


def test_a_weight_of_no_objective_is_refused(tmp_path):
    path = written(tmp_path / "model-1.pt", network())
    data = torch.load(path, weights_only=True)
    data["ema"]["ema_model.loss_weight"] *= 3
    torch.save(data, path)
    with pytest.raises(ValueError, match="loss_weight is of none of the objectives"):
        teachers.load(path, facts={"image_size": 16})
