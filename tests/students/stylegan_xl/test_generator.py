"""StyleGAN-XL: classes through an embedding, a mean w for each, and layers on top of a stem."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

import checkpoints
import students
from checkpoints import Record
from students.files import build
from students.stylegan3.synthesis import plan_layers
from students.stylegan_xl.generator import Generator, SuperresGenerator

EMBEDDING = (7, 6)
SMALL: dict[str, Any] = {"channel_base": 64, "channel_max": 6, "num_layers": 4, "conv_kernel": 3}


def off_zero(generator: Any) -> Any:
    for name, tensor in generator.state_dict().items():
        if name.endswith(("bias", "w_avg", "input.affine.weight")):
            tensor.add_(0.3 * torch.randn_like(tensor))
    return generator.eval().requires_grad_(False)


def make_stem(c_dim: int = 3) -> Generator:
    sizes = {"z_dim": 5, "c_dim": c_dim, "w_dim": 4, "img_resolution": 16, "img_channels": 2}
    mapping = {"rand_embedding": False, "num_layers": 2}
    return off_zero(Generator(**sizes, mapping_kwargs=mapping, embedding=EMBEDDING, **SMALL))


def make_superres(c_dim: int = 3) -> SuperresGenerator:
    """The first two layers of a stem under those of twice the resolution."""
    small = {name: SMALL[name] for name in SMALL if name != "num_layers"}
    stem = plan_layers(img_resolution=16, img_channels=2, num_layers=4, **small)[:2]
    head = plan_layers(
        img_resolution=32, img_channels=2, num_layers=3, first_cutoff=stem[-1].after.cutoff, **small
    )
    first = head[0].__class__(**{**vars(head[0]), "before": stem[-1].after})
    return off_zero(
        SuperresGenerator(
            [*stem, first, *head[1:]],
            z_dim=5,
            c_dim=c_dim,
            w_dim=4,
            embedding=EMBEDDING,
            head_layers=3,
            up_factor=2,
            path_stem="stem.pkl",
        )
    )


def inputs(generator: Any, *classes: int) -> tuple[torch.Tensor, torch.Tensor | None]:
    c = torch.eye(generator.c_dim)[list(classes)] if generator.c_dim else None
    return torch.randn(len(classes), generator.z_dim), c


def as_record(generator: Any) -> Record:
    return checkpoints.describe(generator, source="")


def with_part(record: Record, name: str, **attributes: Any) -> Record:
    """The record with other attributes in the part of this dotted name."""
    first, _, rest = name.partition(".")
    part: Any = record.modules[first]
    part = (
        with_part(part, rest, **attributes)
        if rest
        else part.with_state({**part.state, **attributes})
    )
    modules = {**record.modules, first: part}
    return record.with_state({**record.state, "_modules": modules})


MAKERS = [make_stem, make_superres]


@pytest.mark.parametrize("c_dim", [0, 3])
@pytest.mark.parametrize("make", MAKERS)
def test_a_network_written_and_read_back_is_the_same(
    make: Callable[[int], Any], c_dim: int, tmp_path: Path
):
    generator = make(c_dim)
    z, c = inputs(generator, 0, 1, 2)
    checkpoints.write({"G_ema": as_record(generator)}, tmp_path / "a.pkl")
    loaded = students.load(tmp_path / "a.pkl")
    assert type(loaded) is type(generator) and loaded.init_kwargs == generator.init_kwargs
    assert torch.equal(loaded(z, c), generator(z, c))
    students.save(loaded, tmp_path / "b.pkl", like=tmp_path / "a.pkl")
    again = students.load(tmp_path / "b.pkl").state_dict()
    assert all(torch.equal(again[name], value) for name, value in generator.state_dict().items())
    order = [name for name, _ in loaded.named_parameters()]
    assert order == list(checkpoints.parameters(as_record(generator)))


@pytest.mark.parametrize("make", MAKERS)
def test_the_gradient_of_the_images_reaches_every_parameter(make: Callable[[], Any]):
    generator = make().requires_grad_(True)
    generator(*inputs(generator, 0, 1, 2)).square().sum().backward()
    dead = [n for n, p in generator.named_parameters() if p.grad is None or not p.grad.any()]
    assert dead == []


def test_truncation_goes_to_the_mean_of_the_class():
    mapping: Any = make_stem().mapping
    z, c = inputs(make_stem(), 2, 0, 2)
    assert mapping.w_avg.shape == (3, 4)
    ws = mapping(z, c, truncation_psi=0, truncation_cutoff=2)
    expected = mapping.w_avg[[2, 0, 2]].unsqueeze(1).expand(-1, 2, -1)
    torch.testing.assert_close(ws[:, :2], expected)
    assert torch.equal(ws[:, 2:], mapping(z, c)[:, 2:])


def test_in_training_each_class_s_mean_follows_its_samples_one_by_one():
    mapping: Any = make_stem().mapping
    z, c = inputs(make_stem(), 2, 0, 2, 2)
    w, expected = mapping(z, c)[:, 0], mapping.w_avg.clone()
    for row, label in zip(w, [2, 0, 2, 2], strict=True):
        expected[label] = row.lerp(expected[label], mapping.w_avg_beta)
    mapping.train()(z, c)
    torch.testing.assert_close(mapping.w_avg, expected)


def test_without_classes_there_is_one_mean_and_the_embedding_is_only_kept():
    generator = make_stem(0)
    assert generator.get_buffer("mapping.w_avg").shape == (4,)
    assert "mapping.embed.weight" in generator.state_dict()
    assert "mapping.embed_proj.weight" not in generator.state_dict()


def test_more_classes_than_the_embedding_has_rows_are_refused():
    with pytest.raises(ValueError, match="c_dim is 8; the embedding of classes has 7 rows"):
        make_stem(8)


def test_layers_that_do_not_follow_each_other_are_refused():
    record = as_record(make_superres())
    layer = record.modules["synthesis"].modules["L1_36_6"]
    call = {**layer.init_kwargs, "in_channels": 5}
    wrong = with_part(record, "synthesis.L1_36_6", _init_kwargs=call)
    with pytest.raises(ValueError, match="L1_36_6: in_channels is 5; the layer before has 6"):
        build(wrong)


@pytest.mark.parametrize(
    ("part", "attributes", "message"),
    [
        ("synthesis", {"layer_names": ["L0_36_6", "gone"]}, "has a layer 'gone'"),
        ("synthesis", {"layer_names": []}, "must be a list of names"),
        ("mapping.embed", {"max_norm": 1.0}, "no limit"),
    ],
)
def test_parts_that_no_such_network_has_are_refused(part, attributes, message):
    record = with_part(as_record(make_superres()), part, **attributes)
    with pytest.raises(ValueError, match=message):
        build(record)
