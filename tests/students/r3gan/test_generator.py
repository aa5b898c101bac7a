"""R3GAN generators: read off their tensors, equal to the original, written back as they were."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

import numpy as np
import pytest
import torch

import checkpoints
import students
from checkpoints import Record
from students.r3gan.generator import R3Generator, Stage

NAMES = {
    "R3Generator": ("training.networks", "Generator"),
    "R3Model": ("R3GAN.Networks", "Generator"),
    "BiasedActivation": ("R3GAN.FusedOperators", "BiasedActivationCUDA"),
    "Upsampler": ("R3GAN.Resamplers", "InterpolativeUpsamplerCUDA"),
}
STAGES = (Stage(8, 16, 4, 1), Stage(6, 12, 3, 2), Stage(6, 12, 6, 1, is_half=True))


def make_generator(c_dim: int = 0, stages: tuple[Stage, ...] = STAGES, **options: Any) -> Any:
    sizes = {"z_dim": 5, "c_dim": c_dim, "embed_dim": 4 if c_dim else 0, **options}
    generator = R3Generator(stages=stages, **sizes)
    for name, tensor in generator.state_dict().items():
        kernel = torch.tensor([1.0, 3.0, 3.0, 1.0])
        tensor.copy_(kernel.outer(kernel) / 64 if "Kernel" in name else torch.randn_like(tensor))
        tensor.mul_(1 if "Kernel" in name else 0.3)
    return generator.eval().requires_grad_(False)


def as_file_record(module: torch.nn.Module) -> Record:
    """The record with the class names, and without the recorded call, of the original's files."""
    record = checkpoints.describe(module, source="")
    return _renamed(record)


def _renamed(record: Record) -> Record:
    if record.module is not None and record.class_name != "ModuleList":
        return record
    drop = ("_init_args", "_init_kwargs", "is_half", "LinearLayer")
    state = {k: v for k, v in record.state.items() if k not in drop}
    if "is_half" in record.state:
        state["DataType"] = torch.bfloat16 if record.state["is_half"] else torch.float32
    state["_modules"] = {k: _renamed(v) for k, v in record.modules.items() if v}
    default = (record.module or "R3GAN.Networks", record.class_name)
    module, name = NAMES.get(record.class_name, default)
    return Record(name, None, None, state, module=module)


@pytest.fixture
def write(tmp_path) -> Callable[..., Any]:
    def write_file(generator: torch.nn.Module) -> Any:
        path = tmp_path / "r3gan.pkl"
        record = as_file_record(generator)
        checkpoints.write({"G": record, "G_ema": record, "cur_nimg": 3}, path)
        return path

    return write_file


WAYS: list[dict[str, Any]] = [
    {},
    {"c_dim": 3},
    {"stages": STAGES[:1]},
    {"kernel_size": 5, "img_channels": 1},
]


@pytest.mark.parametrize("way", WAYS)
def test_a_written_generator_loads_with_the_same_tensors_sizes_and_images(write, way):
    written = make_generator(**way)
    loaded = students.load(write(written))
    assert loaded.init_kwargs == written.init_kwargs
    ours, theirs = loaded.state_dict(), written.state_dict()
    assert list(ours) == list(theirs)
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)
    z, c = torch.randn(3, 5), torch.eye(3) if written.c_dim else None
    x = loaded(z, c)
    assert torch.equal(x, written(z, c))
    r = loaded.img_resolution
    assert r == 4 * 2 ** (len([*loaded.get_submodule("Model.MainLayers").children()]) - 1)
    assert x.shape == (3, loaded.img_channels, r, r) and x.dtype == torch.float32


def test_a_saved_student_changes_its_network_alone(write, tmp_path):
    like, out = write(make_generator()), tmp_path / "out.pkl"
    student = students.load(like)
    student.get_parameter("Model.AggregationLayer.Layer.weight").add_(1)
    students.save(student, out, like=like)
    z = torch.randn(2, 5)
    assert torch.equal(students.load(out)(z), student(z))
    assert torch.equal(students.load(out, network="G")(z), students.load(like)(z))
    before, after = (cast("Any", checkpoints.read(path)) for path in (like, out))
    assert list(after) == list(before) and after["cur_nimg"] == 3
    assert repr(after["G_ema"]) == repr(before["G_ema"])


def test_labels_choose_the_image_and_half_precision_is_close():
    generator = make_generator(c_dim=3)
    z, c = torch.randn(3, 5), torch.eye(3)
    full, half = generator(z, c), generator(z, c, force_fp32=False)
    assert (full - generator(z, c[[1, 2, 0]])).abs().amax() > 1e-3
    assert half.dtype == torch.float32 and not torch.equal(full, half)
    torch.testing.assert_close(half, full, rtol=0, atol=0.02 * float(full.abs().max()))


def test_what_the_network_does_not_have_is_refused():
    generator = make_generator(c_dim=3)
    z, c = torch.randn(2, 5), torch.eye(3)[:2]
    with pytest.raises(ValueError, match="no truncation"):
        generator(z, c, truncation_psi=0.7)
    with pytest.raises(ValueError, match="noise_mode is 'loud'"):
        generator(z, c, noise_mode="loud")
    with pytest.raises(ValueError, match="labels are"):
        generator(z, torch.eye(4)[:2])
    with pytest.raises(ValueError, match=r"z is \[2, 4\]"):
        generator(z[:, :4], c)


@pytest.mark.parametrize(
    ("path", "change", "message"),
    [
        ((), {"img_resolution": 64}, "img_resolution is 64; 3 stages make 16"),
        ((), {"z_dim": 6}, r"instead of \[8, 6\]"),
        ((), {"z_dim": -1}, "its z_dim is no size"),
        ((), {"c_dim": 2}, "EmbeddingLayer.weight is missing"),
        (("Model", "MainLayers", "1"), {"DataType": None}, "stages name no DataType"),
        (("Model", "MainLayers", "1", "Layers", "1"), {"_modules": {}}, "Layers.1.*missing"),
        (("Model", "MainLayers"), {"_modules": {}}, "stages name no DataType"),
    ],
)
def test_a_file_that_does_not_agree_with_itself_is_refused(write, path, change, message):
    record = as_file_record(make_generator())
    part = record
    for name in path:
        part = part.modules[name]
    part.state.update(change)
    file = write(make_generator())
    checkpoints.write({"G_ema": record}, file)
    with pytest.raises(ValueError, match=message):
        students.load(file)


def test_images_are_those_of_the_original(samples):
    generator = students.load(samples / "r3gan-32-uncond-small.pkl")
    with np.load(samples / "r3gan-32-uncond-small.ref.npz") as file:
        ref = {name: torch.from_numpy(file[name]) for name in file}
    torch.testing.assert_close(generator(ref["z"]), ref["img_fp32"], rtol=0, atol=1e-6)
    half = generator(ref["z"], force_fp32=False)
    torch.testing.assert_close(half, ref["img_default"], rtol=0, atol=1e-2)
