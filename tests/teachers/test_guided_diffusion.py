"""A file of the guided-diffusion layout is the network that wrote it, given what it lacks."""

from __future__ import annotations

import json
import math
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F

import checkpoints
import teachers
from teachers import facts, guided_diffusion, published_facts
from teachers.converted import ConvertedDenoiser
from teachers.networks.guided_unet import GuidedUNet, Heads
from teachers.noise_scales import schedule

NETWORKS: dict[str, dict[str, Any]] = {
    "adm": {
        "channel_mult": (1, 2, 1),
        "num_res_blocks": (1, 1, 1),
        "attention_levels": (False, True, True),
        "num_classes": 3,
        "use_scale_shift_norm": True,
        "resblock_updown": True,
        "outputs": 2,
    },
    "convolutions": {
        "channel_mult": (1, 2),
        "num_res_blocks": (1, 2),
        "attention_levels": (True, False),
        "num_classes": 0,
        "use_scale_shift_norm": False,
        "resblock_updown": False,
        "outputs": 1,
    },
    "consistency": {
        "channel_mult": (1, 1),
        "num_res_blocks": (1, 1),
        "attention_levels": (False, True),
        "num_classes": 0,
        "use_scale_shift_norm": False,
        "resblock_updown": True,
        "outputs": 1,
        "qkv_ndim": 4,
    },
}
FACTS = {"image_size": 8, "num_heads": 2, "noise_schedule": "linear", "diffusion_steps": 1000}


def network(name: str = "adm", *, heads: Heads | None = None, channels: int = 1) -> GuidedUNet:
    options = dict(NETWORKS[name])
    outputs = channels * options.pop("outputs")
    heads = heads or Heads(num_heads=2, use_new_attention_order=name == "consistency")
    net = GuidedUNet(channels, outputs, model_channels=32, heads=heads, **options)
    # A new network's last layers are zero; this one has something to say.
    for parameter in net.parameters():
        parameter.data.add_(0.05 * torch.randn_like(parameter))
    return net.eval().requires_grad_(False)


def written(path: Path, net: GuidedUNet, wrap: Any = lambda state: state) -> Path:
    torch.save(wrap(net.state_dict()), path)
    return path


def one_hot(n: int, classes: int) -> torch.Tensor | None:
    return torch.eye(classes)[torch.arange(n) % classes] if classes else None


@pytest.mark.parametrize("name", ["adm", "convolutions"])
@pytest.mark.parametrize("step", [0, 137, 999])
def test_d_is_the_image_that_the_networks_noise_leaves(tmp_path, name, step):
    net = network(name)
    denoiser: Any = teachers.load(written(tmp_path / "net.pt", net), facts=FACTS)
    # Ho et al. 2020, Eq. 4 and 15, from its betas.
    a = (1 - np.linspace(1e-4, 0.02, 1000)).cumprod()[step]
    x_t, t = torch.randn(2, 1, 8, 8), torch.full([2], float(step))
    labels = one_hot(2, denoiser.label_dim)
    eps = net(x_t, t, labels)[:, :1]
    x_0 = (x_t - math.sqrt(1 - a) * eps) / math.sqrt(a)
    sigma = math.sqrt((1 - a) / a)
    got = denoiser(x_t / math.sqrt(a), sigma, labels)
    torch.testing.assert_close(got, x_0, rtol=1e-4, atol=1e-4 * float(x_0.abs().max()))


def test_a_network_that_predicts_the_image_is_believed(tmp_path):
    net = network("convolutions")
    facts = {**FACTS, "predict_xstart": True}
    denoiser = teachers.load(written(tmp_path / "net.pt", net), facts=facts)
    a = float(schedule("linear", 1000)[500])
    x_t = torch.randn(1, 1, 8, 8)
    got = denoiser(x_t / math.sqrt(a), math.sqrt((1 - a) / a))
    torch.testing.assert_close(got, net(x_t, torch.tensor([500.0])), rtol=1e-4, atol=1e-4)


def test_steps_that_were_rescaled_in_training_are_here(tmp_path):
    net = network("convolutions")
    facts = {**FACTS, "diffusion_steps": 4000, "noise_schedule": "cosine"}
    path = written(tmp_path / "net.pt", net)
    with pytest.raises(ValueError, match=r"does not hold rescale_timesteps \(true or false\)"):
        teachers.load(path, facts=facts)
    x = torch.randn(1, 1, 8, 8)
    a = float(schedule("cosine", 4000)[1000])
    sigma = math.sqrt((1 - a) / a)
    for rescaled, told in ((True, 250.0), (False, 1000.0)):
        denoiser = teachers.load(path, facts={**facts, "rescale_timesteps": rescaled})
        expected = x - sigma * net(x * math.sqrt(a), torch.tensor([told]))
        torch.testing.assert_close(denoiser(x, sigma), expected, rtol=1e-4, atol=1e-4)


def test_edm_files_of_consistency_models_are_preconditioned(tmp_path):
    net = network("consistency")
    facts = {"image_size": 8, "num_heads": 2, "preconditioning": "edm"}
    denoiser = teachers.load(written(tmp_path / "edm.pt", net), facts=facts)
    assert (denoiser.sigma_min, denoiser.sigma_max) == (0.002, 80)
    x, sigma = torch.randn(1, 1, 8, 8), 0.7
    variance = sigma**2 + 0.25
    raw = net(x / math.sqrt(variance), torch.tensor([250 * math.log(sigma)]))
    expected = 0.25 / variance * x + sigma * 0.5 / math.sqrt(variance) * raw
    torch.testing.assert_close(denoiser(x, sigma), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("new_order", [False, True])
@pytest.mark.parametrize("num_heads", [1, 2, 4])
def test_attention_is_softmax_of_queries_and_keys_head_by_head(new_order, num_heads):
    heads = Heads(num_heads=num_heads, use_new_attention_order=new_order)
    attention: Any = network(heads=heads).middle_block[1]
    x = torch.randn(2, 32, 2, 2)
    rows = attention.qkv(attention.norm(x)).flatten(2)
    width = 32 // num_heads
    parts: list[Any] = []
    for head in range(num_heads):
        starts = [(k * num_heads + head if new_order else head * 3 + k) * width for k in range(3)]
        q, k, v = (rows[:, start : start + width] for start in starts)
        weights = (q.transpose(1, 2) @ k / math.sqrt(width)).softmax(dim=2)
        parts.append(v @ weights.transpose(1, 2))
    y = F.conv1d(torch.cat(parts, dim=1), attention.proj_out.weight, attention.proj_out.bias)
    expected = x + y.reshape(x.shape)
    torch.testing.assert_close(attention(x), expected, rtol=1e-5, atol=1e-5)
    # With a gradient it takes another way.
    torch.testing.assert_close(attention(x.clone().requires_grad_()), expected)


def test_second_derivatives_are_those_of_finite_differences():
    net = network("adm").double()
    x = torch.randn(1, 1, 8, 8, dtype=torch.float64, requires_grad=True)
    t, labels = torch.tensor([30.0], dtype=torch.float64), torch.eye(3, dtype=torch.float64)[:1]

    def loss(x: torch.Tensor) -> torch.Tensor:
        return net(x, t, labels)[:, :1].square().mean()

    assert torch.autograd.gradgradcheck(loss, x, fast_mode=True)


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_names_and_shapes_alone_rebuild_the_network(tmp_path, name, dtype):
    net = network(name).to(dtype)
    facts = {"image_size": 8, "num_heads": 2, "preconditioning": "edm"}
    denoiser: Any = teachers.load(written(tmp_path / "net.pt", net), facts=facts)
    ours, theirs = denoiser.model.state_dict(), net.state_dict()
    assert list(ours) == list(theirs)
    for key, value in theirs.items():
        torch.testing.assert_close(ours[key], value.float(), rtol=0, atol=0)
    options = NETWORKS[name]
    maps = denoiser.features(torch.randn(2, 1, 8, 8), 1.0, one_hot(2, options["num_classes"]))
    assert [list(m.shape) for m in maps] == [
        [2, 32 * mult, 8 >> i, 8 >> i] for i, mult in enumerate(options["channel_mult"])
    ]


def test_features_are_what_the_encoder_hands_to_the_decoder(tmp_path):
    net = network("convolutions")
    denoiser: Any = teachers.load(written(tmp_path / "net.pt", net), facts=FACTS)
    seen: list[torch.Tensor] = []
    model: Any = denoiser.model
    for entry in (model.input_blocks[1][1], model.input_blocks[4][0]):
        entry.register_forward_hook(lambda module, args, output: seen.append(output))
    x = torch.randn(1, 1, 8, 8)
    denoiser(x, 0.3)
    maps = denoiser.features(x, 0.3)
    torch.testing.assert_close(maps, seen[:2], rtol=0, atol=0)


@pytest.mark.parametrize("old", [False, True])
@pytest.mark.parametrize(
    "wrap",
    [
        lambda state: {f"module.{key}": value for key, value in state.items()},
        lambda state: {"state_dict": state, "epoch": 3},
        lambda state: {"model": {k: v * 0 for k, v in state.items()}, "ema": state},
    ],
)
def test_wrappings_of_training_programs_are_taken_off(tmp_path, wrap, old):
    net = network("convolutions")
    path = tmp_path / "net.pt"
    torch.save(wrap(net.state_dict()), path, _use_new_zipfile_serialization=not old)
    bare = teachers.load(written(tmp_path / "bare.pt", net), facts=FACTS)
    x = torch.randn(1, 1, 8, 8)
    found = teachers.load(path, facts=FACTS)
    torch.testing.assert_close(found(x, 1.0), bare(x, 1.0), rtol=0, atol=0)


def test_facts_come_from_a_file_beside_and_the_callers_win(tmp_path):
    path = written(tmp_path / "net.pt", network("convolutions"))
    x = torch.randn(1, 1, 8, 8)
    expected = {n: teachers.load(path, facts={**FACTS, "num_heads": n})(x, 1.0) for n in (1, 2)}
    assert float((expected[1] - expected[2]).abs().max()) > 1e-3
    # As flags are pasted from a README: text, and some of training.
    pasted = {"num_heads": "2", "image_size": 8, "use_fp16": "True", "class_cond": "False"}
    pasted |= {"noise_schedule": "linear", "diffusion_steps": 1000, "channel_mult": ""}
    for name in ("net.pt.json", "net.json"):
        beside = tmp_path / name
        beside.write_text(json.dumps(pasted))
        torch.testing.assert_close(teachers.load(path)(x, 1.0), expected[2], rtol=0, atol=0)
        given = teachers.load(path, facts={"num_heads": 1})
        torch.testing.assert_close(given(x, 1.0), expected[1], rtol=0, atol=0)
        beside.unlink()


def test_a_published_file_is_known_by_its_name_and_its_shape_together(tmp_path, monkeypatch):
    shape = (32, (1, 2), (1, 2), (1,), 0, False, False, 3)
    row = published_facts.Published(("ffhq_10m.pt",), shape, {**FACTS, "num_heads": 4})
    monkeypatch.setattr(published_facts, "GUIDED", (row,))
    net = network("convolutions")
    known = teachers.load(written(tmp_path / "ffhq_10m.pt", net))
    said = teachers.load(tmp_path / "ffhq_10m.pt", facts={**FACTS, "num_heads": 4})
    x = torch.randn(1, 1, 8, 8)
    torch.testing.assert_close(known(x, 1.0), said(x, 1.0), rtol=0, atol=0)
    # Another name: it says what to give if it is a copy.
    hint = "published files of this shape (ffhq_10m.pt) have image_size=8 num_heads=4"
    with pytest.raises(ValueError, match=re.escape(hint)):
        teachers.load(written(tmp_path / "mine.pt", net))
    # Another network of that name.
    with pytest.raises(ValueError, match="does not hold image_size"):
        teachers.load(written(tmp_path / "ffhq_10m.pt", network("adm")))


def test_rows_of_published_files_are_complete_and_none_is_there_twice():
    names = [name for row in published_facts.GUIDED for name in row.files]
    assert len(set(names)) == len(names)
    for row in published_facts.GUIDED:
        found = dict(row.facts)
        of_steps = {"noise_schedule", "diffusion_steps", "use_new_attention_order"}
        assert ("preconditioning" in found) is (row.shape[-1] == 4)
        assert "preconditioning" in found or of_steps <= found.keys()
        assert found.get("diffusion_steps", 1000) == 1000 or "rescale_timesteps" in found
        assert "image_size" in found and {"num_heads", "num_head_channels"} & found.keys()


def without(*parts: str) -> Any:
    return lambda state: {k: v for k, v in state.items() if not k.startswith(parts)}


@pytest.mark.parametrize(
    ("wrap", "message"),
    [
        (without("output_blocks"), "it is a classifier of guided-diffusion"),
        (
            lambda state: {f"model.diffusion_model.{k}": v for k, v in state.items()},
            "holds a latent-diffusion checkpoint; it denoises latents of an autoencoder",
        ),
        (without("middle_block.1"), "tensors that do not fit this layout: middle_block.1"),
        (
            lambda state: {**state, "out.0.bias": state["out.0.bias"] + math.nan},
            "tensors that are not finite: out.0.bias",
        ),
        (
            lambda state: {"state": {}, "param_groups": [{"lr": 0.1}]},
            "holds an optimiser's state; give the network beside it",
        ),
        (
            lambda state: {"layers.0.weight": torch.zeros(2, 2)},
            "1 named tensors (layers.0.weight ...) of a network that is not known",
        ),
        (lambda state: [1, 2], "holds no network"),
    ],
)
def test_what_is_no_teacher_is_refused_in_one_line(tmp_path, wrap, message):
    path = written(tmp_path / "net.pt", network("convolutions"), wrap)
    with pytest.raises(ValueError, match=re.escape(message)) as error:
        teachers.load(path, facts=FACTS)
    assert "\n" not in str(error.value)


class Runs:
    """What a pickle would call while it is read."""

    def __init__(self, trace: Path):
        self.trace = trace

    def __reduce__(self):
        return (Path.touch, (self.trace,))


def test_nothing_in_a_file_runs(tmp_path):
    state = {**network("convolutions").state_dict(), "extra": Runs(tmp_path / "ran")}
    torch.save(state, tmp_path / "net.pt")
    message = "holds a Record as 'extra' among its tensors; a file of weights holds tensors alone"
    with pytest.raises(ValueError, match=message):
        teachers.load(tmp_path / "net.pt", facts=FACTS)
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize(("channels", "what"), [(6, "an upsampler"), (4, "most likely latents")])
def test_networks_of_other_channels_than_images_are_refused(tmp_path, channels, what):
    path = written(tmp_path / "net.pt", network("convolutions", channels=channels))
    with pytest.raises(ValueError, match=what):
        teachers.load(path, facts=FACTS)


@pytest.mark.parametrize(
    ("facts", "message"),
    [
        ({"num_heads": 3}, "num_heads is 3, but an attention has 32 channels; give a divisor"),
        ({"num_head_channels": 48}, "num_head_channels is 48, but an attention has 32 channels"),
        ({"num_heads": -1}, "num_heads and num_head_channels are 0 or -1; give one of them"),
        ({"image_size": 9}, "image_size is 9, but the network halves 1 times; give a multiple"),
        ({"noise_schedule": "sigmoid"}, "noise_schedule is 'sigmoid'; allowed: linear, cosine"),
        (
            {"diffusion_steps": 10, "rescale_timesteps": True},
            "a linear schedule of 10 steps reaches beta",
        ),
        ({"num_channels": 64}, "num_channels is 64, but its tensors are of num_channels 32"),
        ({"class_cond": True}, "class_cond is True, but its tensors are of class_cond False"),
        ({"attention_resolutions": "4"}, "attention_resolutions is 4, but its tensors are of"),
        ({"preconditioning": "consistency"}, "preconditioning is 'consistency'; allowed: edm"),
        ({"heads": 4}, "facts: unknown heads; allowed are image_size, num_heads"),
    ],
)
def test_facts_that_cannot_be_right_are_refused_in_one_line(tmp_path, facts, message):
    path = written(tmp_path / "net.pt", network("convolutions"))
    with pytest.raises(ValueError, match=re.escape(message)) as error:
        teachers.load(path, facts={**FACTS, **facts})
    assert str(path) in str(error.value)


@pytest.mark.parametrize("name", ["cd_cat256_l2.pt", "ct_imagenet64.pt"])
def test_a_consistency_model_is_no_teacher(tmp_path, name):
    path = written(tmp_path / name, network("consistency"))
    with pytest.raises(ValueError, match="by its name it is a consistency model"):
        teachers.load(path, facts={"image_size": 8, "num_heads": 2})


def test_facts_for_a_file_that_says_all_of_itself_are_refused(tmp_path):
    path = tmp_path / "edm.pkl"
    checkpoints.write({"ema": None}, path)
    tiny = teachers.edm.EDMPrecond(8, 1, model_channels=8, channel_mult=[1], num_blocks=1)  # pyright: ignore[reportAttributeAccessIssue]
    teachers.save(tiny, path)
    with pytest.raises(ValueError, match="says all of itself, but num_heads is given"):
        teachers.load(path, facts={"num_heads": 4})


def test_labels_are_needed_where_there_are_classes(tmp_path):
    denoiser = teachers.load(written(tmp_path / "net.pt", network("adm")), facts=FACTS)
    x = torch.randn(2, 1, 8, 8)
    with pytest.raises(ValueError, match="3 classes and no model without a class"):
        denoiser(x, 1.0)
    first, second = (denoiser(x, 1.0, torch.eye(3)[i : i + 1]) for i in (0, 1))
    assert float((first - second).abs().max()) > 1e-3


def test_a_linear_schedule_is_its_closed_form_and_a_cosine_one_is_its_clipped():
    a = schedule("cosine", 1000)
    u = torch.arange(1, 1000, dtype=torch.float64) / 1000
    f = ((u + 0.008) / 1.008 * math.pi / 2).cos().square()
    torch.testing.assert_close(a[:-1], f / math.cos(0.008 / 1.008 * math.pi / 2) ** 2)
    assert float(a[-1] / a[-2]) == pytest.approx(1e-3)
    # sum of ln(1 - beta_i) to third order in beta.
    beta = torch.linspace(1e-4, 0.02, 1000, dtype=torch.float64)
    log_a = -(beta + beta.square() / 2 + beta**3 / 3).sum()
    assert float(schedule("linear", 1000)[-1].log()) == pytest.approx(float(log_a), abs=1e-4)


def test_sigma_max_of_a_cosine_schedule_is_the_step_before_the_clipped_one(tmp_path):
    path = written(tmp_path / "net.pt", network("convolutions"))
    denoiser = teachers.load(path, facts={**FACTS, "noise_schedule": "cosine"})
    # Facts of the originals' schedules.
    assert denoiser.sigma_min == pytest.approx(0.00643, rel=1e-3)
    assert denoiser.sigma_max == pytest.approx(641.7, rel=1e-3)
    linear = teachers.load(path, facts=FACTS)
    assert (linear.sigma_min, linear.sigma_max) == pytest.approx((0.01, 157.4), rel=1e-3)


GUIDED_SAMPLES = [
    "gd-adm-cond-updown-newattn-fp16-small",
    "gd-conv-uncond-fp16-small",
    "cm-edm-cond-ssn-small",
]


def facts_of(manifest: dict[str, Any]) -> dict[str, Any]:
    model, diffusion = manifest["model"], manifest.get("diffusion", {})
    facts = {"image_size": manifest["image_size"]}
    heads = ("num_heads", "num_head_channels", "use_new_attention_order")
    facts |= {key: model[key] for key in heads if key in model}
    if "preconditioning" in manifest:
        return {**facts, "preconditioning": "edm"}
    names = ("noise_schedule", "rescale_timesteps", "predict_xstart")
    return {**facts, "diffusion_steps": diffusion["steps"], **{n: diffusion[n] for n in names}}


@pytest.mark.parametrize("name", GUIDED_SAMPLES)
def test_a_file_of_the_original_denoises_as_there(samples, name):
    facts = facts_of(json.loads((samples / f"{name}.manifest.json").read_text()))
    denoiser = teachers.load(samples / f"{name}.pt", facts=facts)
    with np.load(samples / f"{name}.ref.npz") as file:
        ref = {key: torch.from_numpy(file[key]).float() for key in file if "x_t" not in key}
    labels = ref.get("labels")
    for end in ("", "_frac") if "x_frac" in ref else ("",):
        expected = ref[f"denoised{end}"]
        got = denoiser(ref[f"x{end}"], ref[f"sigma{end}"], labels)
        worst = float((got - expected).abs().max() / expected.abs().max())
        assert worst < 1e-5


PUBLISHED = [
    *("gd-imagenet-64-cond", "gd-imagenet-128-cond", "gd-imagenet-256-cond"),
    *("gd-imagenet-512-cond", "gd-lsun-256", "p2-256", "cm-edm-imagenet64", "cm-edm-lsun-256"),
    *("improved-cifar10", "improved-imagenet64-uncond", "improved-lsun-bedroom-256"),
]


@pytest.mark.parametrize("name", PUBLISHED)
def test_a_published_configuration_is_built_exactly_and_known(samples, name):
    manifest = json.loads((samples / f"real-{name}.manifest.json").read_text())
    tensors = {n: torch.empty(size, device="meta") for n, size, _ in manifest["tensors"]}
    guided_diffusion.check_denoises(tensors)
    shape = guided_diffusion.Shape.of(tensors)
    rows = [row for row in published_facts.GUIDED if row.fits(shape)]
    assert len(rows) == 1
    (row,) = rows
    assert row.facts["image_size"] == manifest["flags"]["image_size"]
    # The flags of their README fit the tensors and the row.
    flags = facts.read(manifest["flags"], facts.GUIDED, "flags")
    guided_diffusion.compare(shape, flags)
    heads, said = (guided_diffusion.heads_of(shape, found) for found in (row.facts, flags))
    for name, tensor in tensors.items():
        if name.endswith("qkv.weight"):
            assert heads.of(tensor.shape[1]) == said.of(tensor.shape[1])
    with torch.device("meta"):
        net = shape.network(heads)
    sizes = [[n, list(t.shape)] for n, t in net.state_dict().items()]
    assert sizes == [[n, size] for n, size, _ in manifest["tensors"]]
    assert isinstance(guided_diffusion.scale_of(row.facts), torch.nn.Module)


def test_the_denoiser_is_one_for_all_such_networks(tmp_path):
    denoiser = teachers.load(written(tmp_path / "net.pt", network("adm")), facts=FACTS)
    assert isinstance(denoiser, ConvertedDenoiser)
    assert not denoiser.training
    assert not any(p.requires_grad for p in denoiser.parameters())
