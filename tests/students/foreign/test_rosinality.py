"""Files of rosinality's stylegan2-pytorch: the same network in other names and shapes."""

from __future__ import annotations

import argparse
from collections import OrderedDict
from pathlib import Path
from typing import Any

import pytest
import torch

import students
from students.foreign import rosinality
from students.stylegan2.generator import Generator

SIZES: dict[str, Any] = {"c_dim": 0, "img_channels": 3, "img_resolution": 16}


def make(**options: Any) -> Any:
    mapping = {"num_layers": 2, "lr_multiplier": 0.01, **options.pop("mapping", {})}
    synthesis = {"channel_base": 64, "channel_max": 8, **options.pop("synthesis", {})}
    sizes = {"z_dim": 6, "w_dim": 6, **SIZES, **options}
    generator = Generator(**sizes, mapping_kwargs=mapping, synthesis_kwargs=synthesis)
    for name, tensor in generator.state_dict().items():
        if name.endswith(("bias", "strength", "w_avg")):
            tensor.add_(0.3 * torch.randn_like(tensor))
    return generator.eval().requires_grad_(False)


def images(generator: Any, psi: float = 1.0) -> torch.Tensor:
    z = torch.randn(3, generator.z_dim, generator=torch.Generator().manual_seed(1))
    return generator(z, noise_mode="const", truncation_psi=psi)


def test_a_written_generator_loads_with_the_same_images(tmp_path: Path):
    written = make()
    rosinality.save(written, tmp_path / "g.pt")
    loaded = students.load(tmp_path / "g.pt")
    assert torch.equal(images(loaded), images(written))
    assert torch.equal(images(loaded, 0.5), images(written, 0.5))
    assert list(loaded.state_dict()) == list(written.state_dict())


def test_names_and_shapes_are_those_of_the_program(tmp_path: Path):
    """As its Generator(16, 6, 2) has them (model.py); weights_only is enough to read the file."""
    rosinality.save(make(), tmp_path / "g.pt")
    data = torch.load(tmp_path / "g.pt", weights_only=True)
    shapes = {name: tuple(tensor.shape) for name, tensor in data["g_ema"].items()}
    layer = {
        "conv.weight": (1, 8, 8, 3, 3),
        "conv.modulation.weight": (8, 6),
        "conv.modulation.bias": (8,),
        "noise.weight": (1,),
        "activate.bias": (8,),
    }
    image = {
        "conv.weight": (1, 3, 8, 1, 1),
        "conv.modulation.weight": (8, 6),
        "conv.modulation.bias": (8,),
        "bias": (1, 3, 1, 1),
    }
    expected = {f"conv1.{k}": v for k, v in layer.items()}
    expected |= {f"to_rgb1.{k}": v for k, v in image.items()}
    expected |= {f"convs.{i}.{k}": v for i in (0, 1) for k, v in layer.items()}
    expected |= {f"to_rgbs.0.{k}": v for k, v in image.items()}
    expected |= {"input.input": (1, 8, 4, 4)}
    expected |= {
        f"style.{i}.{p}": (6,) * n for i in (1, 2) for p, n in (("weight", 2), ("bias", 1))
    }
    found = {k: v for k, v in shapes.items() if k in expected}
    assert found == expected
    kernels = [name for name in shapes if name.endswith("kernel")]
    assert sorted(kernels) == sorted(
        f"{n}.kernel" for i in (0, 1) for n in (f"convs.{2 * i}.conv.blur", f"to_rgbs.{i}.upsample")
    )
    assert all(float(data["g_ema"][name].sum()) == 4 for name in kernels)
    sides = [shapes[f"noises.noise_{i}"] for i in range(5)]
    assert sides == [(1, 1, r, r) for r in (4, 8, 8, 16, 16)]
    assert data["latent_avg"].shape == (6,)


def test_another_learning_rate_of_the_mapping_becomes_part_of_the_weights(tmp_path: Path):
    written = make(mapping={"lr_multiplier": 0.5})
    rosinality.save(written, tmp_path / "g.pt")
    torch.testing.assert_close(
        images(students.load(tmp_path / "g.pt")), images(written), rtol=0, atol=1e-4
    )


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"c_dim": 2}, "2 classes"),
        ({"img_channels": 1}, "1 channels"),
        ({"z_dim": 5}, "other widths in its mapping"),
        ({"mapping": {"layer_features": 7}}, "other widths in its mapping"),
        ({"mapping": {"activation": "relu"}}, "another activation"),
        ({"synthesis": {"architecture": "resnet"}}, "architecture resnet"),
        ({"synthesis": {"use_noise": False}}, "no noise"),
        ({"synthesis": {"kernel_size": 1}}, "not 3 x 3"),
        ({"synthesis": {"activation": "relu"}}, "activation relu"),
        ({"synthesis": {"resample_filter": [1, 2, 1]}}, "not 4 taps"),
    ],
)
def test_what_the_format_cannot_hold_is_named(tmp_path: Path, options, message):
    with pytest.raises(ValueError, match=message):
        rosinality.save(make(**options), tmp_path / "g.pt")
    assert not list(tmp_path.iterdir())
    with pytest.raises(ValueError, match="a Linear is no StyleGAN2 generator"):
        rosinality.save(torch.nn.Linear(2, 2), tmp_path / "g.pt")


def training_file(path: Path) -> Path:
    """What the program's train.py saves, its discriminator aside."""
    states = {}
    for key in ("g", "g_ema"):
        rosinality.save(make(), path)
        states[key] = torch.load(path)["g_ema"]
    args = argparse.Namespace(size=16, latent=6)
    torch.save({**states, "args": args, "ada_aug_p": 0.5, "g_optim": {"state": {}}}, path)
    return path


def test_a_saved_student_changes_its_network_alone(tmp_path: Path):
    like, out = training_file(tmp_path / "like.pt"), tmp_path / "out.pt"
    student = students.load(like)
    student.get_parameter("synthesis.b8.conv0.weight").add_(0.1)
    student.get_buffer("mapping.w_avg").add_(0.1)
    students.save(student, out, like=like)
    assert torch.equal(images(students.load(out), 0.5), images(student, 0.5))
    other = students.load(out, network="G")
    assert torch.equal(images(other), images(students.load(like, network="G")))
    before, after = (torch.load(path, weights_only=False) for path in (like, out))
    assert list(after) == [*before, "latent_avg"]
    assert list(after["g_ema"]) == list(before["g_ema"])
    assert (after["args"], after["ada_aug_p"]) == (before["args"], 0.5)


def test_an_average_w_that_the_file_lacks_is_the_mean_of_many(tmp_path: Path):
    path = training_file(tmp_path / "like.pt")
    student, again = students.load(path), students.load(path)
    assert torch.equal(student.get_buffer("mapping.w_avg"), again.get_buffer("mapping.w_avg"))
    z = torch.randn(20_000, 6)
    mean = student.get_submodule("mapping")(z)[:, 0].mean(dim=0)
    spread = float(student.get_submodule("mapping")(z)[:, 0].std(dim=0).max())
    torch.testing.assert_close(
        student.get_buffer("mapping.w_avg"), mean, rtol=0, atol=6 * spread / 4096**0.5
    )


def test_loading_leaves_the_random_state_alone(tmp_path: Path):
    path = training_file(tmp_path / "like.pt")
    before = torch.get_rng_state()
    students.load(path)
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda s: s.pop("convs.1.noise.weight"), r"convs\.1\.noise\.weight is missing"),
        (lambda s: s.pop("style.2.bias"), r"style\.2\.bias is missing"),
        (lambda s: s.update(extra=torch.zeros(1)), "extra is unknown"),
        (lambda s: s.update({"to_rgb1.bias": torch.zeros(3)}), r"to_rgb1\.bias is \[3\] instead"),
        (lambda s: s["input.input"].fill_(float("nan")), r"not finite: synthesis\.b4\.const"),
        (lambda s: s.update({"convs.1.conv.weight": torch.zeros(1, 5, 8, 3, 3)}), "widths are"),
        (lambda s: s["to_rgbs.0.upsample.kernel"].mul_(2), "kernels differ"),
        (lambda s: s.update({"conv1.conv.modulation.weight": torch.zeros(3)}), "2 dimensions"),
        (lambda s: s.update({"style.1.bias": "x"}), "'style.1.bias' is no tensor"),
    ],
)
def test_a_state_dict_that_is_no_such_generator_is_refused(tmp_path: Path, change, message):
    path = tmp_path / "g.pt"
    rosinality.save(make(), path)
    data = torch.load(path)
    data["g_ema"] = OrderedDict((k, v.clone()) for k, v in data["g_ema"].items())
    change(data["g_ema"])
    torch.save(data, path)
    with pytest.raises(ValueError, match=message) as caught:
        students.load(path)
    assert "network G_ema: " in str(caught.value) and "\n" not in str(caught.value)


def test_a_file_without_the_network_says_what_it_has(tmp_path: Path):
    path = tmp_path / "g.pt"
    rosinality.save(make(), path)
    with pytest.raises(ValueError, match="has no network D; it has G_ema"):
        students.load(path, network="D")
    torch.save({"model": {"w": torch.zeros(2)}}, path)
    with pytest.raises(ValueError, match="holds no network"):
        students.load(path)
