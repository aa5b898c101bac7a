"""Network files that programs and people other than the originals' authors left behind."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

import checkpoints
import students
from checkpoints import Record
from students import originals
from students.foreign import rosinality
from students.stylegan2.generator import Generator


def generator(channels: int = 3, **changes: Any) -> Generator:
    torch.manual_seed(0)
    sizes = {"z_dim": 4, "c_dim": 0, "w_dim": 4, "img_resolution": 8, "img_channels": channels}
    kinds: Any = {"mapping_kwargs": {"num_layers": 1}, "synthesis_kwargs": {"channel_max": 4}}
    return Generator(**{**sizes, **kinds, **changes}).eval().requires_grad_(False)


def image(student: Any) -> np.ndarray:
    return next(students.generate(student, [0]))


@pytest.mark.parametrize("shape", ["bare", "list", "tuple", "dict"])
def test_a_network_is_found_bare_and_in_a_row_and_written_back_so(shape, tmp_path):
    network = generator()
    record = originals.describe(network)
    data: Any = {
        "bare": record,
        "list": [record, None, record],
        "tuple": (record, None, record),
        "dict": {"G_ema": record},
    }[shape]
    checkpoints.write(data, tmp_path / "a.pkl")
    loaded = students.load(tmp_path / "a.pkl")
    assert np.array_equal(image(loaded), image(network))
    with torch.no_grad():
        next(loaded.parameters()).add_(1)
    students.save(loaded, tmp_path / "b.pkl", like=tmp_path / "a.pkl")
    again: Any = checkpoints.read(tmp_path / "b.pkl")
    assert type(again) is type(data)
    assert np.array_equal(image(students.load(tmp_path / "b.pkl")), image(loaded))
    if shape in ("list", "tuple"):
        assert again[1] is None
        assert np.array_equal(image(students.load(tmp_path / "b.pkl", network="G")), image(network))


def test_a_row_without_the_network_says_what_it_has(tmp_path):
    checkpoints.write([originals.describe(generator()), None, None], tmp_path / "a.pkl")
    with pytest.raises(ValueError, match="has no network G_ema; it has G"):
        students.load(tmp_path / "a.pkl")


@pytest.mark.parametrize("sides", [[4, 4], (4, 4)])
def test_a_fork_that_names_its_first_size_is_plain_stylegan2_where_that_is_square(sides, tmp_path):
    record = originals.describe(generator())
    record.init_kwargs["init_res"] = sides
    checkpoints.write({"G_ema": record}, tmp_path / "a.pkl")
    loaded = students.load(tmp_path / "a.pkl")
    assert np.array_equal(image(loaded), image(generator()))
    students.save(loaded, tmp_path / "b.pkl", like=tmp_path / "a.pkl")
    again: Any = checkpoints.read(tmp_path / "b.pkl")
    assert again["G_ema"].init_kwargs["init_res"] == sides


@pytest.mark.parametrize("sides", ["x", [[4], 4], [4], [4, 0], [4.0, 4], [4, True]])
def test_a_first_size_that_is_none_is_refused_in_words(sides, tmp_path):
    record = originals.describe(generator())
    record.init_kwargs["init_res"] = sides
    checkpoints.write({"G_ema": record}, tmp_path / "a.pkl")
    with pytest.raises(ValueError, match=r"init_res is .*; allowed are a height and a width"):
        students.load(tmp_path / "a.pkl")


def test_a_first_size_of_huge_images_is_refused(tmp_path):
    record = originals.describe(generator())
    record.init_kwargs["init_res"] = [4, 2**40]
    checkpoints.write({"G_ema": record}, tmp_path / "a.pkl")
    with pytest.raises(ValueError, match=r"its images have 2199023255552 pixels on a side"):
        students.load(tmp_path / "a.pkl")


def test_a_file_without_noise_constants_gets_those_of_a_fixed_seed(tmp_path):
    rosinality.save(generator(w_dim=4), tmp_path / "a.pt")
    data = torch.load(tmp_path / "a.pt", weights_only=True)
    state = data["g_ema"]
    data["g_ema"] = {k: v for k, v in state.items() if not k.startswith("noises.")}
    assert len(data["g_ema"]) < len(state)
    torch.save(data, tmp_path / "b.pt")
    with pytest.warns(UserWarning, match=r"holds no noises\.\*"):
        one, two = (students.load(tmp_path / "b.pt").state_dict() for _ in range(2))
    full = students.load(tmp_path / "a.pt").state_dict()
    noises = [name for name in full if name.endswith("noise_const")]
    assert len(noises) == 3
    for name, value in full.items():
        assert torch.equal(one[name], two[name])
        assert torch.equal(one[name], value) != (name in noises)
    stream = torch.Generator().manual_seed(0)
    first = torch.randn([1, 1, 4, 4], generator=stream)[0, 0]
    assert torch.equal(one["synthesis.b4.conv1.noise_const"], first)


ALONE = "the file holds tensors alone"
OPTIONS: dict[str, Any] = {
    "plain": {},
    "labels": {"c_dim": 3, "mapping_kwargs": {"num_layers": 2, "embed_features": 5}},
    "wide": {"init_res": (3, 5), "z_dim": 7},
    "resnet": {"synthesis_kwargs": {"architecture": "resnet", "channel_base": 32}},
    "orig": {"synthesis_kwargs": {"architecture": "orig", "use_noise": False}},
    "no layers, own filter": {
        "mapping_kwargs": {"num_layers": 0, "w_avg_beta": None},
        "synthesis_kwargs": {"resample_filter": [1, 2, 1], "kernel_size": 1},
    },
    "hidden": {"mapping_kwargs": {"num_layers": 3, "layer_features": 6}, "channels": 1},
}


@pytest.mark.parametrize("key", ["", "G_ema", "params_ema", "state_dict"])
@pytest.mark.parametrize("prefix", ["", "module.", "decoder.", "generator.module.", "netG."])
def test_tensors_alone_are_loaded_whatever_stands_before_them(key, prefix, tmp_path):
    network = generator()
    state: Any = {f"{prefix}{name}": value for name, value in network.state_dict().items()}
    state |= {"opt.step": torch.zeros([])} if prefix else {}
    torch.save({key: state, "epoch": 3} if key else state, tmp_path / "a.pt")
    with pytest.warns(UserWarning, match=ALONE):
        student = students.load(tmp_path / "a.pt")
    assert np.array_equal(image(student), image(network))
    with torch.no_grad():
        next(student.parameters()).add_(1)
    with pytest.warns(UserWarning, match=ALONE):
        students.save(student, tmp_path / "b.pt", like=tmp_path / "a.pt")
        assert np.array_equal(image(students.load(tmp_path / "b.pt")), image(student))
    written = torch.load(tmp_path / "b.pt", weights_only=True)
    assert list(written[key] if key else written) == list(state)


@pytest.mark.parametrize("way", OPTIONS)
def test_sizes_and_kind_are_read_off_names_and_shapes(way, tmp_path):
    network = generator(**OPTIONS[way])
    torch.save(network.state_dict(), tmp_path / "a.pt")
    with pytest.warns(UserWarning, match=ALONE):
        student: Any = students.load(tmp_path / "a.pt")
    assert np.array_equal(image(student), image(network))
    sizes = ("z_dim", "c_dim", "w_dim", "num_ws", "img_shape", "img_channels")
    assert all(getattr(student, name) == getattr(network, name) for name in sizes)


def test_of_several_the_average_is_g_ema(tmp_path):
    first, second = generator(), generator(mapping_kwargs={"num_layers": 2})
    held = {"G": first.state_dict(), "ema": {"module": second.state_dict()}, "D": {}}
    torch.save(held, tmp_path / "a.pt")
    with pytest.warns(UserWarning, match=ALONE):
        assert np.array_equal(image(students.load(tmp_path / "a.pt")), image(second))
        assert np.array_equal(image(students.load(tmp_path / "a.pt", network="G")), image(first))


@pytest.mark.parametrize("key", ["state_dict", "params"])
def test_rosinality_s_names_are_found_inside_other_files(key, tmp_path):
    """As pixel2style2pixel keeps its decoder."""
    rosinality.save(generator(), tmp_path / "a.pt")
    data = torch.load(tmp_path / "a.pt", weights_only=True)
    inner = {f"decoder.{name}": value for name, value in data["g_ema"].items()}
    encoder = {"encoder.a": torch.ones(2)}
    held = {key: encoder | inner, "latent_avg": data["latent_avg"], "opts": {"size": 8}}
    torch.save(held, tmp_path / "b.pt")
    student = students.load(tmp_path / "b.pt")
    assert np.array_equal(image(student), image(students.load(tmp_path / "a.pt")))
    with torch.no_grad():
        next(student.parameters()).add_(1)
    students.save(student, tmp_path / "c.pt", like=tmp_path / "b.pt")
    assert np.array_equal(image(students.load(tmp_path / "c.pt")), image(student))
    written = torch.load(tmp_path / "c.pt", weights_only=True)
    assert written["opts"] == {"size": 8} and torch.equal(written[key]["encoder.a"], torch.ones(2))


def test_tensors_that_do_not_fit_one_another_are_named(tmp_path):
    state = generator().state_dict()
    torch.save({n: v for n, v in state.items() if n != "mapping.fc0.bias"}, tmp_path / "a.pt")
    with pytest.raises(ValueError, match=r"fit one another: mapping\.fc0\.bias is missing"):
        students.load(tmp_path / "a.pt")
    state["synthesis.b8.conv1.weight"] = torch.zeros(5, 4, 3, 3)
    torch.save(state, tmp_path / "a.pt")
    with pytest.raises(ValueError, match=r"widths are \[4, 5\]"):
        students.load(tmp_path / "a.pt")


def test_others_are_told_with_what_is_missing_and_take_it_from_another_file(tmp_path):
    network = generator(mapping_kwargs={"num_layers": 1, "lr_multiplier": 1})
    checkpoints.write({"G_ema": originals.describe(generator())}, tmp_path / "default.pkl")
    checkpoints.write({"G_ema": originals.describe(network)}, tmp_path / "like.pkl")
    state = network.state_dict()
    torch.save({"x": {f"netG.{n}": v for n, v in state.items()}}, tmp_path / "a.pt")
    like = students.load(tmp_path / "a.pt", like=tmp_path / "like.pkl")
    assert np.array_equal(image(like), image(network))
    default = students.load(tmp_path / "a.pt", like=tmp_path / "default.pkl")
    assert not np.array_equal(image(default), image(network))
    other = generator(img_resolution=16, synthesis_kwargs={"channel_max": 4})
    checkpoints.write({"G_ema": originals.describe(other)}, tmp_path / "other.pkl")
    with pytest.raises(ValueError, match=r"do not fit: synthesis\.b16\..* of .*other.pkl were"):
        students.load(tmp_path / "a.pt", like=tmp_path / "other.pkl")
    torch.save(
        {"g": {f"module.synthesis.L0_36_{i}.weight": torch.ones(i) for i in (1, 2)}},
        tmp_path / "b.pt",
    )
    said = "no network but 2 tensors by name under g, of a StyleGAN3 generator, with 'module.' befo"
    with pytest.raises(ValueError, match=said + r".*--like PICKLE"):
        students.load(tmp_path / "b.pt")


def test_a_bare_foreign_object_is_no_network(tmp_path):
    bad = Record("system", None, None, {}, module="os", foreign="refers to os.system, a name")
    checkpoints.write(bad.result(b"R", ("touch pwned",)), tmp_path / "a.pkl")
    with pytest.raises(checkpoints.UnsafeCheckpoint, match=r"its object .system. is of an unsup"):
        students.load(tmp_path / "a.pkl")
