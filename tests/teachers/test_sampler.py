"""Laws of the sampler, with exact denoisers, and equality with the original's images."""

from __future__ import annotations

import math
import re
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch

from teachers.denoiser import DenoiserModule
from teachers.edm import VEPrecond, iDDPMPrecond
from teachers.gaussian import Gaussian, GaussianMixture, KernelDensity
from teachers.sampler import generate, inputs_of_seeds, noise_levels, sample

TINY = {
    "img_resolution": 4,
    "img_channels": 1,
    "model_channels": 4,
    "channel_mult": [1],
    "num_blocks": 1,
}


def error_on_a_gaussian(num_steps: int, solver: str) -> float:
    """Distance from the exact solution m + (x - m) s / sqrt(s^2 + sigma_max^2)."""
    denoiser = Gaussian(torch.full([1, 1, 1], 0.2, dtype=torch.float64), 0.5)
    latents = torch.ones(1, 1, 1, 1, dtype=torch.float64)
    options: Any = {"sigma_min": 1e-4, "sigma_max": 20.0, "solver": solver}
    got = float(sample(denoiser, latents, num_steps=num_steps, **options))
    return abs(got - (0.2 + (20 - 0.2) * 0.5 / math.hypot(0.5, 20)))


@pytest.mark.parametrize(("solver", "order"), [("heun", 2), ("euler", 1)])
def test_the_error_falls_with_the_order_of_the_solver(solver, order):
    errors = [error_on_a_gaussian(n, solver) for n in (40, 80, 160)]
    for coarse, fine in pairwise(errors):
        assert math.log2(coarse / fine) == pytest.approx(order, abs=0.25)


def test_the_state_is_float64_and_images_of_float32_latents_are_rounded_once():
    """Heun's method in numpy's float64, of a Gaussian (Karras et al. 2022, Algorithm 1)."""
    denoiser = Gaussian(torch.full([1, 4, 4], 0.3, dtype=torch.float64), 0.5)
    latents = torch.randn(2, 1, 4, 4, dtype=torch.float64)
    levels = noise_levels(denoiser, 40, sigma_min=0.002, sigma_max=80.0, rho=7.0)

    def slope(x: np.ndarray, t: float) -> np.ndarray:
        return (x - (0.25 * x + t**2 * 0.3) / (0.25 + t**2)) / t

    x = latents.numpy() * levels[0]
    for t, after in pairwise(levels):
        first = slope(x, t)
        euler = x + (after - t) * first
        x = euler if after == 0 else x + (after - t) * (first + slope(euler, after)) / 2
    got = sample(denoiser, latents, num_steps=40)
    torch.testing.assert_close(got, torch.from_numpy(x), rtol=0, atol=1e-12)
    short = latents.float()
    assert torch.equal(sample(denoiser, short), sample(denoiser, short.double()).float())


def test_however_much_churn_is_asked_for_a_step_at_most_doubles_the_noises_variance():
    """gamma is at most sqrt(2) - 1 (Karras et al. 2022, Algorithm 2)."""
    seen: list[float] = []

    class Spy(DenoiserModule):
        def forward(self, x, sigma, labels=None):
            seen.append(float(sigma))
            return x

    options: Any = {"sigma_min": 0.1, "sigma_max": 10.0, "rho": 7.0}
    spy = Spy(1, 2)
    sample(spy, torch.randn(1, 1, 2, 2), num_steps=5, s_churn=1e6, solver="euler", **options)
    levels = noise_levels(spy, 5, **options)[:-1]
    assert [sigma**2 for sigma in seen] == pytest.approx([2 * level**2 for level in levels])


@pytest.mark.parametrize("s_churn", [0.0, 10.0])
def test_samples_of_an_exact_mixture_have_its_mean_and_covariance(s_churn):
    n, means = 5_000, torch.tensor([[-1.0, 0.5, 0.0, 1.0], [0.8, 0.5, -1.0, 0.0]])
    stds, weights = torch.tensor([0.2, 0.5]), torch.tensor([0.3, 0.7])
    denoiser = GaussianMixture(means.reshape(2, 1, 2, 2), stds, weights)
    generator = torch.Generator().manual_seed(1)
    latents = torch.randn(n, 1, 2, 2, generator=generator)
    options: Any = {"num_steps": 80, "s_churn": s_churn, "generator": generator}
    x = sample(denoiser, latents, **options).flatten(1).double()

    means, stds, weights = means.double(), stds.double(), weights.double()
    mean = weights @ means
    second = torch.einsum("k,ki,kj->ij", weights, means, means)
    covariance = second - torch.outer(mean, mean) + (weights * stds**2).sum() * torch.eye(4)
    # Four standard errors; those of a covariance are of Gaussian samples (Anderson 2003, Sec. 3.4).
    # The solver's own error at 80 steps is a quarter of one.
    variance = covariance.diag()
    assert bool(((x.mean(0) - mean).abs() < 4 * (variance / n).sqrt()).all())
    standard_error = ((torch.outer(variance, variance) + covariance**2) / n).sqrt()
    assert bool(((x.T.cov() - covariance).abs() < 4 * standard_error).all())


def test_noise_levels_are_those_of_the_paper():
    """Eq. 5 with rho 1 is linear, with rho 7 its seventh root is."""
    denoiser = Gaussian(0.0, 1.0, img_channels=1, img_resolution=1)
    linear = noise_levels(denoiser, 5, sigma_min=1.0, sigma_max=9.0, rho=1.0)
    assert linear == pytest.approx([9, 7, 5, 3, 1, 0])
    levels = noise_levels(denoiser, 18, sigma_min=0.002, sigma_max=80.0, rho=7.0)
    assert levels[0] == pytest.approx(80) and levels[-2:] == pytest.approx([0.002, 0])
    steps = np.diff(np.array(levels[:-1]) ** (1 / 7))
    assert steps == pytest.approx(np.full(17, steps[0]))


def test_noise_levels_stay_within_the_denoisers_range_and_on_its_grid():
    levels = noise_levels(VEPrecond(**TINY), 7, sigma_min=0.002, sigma_max=1000.0, rho=7.0)
    assert levels[0] == pytest.approx(100) and levels[-2:] == pytest.approx([0.02, 0])
    denoiser = iDDPMPrecond(**TINY)
    grid = set(denoiser.u.double().tolist())
    assert set(noise_levels(denoiser, 7, sigma_min=0.002, sigma_max=80.0, rho=7.0)) <= grid


def test_churned_levels_are_on_the_grid_too():
    denoiser, seen = iDDPMPrecond(**TINY), []

    class Spy(DenoiserModule):
        def round_sigma(self, sigma):
            return denoiser.round_sigma(sigma)

        def forward(self, x, sigma, labels=None):
            seen.append(sigma)
            return denoiser(x, sigma, labels)

    spy = Spy(1, 4)
    spy.sigma_min = denoiser.sigma_min
    sample(spy, torch.randn(1, 1, 4, 4), num_steps=6, s_churn=3.0)
    assert len(seen) == 11 and set(seen) <= set(denoiser.u.double().tolist())


def test_one_step_is_the_denoised_latent():
    denoiser, latents = Gaussian(torch.randn(1, 4, 4), 0.5), torch.randn(3, 1, 4, 4)
    got = sample(denoiser, latents, num_steps=1, sigma_max=10.0)
    torch.testing.assert_close(got, denoiser(latents * 10, 10.0))


def test_noise_is_drawn_only_where_it_is_asked_for_and_only_from_the_generator():
    denoiser, latents = Gaussian(torch.zeros(1, 2, 2), 0.5), torch.randn(2, 1, 2, 2)
    state, generator = torch.get_rng_state(), torch.Generator()

    def images(seed: int, **options) -> torch.Tensor:
        return sample(denoiser, latents, generator=generator.manual_seed(seed), **options)

    plain = images(1)
    fresh = torch.Generator().manual_seed(1).get_state()
    torch.testing.assert_close(generator.get_state(), fresh, rtol=0, atol=0)
    churned = images(1, s_churn=5.0)
    torch.testing.assert_close(images(1, s_churn=5.0), churned, rtol=0, atol=0)
    assert not torch.allclose(images(2, s_churn=5.0), churned)
    assert not torch.allclose(churned, plain)
    none = images(1, s_churn=5.0, s_min=100.0)
    torch.testing.assert_close(none, plain, rtol=0, atol=0)
    torch.testing.assert_close(torch.get_rng_state(), state, rtol=0, atol=0)


def test_images_have_the_type_of_the_latents_and_no_gradient():
    denoiser = Gaussian(torch.zeros(1, 2, 2, requires_grad=True), 0.5)
    for dtype in (torch.float32, torch.float64):
        images = sample(denoiser, torch.randn(1, 1, 2, 2, dtype=dtype), num_steps=2)
        assert images.dtype == dtype and not images.requires_grad


def test_a_denoiser_that_names_no_noise_levels_of_its_own_can_be_sampled():
    exact, latents = Gaussian(torch.zeros(1, 2, 2), 0.5), torch.randn(1, 1, 2, 2)

    class Plain(torch.nn.Module):
        sigma_min, sigma_max = 0.0, math.inf
        img_channels, img_resolution, label_dim = 1, 2, 0

        def forward(self, x, sigma, labels=None):
            return exact(x, sigma)

    torch.testing.assert_close(sample(Plain(), latents), sample(exact, latents))


def test_progress_counts_the_steps():
    seen: list[tuple[int, int]] = []
    denoiser = Gaussian(torch.zeros(1, 2, 2), 0.5)
    sample(denoiser, torch.randn(1, 1, 2, 2), num_steps=3, progress=lambda *at: seen.append(at))
    assert seen == [(1, 3), (2, 3), (3, 3)]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"solver": "rk4"}, "solver is 'rk4'; allowed are heun, euler"),
        ({"num_steps": 0}, "num_steps is 0; it must be at least 1"),
        ({"sigma_min": 5.0, "sigma_max": 2.0}, "give 0 < sigma_min <= sigma_max"),
        ({"sigma_min": 0.0}, "noise levels 0.0 to 80.0 leave 0.0 to 80.0 within the teacher's"),
        ({"sigma_max": math.inf}, "give 0 < sigma_min <= sigma_max"),
    ],
)
def test_options_out_of_range_are_refused(options, message):
    denoiser = Gaussian(torch.zeros(1, 2, 2), 0.5)
    with pytest.raises(ValueError, match=re.escape(message)):
        sample(denoiser, torch.zeros(1, 1, 2, 2), **options)


def test_euler_steps_over_a_vp_models_levels_are_ddim():
    """Song et al. 2021, arXiv:2010.02502, Eq. 12 with eta 0, in its own variables."""
    denoiser = GaussianMixture(torch.randn(3, 1, 2, 2).double(), [0.2, 0.5, 0.3], [1, 2, 1])
    a = (1 - torch.linspace(1e-4, 0.02, 1000, dtype=torch.float64)).cumprod(0).flip(0)[::50]
    levels = ((1 - a) / a).sqrt()
    latents = torch.randn(4, 1, 2, 2, dtype=torch.float64)
    y = latents * levels[0] * a[0].sqrt()
    for i in range(len(a)):
        x_0 = denoiser(y / a[i].sqrt(), levels[i])
        eps = (y - a[i].sqrt() * x_0) / (1 - a[i]).sqrt()
        after = a[i + 1] if i + 1 < len(a) else torch.ones([], dtype=torch.float64)
        y = after.sqrt() * x_0 + (1 - after).sqrt() * eps
    got = sample(denoiser, latents, solver="euler", levels=levels.tolist())
    torch.testing.assert_close(got, y)


@pytest.mark.parametrize("levels", [[], [1.0, 2.0], [1.0, 1.0], [1.0, 0.0], [math.inf, 1.0]])
def test_levels_that_do_not_fall_to_a_positive_one_are_refused(levels):
    denoiser = Gaussian(torch.zeros(1, 2, 2), 0.5)
    with pytest.raises(ValueError, match="give falling numbers above 0"):
        sample(denoiser, torch.zeros(1, 1, 2, 2), levels=levels)


@pytest.mark.parametrize("s_churn", [0.0, 10.0])
def test_an_image_depends_on_its_seed_alone(s_churn):
    images = torch.rand(6, 1, 2, 2) * 2 - 1
    denoiser = KernelDensity(images, 0.1, labels=torch.eye(3)[[0, 1, 2, 0, 1, 2]])
    options: Any = {"num_steps": 6, "s_churn": s_churn}
    alone = torch.cat([x for s in (7, 3, 11) for x in generate(denoiser, [s], **options)])
    for batch in (2, 3):
        together = torch.cat(list(generate(denoiser, [7, 3, 11], batch=batch, **options)))
        torch.testing.assert_close(together, alone)
    assert not torch.allclose(alone[0], alone[1])


def test_latents_and_labels_of_a_seed_are_those_of_the_originals_scripts():
    """One stream a seed; the latent comes first, then the class."""
    denoiser = KernelDensity(torch.zeros(4, 3, 8, 8), 0.5, labels=torch.eye(4))
    latents, labels, _ = inputs_of_seeds(denoiser, [5, 2**32 + 6])
    assert labels is not None
    for i, seed in enumerate((5, 6)):
        stream = torch.Generator().manual_seed(seed)
        expected = torch.randn([3, 8, 8], generator=stream)
        torch.testing.assert_close(latents[i], expected, rtol=0, atol=0)
        assert int(labels[i].argmax()) == int(torch.randint(4, [], generator=stream))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"seeds": [3, -1]}, "a seed is -1; it must be at least 0"),
        ({"seeds": [3], "label": 0}, "the class is 0; this teacher has 0 classes"),
        ({"seeds": [3], "batch": 0}, "batch is 0; it must be at least 1"),
    ],
)
def test_seeds_and_classes_that_are_none_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        list(generate(Gaussian(torch.zeros(1, 2, 2), 0.5), **arguments))


def test_churn_draws_its_noise_at_every_level_as_edms_sampler_does():
    """Algorithm 2 with a window: a level outside of it draws too, and adds nothing."""
    gaussian = Gaussian(0.3, 0.5, img_channels=1, img_resolution=4)
    latents, _, streams = inputs_of_seeds(gaussian, [4, 9])
    window: dict[str, Any] = {"s_min": 0.05, "s_max": 5.0, "s_noise": 1.01}
    found = sample(gaussian, latents, num_steps=7, s_churn=6.0, generator=streams, **window)

    generators = [torch.Generator().manual_seed(seed) for seed in (4, 9)]
    z = torch.stack([torch.randn([1, 4, 4], generator=g) for g in generators])
    assert torch.equal(z, latents)
    at = torch.arange(7, dtype=torch.float64) / 6
    levels = [*((80 ** (1 / 7) + at * (0.002 ** (1 / 7) - 80 ** (1 / 7))) ** 7).tolist(), 0.0]
    x = z.double() * levels[0]
    for now, then in pairwise(levels):
        gamma = min(6 / 7, math.sqrt(2) - 1) if 0.05 <= now <= 5 else 0
        raised = now + gamma * now
        noise = [torch.randn([1, 4, 4], generator=g, dtype=torch.float64) for g in generators]
        x = x + math.sqrt(raised**2 - now**2) * 1.01 * torch.stack(noise)
        slope = (x - gaussian(x, raised)) / raised
        moved = x + (then - raised) * slope
        if then:
            moved = x + (then - raised) * (slope + (moved - gaussian(moved, then)) / then) / 2
        x = moved
    torch.testing.assert_close(found, x.float(), rtol=1e-5, atol=1e-5)
