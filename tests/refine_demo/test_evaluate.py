"""Measurements of what refine_demo.train makes."""

from __future__ import annotations

import pytest
import torch

from refine_demo.evaluate import denoising_loss
from refiners.runs.teacher_sampler import TeacherSampler
from teachers.gaussian import GaussianMixture


def gaussian(mean, std):
    shape = [1, 3, 4, 4]
    return GaussianMixture(torch.full(shape, mean), torch.tensor([std]), torch.ones(1))


def test_the_denoising_loss_of_a_constant_image_is_zero_for_who_knows_it():
    images = torch.full([50, 3, 4, 4], 255, dtype=torch.uint8)
    assert denoising_loss(gaussian(1.0, 1e-4), images, None, seed=0) < 1e-6
    assert denoising_loss(gaussian(-1.0, 1e-4), images, None, seed=0) > 1


def test_the_denoising_loss_is_the_same_noise_in_any_batch():
    images = torch.randint(256, [50, 3, 4, 4], dtype=torch.uint8)
    teacher = gaussian(0.0, 0.5)
    one = denoising_loss(teacher, images, None, seed=3)
    assert denoising_loss(teacher, images, None, seed=3) == one
    assert denoising_loss(teacher, images, None, seed=4) != one


def test_a_sampler_draws_what_the_teacher_knows():
    sampled = TeacherSampler(gaussian(0.25, 1e-3), num_steps=6)
    images = sampled(sampled.sample_latents(3))
    assert sampled.z_dim == 48 and images.shape == (3, 3, 4, 4)
    assert torch.allclose(images, torch.full_like(images, 0.25), atol=0.02)
    with pytest.raises(ValueError, match="num_steps is 0"):
        TeacherSampler(gaussian(0.25, 1e-3), num_steps=0)(sampled.sample_latents(3))
