"""Diff-Instruct joined by moment matching in the teacher's features.

Diff-Instruct's gradient at high noise moves shapes and proportions, and is nearly blind to texture:
its share at low noise is small and close to the auxiliary's own training noise, so a short run
buys better shapes with stripes (measured in docs/experiments.md). The teacher's encoder sees
texture, so its features f(x_0 + sigma eps) of the student's images are moved as well, onto the
moments that they have for real images or, without data, for the teacher's own samples (moment
matching in the features of a trained network: Santos et al. 2019, arXiv:1904.02762).

The moments are a mean m and a covariance C. Half the gradient of their Frechet distance to the
reference's (m_r, C_r) by one sample's features is the way to where the optimal transport between
the two Gaussians takes them (Dowson and Landau 1982, J. Multivariate Anal. 12),

    f - T(f),     T(f) = m_r + A (f - m),     A = C_r^1/2 (C_r^1/2 C C_r^1/2)^-1/2 C_r^1/2,

and reaches the image through the encoder. It joins Diff-Instruct's gradient g as

    g + a rms(g) / rms(h) h,     h = (df/dx_0)^T (f - T(f)).

Each batch is far too small for a covariance: m and C are running means over the last images.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar, cast

import torch
from jaxtyping import Float
from torch.utils.checkpoint import checkpoint

from refiners.base import Images, Labels, Memory, Scalar, features_of
from refiners.diff_instruct import DiffInstruct
from refiners.knob import check_knobs, knob, same_as
from refiners.sigma_laws import add_noise
from roles import Denoiser
from roles.device import SINGLE_PRECISION, widest
from roles.pixels import images_at_a_time

# Added to every variance, in units of the reference's: directions in which the teacher's samples
# hardly vary would otherwise be followed without bound.
RIDGE = 1e-3
# Enough for a condition of 1e10; the ridge leaves 1e8 at most of features that vary alike.
NEWTON_STEPS = 40
BATCH = 250  # images at a time where there is no gradient, if they are small

Features = Float[torch.Tensor, "n k"]
Combinations = Float[torch.Tensor, "n dim"]  # of features
Matrix = Float[torch.Tensor, "dim dim"]


def parse_sigmas(text: str) -> tuple[float, ...]:
    """Return the noise levels of "0.1,0.5"; ValueError unless each is above 0 and finite."""
    try:
        sigmas = tuple(float(part) for part in text.split(","))
    except ValueError:
        sigmas = ()
    if not sigmas or not all(0 < sigma < math.inf for sigma in sigmas):
        raise ValueError(f"feature_sigmas is {text!r}; allowed are levels above 0, as in 0.1,0.5")
    return sigmas


@dataclass(frozen=True)
class DiffInstructMoments:
    """Diff-Instruct's knobs and those of the moments, which are ours."""

    equation: ClassVar = (
        "g_DI + a · rms(g_DI) / rms(h) · h, h = (df/dx_0)ᵀ (f - T(f)), f the teacher's features, "
        "T the optimal transport of their moments"
    )
    source: ClassVar = (
        "ours; Santos et al. 2019, [1904.02762](https://arxiv.org/abs/1904.02762); "
        "Dowson and Landau 1982"
    )
    init_sigma: ClassVar = DiffInstruct.init_sigma
    begins: ClassVar = {"gan": {**DiffInstruct.begins["gan"], "moments": 0.5}}

    student_sigma: str = same_as(DiffInstruct, "student_sigma")
    auxiliary_sigma: str = same_as(DiffInstruct, "auxiliary_sigma")
    weight: str = same_as(DiffInstruct, "weight")
    sigma_data: float = same_as(DiffInstruct, "sigma_data")
    moments: float = knob(
        1.0,
        "Share of the moments' gradient, in units of Diff-Instruct's.",
        useful="0.3 to 1",
        outside="0 is Diff-Instruct; far above 1 the features are matched and the images are not.",
        symbol="a",
        at_least=0,
    )
    feature_sigmas: str = knob(
        "0.1,0.5",
        "Noise levels at which the teacher's features are taken, comma separated.",
        useful="0.1 to 1",
        outside="Above, the features see layout alone; each level costs a pass.",
        check=parse_sigmas,
    )
    num_features: int = knob(
        256,
        "Random combinations of the features whose moments are matched; the teacher's own number "
        "of features is the most.",
        useful="64 to 512",
        outside="More than a third of memory and their covariance is noise.",
        at_least=1,
    )
    memory: int = knob(
        1000,
        "Images over which the student's running moments forget.",
        useful="500 to 5000",
        outside="Too long and they are the student's of long ago.",
        at_least=1,
    )
    num_reference: int = knob(
        8000,
        "Reference images behind the moments to reach.",
        useful="ten times num_features or more",
        outside="Too few and their covariance is noise.",
        at_least=2,
    )

    def __post_init__(self) -> None:
        check_knobs(self)

    def scores(self) -> DiffInstruct:
        """Return the part that follows the difference of the scores."""
        return DiffInstruct(
            student_sigma=self.student_sigma,
            auxiliary_sigma=self.auxiliary_sigma,
            weight=self.weight,
            sigma_data=self.sigma_data,
        )

    def pixel_gradient(
        self, x_0: Images, labels: Labels, *, teacher: Denoiser, auxiliary: Denoiser
    ) -> Images:
        """Return Diff-Instruct's gradient, in the shape of x_0 [n, c, h, w]."""
        return self.scores().pixel_gradient(x_0, labels, teacher=teacher, auxiliary=auxiliary)

    def gradient_of(self, x_0: Images, d_teacher: Images, d_auxiliary: Images) -> Images:
        """Return Diff-Instruct's gradient of images that are denoised already."""
        return self.scores().gradient_of(x_0, d_teacher, d_auxiliary)

    def auxiliary_loss(self, x_0: Images, labels: Labels, *, auxiliary: Denoiser) -> Scalar:
        """Return Diff-Instruct's loss of the auxiliary."""
        return self.scores().auxiliary_loss(x_0, labels, auxiliary=auxiliary)

    def check_teacher(self, teacher: Denoiser) -> None:
        """Raise ValueError unless the teacher gives features."""
        features_of(teacher)

    def new_memory(
        self,
        draw_student: Callable[[int], Images],
        draw_reference: Callable[[int], Images],
        *,
        teacher: Denoiser,
    ) -> Moments:
        """Return the moments to reach and those to start from.

        Args:
            draw_student: n -> images of the student.
            draw_reference: n -> reference images in [-1, 1].
            teacher: a Denoiser that gives features.

        Raises:
            ValueError: the teacher gives no features.
        """
        sigmas = parse_sigmas(self.feature_sigmas)
        batch = images_at_a_time(teacher.img_resolution, most=BATCH)
        features = in_batches(
            lambda n: teacher_features(teacher, draw_reference(n), sigmas),
            self.num_reference,
            batch,
        )
        memory = Moments(features, self.num_features)
        start = in_batches(
            lambda n: memory.project(teacher_features(teacher, draw_student(n), sigmas)),
            max(2 * self.memory, 2 * memory.dim),
            batch,
        )
        memory.follow(start, 1.0)
        return memory

    def join(
        self, g: Images, x_0: Images, *, teacher: Denoiser, memory: Memory, at_a_time: int = 0
    ) -> Images:
        """Return the gradient g with the moments' part; memory sees the batch."""
        assert isinstance(memory, Moments)
        sigmas = parse_sigmas(self.feature_sigmas)
        with torch.enable_grad():
            x_0 = x_0.detach().requires_grad_()
            f = memory.project(teacher_features(teacher, x_0, sigmas, at_a_time=at_a_time))
            memory.follow(f.detach(), min(1.0, len(f) / self.memory))
            (h,) = torch.autograd.grad(f, x_0, f.detach() - memory.transport(f.detach()))
        return g + self.moments * rms(g) / rms(h).clamp(min=1e-20) * h


class Moments(torch.nn.Module):
    """Running moments of projected features, and the moments to reach.

    All are buffers, in float64 where the device has it.

    Args:
        reference: of the reference images.
        num_features: how many random combinations to keep, at most k.
    """

    mean: torch.Tensor
    second: torch.Tensor
    reference_mean: torch.Tensor
    root: torch.Tensor
    projection: torch.Tensor

    def __init__(self, reference: Features, num_features: int):
        super().__init__()
        k = reference.shape[1]
        self.dim = d = min(num_features, k)
        # In units of the reference's deviation no feature outweighs another.
        unit = reference.std(dim=0).clamp(min=1e-6)
        mixed = torch.linalg.qr(torch.randn([k, d])).Q.to(unit)
        self.register_buffer("projection", mixed / unit[:, None])
        f = self.project(reference)
        root, _ = roots(torch.cov(f.T) + RIDGE * torch.eye(d, dtype=f.dtype, device=f.device))
        self.register_buffer("reference_mean", f.mean(dim=0))
        self.register_buffer("root", root)
        self.register_buffer("mean", torch.zeros_like(self.reference_mean))
        self.register_buffer("second", torch.zeros_like(root))

    def project(self, features: Features) -> Combinations:
        """Return features as the combinations whose moments are matched."""
        projected = features @ self.projection.to(features)
        return projected.to(widest(projected.device))

    def follow(self, f: Combinations, share: float) -> None:
        """Move the running moments by a share of the way to those of f."""
        self.mean.lerp_(f.mean(dim=0), share)
        self.second.lerp_(f.T @ f / len(f), share)

    def transport(self, f: Combinations) -> Combinations:
        """Return T(f): where the optimal transport of the moments takes features."""
        covariance = self.second - torch.outer(self.mean, self.mean)
        ridge = RIDGE * torch.eye(self.dim, dtype=covariance.dtype, device=covariance.device)
        inverse = inverse_root(self.root @ (covariance + ridge) @ self.root)
        return self.reference_mean + (f - self.mean) @ (self.root @ inverse @ self.root)


def teacher_features(
    teacher: Denoiser, x_0: Images, sigmas: tuple[float, ...], *, at_a_time: int = 0
) -> Features:
    """Return the teacher's features of images at each noise level, noise fresh.

    Of its encoder's two lowest resolutions: each channel's mean in the quarters of the image, over
    all of it, and its deviation.

    Args:
        teacher: a Denoiser that gives features.
        x_0: images.
        sigmas: noise levels.
        at_a_time: images that the teacher sees at a time; 0 is all. The rest is held as images
            alone, and a backward pass looks at them again.

    Raises:
        ValueError: the teacher gives no features.
    """
    features = features_of(teacher)

    def summary(x: Images, level: torch.Tensor) -> Features:
        found = []
        for maps in features(x, level)[-2:]:
            maps = maps.to(x_0.dtype)
            quarters = mean_of_quarters(maps)
            deviation = (maps.var(dim=[2, 3]) + 1e-4).sqrt()
            found += [quarters, maps.mean(dim=[2, 3]), deviation]
        return torch.cat(found, dim=1)

    found = []
    for sigma in sigmas:
        level = torch.full([len(x_0)], sigma, device=x_0.device)
        # Drawn for all of them first, so that the images at a time are none of the numbers.
        noised = add_noise(x_0, level).split(at_a_time or len(x_0))
        levels = level.split(at_a_time or len(x_0))
        if len(noised) == 1:
            found.append(summary(noised[0], level))
        else:
            parts = [
                cast("torch.Tensor", checkpoint(summary, *part, use_reentrant=False))
                for part in zip(noised, levels, strict=True)
            ]
            found.append(torch.cat(parts))
    return torch.cat(found, dim=1)


def mean_of_quarters(maps: Images) -> Features:
    """Return each channel's mean in the quarters of a map [n, k, h, w], [n, 4 k]."""
    h, w = maps.shape[2:]
    if h == w and h & (h - 1) == 0 and h > 1:
        # The same bits, and on CUDA a slope of fixed order.
        return torch.nn.functional.avg_pool2d(maps, h // 2).flatten(1)
    return torch.nn.functional.adaptive_avg_pool2d(maps, 2).flatten(1)


@torch.no_grad()
def in_batches(rows: Callable[[int], Features], total: int, batch: int) -> Features:
    """Return total rows of rows(n), `batch` images at a time."""
    counts = [min(batch, total - done) for done in range(0, total, batch)]
    return torch.cat([rows(n) for n in counts])


def roots(symmetric: Matrix) -> tuple[Matrix, Matrix]:
    """Return the square root of a symmetric positive matrix, and that root's inverse."""
    values, vectors = torch.linalg.eigh(symmetric)
    values = values.clamp(min=1e-12).sqrt()
    return (vectors * values) @ vectors.T, (vectors / values) @ vectors.T


def inverse_root(symmetric: Matrix) -> Matrix:
    """Return the inverse of the square root of a symmetric positive matrix.

    A CPU has it by eigenvalues, and so have GPUs without float64, through the CPU. On others those
    would keep the host waiting, and most of a step on small networks; products do not.
    """
    if symmetric.device.type in ("cpu", *SINGLE_PRECISION):
        return roots(symmetric.double().cpu())[1].to(symmetric)
    return newton_inverse_root(symmetric)


def newton_inverse_root(symmetric: Matrix) -> Matrix:
    """Return the same by the coupled iteration of Newton and Schulz (Higham 2008, Eq. 6.35).

    With the matrix over its norm, y_0 = a and z_0 = 1, and t = (3 - z y) / 2: y <- y t reaches
    a^1/2 and z <- t z its inverse. Small eigenvalues first grow by 9/4 a time.
    """
    unit = torch.eye(len(symmetric), dtype=symmetric.dtype, device=symmetric.device)
    size = torch.linalg.matrix_norm(symmetric)
    y, z = symmetric / size, unit
    for _ in range(NEWTON_STEPS):
        t = (3 * unit - z @ y) / 2
        y, z = y @ t, t @ z
    return z / size.sqrt()


def rms(x: Images) -> Scalar:
    """Return the root mean square of all elements."""
    return x.square().mean().sqrt()
