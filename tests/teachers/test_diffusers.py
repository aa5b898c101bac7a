"""A diffusers folder is the network that it holds, whatever it predicts and however it is kept."""

from __future__ import annotations

import json
import math
import re
from pathlib import Path
from typing import Any

import pytest
import torch

import teachers
from teachers.diffusers import DiffusersDenoiser, load_folder
from teachers.gaussian import Gaussian

MEAN, STD = 0.3, 0.4
SCHEDULE = (1 - torch.linspace(1e-4, 0.02, 1000, dtype=torch.float64)).cumprod(0)
SIZES: Any = {"img_channels": 1, "img_resolution": 4}
INSIDE: Any = {
    "sample_size": 8,
    "in_channels": 1,
    "out_channels": 1,
    "block_out_channels": [8, 16],
    "layers_per_block": 1,
    "norm_num_groups": 4,
    "down_block_types": ["DownBlock2D", "AttnDownBlock2D"],
    "up_block_types": ["AttnUpBlock2D", "UpBlock2D"],
    "attention_head_dim": 8,
}


class ExactUNet(torch.nn.Module):
    """What a network would predict at timestep t if the data were N(MEAN, STD^2 I)."""

    def __init__(self, prediction: str, *, variances: bool = False):
        super().__init__()
        self.prediction, self.variances = prediction, variances
        self.weight = torch.nn.Parameter(torch.zeros([], dtype=torch.float64))
        self.seen: list[torch.Tensor] = []

    def forward(self, x, t, class_labels=None, return_dict=True):
        self.seen.append(t)
        # Between two timesteps ln(sigma) is linear.
        logs = ((1 - SCHEDULE) / SCHEDULE).log() / 2
        below = t.long().clamp(max=998)
        sigma = (logs[below] + (t - below) * (logs[below + 1] - logs[below])).exp()
        sigma = sigma.reshape(-1, 1, 1, 1)
        a = 1 / (1 + sigma**2)
        x_0 = (STD**2 * x / a.sqrt() + sigma**2 * MEAN) / (STD**2 + sigma**2)
        eps = (x - a.sqrt() * x_0) / (1 - a).sqrt()
        out = {
            "epsilon": eps,
            "sample": x_0,
            # Salimans and Ho 2022, Appendix D: v = sqrt(a) eps - sqrt(1 - a) x_0.
            "v_prediction": a.sqrt() * eps - (1 - a).sqrt() * x_0,
        }[self.prediction]
        return (torch.cat([out, out + 7], dim=1) if self.variances else out,)


@pytest.mark.parametrize("variances", [False, True])
@pytest.mark.parametrize("prediction", ["epsilon", "sample", "v_prediction"])
def test_whatever_an_exact_network_predicts_the_denoiser_is_exact(prediction, variances):
    unet = ExactUNet(prediction, variances=variances)
    denoiser = DiffusersDenoiser(unet, SCHEDULE, prediction=prediction, **SIZES)
    sigma = torch.tensor([0.011, 0.2, 1.0, 30.0, 150.0])
    x = MEAN + (STD**2 + sigma**2).sqrt()[:, None, None, None] * torch.randn(5, 1, 4, 4)
    exact = Gaussian(MEAN, STD, **SIZES)(x, sigma)
    # The noise levels of the schedule are kept in float32.
    torch.testing.assert_close(denoiser(x, sigma).float(), exact, rtol=1e-4, atol=1e-4)


def test_the_noise_levels_are_the_schedules_and_the_sampler_keeps_within_them():
    denoiser = DiffusersDenoiser(ExactUNet("epsilon"), SCHEDULE, **SIZES)
    levels = ((1 - SCHEDULE) / SCHEDULE).sqrt()
    assert denoiser.sigma_min == pytest.approx(float(levels[0]), rel=1e-6)
    assert denoiser.sigma_max == pytest.approx(float(levels[-1]), rel=1e-6)
    torch.testing.assert_close(
        denoiser.time(levels[[0, 10, 999]].float()), torch.tensor([0.0, 10.0, 999.0])
    )
    between = (levels[10] * levels[11]).sqrt()
    assert float(denoiser.time(between.float()[None])) == pytest.approx(10.5, abs=1e-3)
    assert denoiser.time(torch.tensor([1e-6, 1e6])).tolist() == [0, 999]
    n = 400
    x = teachers.sample(denoiser, torch.randn(n, 1, 4, 4), num_steps=40).flatten()
    # Four standard errors, and the solver's own error, below a hundredth.
    assert float(x.mean()) == pytest.approx(MEAN, abs=4 * STD / math.sqrt(16 * n) + 0.01)
    assert float(x.std()) == pytest.approx(STD, abs=4 * STD / math.sqrt(32 * n) + 0.01)


def test_the_nearest_timestep_is_one_of_the_trained_ones_and_rounds_the_level_to_it():
    unet = ExactUNet("epsilon")
    denoiser = DiffusersDenoiser(unet, SCHEDULE, timestep="nearest", **SIZES)
    rounded = denoiser.round_sigma(torch.tensor([0.1234, 5.0], dtype=torch.float64))
    assert rounded.dtype == torch.float64
    denoiser(torch.zeros(2, 1, 4, 4), rounded)
    (t,) = unet.seen
    assert t.tolist() == t.round().tolist()
    levels = ((1 - SCHEDULE) / SCHEDULE).sqrt()
    torch.testing.assert_close(rounded, levels[t.long()], rtol=1e-6, atol=0)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            lambda: DiffusersDenoiser(ExactUNet("epsilon"), SCHEDULE, prediction="x", **SIZES),
            "prediction_type is 'x'; allowed are epsilon, sample, v_prediction",
        ),
        (
            lambda: DiffusersDenoiser(ExactUNet("epsilon"), SCHEDULE, timestep="last", **SIZES),
            "timestep is 'last'; allowed are interpolated, nearest",
        ),
        (
            lambda: DiffusersDenoiser(ExactUNet("epsilon"), SCHEDULE.flip(0), **SIZES),
            "alphas_cumprod must fall, and lie between 0 and 1",
        ),
    ],
)
def test_options_that_make_no_denoiser_are_refused(make, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        make()


@pytest.fixture(scope="module")
def diffusers() -> Any:
    return pytest.importorskip("diffusers", reason="the extra [diffusers] is not installed")


def unet_of(diffusers: Any, **kwargs: Any) -> Any:
    torch.manual_seed(1)
    return diffusers.UNet2DModel(**{**INSIDE, **kwargs}).eval()


def pipeline(diffusers: Any, folder: Path, *, schedule: Any = None, **kwargs: Any) -> Any:
    """Write a DDPM pipeline as diffusers does, and return its network and schedule."""
    unet = unet_of(diffusers, **kwargs)
    scheduler = diffusers.DDPMScheduler(**(schedule or {}))
    diffusers.DDPMPipeline(unet, scheduler).save_pretrained(folder)
    return unet, scheduler


@pytest.mark.parametrize("schedule", [{}, {"beta_schedule": "squaredcos_cap_v2"}])
def test_a_pipelines_network_denoises_as_its_scheduler_says(diffusers, tmp_path, schedule):
    unet, scheduler = pipeline(diffusers, tmp_path, schedule=schedule)
    denoiser: Any = teachers.load(tmp_path)
    assert (denoiser.img_channels, denoiser.img_resolution, denoiser.label_dim) == (1, 8, 0)
    assert not any(p.requires_grad for p in denoiser.parameters())
    x_t = torch.randn(2, 1, 8, 8)
    for t in (1, 500, 998):
        with torch.no_grad():
            eps = unet(x_t, t).sample
        expected = scheduler.step(eps, t, x_t).pred_original_sample
        a = scheduler.alphas_cumprod[t]
        # The scheduler clips what it predicts; so does a reader of ours.
        sigma = float(((1 - a) / a).sqrt())
        got = denoiser(x_t / a.sqrt(), sigma).clip(-1, 1)
        torch.testing.assert_close(got, expected, rtol=1e-3, atol=1e-3)


def test_a_scheduler_of_another_prediction_and_of_classes_is_understood(diffusers, tmp_path):
    unet, scheduler = pipeline(
        diffusers,
        tmp_path,
        schedule={"prediction_type": "v_prediction", "clip_sample": False},
        num_class_embeds=3,
    )
    denoiser: Any = teachers.load(tmp_path)
    assert denoiser.label_dim == 3
    x_t, numbers = torch.randn(2, 1, 8, 8), torch.tensor([2, 0])
    with torch.no_grad():
        v = unet(x_t, 300, class_labels=numbers).sample
    expected = scheduler.step(v, 300, x_t).pred_original_sample
    a = scheduler.alphas_cumprod[300]
    got = denoiser(x_t / a.sqrt(), float(((1 - a) / a).sqrt()), torch.eye(3)[numbers])
    torch.testing.assert_close(got, expected, rtol=1e-3, atol=1e-3)
    with pytest.raises(ValueError, match=r"3 classes and no model without a class; give one-hot"):
        denoiser(x_t, 1.0)


def test_a_null_class_guides_a_network_of_diffusers(diffusers, tmp_path):
    unet_of(diffusers, num_class_embeds=3).save_pretrained(tmp_path)
    denoiser = load_folder(tmp_path)
    guided = teachers.classifier_free(denoiser, weight=2.0, null_label=2)
    x, labels = torch.randn(1, 1, 8, 8), torch.eye(3)
    expected = 2 * denoiser(x, 1.0, labels[:1]) - denoiser(x, 1.0, labels[2:])
    torch.testing.assert_close(guided(x, 1.0, labels[:1]), expected)


def test_a_network_alone_is_taken_for_ddpms_and_keeps_its_gradients(diffusers, tmp_path):
    unet = unet_of(diffusers)
    unet.save_pretrained(tmp_path)
    denoiser = load_folder(tmp_path).double()
    x = torch.randn(1, 1, 8, 8, dtype=torch.float64)
    with torch.no_grad():
        eps = unet.double()(x / math.sqrt(2), denoiser.time(torch.tensor([1.0]))).sample
    torch.testing.assert_close(denoiser(x, 1.0), x - eps, rtol=1e-6, atol=1e-6)
    direction, weights = torch.randn(2, 1, 1, 8, 8, dtype=torch.float64)

    def along(s: torch.Tensor) -> torch.Tensor:
        return (denoiser(x + s * direction, 0.8) * weights).sum()

    s = torch.zeros([], dtype=torch.float64, requires_grad=True)
    # The package computes the softmax of its attention in float32, so steps must not be tiny.
    rough: Any = {"eps": 1e-2, "atol": 1e-2, "rtol": 1e-2}
    assert torch.autograd.gradcheck(along, (s,), **rough)
    assert torch.autograd.gradgradcheck(along, (s,), **rough)


def test_weights_in_a_pickle_are_read_as_plain_data(diffusers, tmp_path):
    unet_of(diffusers).save_pretrained(tmp_path / "a")
    unet_of(diffusers).save_pretrained(tmp_path / "b", safe_serialization=False)
    assert (tmp_path / "b" / "diffusion_pytorch_model.bin").is_file()
    one, other = (load_folder(tmp_path / name).state_dict() for name in ("a", "b"))
    assert all(torch.equal(other[name], value) for name, value in one.items())
    assert one.keys() == other.keys()


def change(path: Path, **values: Any) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **values}))


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"_class_name": "UNet2DConditionModel"}, "allowed is UNet2DModel"),
        ({"layers_per_block": 2}, "tensors that do not fit config.json: "),
        ({"layers_per_block": 10**9}, "layers_per_block is 1000000000 with"),
        ({"block_out_channels": [8, 2**20]}, "tensors that do not fit config.json: "),
        ({"sample_size": [8, 6]}, "sample_size is [8, 6]; it must be one number"),
        ({"out_channels": 3}, "tensors that do not fit"),
        ({"class_embed_type": "timestep"}, "class_embed_type is 'timestep'; allowed is null"),
        ({"down_block_types": ["Other", "Other"]}, "Other"),
    ],
)
def test_folders_that_hold_something_else_are_refused_in_one_line(
    diffusers, tmp_path, values, message
):
    unet_of(diffusers).save_pretrained(tmp_path)
    change(tmp_path / "config.json", **values)
    with pytest.raises(ValueError, match=re.escape(message)) as error:
        teachers.load(tmp_path)
    assert "\n" not in str(error.value) and str(tmp_path) in str(error.value)


def test_broken_and_missing_files_are_refused(diffusers, tmp_path):
    with pytest.raises(ValueError, match=r"has no config.json; give a network pickle, or a folder"):
        teachers.load(tmp_path)
    unet_of(diffusers).save_pretrained(tmp_path)
    weights = tmp_path / "diffusion_pytorch_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:100])
    with pytest.raises(ValueError, match="is broken"):
        teachers.load(tmp_path)
    weights.unlink()
    with pytest.raises(ValueError, match="has no weights; there should be diffusion_pytorch"):
        teachers.load(tmp_path)
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(ValueError, match="is not JSON"):
        teachers.load(tmp_path)
