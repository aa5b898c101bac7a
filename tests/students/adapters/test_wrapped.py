"""Any module (z, c) -> images is a student once it is wrapped."""

from __future__ import annotations

import pytest
import torch

import students
from students import Student


class Painter(torch.nn.Module):
    """Images of one value each: the sum of the latent, or the label."""

    def forward(self, z: torch.Tensor, c: torch.Tensor | None) -> torch.Tensor:
        value = z.sum(dim=1) if c is None else c.argmax(dim=1).float()
        return value[:, None, None, None].expand(-1, 1, 4, 4)


def painter(c_dim: int = 0, size: int = 4) -> Student:
    return students.wrap(Painter(), z_dim=2, c_dim=c_dim, img_resolution=size, img_channels=1)


def test_a_wrapped_module_gives_its_images_and_has_its_sizes():
    student, z = painter(), torch.randn(3, 2)
    assert torch.equal(student(z)[:, 0, 0, 0], z.sum(dim=1))
    sizes = (student.z_dim, student.c_dim, student.img_resolution, student.img_channels)
    assert sizes == (2, 0, 4, 1)
    assert student.sample_latents(7).shape == (7, 2)


def test_labels_reach_a_wrapped_conditional_module_and_only_such_a_one():
    z = torch.randn(2, 2)
    assert painter(c_dim=3)(z, torch.eye(3)[[2, 1]])[:, 0, 0, 0].tolist() == [2.0, 1.0]
    assert torch.equal(painter()(z, torch.eye(3)[:2]), painter()(z))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: painter()(torch.zeros(1, 3)), r"z is \[1, 3\]"),
        (lambda: painter(c_dim=3)(torch.zeros(1, 2)), "give one-hot labels"),
        (lambda: painter()(torch.zeros(1, 2), truncation_psi=0.5), "has no truncation"),
        (lambda: painter()(torch.zeros(1, 2), noise_mode="x"), "noise_mode is 'x'"),
        (lambda: painter(size=8)(torch.zeros(1, 2)), r"returned \[1, 1, 4, 4\]; it was declared"),
        (lambda: painter(size=0), "img_resolution is 0; it must be at least 1"),
        (lambda: painter(c_dim=-1), "c_dim is -1; it must be at least 0"),
    ],
)
def test_what_a_wrapped_module_cannot_do_is_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()
