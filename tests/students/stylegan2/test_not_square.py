"""StyleGAN2 for landscapes: images that grow from another size than 4 x 4, as forks have them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import checkpoints
import students
from checkpoints import Record
from refine_commands.network_facts import networks_of
from students import originals
from students.adapters.bridge import Bridge, resampling_matrix
from students.foreign import rosinality, tensorflow_names
from students.stylegan2.discriminator import Discriminator
from students.stylegan2.generator import Generator

WIDTH = {"channel_base": 64, "channel_max": 6}
SIZES = {"c_dim": 0, "img_resolution": 16, "img_channels": 3}


def off_zero(module: Any) -> Any:
    for name, tensor in module.state_dict().items():
        if not name.endswith("filter"):
            tensor.add_(0.3 * torch.randn_like(tensor))
    return module.eval().requires_grad_(False)


def generator(init_res: tuple[int, int], architecture: str = "skip") -> Generator:
    synthesis = {**WIDTH, "architecture": architecture}
    mapping = {"num_layers": 1}
    options: Any = {**SIZES, "mapping_kwargs": mapping, "synthesis_kwargs": synthesis}
    return off_zero(Generator(z_dim=4, w_dim=4, init_res=init_res, **options))


def discriminator(init_res: tuple[int, int], architecture: str = "resnet") -> Discriminator:
    options: Any = {**SIZES, **WIDTH, "architecture": architecture}
    return off_zero(Discriminator(init_res=init_res, **options))


def lying_down(state: dict[str, torch.Tensor], height: int, width: int) -> dict[str, torch.Tensor]:
    """The tensors of the network whose images are these lying on their side."""
    turned = {}
    for name, value in state.items():
        if name == "b4.fc.weight":
            value = value.reshape(len(value), -1, height, width).mT.flatten(1)
        elif value.ndim == 4 or name.endswith(("const", "noise_const")):
            value = value.mT
        turned[name] = value.clone()
    return turned


@pytest.mark.parametrize("architecture", ["skip", "resnet", "orig"])
def test_a_network_of_transposed_weights_makes_transposed_images(architecture):
    wide, tall = generator((3, 5), architecture), generator((5, 3), architecture)
    tall.load_state_dict(lying_down(wide.state_dict(), 3, 5))
    assert (wide.img_shape, wide.img_resolution) == ((12, 20), 20)
    assert (tall.img_shape, tall.img_resolution) == ((20, 12), 20)
    z = torch.randn(3, 4)
    x = wide(z, noise_mode="const")
    torch.testing.assert_close(tall(z, noise_mode="const"), x.mT, rtol=1e-4, atol=1e-5)
    assert wide(z).shape == (3, 3, 12, 20)
    judge, other = discriminator((3, 5), architecture), discriminator((5, 3), architecture)
    other.load_state_dict(lying_down(judge.state_dict(), 3, 5))
    torch.testing.assert_close(other(x.mT.contiguous()), judge(x), rtol=1e-4, atol=1e-5)
    with pytest.raises(ValueError, match=r"img is \[3, 3, 20, 12\]; this network takes"):
        judge(x.mT)


def test_of_4_x_4_it_is_the_plain_network():
    plain = generator((4, 4))
    assert "init_res" not in plain.init_kwargs
    assert plain.img_shape == (16, 16)


@pytest.fixture
def pickled(tmp_path) -> tuple[Path, dict[str, Any]]:
    """A file of the forks: G_ema and D of 12 x 20 images."""
    networks = {"G_ema": generator((3, 5)), "D": discriminator((3, 5))}
    records = {name: originals.describe(network) for name, network in networks.items()}
    checkpoints.write(records, tmp_path / "a.pkl")
    return tmp_path / "a.pkl", networks


def test_a_file_is_loaded_saved_and_described_with_its_two_sides(pickled, tmp_path):
    path, networks = pickled
    record: Any = checkpoints.read(path)
    # What the forks' classes keep, for which the longer side is nothing.
    assert record["G_ema"].state["img_resolution"] == 16
    assert record["G_ema"].init_kwargs["init_res"] == [3, 5]
    assert record["G_ema"].state["output_shape"] == [1, 3, 12, 20]
    parts = dict(checkpoints.named_modules(record["G_ema"]))
    for part in ("synthesis.", "synthesis.b16.", "synthesis.b16.conv0."):
        assert parts[part].state["init_res"] == [3, 5]
    z = torch.randn(2, 4)
    student = students.load(path)
    assert torch.equal(student(z, noise_mode="const"), networks["G_ema"](z, noise_mode="const"))
    with torch.no_grad():
        next(student.parameters()).add_(0.1)
    students.save(student, tmp_path / "b.pkl", like=path)
    again = students.load(tmp_path / "b.pkl")
    assert torch.equal(again(z, noise_mode="const"), student(z, noise_mode="const"))
    x = student(z)
    assert torch.equal(students.load(tmp_path / "b.pkl", network="D")(x), networks["D"](x))
    sizes = networks_of(checkpoints.read(path))["G_ema"].sizes
    assert (sizes["img_height"], sizes["img_width"], sizes["img_resolution"]) == (12, 20, 20)
    assert next(students.generate(student, [0])).shape == (3, 12, 20)


def test_programs_for_squares_have_no_such_networks(pickled, tmp_path):
    path, networks = pickled
    for program in ("stylegan2-ada", "stylegan3"):
        with pytest.raises(ValueError, match=f"{program} has no networks of 12 x 20 images"):
            students.save_for(program, path, tmp_path / "b.pkl")
    with pytest.raises(ValueError, match="no generator with images that are not square"):
        rosinality.save(networks["G_ema"], tmp_path / "b.pt")


def tensorflow_record(network: Any, options: dict[str, Any], init_res: tuple[int, int]) -> Record:
    is_generator = isinstance(network, Generator)
    tensors, layers = (
        (tensorflow_names.GENERATOR_TENSORS, tensorflow_names.GENERATOR_LAYERS)
        if is_generator
        else (tensorflow_names.DISCRIMINATOR_TENSORS, tensorflow_names.DISCRIMINATOR_LAYERS)
    )
    held: list[Any] = []
    for name, tensor in network.state_dict().items():
        if name.endswith("filter"):
            continue
        there, form = tensorflow_names.variable_of(name, tensors, layers, init_res)
        value = tensor.numpy()
        value = {
            "matrix": lambda v: v.T,
            "less one": lambda v: v - 1,
            "kernel": lambda v: v.transpose(2, 3, 1, 0),
            "turned kernel": lambda v: v.transpose(2, 3, 1, 0)[::-1, ::-1],
            "constant": lambda v: v[None],
            "noise": lambda v: v[None, None],
        }.get(form, lambda v: v)(value)
        held.append((there, np.array(value, order="C")))
    state = {
        "version": 4,
        "static_kwargs": {"fmap_base": 32, "fmap_max": 6, "num_channels": 3, **options},
        "components": {},
        "variables": held,
    }
    return Record("Network", None, None, state, module="dnnlib.tflib.network")


def test_tensorflow_files_with_a_first_height_and_width_load_and_load_again(tmp_path):
    options = {"min_h": 3, "min_w": 5, "res_log2": 2, "resolution": 12, "use_attention": False}
    latents = {"latent_size": 4, "dlatent_size": 4, "mapping_layers": 1}
    network, judge = generator((3, 5)), discriminator((3, 5))
    g = tensorflow_record(network, {**options, **latents}, (3, 5))
    d = tensorflow_record(judge, {**options, "mbstd_group_size": 4}, (3, 5))
    names = [name for name, _ in g.state["variables"]]  # pyright: ignore
    for name in ("synthesis/3x5/Const/const", "synthesis/12x20/Conv0_up/weight"):
        assert name in names
    assert "3x5/Dense0/weight" in dict(d.state["variables"])  # pyright: ignore
    checkpoints.write((g, d, g), tmp_path / "a.pkl")
    z = torch.randn(4, 4)
    expected = network(z, noise_mode="const")
    assert networks_of(checkpoints.read(tmp_path / "a.pkl"))["G_ema"].sizes["img_width"] == 20
    student = students.load(tmp_path / "a.pkl")
    torch.testing.assert_close(student(z, noise_mode="const"), expected)
    students.save(student, tmp_path / "b.pkl", like=tmp_path / "a.pkl")
    for file in ("a.pkl", "b.pkl"):
        loaded = students.load(tmp_path / file, network="D")
        torch.testing.assert_close(loaded(expected), judge(expected))
    again = students.load(tmp_path / "b.pkl")
    torch.testing.assert_close(again(z, noise_mode="const"), expected)
    g.state["static_kwargs"]["use_attention"] = True  # pyright: ignore
    checkpoints.write((g, d, g), tmp_path / "a.pkl")
    with pytest.raises(ValueError, match="unknown options: 'use_attention'"):
        students.load(tmp_path / "a.pkl")


def test_a_tensorflow_network_that_cannot_be_converted_is_left_out_with_a_line(tmp_path):
    options = {"latent_size": 4, "dlatent_size": 4, "mapping_layers": 1, "resolution": 16}
    network = generator((4, 4))
    g = tensorflow_record(network, options, (4, 4))
    d = tensorflow_record(discriminator((4, 4)), {"attention": 3}, (4, 4))
    checkpoints.write((g, d, g), tmp_path / "a.pkl")
    student = students.load(tmp_path / "a.pkl")
    with pytest.warns(UserWarning, match=r"b.pkl is written without D, .* 'attention'"):
        students.save(student, tmp_path / "b.pkl", like=tmp_path / "a.pkl")
    data: Any = checkpoints.read(tmp_path / "b.pkl")
    assert data["D"].class_name == "Identity"
    again = students.load(tmp_path / "b.pkl", network="G")
    z = torch.randn(2, 4)
    torch.testing.assert_close(again(z, noise_mode="const"), network(z, noise_mode="const"))


class TestBridge:
    def test_area_scales_each_side_for_itself(self):
        inner = generator((3, 5))
        bridge = Bridge(inner, img_resolution=16, img_channels=3)
        x = torch.randn(2, 3, 12, 20)
        down, across = resampling_matrix(12, 16), resampling_matrix(20, 16)
        expected = torch.einsum("ih,nchw,jw->ncij", down, x, across)
        torch.testing.assert_close(bridge.view(x), expected)
        assert bridge(torch.randn(2, 4)).shape == (2, 3, 16, 16)
        assert "12 x 20 images whole, as 16 x 16, averaged" in bridge.sees
        assert "their height is scaled by 1.33 and their width by 0.8" in bridge.sees

    @pytest.mark.parametrize("adapt", ["crop", "tiles"])
    def test_windows_cover_the_whole_of_both_sides(self, adapt):
        bridge = Bridge(generator((3, 5)), img_resolution=8, img_channels=3, adapt=adapt)
        places = torch.arange(12 * 20).reshape(1, 1, 12, 20).expand(200, 3, 12, 20).double()
        seen = bridge.view(places)
        assert seen.shape == (200, 3, 8, 8)
        assert torch.equal(seen[:, :, 0, 1:] - seen[:, :, 0, :-1], torch.ones(200, 3, 7))
        assert torch.equal(seen[:, :, 1:, 0] - seen[:, :, :-1, 0], 20 * torch.ones(200, 3, 7))
        assert set(seen.long().flatten().tolist()) == set(range(12 * 20))

    def test_windows_larger_than_the_shorter_side_are_refused(self):
        with pytest.raises(ValueError, match="images are 12 x 20 pixels, too few for windows"):
            Bridge(generator((3, 5)), img_resolution=16, img_channels=3, adapt="crop")


def test_any_module_may_make_images_that_are_not_square():
    class Images(torch.nn.Module):
        def forward(self, z: torch.Tensor, c: None) -> torch.Tensor:
            return z.reshape(-1, 1, 2, 3)

    sizes: Any = {"z_dim": 6, "img_resolution": 3, "img_channels": 1}
    student = students.wrap(Images(), **sizes, img_shape=(2, 3))
    assert student.img_shape == (2, 3)
    assert student(torch.randn(4, 6)).shape == (4, 1, 2, 3)
    with pytest.raises(ValueError, match="the longer side of the one is the other"):
        students.wrap(Images(), **sizes, img_shape=(2, 4))
    with pytest.raises(ValueError, match=r"returned \[4, 1, 2, 3\]; it was declared"):
        students.wrap(Images(), **sizes)(torch.randn(4, 6))
