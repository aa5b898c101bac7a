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


@pytest.mark.parametrize("key", ["G_ema", "params_ema"])
@pytest.mark.parametrize("prefix", ["", "module.", "decoder.", "generator.module."])
def test_tensors_alone_are_told_from_a_network_with_what_is_missing(key, prefix, tmp_path):
    state = {f"{prefix}{name}": value for name, value in generator().state_dict().items()}
    torch.save({key: state}, tmp_path / "a.pt")
    said = rf"no network but {len(state)} tensors by name under {key}, of a StyleGAN2 generator"
    said += rf", with '{prefix}' before their names" if prefix else ""
    with pytest.raises(ValueError, match=said + "; what is missing is the call that made"):
        students.load(tmp_path / "a.pt")


def test_a_bare_foreign_object_is_no_network(tmp_path):
    bad = Record("system", None, None, {}, module="os", foreign="refers to os.system, a name")
    checkpoints.write(bad.result(b"R", ("touch pwned",)), tmp_path / "a.pkl")
    with pytest.raises(checkpoints.UnsafeCheckpoint, match=r"its object .system. is of an unsup"):
        students.load(tmp_path / "a.pkl")
