"""Figures that tell early when a run goes wrong; losses do not.

All are of the student's average on the same latents and noise at every call, so they move with the
networks alone.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass

import torch

from refiners.sigma_laws import add_noise
from refiners.training.inputs import draw_inputs
from refiners.training.pieces import HEALTH, seed_of
from refiners.training.settings import Settings
from roles import Denoiser, Student
from roles.streams import random_stream

HEALTH_SIGMAS = (0.05, 0.1, 0.2, 0.4, 0.8, 1.6, 3.0, 6.0)
# Few, as they are measured at every tick; benchmarks/README.md has the cost.
HEALTH_IMAGES = 16
LEVEL_IMAGES = 8  # of them at each noise level, by turns
SATURATED = 0.99  # of the range [-1, 1]
VIEW_SIGMAS = (0.2, 0.8, 3.0)
VIEW_IMAGES = 8

# Where a run is wrecked. Measured on the demo's pair: diff-instruct, 0.5 kimg in 6 ticks, batch 32,
# warmup_kimg 0.1, rampup_kimg 0.1, auxiliary_steps 1, seed 0, two cores, 2026-11-29; and 3 kimg at
# the default rate. The largest of the ticks, diversity the smallest:
#     glr      mean_drift  saturated_gain  diversity_kept  norm / that at 1e-3
#     0.001    0.064       0.51            0.92            1     healthy, later ticks below 0.2
#     0.03     0.77        0.90            0.14            14    wrecked
#     0.1      12          1.0             5               3e4
#     1        6e7         1.0             4e6             3e7
#     10       1e11        1.0             1e8             2e6
WATCHED = ("Health/mean_drift", "Health/saturated_gain", "Health/diversity_kept")
MOST_MEAN_DRIFT = 1.0  # half of the range: a pale student that finds its colours moves less
MOST_SATURATED_GAIN = 0.8
LEAST_DIVERSITY_KEPT = 0.1  # images that are nearly one
MOST_NORM_GROWTH = 1e3
# Where a run stands still: in 0.3 kimg at glr 1e-9 the images moved by 2e-5 of a grey level, at
# 1e-3 by 34.
LEAST_GREY_LEVELS = 0.1  # root mean square; less is not seen in a picture of 8 bits
STANDSTILL_STEPS = 100
GREY_LEVELS = 255


@dataclass(frozen=True)
class Complaint:
    """What is wrong with a run, in words, and whether its student can no longer be used."""

    text: str
    is_wrecked: bool


class Watch:
    """Tells from the figures of each tick when a run diverges or stands still.

    Attributes:
        first_norm: of the student's gradient, at the first step that moved it; 0 before.
    """

    def __init__(self, settings: Settings):
        self.settings = settings
        self.first_norm = 0.0

    def note(self, losses: Mapping[str, float]) -> None:
        """Take the norm of the first step that moved the student for what is usual."""
        self.first_norm = self.first_norm or losses.get("Gradient/student_norm", 0.0)

    def see(self, stats: Mapping[str, float]) -> Complaint | None:
        """Return what is wrong at a tick, None where nothing is; see Health.measure for names.

        A run without these figures, one that trains a denoiser on images, is not watched.
        """
        if "Health/moved" not in stats:
            return None
        if not all(math.isfinite(stats[name]) for name in WATCHED):
            # Nobody can look at these, whatever was asked to be ignored.
            return Complaint("the student's images are not finite", is_wrecked=True)
        if self.settings.ignore_health:
            return None
        wrong = self._divergence(stats)
        if wrong:
            return Complaint(wrong, is_wrecked=True)
        standing = self._standstill(stats)
        return Complaint(standing, is_wrecked=False) if standing else None

    def _divergence(self, stats: Mapping[str, float]) -> str:
        drift, gain, kept = (stats[name] for name in WATCHED)
        if drift > MOST_MEAN_DRIFT:
            return (
                f"the images' mean is {drift:.3g} from the original's, in a range of -1 to 1 "
                f"(allowed {MOST_MEAN_DRIFT:g})"
            )
        if gain > MOST_SATURATED_GAIN:
            return (
                f"{100 * gain:.0f} % of the pixels that had a shade are black or white "
                f"(allowed {100 * MOST_SATURATED_GAIN:.0f} %)"
            )
        if kept < LEAST_DIVERSITY_KEPT:
            return (
                f"the images differ by {100 * kept:.2g} % of what the original's do "
                f"(at least {100 * LEAST_DIVERSITY_KEPT:.0f} %)"
            )
        return self._exploded(stats)

    def _exploded(self, stats: Mapping[str, float]) -> str:
        """Compare the student's gradient, a mean over the tick, with that of the first step."""
        norm = stats.get("Gradient/student_norm", 0.0)
        if not self.first_norm:
            return ""
        growth = norm / self.first_norm
        if growth <= MOST_NORM_GROWTH:
            return ""
        return (
            f"the student's gradient has {growth:.3g} times the norm of its first step "
            f"(allowed {MOST_NORM_GROWTH:g})"
        )

    def _standstill(self, stats: Mapping[str, float]) -> str:
        """Look once half of the run, and enough steps, should have moved the student."""
        settings, kimg = self.settings, stats["Progress/kimg"]
        steps = kimg * 1000 / settings.batch
        if kimg < settings.kimg / 2 or steps < STANDSTILL_STEPS:
            return ""
        levels = stats["Health/moved"] * GREY_LEVELS / 2
        if levels >= LEAST_GREY_LEVELS:
            return ""
        return (
            f"the student stands still: after {kimg:g} kimg its images have changed by "
            f"{levels:.2g} of a grey level (at least {LEAST_GREY_LEVELS:g}); raise glr"
        )


class Health:
    """Measures a refinement against how it began.

    Args:
        average: the student's average, which has not moved yet.
        teacher: the teacher.
        auxiliary: the auxiliary's average, if there is one.
        seed: of the run.
        device: where the networks are.
    """

    def __init__(
        self,
        average: Student,
        teacher: Denoiser,
        auxiliary: Denoiser | None,
        *,
        seed: int,
        device: torch.device,
    ):
        self.average, self.teacher, self.auxiliary = average, teacher, auxiliary
        self.seed, self.device = seed, device
        self.begin()

    def begin(self) -> None:
        """Take the student as it is now for the start."""
        with self._stream():
            self.start = self._images()[0]

    @torch.no_grad()
    def measure(self) -> dict[str, float]:
        """Return the figures by name.

        Health/error_share_SIGMA: the auxiliary's denoising error as a share of the teacher's. Below
        1 the auxiliary knows the student better than the teacher does; towards 1 the student has
        become the teacher's. Health/score_gap_SIGMA: root mean square of (D_q - D_p) / sigma over
        the pixels. Neither is there without an auxiliary network.
        Health/mean_drift, std_drift: the largest change of a channel's mean and standard deviation
        since the start. Health/moved: root mean square change of a pixel since the start.
        Health/saturated: share of pixels at the ends of the range; saturated_gain: the share of the
        start's other pixels that went there, 1 is all. Health/diversity: root mean square distance
        of two images over the pixels; diversity_kept: as a share of that at the start.
        """
        with self._stream():
            x_0, labels = self._images()
            figures = self._of_images(x_0)
            if self.auxiliary is not None:
                for i, sigma in enumerate(HEALTH_SIGMAS):
                    first = i * LEVEL_IMAGES % HEALTH_IMAGES
                    some = slice(first, first + LEVEL_IMAGES)
                    seen = None if labels is None else labels[some]
                    figures |= self._of_level(self.auxiliary, x_0[some], seen, sigma)
        return dict(zip(figures, torch.stack(list(figures.values())).tolist(), strict=True))

    @torch.no_grad()
    def views(self) -> tuple[torch.Tensor, int]:
        """Return the same samples at each call, as the networks see them, and columns in a row.

        A row is a sample, then for each of VIEW_SIGMAS: noised, as the teacher denoises it and, if
        there is one, as the auxiliary does. Float [rows * columns, c, h, w].
        """
        with self._stream():
            x_0, labels = self._images()
            x_0 = x_0[:VIEW_IMAGES]
            labels = None if labels is None else labels[:VIEW_IMAGES]
            columns = [x_0]
            for sigma in VIEW_SIGMAS:
                level = torch.full([len(x_0)], sigma, device=x_0.device)
                x = add_noise(x_0, level)
                columns += [x, self.teacher(x, level, labels)]
                if self.auxiliary is not None:
                    columns.append(self.auxiliary(x, level, labels))
        return torch.stack(columns, dim=1).flatten(0, 1), len(columns)

    def _stream(self) -> AbstractContextManager[None]:
        return random_stream(seed_of(self.seed, HEALTH), self.device)

    @torch.no_grad()
    def _images(self) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Return images of the average, and the labels that the teacher sees."""
        z, labels = draw_inputs(self.average, HEALTH_IMAGES, self.device)
        return self.average(z, labels).float(), labels if self.teacher.label_dim else None

    def _of_images(self, x_0: torch.Tensor) -> dict[str, torch.Tensor]:
        start = self.start
        drift = [
            (now - then).abs().max()
            for now, then in zip(channel_moments(x_0), channel_moments(start), strict=True)
        ]
        return {
            "Health/mean_drift": drift[0],
            "Health/std_drift": drift[1],
            "Health/moved": (x_0 - start).square().mean().sqrt(),
            "Health/saturated": saturated(x_0),
            "Health/saturated_gain": (saturated(x_0) - saturated(start))
            / (1 - saturated(start)).clamp(min=1e-6),
            "Health/diversity": diversity(x_0),
            # A start of equal images has none to lose.
            "Health/diversity_kept": diversity(x_0) / diversity(start).clamp(min=1e-6),
        }

    def _of_level(
        self, auxiliary: Denoiser, x_0: torch.Tensor, labels: torch.Tensor | None, sigma: float
    ) -> dict[str, torch.Tensor]:
        level = torch.full([len(x_0)], sigma, device=x_0.device)
        x = add_noise(x_0, level)
        d_auxiliary, d_teacher = (
            network(x, level, labels) for network in (auxiliary, self.teacher)
        )
        share = (d_auxiliary - x_0).square().mean() / (d_teacher - x_0).square().mean()
        gap = (d_auxiliary - d_teacher).square().mean().sqrt() / sigma
        return {f"Health/error_share_{sigma:g}": share, f"Health/score_gap_{sigma:g}": gap}


def channel_moments(x_0: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return each channel's mean and standard deviation over images [n, c, h, w]."""
    dims = [0, 2, 3]
    return x_0.mean(dim=dims), x_0.std(dim=dims)


def saturated(x_0: torch.Tensor) -> torch.Tensor:
    """Return the share of pixels at the ends of the range."""
    return (x_0.abs() >= SATURATED).float().mean()


def diversity(x_0: torch.Tensor) -> torch.Tensor:
    """Return the root mean square distance of two of the images [n, c, h, w] over the pixels."""
    # Two independent samples differ by twice the variance.
    return (2 * x_0.var(dim=0).mean()).sqrt()
