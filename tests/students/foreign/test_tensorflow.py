"""TensorFlow pickles of StyleGAN2, written here from networks of ours, are the same networks."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import torch

import checkpoints
import students
from checkpoints import Record
from students.stylegan2.discriminator import Discriminator
from students.stylegan2.generator import Generator

R = 16
LAYERS = {"torgb": "ToRGB", "skip": "Skip", "fromrgb": "FromRGB", "conv": "Conv", "fc": "Dense0"}
GENERATOR = {"conv0": "Conv0_up", "conv1": "Conv1", **LAYERS}
DISCRIMINATOR = {"conv0": "Conv0", "conv1": "Conv1_down", **LAYERS}


def network(options: dict[str, Any], variables: list[Any], **components: Record) -> Record:
    state = {
        "version": 4,
        "name": "net",
        "static_kwargs": {"resolution": R, "fmap_base": 64, "fmap_max": 8, **options},
        "components": components,
        "build_module_src": "import os",
        "build_func_name": "build",
        "variables": variables,
    }
    return Record("Network", None, None, state, module="dnnlib.tflib.network")


def kernel(w: np.ndarray, *, turned: bool = False) -> np.ndarray:
    """[out, in, h, w] to TensorFlow's [h, w, in, out]."""
    w = w.transpose(2, 3, 1, 0)
    return np.ascontiguousarray(w[::-1, ::-1] if turned else w)


def generator_record(generator: Any, options: dict[str, Any], *, lod: bool = False) -> Record:
    top: list[Any] = [("lod", np.float32(0))]
    mapping, synthesis = [], []
    for name, tensor in generator.state_dict().items():
        value, parts = tensor.numpy(), name.split(".")
        if name == "mapping.w_avg":
            top.append(("dlatent_avg", value))
        elif parts[0] == "mapping":
            layer = "LabelEmbed" if parts[1] == "embed" else f"Dense{parts[1][2:]}"
            mapping.append((f"{layer}/{parts[2]}", value.T))
        elif parts[-1] == "const":
            synthesis.append(("4x4/Const/const", value[None]))
        elif parts[-1] == "noise_const":
            first = 2 * int(math.log2(int(parts[1][1:]))) - (5 if parts[2] == "conv0" else 4)
            synthesis.append((f"noise{first}", value[None, None]))
        elif parts[-1] != "resample_filter":
            r, layer = int(parts[1][1:]), parts[2]
            there = f"{r}x{r}/{'Conv' if r == 4 and layer == 'conv1' else GENERATOR[layer]}"
            if lod and layer == "torgb":
                there = f"ToRGB_lod{int(math.log2(R // r))}"
            form = ".".join(parts[3:])
            if form == "weight":
                value = kernel(value, turned=layer in ("conv0", "skip"))
            elif form == "affine.weight":
                form, value = "mod_weight", value.T
            elif form == "affine.bias":
                form, value = "mod_bias", value - 1
            synthesis.append((f"{there}/{form}", value))
    parts = {"mapping": network({}, mapping), "synthesis": network({}, synthesis)}
    return network(options, top, **parts)


def discriminator_record(
    discriminator: Any, options: dict[str, Any], *, lod: bool = False
) -> Record:
    variables = []
    for name, tensor in discriminator.state_dict().items():
        value, parts = tensor.numpy(), name.split(".")
        if parts[-1] == "resample_filter":
            continue
        if parts[0] == "mapping":
            there = "LabelEmbed" if parts[1] == "embed" else f"Mapping{parts[1][2:]}"
        elif parts[1] == "out":
            there = "Output"
        elif lod and parts[1] == "fromrgb":
            there = "FromRGB_lod0"
        else:
            there = f"{parts[0][1:]}x{parts[0][1:]}/{DISCRIMINATOR[parts[1]]}"
        variables.append((f"{there}/{parts[2]}", kernel(value) if value.ndim == 4 else value.T))
    return network(options, variables)


def off_zero(module: Any) -> Any:
    for name, tensor in module.state_dict().items():
        if not name.endswith("filter"):
            tensor.add_(0.3 * torch.randn_like(tensor))
    return module.eval().requires_grad_(False)


# Options there, and those of the same generator and discriminator here.
WAYS: dict[str, tuple[dict[str, Any], dict[str, Any], dict[str, Any], dict[str, Any]]] = {
    "skip": (
        {"label_size": 3, "mapping_layers": 2, "mapping_fmaps": 7, "label_fmaps": 4},
        {"mapping_kwargs": {"num_layers": 2, "layer_features": 7, "embed_features": 4}},
        {"label_size": 3, "mapping_layers": 1, "mapping_fmaps": 6, "mbstd_group_size": 2},
        {
            "cmap_dim": 6,
            "mapping_kwargs": {"num_layers": 1, "embed_features": 6, "lr_multiplier": 0.1},
            "epilogue_kwargs": {"mbstd_group_size": 2},
        },
    ),
    "resnet": (
        {"num_channels": 1, "architecture": "resnet", "resample_kernel": [1, 2, 1]},
        {"synthesis_kwargs": {"architecture": "resnet", "resample_filter": [1, 2, 1]}},
        {"num_channels": 1, "architecture": "skip", "nonlinearity": "relu"},
        {
            "architecture": "skip",
            "block_kwargs": {"activation": "relu"},
            "mapping_kwargs": {"activation": "relu"},
            "epilogue_kwargs": {"mbstd_group_size": None, "activation": "relu"},
        },
    ),
    "orig": (
        {"label_size": 3, "architecture": "orig", "use_noise": False, "w_avg_beta": None},
        {
            "mapping_kwargs": {"w_avg_beta": 1},
            "synthesis_kwargs": {"architecture": "orig", "use_noise": False},
        },
        {"label_size": 3, "architecture": "orig", "mbstd_num_features": 0},
        {
            "architecture": "orig",
            "mapping_kwargs": {"num_layers": 0},
            "epilogue_kwargs": {"mbstd_num_channels": 0},
        },
    ),
    "lod": (
        {"structure": "linear", "mapping_lrmul": 0.1},
        {"mapping_kwargs": {"lr_multiplier": 0.1}, "synthesis_kwargs": {"architecture": "orig"}},
        {"structure": "linear"},
        {"architecture": "orig", "epilogue_kwargs": {"mbstd_group_size": None}},
    ),
}


class Pair:
    """Networks of ours and the TensorFlow pickle of the same networks."""

    def __init__(self, way: str, path: Path):
        g_there, g_here, d_there, d_here = WAYS[way]
        c_dim, channels = g_there.get("label_size", 0), g_there.get("num_channels", 3)
        sizes: Any = {"c_dim": c_dim, "img_resolution": R, "img_channels": channels}
        width = {"channel_base": 128, "channel_max": 8}
        synthesis = {**width, **g_here.get("synthesis_kwargs", {})}
        mapping = g_here.get("mapping_kwargs", {})
        latents: Any = {"z_dim": 6, "w_dim": 5}
        self.networks: dict[str, Any] = {
            name: off_zero(
                Generator(**sizes, **latents, mapping_kwargs=mapping, synthesis_kwargs=synthesis)
            )
            for name in ("G", "G_ema")
        }
        self.networks["D"] = off_zero(Discriminator(**{**sizes, **width, **d_here}))
        g_there = {"latent_size": 6, "dlatent_size": 5, "truncation_psi": 0.5, **g_there}
        lod = way == "lod"
        self.records = {
            "G": generator_record(self.networks["G"], g_there, lod=lod),
            "D": discriminator_record(self.networks["D"], d_there, lod=lod),
            "G_ema": generator_record(self.networks["G_ema"], g_there, lod=lod),
        }
        self.path = path / f"{way}.pkl"
        self.z, self.x = torch.randn(4, 6), torch.randn(4, channels, R, R)
        self.c = torch.eye(3)[[0, 1, 2, 0]] if c_dim else None
        self.write()

    def write(self) -> Path:
        checkpoints.write(tuple(self.records.values()), self.path)
        return self.path

    def output(self, name: str, module: Any) -> torch.Tensor:
        if name == "D":
            return module(self.x, self.c)
        return module(self.z, self.c, noise_mode="const", truncation_psi=0.7)


@pytest.mark.parametrize("way", WAYS)
def test_each_network_loads_with_its_tensors_and_outputs(tmp_path: Path, way: str):
    pair = Pair(way, tmp_path)
    for name, written in pair.networks.items():
        loaded = students.load(pair.path, network=name)
        ours, theirs = loaded.state_dict(), written.state_dict()
        assert list(ours) == list(theirs)
        for key, value in ours.items():
            torch.testing.assert_close(value, theirs[key], rtol=0, atol=1e-6)
        torch.testing.assert_close(pair.output(name, loaded), pair.output(name, written))


@pytest.mark.parametrize("way", WAYS)
def test_a_student_is_saved_as_a_pickle_of_today_with_all_networks(tmp_path: Path, way: str):
    pair, out = Pair(way, tmp_path), tmp_path / "out.pkl"
    student = students.load(pair.path)
    student.get_parameter("synthesis.b8.conv0.weight").add_(0.1)
    students.save(student, out, like=pair.path)
    data = cast("Any", checkpoints.read(out))
    assert list(data) == ["G", "D", "G_ema", "training_set_kwargs", "augment_pipe"]
    assert {record.module for record in map(data.get, ("G", "D", "G_ema"))} == {"training.networks"}
    for name, expected in (*pair.networks.items(), ("G_ema", student)):
        if expected is not pair.networks["G_ema"]:
            loaded = students.load(out, network=name)
            torch.testing.assert_close(pair.output(name, loaded), pair.output(name, expected))


def test_loading_leaves_the_random_state_alone(tmp_path: Path):
    pair = Pair("skip", tmp_path)
    before = torch.get_rng_state()
    students.load(pair.path)
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda s: s.update(version=3), "network of version 3; those of StyleGAN2 have 4"),
        (lambda s: s.update(static_kwargs=None), "static_kwargs are None"),
        (lambda s: s["static_kwargs"].update(attention=1), "unknown options: 'attention'"),
        (lambda s: s["static_kwargs"].update(resolution=2**40), "img_resolution is 1099511627776"),
        (lambda s: s["static_kwargs"].update(fmap_base="x"), "channel_base is 'x'"),
        (lambda s: s["static_kwargs"].update(dlatent_size=2**15), "instead of"),
        (lambda s: s["static_kwargs"].update(mapping_nonlinearity="gelu"), "activation is 'gelu'"),
        (lambda s: s["variables"].pop(), "the variable dlatent_avg is missing"),
        (lambda s: s.update(variables=[("dlatent_avg", 3)]), "no list of names and arrays"),
        (lambda s: s.update(variables=None), "no list of names and arrays"),
        (lambda s: s.update(components={}), "the variable synthesis/4x4/Const/const is missing"),
        (lambda s: s["variables"][1][1].fill(np.nan), r"not finite: mapping\.w_avg"),
        (
            lambda s: (
                s["components"]["mapping"]
                .state["variables"]
                .__setitem__(0, ("Dense0/weight", np.zeros(3, np.float32)))
            ),
            r"mapping/Dense0/weight is \[3\], which is no matrix",
        ),
        (
            lambda s: (
                s["components"]["synthesis"]
                .state["variables"]
                .append(("4x4/Const/const", np.zeros((0, 8, 4, 4), np.float32)))
            ),
            r"which is no constant",
        ),
    ],
)
def test_what_makes_no_network_is_named(tmp_path: Path, change, message):
    pair = Pair("lod", tmp_path)
    change(pair.records["G_ema"].state)
    with pytest.raises(ValueError, match=message) as caught:
        students.load(pair.write())
    assert "network G_ema: " in str(caught.value) and "\n" not in str(caught.value)
    assert students.load(pair.path, network="D").img_resolution == R


def test_images_are_those_of_the_original(samples: Path):
    generator = students.load(samples / "tflegacy-skip-resnet16-uncond.pkl")
    discriminator = students.load(samples / "tflegacy-skip-resnet16-uncond.pkl", network="D")
    with np.load(samples / "tflegacy-skip-resnet16-uncond.ref.npz") as file:
        ref = {name: torch.from_numpy(file[name]) for name in file}

    def near(ours: torch.Tensor, theirs: torch.Tensor) -> None:
        torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-4)

    near(generator.get_submodule("mapping")(ref["z"]), ref["ws"])
    near(generator.get_buffer("mapping.w_avg"), ref["w_avg"])
    near(generator(ref["z"], noise_mode="const"), ref["img_const"])
    near(generator(ref["z"], noise_mode="const", truncation_psi=0.5), ref["img_psi0p5"])
    near(discriminator(ref["img_const"]), ref["logits"])
