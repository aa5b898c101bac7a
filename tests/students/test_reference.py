"""Networks of the originals compute here what they did there, where their files are at hand.

That they follow the papers' equations is in stylegan2/test_equations.py, that their tensors have
the originals' names and shapes in test_published_layouts.py.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

import students


def near(ours: torch.Tensor, theirs: torch.Tensor, atol: float) -> None:
    torch.testing.assert_close(ours, theirs, rtol=0, atol=atol)


@pytest.mark.parametrize(
    "name",
    [
        "sg2ada-cifar-uncond-small",
        "sg2ada-auto64-uncond-small",
        "sg2ada-gresnet-dskip32-gray-small",
    ],
)
def test_images_and_logits_are_those_of_the_original(samples: Path, name: str) -> None:
    generator = students.load(samples / f"{name}.pkl")
    discriminator = students.load(samples / f"{name}.pkl", network="D")
    with np.load(samples / f"{name}.ref.npz") as file:
        ref = {key: torch.from_numpy(file[key]) for key in file if file[key].dtype.kind != "U"}
    const = generator(ref["z"], noise_mode="const")
    near(const, ref["img_const"], 1e-4)
    near(generator(ref["z"], noise_mode="none"), ref["img_none"], 1e-4)
    near(generator(ref["z"], truncation_psi=0.7, noise_mode="const"), ref["img_psi0p7"], 1e-4)
    torch.manual_seed(123)
    near(generator(ref["z"]), ref["img_random_seed123"], 1e-4)
    half = generator(ref["z"], noise_mode="const", force_fp32=False)
    near(half, ref["img_const_defaultprec"], 5e-2)
    both = torch.stack([half.flatten(), ref["img_const_defaultprec"].flatten()])
    assert float(torch.corrcoef(both)[0, 1]) > 0.999
    near(discriminator(ref["img_const"]), ref["logits"], 1e-4 * float(ref["logits"].abs().max()))
