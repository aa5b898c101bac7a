"""The exact denoisers against what defines them."""

from __future__ import annotations

import math

import pytest
import torch

from teachers.gaussian import Gaussian, GaussianMixture, KernelDensity

MEANS = torch.tensor([-1.0, 0.4, 2.0], dtype=torch.float64).reshape(3, 1, 1, 1)
STDS, WEIGHTS = [0.3, 0.8, 0.1], [1.0, 3.0, 2.0]


def test_the_mixture_denoiser_is_the_posterior_mean_by_quadrature():
    denoiser = GaussianMixture(MEANS, STDS, WEIGHTS)
    x_0 = torch.linspace(-8, 8, 40_001, dtype=torch.float64)
    density = sum(
        w / s * torch.exp(-((x_0 - m) ** 2) / (2 * s**2))
        for m, s, w in zip(MEANS.flatten(), STDS, WEIGHTS, strict=True)
    )
    for sigma in (0.05, 0.5, 3.0):
        for x in (-2.0, 0.1, 1.4):
            posterior = density * torch.exp(-((x - x_0) ** 2) / (2 * sigma**2))
            expected = float((posterior * x_0).sum() / posterior.sum())
            got = denoiser(torch.full([1, 1, 1, 1], x, dtype=torch.float64), sigma)
            assert float(got) == pytest.approx(expected, rel=1e-6)


def test_denoising_is_a_step_along_the_score():
    """Tweedie: D = x + sigma^2 grad log p(x; sigma)."""
    means, stds, weights = torch.randn(3, 2, 4, 4).double(), torch.rand(3).double(), torch.rand(3)
    x = torch.randn(5, 2, 4, 4).double().requires_grad_(True)
    sigma = torch.tensor([0.1, 0.5, 1.0, 3.0, 20.0]).double()
    variance = stds**2 + sigma[:, None] ** 2
    distance = (x[:, None] - means).square().flatten(2).sum(2)
    log_p = (
        -distance / (2 * variance) - 16 * (2 * math.pi * variance).log() + weights.double().log()
    )
    (score,) = torch.autograd.grad(log_p.logsumexp(1).sum(), x)
    expected = x + sigma[:, None, None, None] ** 2 * score
    torch.testing.assert_close(GaussianMixture(means, stds, weights)(x, sigma), expected)


def test_a_mixture_of_one_is_a_gaussian():
    mean, x, sigma = torch.randn(2, 4, 4), torch.randn(3, 2, 4, 4), torch.tensor([0.1, 1.0, 50.0])
    mixture = GaussianMixture(mean[None], [0.6], [5.0])
    torch.testing.assert_close(mixture(x, sigma), Gaussian(mean, 0.6)(x, sigma))


def test_little_noise_leaves_the_image_and_much_noise_leaves_the_mean():
    x = torch.randn(2, 1, 1, 1, dtype=torch.float64)
    mixture = GaussianMixture(MEANS, STDS, WEIGHTS)
    torch.testing.assert_close(mixture(x, 1e-6), x)
    mean = (MEANS.flatten() * torch.tensor(WEIGHTS)).sum() / 6
    torch.testing.assert_close(mixture(x, 1e6), mean.expand_as(x), rtol=1e-5, atol=1e-5)


def test_a_number_is_the_mean_of_every_pixel():
    x = torch.randn(2, 3, 4, 4)
    number = Gaussian(0.3, 0.5, img_channels=3, img_resolution=4)
    torch.testing.assert_close(number(x, 0.7), Gaussian(torch.full([3, 4, 4], 0.3), 0.5)(x, 0.7))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Gaussian(0.3, 0.5), "give img_channels and img_resolution too"),
        (lambda: Gaussian(torch.zeros(3, 4, 5), 0.5), r"mean is \[3, 4, 5\]; give a square image"),
        (lambda: Gaussian(torch.zeros(3, 4, 4), -1), "std is -1; it must be 0 or more"),
        (lambda: GaussianMixture(MEANS[0], [1], [1]), "give square images"),
        (lambda: GaussianMixture(MEANS, [1, 1], [1, 1, 1]), "give 3 stds and 3 weights"),
        (lambda: GaussianMixture(MEANS, [1, 1, -1], [1, 1, 1]), "stds must be 0 or more"),
        (lambda: GaussianMixture(MEANS, [1, 1, 1], [1, 1, 0]), "weights above 0"),
    ],
)
def test_sizes_that_do_not_agree_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_labels_and_other_shapes_are_refused():
    denoiser = Gaussian(0.0, 1.0, img_channels=1, img_resolution=4)
    with pytest.raises(ValueError, match="unconditional"):
        denoiser(torch.zeros(2, 1, 4, 4), 1.0, torch.zeros(2, 10))
    with pytest.raises(ValueError, match=r"takes \[n, 1, 4, 4\]"):
        denoiser(torch.zeros(2, 3, 4, 4), 1.0)


@pytest.mark.parametrize("chunk", [1, 3, 100])
def test_an_image_set_is_the_mixture_of_its_images(chunk):
    images, x = torch.rand(7, 2, 4, 4) * 2 - 1, torch.randn(5, 2, 4, 4)
    sigma = torch.tensor([0.01, 0.1, 1.0, 9.0, 80.0])
    mixture = GaussianMixture(images.double(), [0.2] * 7, [1] * 7)
    expected = mixture(x.double(), sigma).float()
    torch.testing.assert_close(KernelDensity(images, 0.2, chunk=chunk)(x, sigma), expected)


def test_without_a_kernel_and_with_little_noise_the_nearest_image_is_found():
    images = torch.randint(256, [50, 3, 4, 4], dtype=torch.uint8)
    clean = images.float() / 127.5 - 1
    sigma = 0.002
    got = KernelDensity(images, 0.0)(clean + sigma * torch.randn_like(clean), sigma)
    torch.testing.assert_close(got, clean)


def test_under_a_label_an_image_set_is_the_set_of_that_class():
    images, x = torch.rand(6, 1, 4, 4), torch.randn(2, 1, 4, 4)
    conditional = KernelDensity(images, 0.3, labels=torch.eye(2)[[0, 1, 0, 0, 1, 1]])
    got = conditional(x, 0.5, torch.eye(2))
    for i, mine in enumerate(([0, 2, 3], [1, 4, 5])):
        expected = KernelDensity(images[mine], 0.3)(x[i : i + 1], 0.5)
        torch.testing.assert_close(got[i : i + 1], expected)
    whole = KernelDensity(images, 0.3)(x, 0.5)
    torch.testing.assert_close(conditional(x, 0.5), whole)
    torch.testing.assert_close(conditional(x, 0.5, torch.zeros(2, 2)), whole)


@pytest.mark.parametrize(
    "denoiser",
    [GaussianMixture(MEANS, STDS, WEIGHTS), KernelDensity(MEANS, 0.4, chunk=2)],
    ids=["mixture", "image set"],
)
def test_exact_denoisers_have_gradients_to_second_order(denoiser):
    x = torch.randn(3, 1, 1, 1, dtype=torch.float64, requires_grad=True)
    sigma = torch.tensor([0.3, 0.9, 4.0], dtype=torch.float64)
    assert torch.autograd.gradcheck(lambda x: denoiser(x, sigma), (x,))
    assert torch.autograd.gradgradcheck(lambda x: denoiser(x, sigma), (x,))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            lambda: KernelDensity(torch.zeros(2, 1, 4, 5), 0.1),
            r"images are \[2, 1, 4, 5\]; give square",
        ),
        (lambda: KernelDensity(torch.zeros(0, 1, 4, 4), 0.1), "give square images"),
        (
            lambda: KernelDensity(torch.zeros(2, 1, 4, 4), -0.1),
            "bandwidth is -0.1; it must be 0 or",
        ),
        (lambda: KernelDensity(torch.zeros(2, 1, 4, 4), 0.1, chunk=0), "chunk is 0; it must be"),
        (
            lambda: KernelDensity(torch.zeros(2, 1, 4, 4), 0.1, labels=torch.eye(3)),
            r"labels are \[3, 3\] for 2 images",
        ),
        (
            lambda: KernelDensity(torch.zeros(2, 1, 4, 4), 0.1, labels=torch.eye(2)[[1, 1]]),
            "class 0 has no images",
        ),
    ],
)
def test_image_sets_that_make_no_teacher_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()
