"""A folder of diffusers is the network that it holds, however it is kept; others are refused."""

from __future__ import annotations

import json
import math
import pickle
import random
import re
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch

import teachers
from teachers.diffusers import load_folder
from teachers.noise_scales import place_of

DDIM = {"_class_name": "DDIMScheduler", "num_train_timesteps": 1000}
VE = {"_class_name": "ScoreSdeVeScheduler", "sigma_max": 348, "sigma_min": 0.01}
NCSNPP: dict[str, Any] = {
    "in_channels": 3,
    "out_channels": 3,
    "block_out_channels": [32, 32],
    "down_block_types": ["SkipDownBlock2D", "AttnSkipDownBlock2D"],
    "up_block_types": ["AttnSkipUpBlock2D", "SkipUpBlock2D"],
    "time_embedding_type": "fourier",
    "norm_num_groups": None,
    "attention_head_dim": None,
    "center_input_sample": True,
}


def weights_of(folder: Path) -> dict[str, torch.Tensor]:
    """The weights of a folder's network, by today's names."""
    model: Any = load_folder(folder).model
    return getattr(model, "network", model).state_dict()


NAMES = ("diffusers-ddpm-2022-names-small", "diffusers-ncsnpp-ve-2022-names-small")


@pytest.mark.parametrize("name", NAMES)
def test_it_denoises_as_the_original_does(samples, name):
    if not (samples / name).is_dir():
        pytest.skip(f"no {name} among the samples")
    reference = np.load(samples / f"{name}.ref.npz")
    denoiser = teachers.load(samples / name)
    x, sigma = (torch.from_numpy(reference[key]) for key in ("x", "sigma"))
    # Of each image's own largest value, as noise levels differ by four orders.
    for got, expected in zip(denoiser(x, sigma), reference["denoised"], strict=True):
        np.testing.assert_allclose(got, expected, rtol=0, atol=1e-5 * np.abs(expected).max())


def test_a_pipeline_of_latents_is_refused_by_its_folder_and_by_its_network(samples):
    folder = samples / "diffusers-ldm-vq-small"
    if not folder.is_dir():
        pytest.skip("no diffusers-ldm-vq-small among the samples")
    for place in (folder, folder / "unet"):
        with pytest.raises(ValueError, match="holds LDMPipeline with vqvae: its network denoises"):
            teachers.load(place)


def test_a_pipeline_is_its_network_under_its_schedule(tmp_path, write_diffusers):
    network = write_diffusers(tmp_path / "a", DDIM, num_class_embeds=3)
    denoiser: Any = teachers.load(tmp_path / "a")
    assert (denoiser.img_channels, denoiser.img_resolution, denoiser.label_dim) == (1, 16, 3)
    assert denoiser.autoencoder is None
    assert not any(p.requires_grad for p in denoiser.parameters())
    x, labels = torch.randn(2, 1, 16, 16), torch.eye(3)[[2, 0]]
    beta = torch.linspace(1e-4, 0.02, 1000, dtype=torch.float64)
    a = (1 - beta).cumprod(0)[300]
    sigma = float(((1 - a) / a).sqrt())
    eps = network(x * a.sqrt().float(), torch.full([2], 300.0), labels)
    torch.testing.assert_close(denoiser(x, sigma, labels), x - sigma * eps, rtol=1e-4, atol=1e-4)
    with pytest.raises(ValueError, match=r"3 classes and no model without a class; give one-hot"):
        denoiser(x, 1.0)


def test_features_without_a_label_are_of_no_class(tmp_path, write_diffusers):
    write_diffusers(tmp_path / "a", DDIM, num_class_embeds=3)
    denoiser: Any = teachers.load(tmp_path / "a")
    x = torch.randn(2, 1, 16, 16)
    none = denoiser.features(x, 0.5)
    for one, other in zip(none, denoiser.features(x, 0.5, torch.zeros(1, 3)), strict=True):
        torch.testing.assert_close(one, other)
    assert not torch.allclose(denoiser.features(x, 0.5, torch.eye(3)[:1])[-1], none[-1])


def test_a_null_class_guides_a_network_of_diffusers(tmp_path, write_diffusers):
    write_diffusers(tmp_path / "a", num_class_embeds=3)
    denoiser = load_folder(tmp_path / "a")
    guided = teachers.classifier_free(denoiser, weight=2.0, null_label=2)
    x, labels = torch.randn(1, 1, 16, 16), torch.eye(3)
    expected = 2 * denoiser(x, 1.0, labels[:1]) - denoiser(x, 1.0, labels[2:])
    torch.testing.assert_close(guided(x, 1.0, labels[:1]), expected)


def test_a_network_alone_is_taken_for_ddpms(tmp_path, write_diffusers):
    network = write_diffusers(tmp_path / "a")
    x = torch.randn(1, 1, 16, 16)
    for place in (tmp_path / "a", tmp_path / "a" / "unet"):
        denoiser: Any = load_folder(place)
        t = place_of(torch.tensor([1.0]), denoiser.scale.log_sigmas)
        eps = network(x / math.sqrt(2), t)
        torch.testing.assert_close(denoiser(x, 1.0), x - eps, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("config", "scheduler"), [({}, DDIM), (NCSNPP, VE)], ids=["ddpm", "ve"])
def test_the_layout_and_the_names_of_2022_are_read(tmp_path, write_diffusers, config, scheduler):
    network = write_diffusers(tmp_path / "a", scheduler, old_names=True, flat=True, **config)
    stored = torch.load(tmp_path / "a" / "diffusion_pytorch_model.bin", weights_only=True)
    assert "down_blocks.1.attentions.0.proj_attn.weight" in stored
    read = weights_of(tmp_path / "a")
    assert read.keys() == network.state_dict().keys()
    assert all(torch.equal(read[name], value) for name, value in network.state_dict().items())


def test_frequencies_may_be_stored_under_two_names(tmp_path, write_diffusers):
    network = write_diffusers(tmp_path / "a", VE, flat=True, old_names=True, **NCSNPP)
    path = tmp_path / "a" / "diffusion_pytorch_model.bin"
    state = torch.load(path, weights_only=True)
    for twin in (False, True):
        weight = state["time_proj.weight"] if twin else state.pop("time_proj.weight")
        torch.save({**state, "time_proj.W": weight}, path)
        state["time_proj.weight"] = weight
        read = weights_of(tmp_path / "a")
        assert torch.equal(read["time_proj.weight"], network.state_dict()["time_proj.weight"])


@pytest.mark.parametrize(
    "names",
    [
        ("diffusion_pytorch_model.bin",),
        ("diffusion_pytorch_model.fp16.safetensors", "diffusion_pytorch_model.non_ema.bin"),
        ("diffusion_pytorch_model.ema.bin", "diffusion_pytorch_model.fp16.safetensors"),
    ],
)
def test_the_first_of_several_files_of_weights_counts(tmp_path, write_diffusers, names):
    network = write_diffusers(tmp_path / "a", DDIM, flat=True)
    path = tmp_path / "a" / "diffusion_pytorch_model.safetensors"
    state = safetensors.torch.load_file(path)
    path.unlink()
    for i, name in enumerate(names):
        values = {key: value + i for key, value in state.items()}
        save = torch.save if name.endswith(".bin") else safetensors.torch.save_file
        save(values, tmp_path / "a" / name)
    read = weights_of(tmp_path / "a")
    assert all(torch.equal(read[name], value) for name, value in network.state_dict().items())


def test_half_precision_is_read_as_single(tmp_path, write_diffusers):
    network = write_diffusers(tmp_path / "a", DDIM, flat=True)
    path = tmp_path / "a" / "diffusion_pytorch_model.safetensors"
    state = {name: value.half() for name, value in safetensors.torch.load_file(path).items()}
    safetensors.torch.save_file(state, path)
    read = weights_of(tmp_path / "a")
    for name, value in network.state_dict().items():
        assert read[name].dtype == torch.float32
        torch.testing.assert_close(read[name], value, rtol=1e-3, atol=1e-4)


def split(folder: Path) -> Path:
    """Split the weights into two files with an index, and return it."""
    path = folder / "diffusion_pytorch_model.safetensors"
    state = safetensors.torch.load_file(path)
    path.unlink()
    files = {
        name: f"diffusion_pytorch_model-0000{1 + i % 2}-of-00002.safetensors"
        for i, name in enumerate(state)
    }
    for file in set(files.values()):
        own = {name: value for name, value in state.items() if files[name] == file}
        safetensors.torch.save_file(own, folder / file)
    index = folder / "diffusion_pytorch_model.safetensors.index.json"
    index.write_text(json.dumps({"metadata": {}, "weight_map": files}))
    return index


def test_weights_in_several_files_are_put_together(tmp_path, write_diffusers):
    network = write_diffusers(tmp_path / "a", DDIM, flat=True)
    index = split(tmp_path / "a")
    read = weights_of(tmp_path / "a")
    assert all(torch.equal(read[name], value) for name, value in network.state_dict().items())
    index.write_text(json.dumps({"weight_map": {"a": "../a.safetensors"}}))
    with pytest.raises(ValueError, match="names no files beside it; give the whole folder"):
        load_folder(tmp_path / "a")
    index.write_text(json.dumps({"weight_map": {"a": "a.safetensors"}}))
    with pytest.raises(ValueError, match=re.escape("names a.safetensors; give the whole folder")):
        load_folder(tmp_path / "a")


def test_what_training_scripts_write_beside_is_passed_over(tmp_path, write_diffusers):
    average = {"decay": 0.9999, "optimization_step": 7, "use_ema_warmup": True, "power": 0.75}
    beside = {**average, "dropout": 0.1, "num_train_timesteps": None}
    write_diffusers(tmp_path / "a", DDIM, beside=beside)
    assert load_folder(tmp_path / "a").img_resolution == 16


class Shell:
    """What a pickle could run."""

    def __reduce__(self):
        return (Path.touch, (Path("touched"),))


def test_a_bin_that_holds_something_else_is_refused_and_does_nothing(
    tmp_path, write_diffusers, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    write_diffusers(tmp_path / "a", DDIM, flat=True)
    (tmp_path / "a" / "diffusion_pytorch_model.safetensors").unlink()
    path = tmp_path / "a" / "diffusion_pytorch_model.bin"
    for content in ({"a": Shell()}, [torch.ones(1)]):
        torch.save(content, path)
        with pytest.raises(ValueError, match=re.escape(str(tmp_path))) as error:
            load_folder(tmp_path / "a")
        assert "\n" not in str(error.value)
    path.write_bytes(pickle.dumps(Shell()))
    with pytest.raises(ValueError, match=re.escape(str(tmp_path))):
        load_folder(tmp_path / "a")
    assert not (tmp_path / "touched").exists()


def change(path: Path, **values: Any) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **values}))


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"_class_name": "UNet2DConditionModel"}, "allowed is UNet2DModel"),
        ({"layers_per_block": 2}, "tensors that do not fit config.json: "),
        ({"layers_per_block": 10**9}, "layers_per_block is 1000000000; allowed: "),
        ({"layers_per_block": 90}, "layers_per_block is 90 with 144 tensors"),
        ({"block_out_channels": [8, 2**16]}, "tensors that do not fit config.json: "),
        ({"sample_size": [8, 6]}, "it must be one number, the images' resolution: write it into"),
        ({"sample_size": None}, "sample_size is None; it must be one number"),
        ({"sample_size": 15}, "sample_size is 15 with 2 levels; it must be a multiple of 2"),
        ({"out_channels": 3}, "out_channels is 3 with in_channels 1; it must be 1, or 2 with"),
        ({"class_embed_type": "timestep"}, "class_embed_type is 'timestep'; allowed: null"),
        ({"unheard_of": 1}, "config.json has unknown options: 'unheard_of'"),
        ({"time_embedding_type": "learned"}, "time_embedding_type is 'learned'; allowed: "),
        ({"norm_num_groups": 5}, "norm_num_groups is 5, which does not divide 8"),
    ],
)
def test_folders_that_hold_something_else_are_refused_in_one_line(
    tmp_path, write_diffusers, values, message
):
    write_diffusers(tmp_path / "a", DDIM, flat=True)
    change(tmp_path / "a" / "config.json", **values)
    with pytest.raises(ValueError, match=re.escape(message)) as error:
        teachers.load(tmp_path / "a")
    assert "\n" not in str(error.value) and str(tmp_path) in str(error.value)


ODD: list[Any] = [
    *(None, True, 0, 1, -1, 3, 10**12, 1e300, math.nan, "", "x", [], [1], ["a"], [None], [[8]]),
    *({}, {"a": 1}, [8, 16, 32], "conv", "resnet", "fourier", "UNet2DModel"),
]


def test_whatever_the_files_beside_say_they_make_a_denoiser_or_are_refused(
    tmp_path, write_diffusers, monkeypatch
):
    monkeypatch.setitem(sys.modules, "diffusers", None)
    write_diffusers(tmp_path / "a", {**DDIM, "beta_start": 1e-4}, flat=True, num_class_embeds=3)
    names = ("config.json", "scheduler_config.json", "model_index.json")
    whole = {name: json.loads((tmp_path / "a" / name).read_text()) for name in names}
    drawn, loaded = random.Random(0), 0
    for _ in range(120):
        told = {name: dict(values) for name, values in whole.items()}
        for _ in range(drawn.choice([1, 1, 2])):
            values = told[drawn.choice([*names, "config.json", "config.json"])]
            values[drawn.choice([*values, "dropout", "time_embedding_type"])] = drawn.choice(ODD)
        for name, values in told.items():
            (tmp_path / "a" / name).write_text(json.dumps(values))
        try:
            load_folder(tmp_path / "a")
            loaded += 1
        except ValueError as error:
            assert "\n" not in str(error) and len(str(error)) < 1000
    assert 0 < loaded < 100


def test_blocks_that_are_not_built_here_ask_for_the_package(tmp_path, write_diffusers, monkeypatch):
    write_diffusers(tmp_path / "a", DDIM, flat=True)
    monkeypatch.setitem(sys.modules, "diffusers", None)
    change(tmp_path / "a" / "config.json", act_fn="mish")
    with pytest.raises(ValueError, match=re.escape("act_fn is 'mish', which only the package dif")):
        teachers.load(tmp_path / "a")


@pytest.mark.parametrize(
    ("part", "message"),
    [
        ({"vae": ["diffusers", "AutoencoderKL"]}, "holds DDPMPipeline with vae: its network den"),
        ({"_class_name": "LDMPipeline", "vqvae": ["diffusers", "VQModel"]}, "LDMPipeline with vq"),
        ({"text_encoder": ["transformers", "X"]}, "with text_encoder: its network denoises laten"),
    ],
)
def test_pipelines_with_more_than_a_network_and_a_scheduler_are_refused(
    tmp_path, write_diffusers, part, message
):
    write_diffusers(tmp_path / "a", DDIM)
    change(tmp_path / "a" / "model_index.json", safety_checker=[None, None], **part)
    for place in (tmp_path / "a", tmp_path / "a" / "unet"):
        with pytest.raises(ValueError, match=re.escape(message)):
            teachers.load(place)


def test_a_folder_of_an_autoencoder_betrays_latents_without_an_index(tmp_path, write_diffusers):
    write_diffusers(tmp_path / "a", DDIM)
    (tmp_path / "a" / "model_index.json").unlink()
    assert load_folder(tmp_path / "a").img_resolution == 16
    (tmp_path / "a" / "vqvae").mkdir()
    with pytest.raises(ValueError, match="holds a pipeline with vqvae: its network denoises lat"):
        load_folder(tmp_path / "a")


def test_broken_and_missing_files_are_refused(tmp_path, write_diffusers):
    with pytest.raises(ValueError, match=r"has no config.json; give a network pickle, or a folder"):
        teachers.load(tmp_path)
    folder = tmp_path / "a"
    write_diffusers(folder, DDIM, flat=True)
    weights = folder / "diffusion_pytorch_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:100])
    with pytest.raises(ValueError, match="is broken"):
        teachers.load(folder)
    weights.unlink()
    with pytest.raises(ValueError, match="has no weights; there should be diffusion_pytorch"):
        teachers.load(folder)
    (folder / "config.json").write_text("{")
    with pytest.raises(ValueError, match="is not JSON"):
        teachers.load(folder)


@pytest.fixture(scope="module")
def diffusers() -> Any:
    return pytest.importorskip("diffusers", reason="the extra [diffusers] is not installed")


@pytest.mark.parametrize("act_fn", ["silu", "gelu"])
@pytest.mark.parametrize("schedule", [{}, {"beta_schedule": "squaredcos_cap_v2"}])
def test_a_pipelines_network_denoises_as_its_scheduler_says(diffusers, tmp_path, schedule, act_fn):
    unet = diffusers.UNet2DModel(
        sample_size=8,
        in_channels=1,
        out_channels=1,
        block_out_channels=(8, 16),
        layers_per_block=1,
        norm_num_groups=4,
        down_block_types=("DownBlock2D", "AttnDownBlock2D"),
        up_block_types=("AttnUpBlock2D", "UpBlock2D"),
        act_fn=act_fn,
        num_class_embeds=3,
    ).eval()
    scheduler = diffusers.DDPMScheduler(**schedule)
    diffusers.DDPMPipeline(unet, scheduler).save_pretrained(tmp_path)
    denoiser: Any = teachers.load(tmp_path)
    x_t, numbers = torch.randn(2, 1, 8, 8), torch.tensor([2, 0])
    labels = torch.eye(3)[numbers]
    for t in (1, 500, 998):
        with torch.no_grad():
            eps = unet(x_t, t, class_labels=numbers).sample
        expected = scheduler.step(eps, t, x_t).pred_original_sample
        a = scheduler.alphas_cumprod[t]
        # The scheduler clips what it predicts; so does a reader of ours.
        sigma = float(((1 - a) / a).sqrt())
        got = denoiser(x_t / a.sqrt(), sigma, labels).clip(-1, 1)
        torch.testing.assert_close(got, expected, rtol=1e-3, atol=1e-3)
    maps = denoiser.features(x_t, 1.0, labels)
    assert [list(m.shape) for m in maps] == [[2, 8, 8, 8], [2, 16, 4, 4]]


def test_the_schedules_are_the_packages(diffusers):
    from teachers.diffusers.schedulers import scale_of

    kinds = ("linear", "scaled_linear", "squaredcos_cap_v2", "sigmoid")
    rows: list[dict[str, Any]] = [
        *({"beta_schedule": kind, "num_train_timesteps": 200} for kind in kinds),
        {"rescale_betas_zero_snr": True},
        {"trained_betas": [0.1, 0.2, 0.3]},
    ]
    for options in rows:
        a = diffusers.DDPMScheduler(**options).alphas_cumprod.double()
        a = a[a > 0]
        ours: Any = scale_of({"_class_name": "DDPMScheduler", **options}, fourier=False)
        # In float32 1 - beta loses what a small beta says.
        levels = ours.log_sigmas.double().exp()
        torch.testing.assert_close(levels, ((1 - a) / a).sqrt(), rtol=1e-3, atol=0)
