"""A teacher written and read back is the same one; what is no teacher is refused in one line."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any, cast

import pytest
import torch

import checkpoints
import teachers
from checkpoints import EasyDict, Record
from teachers.edm import EDMPrecond, VEPrecond, VPPrecond, iDDPMPrecond
from teachers.gaussian import Gaussian

SONG = {"model_type": "SongUNet", "model_channels": 8, "channel_mult": [1, 2], "num_blocks": 1}
NETWORKS = {
    "vp": (VPPrecond, {**SONG, "label_dim": 3, "label_dropout": 0.2, "beta_d": 18.0}),
    "ve": (VEPrecond, {**SONG, "embedding_type": "fourier", "encoder_type": "residual"}),
    "iddpm": (iDDPMPrecond, {"model_channels": 8, "channel_mult": (1, 1), "num_blocks": 1}),
    "edm": (EDMPrecond, {**SONG, "augment_dim": 9, "sigma_data": 0.3, "use_fp16": True}),
}


def network(name: str = "edm") -> Any:
    column, kwargs = NETWORKS[name]
    return column(img_resolution=8, img_channels=2, **kwargs)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "teacher.pkl"


def rewritten(path: Path, change) -> Path:
    """A file of the tiny EDM network after change(record)."""
    teachers.save(network(), path)
    data = cast("Any", checkpoints.read(path))
    change(data["ema"])
    checkpoints.write(data, path)
    return path


@pytest.mark.parametrize("name", NETWORKS)
def test_a_saved_network_loads_bit_for_bit(path, name):
    saved = network(name)
    teachers.save(saved, path)
    loaded: Any = teachers.load(path)
    assert type(loaded) is type(saved)
    assert loaded.init_kwargs == saved.init_kwargs
    assert loaded.model.init_kwargs == saved.model.init_kwargs
    ours, theirs = saved.state_dict(), loaded.state_dict()
    assert list(ours) == list(theirs)
    assert all(torch.equal(ours[key], theirs[key]) for key in ours)
    x, sigma = torch.randn(2, 2, 8, 8), torch.tensor([0.1, 3.0])
    torch.testing.assert_close(loaded(x, sigma), saved.eval()(x, sigma), rtol=0, atol=0)
    for attribute in ("img_resolution", "img_channels", "label_dim", "sigma_min", "sigma_max"):
        assert getattr(loaded, attribute) == getattr(saved, attribute)


def test_a_loaded_network_is_frozen_until_it_is_trained(path):
    teachers.save(network(), path)
    loaded = teachers.load(path)
    assert not loaded.training
    assert not any(p.requires_grad for p in loaded.parameters())
    auxiliary = copy.deepcopy(loaded).train().requires_grad_(True)
    optimizer = torch.optim.SGD(auxiliary.parameters(), lr=0.1)
    auxiliary(torch.randn(2, 2, 8, 8), 1.0).square().sum().backward()
    optimizer.step()
    weights = zip(loaded.parameters(), auxiliary.parameters(), strict=True)
    assert any(not torch.equal(a, b) for a, b in weights)
    again = teachers.load(path).state_dict()
    assert all(torch.equal(value, again[key]) for key, value in loaded.state_dict().items())


def test_a_saved_file_has_the_layout_of_edm(path):
    saved = network().train().requires_grad_(True).to(memory_format=torch.channels_last)
    teachers.save(saved, path, extra={"dataset_kwargs": {"use_labels": False}})
    assert saved.training and all(p.requires_grad for p in saved.parameters())
    data = cast("Any", checkpoints.read(path))
    assert list(data) == ["ema", "loss_fn", "augment_pipe", "dataset_kwargs"]
    assert data["loss_fn"] is None and data["augment_pipe"] is None
    assert data["dataset_kwargs"] == {"use_labels": False}
    state = data["ema"].state
    assert state["training"] is False
    assert {"img_resolution", "img_channels", "label_dim", "sigma_data"} <= state.keys()
    tensors = checkpoints.tensors(data["ema"])
    assert not any(t.requires_grad for t in tensors.values())
    assert all(t.is_contiguous() for t in tensors.values())


@pytest.mark.parametrize("wrap", [lambda r: {"net": r}, lambda r: EasyDict(ema=r), lambda r: r])
def test_a_teacher_is_found_under_ema_or_net_or_alone(path, wrap):
    teachers.save(network(), path)
    checkpoints.write(wrap(cast("Any", checkpoints.read(path))["ema"]), path)
    assert isinstance(teachers.load(path), EDMPrecond)


def test_the_noise_range_of_the_file_counts(path):
    changed = rewritten(path, lambda record: record.state.update(sigma_min=0.05, sigma_max=60))
    loaded = teachers.load(changed)
    assert (loaded.sigma_min, loaded.sigma_max) == (0.05, 60.0)


def drop(record: Record) -> None:
    del record.modules["model"].modules["map_layer1"].tensors("_parameters")["bias"]


def add(record: Record) -> None:
    record.tensors("_parameters")["gain"] = torch.nn.Parameter(torch.ones(2), requires_grad=False)


def reshape(record: Record) -> None:
    parameters = record.modules["model"].modules["map_layer1"].tensors("_parameters")
    parameters["weight"] = torch.nn.Parameter(torch.ones(5, 7), requires_grad=False)


def poison(record: Record) -> None:
    checkpoints.tensors(record)["model.map_layer1.bias"].fill_(float("nan"))


def deep(levels: int) -> list[Any]:
    """A list of 100 times the same list, and so on down: small in a file, endless to print."""
    value: list[Any] = []
    for _ in range(levels):
        value = [value] * 100
    return value


def call(**kwargs):
    return lambda record: record.init_kwargs.update(kwargs)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (drop, "model.map_layer1.bias is missing"),
        (add, "gain is unknown"),
        (reshape, r"model.map_layer1.weight is \[5, 7\] instead of \[32, 32\]"),
        (poison, "not finite: model.map_layer1.bias"),
        (call(model_channels=16), r"instead of .* and \d+ more"),
        (call(num_blocks=10**9), "num_blocks is 1000000000; allowed: a whole number"),
        (call(model_channels=2**62), "EDMPrecond cannot be built"),
        (call(model_type="Other"), "model_type is 'Other'; allowed: SongUNet, DhariwalUNet"),
        (call(flux=1), "unknown options: 'flux'"),
        (call(num_blocks=100), "num_blocks is 100, but there are"),
        (call(num_blocks=float("nan")), "num_blocks is nan; allowed: a whole number"),
        (call(channel_mult=[1] * 400, num_blocks=60), "channel_mult is a list of 400 items"),
        (call(resample_filter=[1.0] * 100_000), "resample_filter is a list of 100000 items"),
        (call(model_type=deep(60)), "model_type is a list of 100 items; allowed: SongUNet"),
        (call(sigma_data="0.5"), "sigma_data is '0.5'; allowed: a number"),
        (call(sigma_data=float("nan")), "sigma_data is nan; allowed"),
        (call(sigma_data=[0.5]), "sigma_data is a list of 1 items; allowed"),
        (call(sigma_data=0), "sigma_data is 0; allowed"),
        (call(sigma_data=float("inf")), "sigma_data is inf; allowed"),
        (call(sigma_min=2.0, sigma_max=1.0), "sigma_min is 2 and sigma_max 1"),
        (call(sigma_min="0"), "sigma_min is '0'; allowed"),
        (call(dropout="\x1b[31m"), r"dropout is '\\x1b\[31m'; allowed"),
        (lambda record: record.state.update(sigma_max=float("nan")), "sigma_max is nan; allowed"),
        (lambda record: record.state.update(sigma_min=-1), "sigma_min is -1; allowed"),
        (call(channel_mult=None), "EDMPrecond cannot be built"),
        (call(resample_filter="ab"), "EDMPrecond cannot be built"),
    ],
)
def test_files_that_do_not_fit_together_are_refused_with_what_is_wrong(path, change, message):
    with pytest.raises(ValueError, match=message) as caught:
        teachers.load(rewritten(path, change))
    assert str(caught.value).startswith(f"{path}: ") and "\n" not in str(caught.value)


def other(class_name: str) -> Record:
    state = {"_parameters": {}, "_buffers": {}, "_modules": {}, "training": False}
    return Record(class_name, (), {}, state, source="pass")


@pytest.mark.parametrize(
    ("data", "what"),
    [
        ({"G": other("Generator"), "G_ema": other("Generator")}, "a GAN .G, G_ema., so it is a st"),
        ({"ema": other("Encoder")}, "ema Encoder"),
        (other("Classifier"), "Classifier"),
        ({"steps": 3}, "no network"),
        ([1, 2], "no network"),
    ],
)
def test_other_files_are_refused_with_what_they_are_and_what_a_teacher_is(path, data, what):
    checkpoints.write(data, path)
    message = f"holds {what}.*a teacher is a pickle with a denoiser under the key ema, .*EDMPrecond"
    with pytest.raises(ValueError, match=message):
        teachers.load(path)


def test_a_missing_file_is_an_oserror(tmp_path):
    with pytest.raises(OSError):
        teachers.load(tmp_path / "none.pkl")


def test_what_cannot_be_loaded_again_is_not_saved(path):
    with pytest.raises(ValueError, match="a Gaussian has no file format here; allowed: VPPrecond"):
        teachers.save(Gaussian(torch.zeros(1, 2, 2), 0.5), path)
    broken = network()
    broken.model.map_layer1.bias.data.fill_(float("inf"))
    with pytest.raises(ValueError, match=r"not finite: model\.map_layer1\.bias"):
        teachers.save(broken, path)
    assert not path.exists()
