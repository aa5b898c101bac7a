"""Progressive and guided distillation: their targets, their sampler, and what they reach."""

from __future__ import annotations

import math
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch

from refiners import Distillation, ImageSet, RunFolder, Session, Settings, read_state, run
from refiners.guided import Guided, GuidedDenoiser, fourier_features, guided
from refiners.progressive import Progressive, ddim_step, sample_in_steps, two_step_target
from teachers import sample
from teachers.edm import EDMPrecond
from teachers.gaussian import Gaussian

NOTHING: dict[str, Any] = {
    "on_tick": lambda stats: None,
    "on_snapshot": lambda job: None,
    "on_step": lambda job, losses: None,
}


def levels(*values: float) -> list[torch.Tensor]:
    return [torch.full([6], value, dtype=torch.float64) for value in values]


def teacher() -> Gaussian:
    """N(0.3, 0.5^2) on 4 x 4 pixels."""
    return Gaussian(0.3, 0.5, img_channels=1, img_resolution=4).double()


@pytest.mark.parametrize("times", [(5.0, 2.0, 0.7), (80.0, 3.0, 0.1), (0.9, 0.3, 0.0)])
def test_one_step_with_the_target_ends_where_two_ddim_steps_of_the_teacher_do(
    times: tuple[float, float, float],
) -> None:
    sigma, mid, end = levels(*times)
    x = torch.randn(6, 1, 4, 4, dtype=torch.float64) * sigma[0]
    target = two_step_target(teacher(), x, sigma, mid, end)
    # Euler's method on dx/dsigma = (x - D) / sigma, which is DDIM (Karras et al. 2022, Eq. 3).
    once = x + (times[1] - times[0]) * (x - teacher()(x, sigma)) / times[0]
    twice = once + (times[2] - times[1]) * (once - teacher()(once, mid)) / times[1]
    torch.testing.assert_close(ddim_step(target, x, sigma, end), twice)


def test_target_is_salimans_and_hos_in_variance_preserving_coordinates() -> None:
    sigma, mid, end = levels(5.0, 2.0, 0.7)
    x = torch.randn(6, 1, 4, 4, dtype=torch.float64) * 5

    def vp(level: float) -> tuple[float, float]:
        alpha = 1 / math.sqrt(1 + level**2)
        return alpha, level * alpha

    def step(z: torch.Tensor, at: float, to: float) -> torch.Tensor:
        (alpha, s), (alpha_to, s_to) = vp(at), vp(to)
        d = teacher()(z / alpha, torch.full([6], at, dtype=torch.float64))
        return alpha_to * d + s_to / s * (z - alpha * d)

    (alpha_t, s_t), (alpha_u, s_u) = vp(5.0), vp(0.7)
    z_t = alpha_t * x
    z_u = step(step(z_t, 5.0, 2.0), 2.0, 0.7)
    # Algorithm 2: x~ = (z_u - (s_u / s_t) z_t) / (alpha_u - (s_u / s_t) alpha_t).
    expected = (z_u - s_u / s_t * z_t) / (alpha_u - s_u / s_t * alpha_t)
    torch.testing.assert_close(two_step_target(teacher(), x, sigma, mid, end), expected)


def test_schedule_is_the_published_cosine_rescaled_to_its_first_and_last_level() -> None:
    """Salimans and Ho's logSNR(t) = -2 ln tan(a t + b), from 20 at t = 0 to -20 at t = 1."""
    method = Progressive(sigma_min=math.exp(-10), sigma_max=math.exp(10))
    t = torch.linspace(0.001, 1, 500, dtype=torch.float64)
    b = math.atan(math.exp(-0.5 * 20))
    a = math.atan(math.exp(0.5 * 20)) - b
    logsnr = -2 * (a * t + b).tan().log()
    torch.testing.assert_close(-2 * method.sigma(t).log(), logsnr)
    assert logsnr[-1].item() == pytest.approx(-20)
    ends = Progressive(sigma_min=0.01, sigma_max=50).sigma(torch.tensor([0.0, 1e-6, 1.0]))
    torch.testing.assert_close(ends, torch.tensor([0.0, 0.01, 50.0]), rtol=1e-3, atol=0)


@pytest.mark.parametrize("num_steps", [1, 64, 128, 1024, 8192])
def test_every_step_of_any_number_goes_down(num_steps: int) -> None:
    """No ratio r of two levels is 1, of the halves of a step neither."""
    t = torch.arange(2 * num_steps + 1) / (2 * num_steps)
    sigma = Progressive().sigma(t)
    assert (sigma[1:] > sigma[:-1]).all()
    assert sigma[0] == 0 and sigma[-1].item() == pytest.approx(80)


@pytest.mark.parametrize("num_steps", [1024, 8192])
@pytest.mark.parametrize("i", [1, 2, 600, 1024])
def test_target_of_many_steps_is_exact_in_single_precision(num_steps: int, i: int) -> None:
    method, at = Progressive(), torch.arange(2 * i - 2, 2 * i + 1)
    end, mid, sigma = (method.sigma(t) for t in (at / (2 * num_steps))[:, None].expand(3, 6))
    x = 0.3 + torch.randn(6, 1, 4, 4) * (0.25 + sigma.square()).sqrt()[:, None, None, None]
    single = teacher().float()
    found = two_step_target(single, x, sigma, mid, end)
    exact = [v.double() for v in (x, sigma, mid, end)]
    expected = two_step_target(teacher(), *exact).float()
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


def test_deterministic_sampler_is_the_teachers_euler_solver_on_the_same_levels() -> None:
    method = Progressive(num_steps=16)
    latents = torch.randn(8, 1, 4, 4, dtype=torch.float64)
    x = sample_in_steps(teacher(), latents, method=method, num_steps=16)
    at = method.sigma(torch.arange(17, dtype=torch.float64) / 16).flip(0).tolist()
    y = latents * at[0]
    for high, low in pairwise(at):
        y = y + (low - high) * (y - teacher()(y, torch.full([8], high))) / high
    torch.testing.assert_close(x, y)


def test_stochastic_sampler_keeps_the_noise_level_that_it_claims() -> None:
    # A teacher sure of 0 leaves x_s = sqrt(sigma_s^2 - sigma_u^2) eps + (sigma_u / sigma_t) x_t.
    zero = Gaussian(0.0, 0.0, img_channels=1, img_resolution=64)
    seen: list[tuple[float, float]] = []

    def denoiser(x: torch.Tensor, sigma: torch.Tensor) -> torch.Tensor:
        seen.append((sigma[0].item(), x.std().item()))
        return zero(x, sigma)

    method = Progressive(num_steps=8, stochastic=True)
    torch.manual_seed(3)
    x = sample_in_steps(denoiser, torch.randn(4, 1, 64, 64), method=method, num_steps=8)
    assert len(seen) == 8
    assert [level for level, _ in seen] == sorted((level for level, _ in seen), reverse=True)
    for level, std in seen:
        assert std == pytest.approx(level, rel=0.04)
    assert torch.equal(x, torch.zeros_like(x))


@pytest.mark.parametrize("stochastic", [False, True])
def test_a_student_is_asked_for_the_interval_that_its_sampler_steps(stochastic: bool) -> None:
    method = Progressive(num_steps=4, stochastic=stochastic)
    at: list[torch.Tensor] = []

    def exact(x: torch.Tensor, sigma: torch.Tensor) -> torch.Tensor:
        at.append(sigma)
        return torch.zeros_like(x)

    method.loss_of(torch.zeros(200, 1, 4, 4), 4, student=exact, teacher=exact)
    begin, mid, student = at
    assert torch.equal(begin, student)
    grid = method.sigma(torch.arange(9) / 8)
    for i in range(1, 5):
        chosen = torch.isclose(begin, grid[2 * i])
        assert chosen.sum() > 20
        half = 2 if stochastic and i > 1 else 1
        torch.testing.assert_close(mid[chosen], grid[2 * i - half].expand(int(chosen.sum())))


@pytest.mark.parametrize("weight", ["snr_trunc", "snr_plus_1"])
def test_loss_is_the_weighted_square_summed_over_pixels(weight: str) -> None:
    method = Progressive(num_steps=2, weight=weight)
    sigmas: list[torch.Tensor] = []

    def student(x: torch.Tensor, sigma: torch.Tensor) -> torch.Tensor:
        sigmas.append(sigma)
        return torch.full_like(x, 0.5)

    loss = method.loss_of(
        torch.zeros(64, 1, 4, 4), 2, student=student, teacher=lambda x, sigma: torch.zeros_like(x)
    )
    snr = 1 / sigmas[0] ** 2
    w = snr.clamp(min=1) if weight == "snr_trunc" else snr + 1
    torch.testing.assert_close(loss, (w * 16 * 0.25).mean())


def small_edm(**options: Any) -> EDMPrecond:
    """A DDPM++ with two classes and an unconditional model; its last layers are not zero."""
    network = EDMPrecond(
        8, 1, 2, model_type="SongUNet", model_channels=8, channel_mult=[1], num_blocks=1,
        label_dropout=0.1, **options,
    )  # fmt: skip
    for parameter in network.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    return network.eval()


def test_a_guided_denoiser_starts_as_the_teacher_whatever_the_weight() -> None:
    network = small_edm()
    student = Guided().new_student(network)
    x, sigma, labels = torch.randn(5, 1, 8, 8), torch.rand(5) + 0.1, torch.eye(2)[[0, 1, 1, 0, 1]]
    for g in (torch.zeros(5), torch.linspace(0, 4, 5)):
        assert torch.equal(student(x, sigma, labels, guidance=g), network(x, sigma, labels))
    torch.nn.init.normal_(student.embed.weight)
    a, b = (student(x, sigma, labels, guidance=torch.full([5], g)) for g in (0.0, 1.0))
    assert (a - b).flatten(1).norm(dim=1).min() > 1e-4
    assert torch.equal(b, student(x, sigma, labels))  # 1 where none is given
    assert torch.equal(network(x, sigma, labels), student.denoiser(x, sigma, labels))


def test_guided_target_is_extrapolated_from_the_unconditional_model() -> None:
    network = small_edm()
    x, sigma, labels = torch.randn(3, 1, 8, 8), torch.rand(3) + 0.1, torch.eye(2)[[0, 1, 1]]
    with_label, without = network(x, sigma, labels), network(x, sigma)
    g = torch.tensor([-1.0, 0.0, 2.0])
    found = guided(network, x, sigma, labels, g)
    torch.testing.assert_close(found[0], without[0])
    torch.testing.assert_close(found[1], with_label[1])
    torch.testing.assert_close(found[2], 3 * with_label[2] - 2 * without[2])


def test_fourier_features_tell_weights_apart() -> None:
    features = fourier_features(torch.linspace(0, 4, 41))
    assert features.shape == (41, 64)
    gaps = torch.cdist(features, features) + 100 * torch.eye(41)
    assert gaps.min() > 0.1


@pytest.mark.parametrize(
    ("network", "complaint"),
    [
        (lambda: EDMPrecond(8, 1, model_type="SongUNet", model_channels=8), "has 0 classes"),
        (lambda: EDMPrecond(8, 1, 2, model_type="SongUNet", model_channels=8), "label dropout 0"),
    ],
)
def test_guidance_without_an_unconditional_model_is_refused(network: Any, complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint):
        Guided().new_student(network())


@pytest.mark.parametrize(
    ("layer", "complaint"), [("model.none", "which this teacher lacks"), ("idle", "takes no part")]
)
def test_a_layer_that_cannot_take_the_weight_is_refused(layer: str, complaint: str) -> None:
    network = small_edm()
    network.idle = torch.nn.Identity()
    with pytest.raises(ValueError, match=complaint):
        GuidedDenoiser(network, layer=layer)


@pytest.mark.parametrize(
    ("make", "complaint"),
    [
        (lambda: Progressive(num_steps=12), "num_steps is 12; it must be a power of two"),
        (lambda: Progressive(num_steps=0), "num_steps is 0; it must be a power of two"),
        (lambda: Progressive(end_steps=3), "end_steps is 3; it must be a power of two, at most"),
        (lambda: Guided(num_steps=2, end_steps=4), "end_steps is 4; it must be a power of two"),
        (lambda: Progressive(weight="snr"), "weight is 'snr'; allowed are snr_trunc"),
        (lambda: Progressive(sigma_min=0.0), "sigma_min is 0.0; it must be above 0"),
        (lambda: Progressive(sigma_max=math.inf), "sigma_max is inf; it must be finite"),
        (lambda: Guided(guidance_min=3, guidance_max=2), "guidance_min, guidance_max are 3, 2"),
        (lambda: Guided(guidance_min=-2), "guidance_min, guidance_max are -2"),
        (lambda: Guided(num_steps=3), "num_steps is 3"),
    ],
)
def test_a_knob_out_of_range_is_refused_by_name(make: Any, complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint):
        make()


def test_stages_halve_down_to_one_and_guidance_comes_first() -> None:
    assert Progressive(num_steps=8).stages == (8, 4, 2, 1)
    assert Progressive(num_steps=1).stages == (1,)
    assert Guided(num_steps=4).stages == (0, 4, 2, 1)
    assert Progressive(num_steps=8, end_steps=2).stages == (8, 4, 2)
    assert Guided(num_steps=4, end_steps=4).stages == (0, 4)


class Job:
    """A small run: 8 x 8 images of a class each, two stages or three."""

    def __init__(self, method: Any, **changes: Any):
        torch.manual_seed(0)
        images = ImageSet(torch.randn(30, 1, 8, 8), torch.eye(2)[torch.arange(30) % 2])
        options = {"kimg": 0.024, "batch": 2, "glr": 1e-3, "ema": 0.01, **changes}
        self.run = Distillation(small_edm(), method, Settings(**options), real_images=images)


def test_each_stage_starts_from_the_average_before_and_its_rate_falls_to_zero() -> None:
    job = Job(Progressive(num_steps=2)).run
    rates, students = [], []
    for _ in range(12):
        before = job.average.denoiser.state_dict()["model.map_layer0.weight"].clone()
        losses = job.advance()
        rates.append(job.student_adam.param_groups[0]["lr"])
        students.append(losses["Progress/student_steps"])
        if job.step == 7:
            teacher = job.teacher.state_dict()["model.map_layer0.weight"]
            assert torch.equal(teacher, before)
            assert job.student_adam.state_dict()["state"][0]["step"] == 1
    assert students == [2] * 6 + [1] * 6
    fall = [1e-3 * (1 - i / 6) for i in range(6)]
    assert rates == pytest.approx(fall * 2)
    assert job.average.num_steps == 1


def test_the_raw_weights_teach_the_next_stage_and_the_gradient_is_clipped_as_published() -> None:
    method: Any = Progressive(num_steps=2)
    assert method.settings == Guided.settings == {"beta1": 0.9, "clip": 1.0, "ema": 0.0}
    job = Job(method, **method.settings).run
    for _ in range(6):
        job.advance()
    raw = {k: v.clone() for k, v in job.student.state_dict().items()}
    job.advance()
    assert all(torch.equal(v, raw[k]) for k, v in job.teacher.state_dict().items())
    grads = [p.grad for p in job.student.parameters() if p.grad is not None]
    # The published loss is a mean over 64 pixels where ours is a sum.
    assert torch.nn.utils.get_total_norm(grads) <= 64 * 1.001


@pytest.mark.parametrize("method", [Progressive(num_steps=1024), Guided(num_steps=128)])
def test_a_run_of_many_steps_goes_to_its_end(method: Any) -> None:
    job = Job(method, kimg=0.002 * len(method.stages) - 0.001, tick=1).run
    seen: list[dict[str, float]] = []
    on_step = {"on_step": lambda job, losses: seen.append(losses)}
    assert run(job, **{**NOTHING, **on_step})
    assert len(seen) == len(method.stages) and all(seen)
    assert job.average.num_steps == 1


@pytest.mark.parametrize("method", [Progressive(num_steps=2), Guided(num_steps=1)])
@pytest.mark.parametrize("stop", [6, 7])
def test_a_distillation_resumes_bit_for_bit(method: Any, stop: int, tmp_path: Path) -> None:
    whole, first, second = (Job(method).run for _ in range(3))
    for _ in range(9):
        whole.advance()
    for _ in range(stop):
        first.advance()
    path = RunFolder(tmp_path).write_state("000000", first.state_dict())
    second.load_state_dict(read_state(path))
    for _ in range(9 - stop):
        second.advance()
    assert second.stage == whole.stage == 1
    for name in ("student", "average", "teacher"):
        ours, theirs = (getattr(job, name).state_dict() for job in (second, whole))
        for key, value in theirs.items():
            assert torch.equal(ours[key], value), (name, key)
    with pytest.raises(ValueError, match="steps_per_stage 6 -> 12"):
        Job(method, kimg=0.048).run.load_state_dict(read_state(path))


class AnyGaussian(torch.nn.Module):
    """A denoiser that is linear in x, with a slope and an intercept for each of 40 levels.

    It can be the exact teacher, and the student of any number of steps of it.
    """

    def __init__(self) -> None:
        super().__init__()
        self.img_resolution, self.img_channels, self.label_dim = 4, 1, 0
        self.sigma_min, self.sigma_max = 0.0, math.inf
        # Over atan(sigma), which spreads the cosine schedule's levels evenly.
        self.slope = torch.nn.Parameter(torch.zeros(65))
        self.start = torch.nn.Parameter(torch.zeros(65))
        sigma = (torch.arange(65) / 64 * (math.pi / 2)).tan().clamp(0, 80)
        with torch.no_grad():
            self.slope.copy_(0.25 / (0.25 + sigma.square()))
            self.start.copy_(0.3 * (1 - self.slope))

    def forward(self, x: torch.Tensor, sigma: torch.Tensor, labels: Any = None) -> torch.Tensor:
        at = (sigma.atan() * (2 / math.pi) * 64).round().long().clamp(0, 64)
        return self.slope[at][:, None, None, None] * x + self.start[at][:, None, None, None]


def test_progressive_distillation_brings_a_teacher_of_eight_steps_to_one() -> None:
    network = AnyGaussian()
    method = Progressive(num_steps=4)
    latents = torch.randn(400, 1, 4, 4)
    eight = sample_in_steps(network, latents, method=method, num_steps=8)
    one = sample_in_steps(network, latents, method=method, num_steps=1)
    settings = Settings(kimg=19.2, batch=64, glr=0.03, ema=0.5, beta1=0.9, tick=10, snap=9)
    images = ImageSet(0.3 + 0.5 * torch.randn(500, 1, 4, 4))
    run = Distillation(network, method, settings, real_images=images)
    student: Any = Session(run, None, progress=False).run_from(False)
    assert student.num_steps == 1
    distilled = student(latents.flatten(1))
    error = (distilled - eight).square().mean().sqrt()
    # A single step of the teacher gives the mean alone; the distilled one gives the samples.
    assert one.std() < 0.02 and eight.std() > 0.4
    assert error < 0.05


def test_distillation_runs_in_a_folder_and_leaves_the_teacher_as_it_was(tmp_path: Path) -> None:
    network = small_edm().train()
    before = {k: v.clone() for k, v in network.state_dict().items()}
    images = ImageSet(torch.randn(10, 1, 8, 8), torch.eye(2)[torch.arange(10) % 2])
    saved: list[str] = []
    settings = Settings(kimg=0.02, batch=2, tick=0.01, snap=1)
    run = Distillation(network, Progressive(), settings, real_images=images)
    session = Session(
        run, RunFolder.create(tmp_path, "distill"), progress=False,
        save=lambda student, path: saved.append(path.name),
    )  # fmt: skip
    student: Any = session.run_from(False)
    (folder,) = tmp_path.iterdir()
    assert {"stats.jsonl", "log.txt", "fakes000000_010.png"} <= {p.name for p in folder.iterdir()}
    names = [f"network-snapshot-000000_{n:03d}.pkl" for n in (10, 20)]
    assert saved == [*names, "result.pkl"]
    assert network.training and all(p.requires_grad for p in network.parameters())
    assert all(torch.equal(v, before[k]) for k, v in network.state_dict().items())
    z = student.sample_latents(3)
    assert student(z, torch.eye(2)[[0, 1, 0]]).shape == (3, 1, 8, 8)


def test_a_loss_that_is_not_finite_moves_nothing() -> None:
    job = Job(Progressive(num_steps=1)).run
    job.real_images = ImageSet(torch.full([4, 1, 8, 8], math.nan))
    before = {k: v.clone() for k, v in job.student.state_dict().items()}
    assert job.advance() == job.advance() == {}
    assert all(torch.equal(v, before[k]) for k, v in job.student.state_dict().items())
    with pytest.raises(FloatingPointError, match="3 steps in a row"):
        run(job, **NOTHING)


def test_many_steps_of_the_sampler_agree_with_heuns_solver() -> None:
    latents = torch.randn(64, 1, 4, 4)
    gaussian = Gaussian(0.3, 0.5, img_channels=1, img_resolution=4)
    ours = sample_in_steps(gaussian, latents, method=Progressive(), num_steps=1024)
    theirs = sample(gaussian, latents, num_steps=64)
    torch.testing.assert_close(ours, theirs, rtol=0, atol=0.02)
