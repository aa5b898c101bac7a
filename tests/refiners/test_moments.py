"""Laws of moment matching: the transport between Gaussians, its gradient, and where it leads."""

from __future__ import annotations

import copy
import math
from typing import Any

import pytest
import torch

from refiners import ImageSet, Inputs, Refinement, Settings
from refiners.moments import (
    RIDGE,
    DiffInstructMoments,
    Moments,
    inverse_root,
    mean_of_quarters,
    newton_inverse_root,
    parse_sigmas,
    rms,
    roots,
    teacher_features,
)


class SeenThrough(torch.nn.Module):
    """A Gaussian's exact denoiser, N(0.2, 0.5^2 I), whose features are the noised image itself."""

    img_resolution, img_channels, label_dim, label_dropout = 4, 1, 0, 0.0
    sigma_min, sigma_max = 0.0, math.inf

    def __init__(self):
        super().__init__()
        self.mean = torch.nn.Parameter(torch.tensor(0.2))
        self.log_std = torch.nn.Parameter(torch.tensor(math.log(0.5)))

    def forward(self, x, sigma, labels=None):
        prior, noise = (2 * self.log_std).exp(), sigma.square()[:, None, None, None]
        return (prior * x + noise * self.mean) / (prior + noise)

    def features(self, x, sigma, labels=None):
        return [x]


def correlated(n, d, seed):
    generator = torch.Generator().manual_seed(seed)
    mixing = torch.randn([d, d], generator=generator, dtype=torch.float64)
    return torch.randn([n, d], generator=generator, dtype=torch.float64) @ mixing + seed


def frechet(mean, covariance, memory):
    """The Frechet distance to the reference, by another route: the trace of a matrix root."""
    eye = RIDGE * torch.eye(len(mean), dtype=torch.float64)
    a, b = covariance + eye, memory.root @ memory.root
    values = torch.linalg.eigvals(a @ b).real.clamp(min=0)
    shift = (mean - memory.reference_mean).square().sum()
    return shift + a.trace() + b.trace() - 2 * values.sqrt().sum()


@pytest.fixture
def memory():
    torch.manual_seed(0)
    found = Moments(correlated(4000, 6, 1), 6)
    found.follow(found.project(correlated(4000, 6, 2)), 1.0)
    return found


def test_the_transport_takes_the_students_moments_onto_the_references(memory):
    f = memory.project(correlated(4000, 6, 2))
    moved = memory.transport(f)
    torch.testing.assert_close(moved.mean(dim=0), memory.reference_mean)
    reached, wanted = torch.cov(moved.T), memory.root @ memory.root
    assert float((reached - wanted).norm() / wanted.norm()) < 0.01


def test_equal_moments_are_left_where_they_are():
    torch.manual_seed(0)
    x = correlated(4000, 6, 1)
    memory = Moments(x, 6)
    f = memory.project(x)
    memory.follow(f, 1.0)
    torch.testing.assert_close(memory.transport(f), f, atol=1e-3, rtol=0)


def test_the_way_to_the_transport_is_half_the_gradient_of_the_frechet_distance(memory):
    f = memory.project(correlated(50, 6, 3)).requires_grad_()
    share = 0.1
    mean = memory.mean.lerp(f.mean(dim=0), share)
    second = memory.second.lerp(f.T @ f / len(f), share)
    (slope,) = torch.autograd.grad(frechet(mean, second - torch.outer(mean, mean), memory), f)
    memory.follow(f.detach(), share)
    way = f.detach() - memory.transport(f.detach())
    torch.testing.assert_close(slope * len(f) / share, 2 * way, rtol=1e-4, atol=1e-6)


def test_fewer_combinations_than_features_are_kept():
    assert Moments(correlated(100, 6, 1), 3).project(torch.zeros(2, 6)).shape == (2, 3)


def test_the_moments_part_has_the_asked_share_of_the_gradient():
    torch.manual_seed(0)
    method = DiffInstructMoments(moments=0.4, num_features=8, num_reference=200)
    teacher = SeenThrough()
    memory = method.new_memory(
        lambda n: torch.randn(n, 1, 4, 4), lambda n: 0.2 + 0.5 * torch.randn(n, 1, 4, 4),
        teacher=teacher,
    )  # fmt: skip
    g, x_0 = torch.randn(8, 1, 4, 4), torch.randn(8, 1, 4, 4)
    joined = method.join(g, x_0, teacher=teacher, memory=memory)
    assert float(rms(joined - g) / rms(g)) == pytest.approx(0.4, rel=1e-5)


@pytest.mark.parametrize("at_a_time", [1, 3, 8])
def test_how_many_images_the_teacher_sees_at_a_time_changes_no_number(at_a_time):
    method = DiffInstructMoments(num_features=8, num_reference=200)
    teacher = SeenThrough()
    first = method.new_memory(
        lambda n: torch.randn(n, 1, 4, 4), lambda n: 0.2 + 0.5 * torch.randn(n, 1, 4, 4),
        teacher=teacher,
    )  # fmt: skip
    g, x_0 = torch.randn(8, 1, 4, 4), torch.randn(8, 1, 4, 4)
    joined, memories = [], [first, copy.deepcopy(first)]
    for memory, n in zip(memories, (0, at_a_time), strict=True):
        torch.manual_seed(1)
        joined.append(method.join(g, x_0, teacher=teacher, memory=memory, at_a_time=n))
    assert float((joined[0] - g).abs().max()) > 0.1
    torch.testing.assert_close(joined[1], joined[0], rtol=1e-4, atol=1e-5)
    for name, value in first.named_buffers():
        torch.testing.assert_close(memories[1].get_buffer(name), value)


def test_the_features_are_noised_at_each_level():
    torch.manual_seed(0)
    x = torch.zeros(2000, 1, 4, 4)
    found = teacher_features(SeenThrough(), x, (0.1, 2.0))
    low, high = found.chunk(2, dim=1)
    # A quarter of 4 x 4 is the mean of four pixels.
    assert float(low[:, 0].std()) == pytest.approx(0.1 / 2, rel=0.1)
    assert float(high[:, 0].std()) == pytest.approx(2.0 / 2, rel=0.1)


def moved_student(method, student, **changed):
    torch.manual_seed(0)
    real = ImageSet((0.2 + 0.5 * torch.randn(2000, 1, 4, 4)).float())
    settings = Settings(
        **{"kimg": 12.8, "batch": 64, "glr": 5e-3, "lr": 1e-2, "ema": 1.0, "warmup_kimg": 6.4,
           "beta2": 0.99, "decay_kimg": 0} | changed
    )  # fmt: skip
    run = Refinement(student, SeenThrough(), method, settings, inputs=Inputs(real))
    while run.num_images < settings.kimg * 1000:
        run.advance()
    return run


def test_a_student_is_moved_onto_the_teachers_moments(affine):
    method = DiffInstructMoments(num_features=16, num_reference=1000, feature_sigmas="0.1")
    average: Any = moved_student(method, affine(-0.3, 0.9)).average
    assert float(average.mean) == pytest.approx(0.2, abs=0.05)
    assert float(average.std) == pytest.approx(0.5, abs=0.05)


def test_a_state_holds_the_running_moments(affine):
    method = DiffInstructMoments(num_features=4, num_reference=200)
    short = {"kimg": 0.256, "warmup_kimg": 0.064}
    whole = moved_student(method, affine(0.0, 1.0), **short)
    state = copy.deepcopy(whole.state_dict())
    again = moved_student(method, affine(0.0, 1.0), **short | {"kimg": 0.064})
    again.load_state_dict(state)
    for name in ("mean", "second"):
        torch.testing.assert_close(getattr(again.memory, name), getattr(whole.memory, name))
    assert whole.advance() == again.advance()


def test_a_teacher_without_features_is_refused(affine):
    class Blind(SeenThrough):
        features = None  # pyright: ignore[reportAssignmentType]

    with pytest.raises(ValueError, match="gives no features"):
        Refinement(
            affine(0.0, 1.0), Blind(), DiffInstructMoments(), Settings(),
            inputs=Inputs(ImageSet(torch.zeros(10, 1, 4, 4))),
        )  # fmt: skip


@pytest.mark.parametrize("text", ["", "0", "-1", "nan", "inf", "a,b"])
def test_noise_levels_that_cannot_be_are_refused(text):
    with pytest.raises(ValueError, match="feature_sigmas"):
        parse_sigmas(text)


@pytest.mark.parametrize(
    "knob", [{"moments": -1.0}, {"num_features": 0}, {"memory": 0}, {"num_reference": 1}]
)
def test_knobs_out_of_range_are_named(knob):
    with pytest.raises(ValueError, match=next(iter(knob))):
        DiffInstructMoments(**knob)


@pytest.mark.parametrize("condition", [1e0, 1e4, 1e8])
def test_an_inverse_root_by_products_is_that_by_eigenvalues(condition: float) -> None:
    # What a GPU takes in a step: 1e8 is beyond what the ridge leaves.
    basis = torch.linalg.qr(torch.randn(64, 64, dtype=torch.float64)).Q
    values = torch.logspace(0, -math.log10(condition), 64, dtype=torch.float64) * 30
    symmetric = (basis * values) @ basis.T
    found, wanted = newton_inverse_root(symmetric), roots(symmetric)[1]
    # Rounding grows with the condition, and the gradient that it moves is float32.
    assert ((found - wanted).norm() / wanted.norm()).item() < 1e-14 * condition + 1e-12
    assert torch.equal(inverse_root(symmetric), wanted)


@pytest.mark.parametrize("size", [2, 4, 16, 6, 7])
def test_means_of_quarters_and_their_slope_are_torchs_to_the_bit(size: int) -> None:
    maps = torch.randn(3, 5, size, size, requires_grad=True)
    ours = mean_of_quarters(maps)
    wanted = torch.nn.functional.adaptive_avg_pool2d(maps, 2).flatten(1)
    g = torch.randn_like(ours)
    assert torch.equal(ours, wanted)
    slopes = [torch.autograd.grad(f, maps, g)[0] for f in (ours, wanted)]
    assert torch.equal(*slopes)
