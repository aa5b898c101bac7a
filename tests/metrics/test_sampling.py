"""An image depends on seed and index alone, and drawing leaves no trace."""

from __future__ import annotations

import pytest
import torch

import metrics
from metrics.sampling import BLOCK


def draw(student, n: int, **options) -> torch.Tensor:
    return torch.cat(list(metrics.draw_images(student, n, **options)))


def test_image_i_is_the_same_image_whatever_the_number_of_images(toy):
    many = draw(toy(), 3 * BLOCK + 5)
    assert many.dtype == torch.uint8
    for n in (1, BLOCK - 1, BLOCK, BLOCK + 1, 3 * BLOCK):
        assert torch.equal(draw(toy(), n), many[:n])


def test_images_of_one_seed_repeat_and_of_another_differ(toy):
    assert torch.equal(draw(toy(), 30, seed=5), draw(toy(), 30, seed=5))
    assert (draw(toy(), 30, seed=5) != draw(toy(), 30, seed=6)).float().mean() > 0.9


def test_two_students_get_the_same_latents_labels_and_noise(toy):
    a, b = draw(toy(0.0, c_dim=3), 60), draw(toy(0.1, c_dim=3), 60)
    unclipped = (a > 0) & (a < 230)
    assert unclipped.float().mean() > 0.9
    difference = (b.int() - a.int())[unclipped]
    assert difference.min() >= 12
    assert difference.max() <= 14


def test_noise_inside_layers_is_independent_of_the_latents(toy):
    class Echo(toy):
        def forward(self, z, c=None):
            return (torch.randn_like(z) - z)[:, None, :, None].clamp(-1, 1).expand(-1, 1, 8, 8)

    # Were noise and latents drawn from one seed, their difference would be zero: level 128.
    assert (draw(Echo(), 100) != 128).float().mean() > 0.9


def test_classes_are_drawn_uniformly_or_are_the_one_asked_for(toy):
    class Label(toy):
        def forward(self, z, c=None):
            assert c is not None
            assert c.shape == (len(z), 4)
            assert torch.equal(c.sum(1), torch.ones(len(z)))
            return (c.argmax(1).float() / 10)[:, None, None, None].expand(-1, 1, 8, 8)

    student = Label(c_dim=4)
    counts = draw(student, 1000)[:, 0, 0, 0].unique(return_counts=True)[1]
    assert len(counts) == 4
    assert counts.min() > 200
    assert draw(student, 50, label=2).unique().tolist() == [153]


@pytest.mark.parametrize(("c_dim", "label"), [(0, 0), (4, 4), (4, -1)])
def test_a_class_the_student_lacks_is_refused(toy, c_dim, label):
    with pytest.raises(ValueError, match=f"class {label} of a student with {c_dim}"):
        draw(toy(c_dim=c_dim), 10, label=label)


def test_noise_mode_reaches_the_students_that_take_it(toy):
    quiet = draw(toy(noise=9.0), 30, noise_mode="const")
    assert torch.equal(quiet, draw(toy(noise=0.0), 30))


def test_a_student_of_latents_and_labels_alone_is_a_student(toy):
    class Plain(toy):
        def forward(self, z, c):
            assert c is None
            return z[:, None, :, None].expand(-1, 1, 8, 8)

    assert draw(Plain(), 30).shape == (30, 1, 8, 8)


def test_random_states_and_modes_are_afterwards_what_they_were(toy):
    student = toy().train()
    student.dropout.eval()
    torch.manual_seed(7)
    want = torch.randn(3)
    torch.manual_seed(7)
    images = draw(student, 60)
    assert torch.equal(torch.randn(3), want)
    assert student.training
    assert not student.dropout.training
    assert torch.equal(images, draw(student.eval(), 60))


def test_modes_come_back_when_the_student_fails(toy):
    class Broken(toy):
        def forward(self, z, c=None):
            raise RuntimeError("no")

    student = Broken().train()
    with pytest.raises(RuntimeError, match="no"):
        draw(student, 10)
    assert student.training


def test_images_that_are_not_finite_are_refused_and_named(toy):
    class Late(toy):
        def forward(self, z, c=None):
            return torch.full((len(z), 1, 8, 8), torch.nan)

    with pytest.raises(ValueError, match="images 0 to 24 of seed 3 hold NaN"):
        draw(Late(), 10, seed=3)


def test_fewer_images_than_latents_are_refused_so_that_both_sides_have_as_many(toy):
    class Short(toy):
        def forward(self, z, c=None):
            return super().forward(z, c)[1:]

    with pytest.raises(ValueError, match=r"gives \(24, 1, 8, 8\) for 25 latents"):
        draw(Short(), 10)


@pytest.mark.parametrize("options", [{"num_images": 0}, {"num_images": 5, "seed": -1}])
def test_no_images_and_negative_seeds_are_refused(toy, options):
    with pytest.raises(ValueError, match="allowed are"):
        list(metrics.draw_images(toy(), **options))
