"""What is exported gives the same images, in every format, and loads back where it can."""

from __future__ import annotations

import json
import re
from typing import Any, cast

import pytest
import torch

import checkpoints
import students
from students import originals
from students.stylegan2.generator import Generator


def colour(folder):
    """A generator that rosinality's format can hold."""
    torch.manual_seed(0)
    network = Generator(
        z_dim=6,
        c_dim=0,
        w_dim=6,
        img_resolution=8,
        img_channels=3,
        mapping_kwargs={"num_layers": 2, "lr_multiplier": 0.01},
        synthesis_kwargs={"channel_base": 32, "channel_max": 4},
    )
    record = originals.describe(network.eval().requires_grad_(False))
    checkpoints.write({"G_ema": record, "training_set_kwargs": {"path": "x.zip"}}, folder / "g.pkl")
    return folder / "g.pkl"


def largest_difference(output: str) -> float:
    found = re.search(r"largest difference of the images of 4 seeds (\S+)$", output.strip())
    assert found, output
    return float(found[1])


@pytest.mark.parametrize(("name", "most"), [("a.pkl", 0), ("a.safetensors", 0), ("a.pt", 1e-4)])
def test_every_format_is_checked_and_loads_back(name, most, refine_py, tmp_path):
    source, out = colour(tmp_path), tmp_path / "out" / name
    out.parent.mkdir()
    result = refine_py("export", source, "--out", out)
    assert result.exit_code == 0, result.output
    assert largest_difference(result.output) <= most
    z = torch.randn(2, 6)
    images = [students.load(path)(z, noise_mode="none") for path in (source, out)]
    torch.testing.assert_close(images[1], images[0], rtol=0, atol=max(most, 1e-7))


def test_safetensors_come_with_their_configuration_and_a_card(refine_py, files, tmp_path):
    out = tmp_path / "net" / "classes.safetensors"
    result = refine_py("export", files / "large.pkl", "--out", out)
    assert result.exit_code == 0, result.output
    assert sorted(path.name for path in out.parent.iterdir()) == [
        "README.md",
        "classes.safetensors",
        "config.json",
    ]
    config = json.loads((out.parent / "config.json").read_text())
    assert (config["file"], config["network"]) == ("classes.safetensors", "G_ema")
    card = (out.parent / "README.md").read_text()
    digest = checkpoints.sha256(files / "large.pkl")
    for said in ("StyleGAN2", "32 x 32 with 3 channels", "one of 2 classes", digest):
        assert said in card
    assert json.loads(refine_py("inspect", out, "--json").output)["kind"].startswith("StyleGAN2")
    # What the card tells its reader to run gives images.
    program = re.search(r"```python\n(.*?)```", card, flags=re.DOTALL)
    assert program
    for needed in ("students.load(", "student.sample_latents(4)", "torch.eye(2)"):
        assert needed in program[1]


def test_the_same_export_again_is_the_same_file(refine_py, tmp_path):
    source = colour(tmp_path)
    for name in ("a.pkl", "b.pkl"):
        refine_py("export", source, "--out", tmp_path / name)
        source = tmp_path / name
    assert (tmp_path / "a.pkl").read_bytes() == (tmp_path / "b.pkl").read_bytes()
    assert cast("Any", checkpoints.read(source))["training_set_kwargs"] == {"path": "x.zip"}


@pytest.mark.parametrize(
    ("network", "options", "message"),
    [
        ("gan.pkl", ("--out", "a.bin"), "no known suffix"),
        ("gan.pkl", ("--out", "a.bin", "--format", "safetensors"), "the suffix .safetensors"),
        ("gan.pkl", ("--out", "a.pt"), "1 channels"),
        ("large.pkl", ("--out", "a.pt"), "2 classes"),
        ("teacher.pkl", ("--out", "a.pkl"), "it is a teacher"),
        ("gan.pkl", ("--out", "a.pkl", "--network", "D"), "has no network D; it has G_ema"),
    ],
)
def test_what_cannot_be_exported_is_one_line_and_writes_nothing(
    files, refine_py, tmp_path, monkeypatch, network, options, message
):
    monkeypatch.chdir(tmp_path)
    result = refine_py("export", files / network, *options)
    assert result.exit_code == 2
    assert message in result.output and result.output.count("\n") == 1
    assert not list(tmp_path.iterdir())


def test_onnx_without_its_packages_says_what_to_install(refine_py, tmp_path, monkeypatch):
    monkeypatch.setattr("students.foreign.onnx.PACKAGES", ("no_such_package",))
    result = refine_py("export", colour(tmp_path), "--out", tmp_path / "a.onnx")
    assert result.exit_code == 2
    assert "pip install 'stylegan-refiner[onnx]'" in result.output
    assert not list(tmp_path.glob("*.onnx"))


# torch's and onnxscript's own code warns of what it will change.
@pytest.mark.filterwarnings("default::DeprecationWarning", "default::FutureWarning")
@pytest.mark.slow
def test_onnx_takes_any_number_of_ws_and_has_the_images_of_torch(refine_py, tmp_path):
    onnx = pytest.importorskip("onnx")
    onnxruntime = pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    result = refine_py("export", colour(tmp_path), "--out", tmp_path / "a.onnx")
    assert result.exit_code == 0, result.output
    assert largest_difference(result.output) < 1e-4
    student = students.load(tmp_path / "g.pkl")
    names = ("a-mapping.onnx", "a.onnx")
    mapping, synthesis = (
        onnxruntime.InferenceSession(str(tmp_path / name), providers=["CPUExecutionProvider"])
        for name in names
    )
    for name in names:
        opsets = {entry.domain: entry.version for entry in onnx.load(tmp_path / name).opset_import}
        assert opsets[""] == 18
    z = torch.randn(3, 6)
    (ws,) = mapping.run(["ws"], {"z": z.numpy()})
    torch.testing.assert_close(torch.from_numpy(ws), student.get_submodule("mapping")(z))
    (images,) = synthesis.run(["images"], {"ws": ws})
    expected = student(z, noise_mode="const")
    torch.testing.assert_close(torch.from_numpy(images), expected, rtol=0, atol=1e-4)


def test_tensors_alone_take_class_and_options_from_another_file(refine_py, tmp_path):
    source, out = colour(tmp_path), tmp_path / "out.pkl"
    state = students.load(source).state_dict()
    state = {f"module.{name}": value + 0.1 for name, value in state.items()}
    torch.save({"netG": state}, tmp_path / "a.pth")
    result = refine_py("export", tmp_path / "a.pth", "--like", source, "--out", out)
    assert result.exit_code == 0, result.output
    assert largest_difference(result.output) == 0
    loaded = students.load(out).state_dict()
    assert all(torch.equal(loaded[name], state[f"module.{name}"]) for name in loaded)
    assert checkpoints.read(out)["training_set_kwargs"] == {"path": "x.zip"}  # pyright: ignore
    refused = refine_py("export", tmp_path / "a.pth", "--like", source, "--out", tmp_path / "b.pt")
    assert refused.exit_code == 2
    assert "--like writes a pickle first" in refused.stderr
