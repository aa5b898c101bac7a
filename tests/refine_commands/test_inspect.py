"""`inspect` tells what a file holds, from the file alone."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, cast

import pytest
import safetensors.torch
import torch

import checkpoints
import students
import teachers
from refiners.runs.provenance import sha256
from students.foreign import rosinality
from students.stylegan2.generator import Generator


@pytest.fixture
def facts(refine_py):
    """The facts of a file, and the same as text."""

    def of(path: Path) -> tuple[dict[str, Any], str]:
        printed, text = refine_py("inspect", path, "--json"), refine_py("inspect", path)
        assert printed.exit_code == text.exit_code == 0, printed.output
        return json.loads(printed.output), text.output

    return of


def test_a_generators_facts_are_those_of_the_network_that_loads(files, facts):
    student = students.load(files / "large.pkl")
    found, text = facts(files / "large.pkl")
    network = found["networks"]["G_ema"]
    assert network["sizes"] == {
        **{"img_resolution": 32, "img_channels": 3, "z_dim": 8, "c_dim": 2, "w_dim": 8},
        "num_ws": student.num_ws,
    }
    assert network["parameters"] == sum(p.numel() for p in student.parameters())
    assert sum(layer["parameters"] for layer in network["layers"]) == network["parameters"]
    assert network["buffers"] == sum(b.numel() for b in student.buffers())
    assert network["options"]["mapping_kwargs"] == {"num_layers": 1}
    assert found["kind"] == "StyleGAN2-ADA generator"
    assert found["writer"] == "stylegan-refiner, for stylegan2-ada-pytorch"
    assert found["sha256"] == sha256(files / "large.pkl")
    assert "training.networks.Generator" in found["globals"]
    assert "torch.FloatStorage" in found["globals"]
    for shown in (found["sha256"], "32 x 32, 3 channels, z 8, w 8", "2 classes", "num_layers = 1"):
        assert shown in text


def test_no_network_is_built(files, facts, monkeypatch):
    def refuse(*arguments: Any, **options: Any) -> None:
        raise AssertionError("a module was made")

    monkeypatch.setattr(torch.nn.Module, "__init__", refuse)
    for name in ("gan.pkl", "classes.pkl"):
        assert facts(files / name)[0]["networks"]


def test_a_denoiser_and_a_one_step_generator_on_it_are_told_apart(files, facts, tmp_path):
    found, text = facts(files / "classes.pkl")
    assert found["kind"] == "EDM denoiser (EDMPrecond)"
    assert found["networks"]["ema"]["sizes"]["label_dim"] == 3
    assert found["others"]["augment_pipe"] is None
    data = cast("Any", checkpoints.read(files / "classes.pkl"))
    checkpoints.write({"ema": data["ema"], "init_sigma": 2.5}, tmp_path / "one.pkl")
    found, text = facts(tmp_path / "one.pkl")
    assert found["kind"] == "one-step generator on an EDM denoiser (EDMPrecond)"
    assert "init_sigma = 2.5" in text


def test_tensors_that_are_not_finite_are_named(files, facts, tmp_path):
    data = cast("Any", checkpoints.read(files / "gan.pkl"))
    bad = {"mapping.fc0.bias": torch.full([8], float("nan"))}
    checkpoints.write({"G_ema": checkpoints.with_tensors(data["G_ema"], bad)}, tmp_path / "nan.pkl")
    found, text = facts(tmp_path / "nan.pkl")
    assert found["networks"]["G_ema"]["nonfinite"] == ["mapping.fc0.bias"]
    assert "WARNING: G_ema mapping.fc0.bias is not finite" in text
    assert not facts(files / "gan.pkl")[0]["networks"]["G_ema"]["nonfinite"]


def test_other_formats_are_named_too(tmp_path, facts):
    network = Generator(
        z_dim=6,
        c_dim=0,
        w_dim=6,
        img_resolution=16,
        img_channels=3,
        mapping_kwargs={"num_layers": 1, "lr_multiplier": 0.01},
        synthesis_kwargs={"channel_base": 64, "channel_max": 6},
    )
    rosinality.save(network.eval().requires_grad_(False), tmp_path / "g.pt")
    found, _ = facts(tmp_path / "g.pt")
    assert found["writer"] == "rosinality's stylegan2-pytorch"
    sizes = found["networks"]["G_ema"]["sizes"]
    assert (sizes["img_resolution"], sizes["z_dim"], sizes["num_ws"]) == (16, 6, network.num_ws)
    assert found["networks"]["G_ema"]["parameters"] == sum(p.numel() for p in network.parameters())

    tensors = {"a.weight": torch.ones(2, 3), "a.bias": torch.ones(2)}
    torch.save({"state": tensors, "step": 3}, tmp_path / "other.pt")
    found, _ = facts(tmp_path / "other.pt")
    assert found["networks"]["state"]["layers"] == [
        {"name": "a", "class_name": "", "shape": [2, 3], "parameters": 8}
    ]
    assert found["others"] == {"step": 3}

    safetensors.torch.save_file(tensors, tmp_path / "a.safetensors")
    assert facts(tmp_path / "a.safetensors")[0]["networks"][""]["parameters"] == 8

    folder = tmp_path / "folder" / "unet"
    folder.mkdir(parents=True)
    safetensors.torch.save_file(tensors, folder / "diffusion_pytorch_model.safetensors")
    config = {"_class_name": "UNet2DModel", "sample_size": 32, "in_channels": 3}
    (folder / "config.json").write_text(json.dumps(config))
    found, text = facts(tmp_path / "folder")
    assert found["kind"] == "diffusers UNet2DModel denoiser"
    assert "32 x 32, 3 channels, unconditional" in text


def test_control_characters_of_a_file_do_not_reach_the_terminal(tmp_path, facts):
    record = checkpoints.describe(torch.nn.Linear(2, 2).requires_grad_(False), source="")
    cast("Any", record.state)["_init_kwargs"] = {
        "\x1b[31mname": "\x1b]0;title\x07",
        "many": "a" * 10_000,
    }
    checkpoints.write({"G_ema": record, "k\x1b": "\x07"}, tmp_path / "a.pkl")
    text = facts(tmp_path / "a.pkl")[1]
    assert "\x1b" not in text and "\x07" not in text
    assert len(text) < 3000


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "does not exist"),
        (b"", "is empty"),
        (b"not a pickle", "is not a network pickle"),
        (b"\x80\x04cos\nsystem\n.", r"refers to os.system"),
        (b"\x80\x04N.", "holds no network"),
    ],
)
def test_a_bad_file_is_one_line_and_exit_code_2(tmp_path, refine_py, content, message):
    path = tmp_path / "bad.pkl"
    if content is not None:
        path.write_bytes(content)
    result = refine_py("inspect", path)
    assert result.exit_code == 2
    assert message in result.output and result.output.count("\n") == 1


def test_reference_files_are_recognised(samples, facts):
    kinds = {
        "sg2ada-cifar-uncond-small": "StyleGAN2-ADA generator",
        "sg3t-32-uncond-small": "StyleGAN3-T generator",
        "r3gan-32-uncond-small": "R3GAN generator",
        "tflegacy-skip-resnet16-uncond": "StyleGAN2 generator (TensorFlow legacy)",
        "edm2-img64-cond-small": "EDM2 denoiser",
    }
    for name, kind in kinds.items():
        path = samples / f"{name}.pkl"
        found, _ = facts(path)
        assert found["kind"] == kind
        is_student = "denoiser" not in kind
        network: Any = students.load(path) if is_student else teachers.load(path)
        main = found["networks"][found["main"]]
        if "TensorFlow" not in kind:
            assert main["parameters"] == sum(p.numel() for p in network.parameters())
        assert main["sizes"]["img_channels"] == network.img_channels
        assert main["sizes"]["img_resolution"] == network.img_resolution


def test_lists_that_share_their_parts_are_said_in_short(files, facts, tmp_path):
    value: list[Any] = [1] * 200
    for _ in range(4):
        value = [value] * 200
    data = cast("dict[str, Any]", checkpoints.read(files / "gan.pkl"))
    checkpoints.write({**data, "about": value, "more": ["\x1b[31m"]}, tmp_path / "a.pkl")
    found, text = facts(tmp_path / "a.pkl")
    assert found["others"]["more"] == [r"\x1b[31m"] and "\x1b" not in text
    assert found["others"]["about"][1] == "a list of 200 items"
    assert len(text) < 100_000


def test_a_configuration_that_says_no_call_is_refused(files, refine_py, tmp_path):
    refine_py("export", files / "gan.pkl", "--out", tmp_path / "a.safetensors")
    config = json.loads((tmp_path / "config.json").read_text())
    config["modules"][""]["state"]["_init_args"] = 5
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(ValueError, match="malformed _init_args"):
        students.load(tmp_path / "a.safetensors")
