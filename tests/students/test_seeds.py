"""One seed, one image."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import students


def images(student, seeds, **options) -> np.ndarray:
    return np.stack(list(students.generate(student, seeds, **options)))


@pytest.mark.parametrize("noise_mode", students.NOISE_MODES)
@pytest.mark.parametrize("c_dim", [0, 3])
def test_each_image_depends_on_its_seed_alone(make_generator, c_dim, noise_mode):
    student = make_generator(c_dim=c_dim)
    together = images(student, [3, 5, 2**40], noise_mode=noise_mode)
    assert together.shape == (3, 2, 8, 8) and together.dtype == np.uint8
    torch.manual_seed(99)
    other_order = images(student, [5, 3], noise_mode=noise_mode)
    assert np.array_equal(other_order, together[[1, 0]])
    assert not np.array_equal(together[0], together[1])


def test_an_image_is_the_students_rounded_to_bytes(make_generator):
    student = make_generator()
    torch.manual_seed(3)
    z = student.sample_latents(1)
    x = student(z, truncation_psi=0.6, noise_mode="const")[0].numpy()
    expected = np.clip(x * np.float32(127.5) + np.float32(128), 0, 255).astype(np.uint8)
    assert 0 < expected.mean() < 255
    assert np.array_equal(images(student, [3], truncation_psi=0.6)[0], expected)


def test_the_label_is_the_one_given_or_comes_from_the_seed(make_generator):
    student = make_generator(c_dim=3)
    drawn = images(student, range(12))
    given = np.stack([images(student, range(12), label=k) for k in range(3)])
    matches = [[np.array_equal(drawn[i], given[k][i]) for k in range(3)] for i in range(12)]
    assert all(sum(row) == 1 for row in matches)
    assert all(any(row[k] for row in matches) for k in range(3))


def test_the_random_state_of_torch_is_left_alone(make_generator):
    student = make_generator()
    before = torch.get_rng_state()
    images(student, [1, 2], noise_mode="random")
    assert torch.equal(torch.get_rng_state(), before)


def test_a_wrapped_module_without_parameters_generates_too():
    class Grey(torch.nn.Module):
        def forward(self, z, c):
            return torch.zeros(len(z), 1, 4, 4)

    student = students.wrap(Grey(), z_dim=2, img_resolution=4, img_channels=1)
    assert images(student, [0]).tolist() == [[[[128] * 4] * 4]]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"label": 3}, "the class is 3; this student takes 0 to 2"),
        ({"label": -1}, "the class is -1"),
        ({"seeds": [1, -2]}, "a seed is -2; it must be at least 0"),
        ({"noise_mode": "x"}, "noise_mode is 'x'"),
    ],
)
def test_what_is_not_there_is_refused(make_generator, options, message):
    with pytest.raises(ValueError, match=message):
        images(make_generator(c_dim=3), **{"seeds": [0], **options})
