"""EDM's augmentations: what the nine numbers say was done is what was done."""

from __future__ import annotations

import copy
import math
from typing import Any

import numpy as np
import pytest
import torch

from refiners import Settings
from refiners.diff_instruct import DiffInstruct
from refiners.sid import SiD
from refiners.sigma_laws import denoising_loss
from refiners.training.augment import Told, augmented
from teachers.edm import EDMPrecond


def blobs(n: int, size: int) -> tuple[torch.Tensor, np.ndarray]:
    """Images [n, 1, size, size] of a blob each, and their places from the middle, in pixels."""
    at = (torch.rand(n, 2) - 0.5) * size * 0.2
    grid = torch.arange(size) - (size - 1) / 2
    x, y = grid[None, None, :] - at[:, 0, None, None], grid[None, :, None] - at[:, 1, None, None]
    return torch.exp(-(x**2 + y**2) / 8)[:, None], at.double().numpy()


def place(images: torch.Tensor) -> np.ndarray:
    """Centres of mass, from the middle, in pixels."""
    size = images.shape[-1]
    grid = torch.arange(size) - (size - 1) / 2
    total = images.sum(dim=[1, 2, 3])
    x = (images.sum(dim=[1, 2]) * grid).sum(dim=1) / total
    y = (images.sum(dim=[1, 3]) * grid).sum(dim=1) / total
    return torch.stack([x, y], dim=1).double().numpy()


def turned(angle: float) -> np.ndarray:
    return np.array([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]])


def test_a_blob_goes_where_the_nine_numbers_say() -> None:
    """Mirrored, scaled, turned against y (downwards), stretched along a direction, shifted."""
    size = 64
    images, before = blobs(400, size)
    moved, told = augmented(images, 0.5)
    after = place(moved)
    checked = 0
    for i, (mirror, flip, scale, cos, sin, u, v, *shift) in enumerate(told.double().tolist()):
        p = before[i] * [1 - 2 * mirror, 1 - 2 * flip] * 2 ** (0.2 * scale)
        p = turned(-math.atan2(sin, cos + 1)) @ p
        # Along x the number has its sign; w along r and -w against r are told alike, as in EDM.
        ways = [(u, 0.0)] if v == 0 else [(math.hypot(u, v), math.atan2(v, u))]
        ways += [(-w, r + math.pi) for w, r in ways if v]
        errors = []
        for w, r in ways:
            t = 2 ** (0.2 * w)
            found = turned(-r) @ np.diag([t, 1 / t]) @ turned(r) @ p
            errors.append(np.abs(found + 0.125 * size * np.array(shift) - after[i]).max())
        # Else a blob's mirror image comes in at a border.
        if max(abs(scale), math.hypot(u, v), *np.abs(shift)) < 1.2:
            assert min(errors) < 0.1
            checked += 1
    assert checked > 150


def test_an_image_that_is_only_mirrored_or_flipped_keeps_its_pixels() -> None:
    images = torch.randn(300, 2, 8, 8)
    moved, told = augmented(images, 0.12)
    still = (told[:, 2:] == 0).all(dim=1)
    assert 100 < still.sum() < 250
    for before, after, (mirror, flip) in zip(
        images[still], moved[still], told[still, :2].tolist(), strict=True
    ):
        before = before.flip(2) if mirror else before
        assert torch.equal(after, before.flip(1) if flip else before)
    mirrored, told = augmented(images, 0.0)
    assert torch.equal(mirrored[told[:, 0] == 0], images[told[:, 0] == 0])
    assert (told[:, 1:] == 0).all() and 100 < told[:, 0].sum() < 200


def test_each_change_comes_with_its_published_probability_and_size() -> None:
    _, told = augmented(torch.zeros(20_000, 1, 2, 2), 0.12)
    some = [told[:, columns].ne(0).any(dim=1) for columns in ([2], [3, 4], [5, 6], [7, 8])]
    for changed in some:
        assert changed.float().mean().item() == pytest.approx(0.12, abs=0.01)
    assert told[:, 1].mean().item() == pytest.approx(0.06, abs=0.01)
    scale, _, stretch, shift = (told[chosen] for chosen in some)
    assert scale[:, 2].std().item() == pytest.approx(1, abs=0.05)
    assert shift[:, 7:].std().item() == pytest.approx(1, abs=0.05)
    # Half of the stretches are along x, the others along any direction.
    assert stretch[:, 6].eq(0).float().mean().item() == pytest.approx(0.5, abs=0.05)


def small_edm(augment_dim: int) -> EDMPrecond:
    network = EDMPrecond(
        8, 1, model_type="SongUNet", model_channels=8, channel_mult=[1], num_blocks=1,
        augment_dim=augment_dim,
    )  # fmt: skip
    for parameter in network.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    return network.eval()


def test_the_auxiliary_learns_augmented_images_and_is_told_how(refinement: Any) -> None:
    teacher = small_edm(9)
    student = Rows()
    job = refinement(student, teacher, DiffInstruct(), augment=0.12, warmup_kimg=0.016, seed=2)
    auxiliary = copy.deepcopy(job.auxiliary)
    loss = job.advance()["Loss/auxiliary"]
    torch.manual_seed(2 * 1_000_003)
    x_0, told = augmented(student(student.sample_latents(16)).detach(), 0.12)
    expected = denoising_loss(
        Told(auxiliary, told), x_0, None, law="lognormal:-1.2,1.2", sigma_data=0.5
    )
    assert loss == pytest.approx(expected.item(), rel=1e-5)


class Rows(torch.nn.Module):
    """A student whose latents are its images."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = torch.nn.Parameter(torch.tensor(0.5))
        self.z_dim, self.c_dim, self.img_resolution, self.img_channels = 64, 0, 8, 1

    def sample_latents(self, n: int, *, generator: Any = None) -> torch.Tensor:
        return torch.randn([n, 64], generator=generator)

    def forward(self, z: torch.Tensor, c: Any = None) -> torch.Tensor:
        return (self.scale * z).reshape(-1, 1, 8, 8)


def test_what_cannot_be_augmented_is_refused(refinement: Any) -> None:
    with pytest.raises(ValueError, match="the teacher takes 0 augmentation labels, not EDM's 9"):
        refinement(Rows(), small_edm(0), SiD(), augment=0.1)
    with pytest.raises(ValueError, match=r"share_pass is set with augment 0.1 and dropout 0"):
        refinement(
            Rows(), small_edm(9), DiffInstruct(), augment=0.1, share_pass=True, auxiliary_ema=0
        )
    with pytest.raises(ValueError, match=r"augment is 1.5; it must be at most 1"):
        Settings(augment=1.5)
