"""Batches, ramps and curves of the stages of refine_demo.train."""

from __future__ import annotations

import itertools

import pytest
import torch

from refine_demo.sizes import SIZES
from refine_demo.stages import Training, append_line, batches, read_curve
from refine_demo.student import _networks, draw
from teachers.edm import EDMPrecond


@pytest.fixture
def data() -> tuple[torch.Tensor, torch.Tensor]:
    return torch.randint(256, [20, 3, 32, 32], dtype=torch.uint8), torch.arange(20) % 10


def test_a_batch_depends_on_the_step_alone_wherever_a_training_began(data):
    whole = list(itertools.islice(batches(data[0], data[1], 4, seed=1, start=0, flips=True), 5))
    later = list(itertools.islice(batches(data[0], data[1], 4, seed=1, start=12, flips=True), 2))
    for (x, c), (y, d) in zip(whole[3:], later, strict=True):
        assert torch.equal(x, y) and torch.equal(c, d)


def test_flips_mirror_about_half_of_the_images_and_change_nothing_else(data):
    straight, labels = next(batches(data[0], data[1], 1000, seed=1, start=0))
    mixed, same = next(batches(data[0], data[1], 1000, seed=1, start=0, flips=True))
    mirrored = (mixed == straight.flip(3)).all(dim=(1, 2, 3))
    assert torch.equal(labels, same)
    assert ((mixed == straight).all(dim=(1, 2, 3)) ^ mirrored).all()
    assert 450 < mirrored.sum() < 550  # more than three standard deviations of a fair coin


@pytest.mark.parametrize(
    ("seen", "seam", "ramp"),
    [
        (0, 0, 0),
        (2500, 0, 0.5),
        (9000, 0, 1),
        (9000, 9000, 0),
        (14000, 9000, 0.5),
        (20000, 9000, 1),
    ],
)
def test_the_learning_rate_rises_at_first_and_after_a_seam(tmp_path, seen, seam, ramp):
    assert Training(tmp_path / "x.pt", {}, seen, seam).ramp == ramp


def test_what_a_curve_knows_beyond_the_state_is_dropped(tmp_path):
    network = torch.nn.Linear(2, 2)
    training = Training.begin(tmp_path, "x", {"network": network}, None)
    training.seen = 20_000
    training.save()
    for kimg in (10, 20, 30):
        append_line(training.curve, {"kimg": kimg})
    with open(training.curve, "a") as file:
        file.write('{"kimg": 4')  # the process ended here
    again = Training.begin(tmp_path, "x", {"network": network}, None)
    assert again.seen == 20_000
    assert read_curve(again.curve) == [{"kimg": 10}, {"kimg": 20}]


def test_the_labels_of_a_conditional_student_matter():
    generator, discriminator = _networks("cifar10-s", conditional=True, device="cpu")
    z, c = draw(generator, 4)
    assert c is not None and torch.equal(c.sum(1), torch.ones(4))
    other = c.roll(1, dims=1)
    images = generator(z, c, noise_mode="const")
    assert not torch.allclose(images, generator(z, other, noise_mode="const"), atol=1e-3)
    assert not torch.allclose(discriminator(images, c), discriminator(images, other), atol=1e-3)


@pytest.mark.parametrize(("size", "weights"), [("s", 0.7e6), ("m", 1.3e6), ("l", 2.5e6)])
def test_colour_networks_have_about_the_weights_that_are_written_of_them(size, weights):
    sizes = SIZES[f"cifar10-{size}"]
    teacher = EDMPrecond(32, 3, 10, model_type="SongUNet", **sizes.teacher)
    generator, _ = _networks(f"cifar10-{size}", conditional=False, device="cpu")
    assert count(teacher) == pytest.approx(weights, rel=0.05)
    assert count(generator) == pytest.approx(0.77e6, rel=0.05)


def count(network):
    return sum(parameter.numel() for parameter in network.parameters())
