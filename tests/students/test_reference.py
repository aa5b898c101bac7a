"""Networks of the originals: names, order, values, and the outputs that the originals computed."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import torch

import checkpoints
import students

NAMES = (
    "sg2ada-cifar-uncond-small",
    "sg2ada-auto64-uncond-small",
    "sg2ada-gresnet-dskip32-gray-small",
)


class Sample:
    """A network file with its reference outputs."""

    def __init__(self, folder: Path, name: str):
        self.path = folder / f"{name}.pkl"
        self.manifest = json.loads((folder / f"{name}.manifest.json").read_text())
        with np.load(folder / f"{name}.ref.npz") as file:
            self.ref = {
                key: torch.from_numpy(file[key]) for key in file if file[key].dtype != "<U18"
            }
            self.names = [str(name) for name in file["r1_param_names"]]

    def load(self, network: str = "G_ema") -> Any:
        return students.load(self.path, network=network)


@pytest.fixture(scope="module", params=NAMES)
def sample(request, samples: Path) -> Sample:
    return Sample(samples, request.param)


def near(ours: torch.Tensor, theirs: torch.Tensor, atol: float) -> None:
    torch.testing.assert_close(ours, theirs, rtol=0, atol=atol)


def relatively_near(ours: torch.Tensor, theirs: torch.Tensor, rtol: float) -> None:
    """Equal but for a fraction of the largest value."""
    torch.testing.assert_close(ours, theirs, rtol=0, atol=rtol * float(theirs.abs().max()))


@pytest.mark.parametrize("network", ["G", "D", "G_ema"])
def test_names_order_shapes_types_and_values_are_those_of_the_file(sample, network):
    loaded, listed = sample.load(network), sample.manifest[network]
    record = cast("Any", checkpoints.read(sample.path))[network]
    for ours, theirs, values in (
        (dict(loaded.named_parameters()), "parameters", checkpoints.parameters(record)),
        (dict(loaded.named_buffers()), "buffers", checkpoints.buffers(record)),
    ):
        found = {name: [list(t.shape), str(t.dtype)] for name, t in ours.items()}
        assert found == {name: [shape, dtype] for name, shape, dtype, *_ in listed[theirs]}
        assert all(torch.equal(tensor, values[name]) for name, tensor in ours.items())
    order = [name for name, _ in loaded.named_parameters()]
    assert order == [name for name, *_ in listed["parameters"]]


def test_ws_are_those_of_the_original(sample):
    mapping, ref = sample.load().mapping, sample.ref
    near(mapping(ref["z"]), ref["ws"], 1e-5)
    near(mapping(ref["z"], truncation_psi=0.7), ref["ws_psi0p7"], 1e-5)
    cut = mapping(ref["z"], truncation_psi=0.5, truncation_cutoff=3)
    near(cut, ref["ws_psi0p5_cut3"], 1e-5)


def test_images_are_those_of_the_original(sample):
    generator, ref = sample.load(), sample.ref
    const = generator(ref["z"], noise_mode="const")
    near(const, ref["img_const"], 1e-4)
    near(const, ref["img_const_unfused"], 1e-4)
    near(generator(ref["z"], noise_mode="none"), ref["img_none"], 1e-4)
    near(generator(ref["z"], truncation_psi=0.7, noise_mode="const"), ref["img_psi0p7"], 1e-4)
    torch.manual_seed(123)
    near(generator(ref["z"]), ref["img_random_seed123"], 1e-4)


def test_half_precision_images_are_those_of_the_original_up_to_its_rounding(sample):
    generator, ref = sample.load(), sample.ref
    half = generator(ref["z"], noise_mode="const", force_fp32=False)
    near(half, ref["img_const_defaultprec"], 5e-2)
    both = torch.stack([half.flatten(), ref["img_const_defaultprec"].flatten()])
    assert float(torch.corrcoef(both)[0, 1]) > 0.999


def test_gradients_of_the_images_are_those_of_the_original(sample):
    generator, ref = sample.load(), sample.ref
    ws = ref["ws"].clone().requires_grad_()
    images = generator.synthesis(ws, noise_mode="const")
    (slope,) = torch.autograd.grad((images * ref["y"]).sum(), ws, create_graph=True)
    # An activation next to a kink of leaky ReLU falls on either side by the processor's rounding.
    relatively_near(slope.detach(), ref["grad_ws"], 2e-3)
    # Path lengths (Karras et al. 2020, arXiv:1912.04958, eq. 4) and their gradient.
    lengths = slope.square().sum(dim=2).mean(dim=1).sqrt()
    relatively_near(lengths.detach(), ref["pl_lengths"], 1e-3)
    (second,) = torch.autograd.grad(lengths.sum(), ws)
    relatively_near(second, ref["grad_pl_wrt_ws"], 5e-3)


def test_logits_and_the_r1_penalty_are_those_of_the_original(sample):
    discriminator, ref = sample.load("D").requires_grad_(True), sample.ref
    images = ref["img_const"].clone().requires_grad_()
    logits = discriminator(images)
    relatively_near(logits.detach(), ref["logits"], 1e-4)
    (slope,) = torch.autograd.grad(logits.sum(), images, create_graph=True)
    relatively_near(slope.detach(), ref["grad_x"], 1e-3)
    penalty = slope.square().sum(dim=[1, 2, 3])
    relatively_near(penalty.detach(), ref["r1"], 1e-3)
    parameters = dict(discriminator.named_parameters())
    chosen = [parameters[name] for name in sample.names]
    gradients = torch.autograd.grad(penalty.sum(), chosen, allow_unused=True)
    norms = [math.nan if g is None else float(g.double().norm()) for g in gradients]
    found = torch.tensor(norms, dtype=torch.float64)
    expected = sample.ref["r1_param_gradnorm"]
    # A parameter that R1 does not see has no gradient: NaN there, none or zero here.
    used = ~expected.isnan()
    assert not found[~used].nan_to_num().any()
    torch.testing.assert_close(found[used], expected[used], rtol=1e-3, atol=1e-9)
