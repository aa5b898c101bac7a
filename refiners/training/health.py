"""Figures that tell early when a run goes wrong; losses do not.

All are of the student's average on the same latents and noise at every call, so they move with the
networks alone.
"""

from __future__ import annotations

from contextlib import AbstractContextManager

import torch

from refiners.sigma_laws import add_noise
from refiners.training.inputs import draw_inputs
from refiners.training.pieces import HEALTH, random_stream, seed_of
from roles import Denoiser, Student

HEALTH_SIGMAS = (0.05, 0.1, 0.2, 0.4, 0.8, 1.6, 3.0, 6.0)
# Few, as they are measured at every tick; benchmarks/README.md has the cost.
HEALTH_IMAGES = 16
LEVEL_IMAGES = 8  # of them at each noise level, by turns
SATURATED = 0.99  # of the range [-1, 1]
VIEW_SIGMAS = (0.2, 0.8, 3.0)
VIEW_IMAGES = 8


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
            self.start = channel_moments(self._images()[0])

    @torch.no_grad()
    def measure(self) -> dict[str, float]:
        """Return the figures by name.

        Health/error_share_SIGMA: the auxiliary's denoising error as a share of the teacher's. Below
        1 the auxiliary knows the student better than the teacher does; towards 1 the student has
        become the teacher's. Health/score_gap_SIGMA: root mean square of (D_q - D_p) / sigma over
        the pixels. Neither is there without an auxiliary network.
        Health/mean_drift, std_drift: the largest change of a channel's mean and standard deviation
        since the start. Health/saturated: share of pixels at the ends of the range.
        Health/diversity: root mean square distance of two images over the pixels.
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
        drift = [
            (now - then).abs().max()
            for now, then in zip(channel_moments(x_0), self.start, strict=True)
        ]
        return {
            "Health/mean_drift": drift[0],
            "Health/std_drift": drift[1],
            "Health/saturated": (x_0.abs() >= SATURATED).float().mean(),
            # Two independent samples differ by twice the variance.
            "Health/diversity": (2 * x_0.var(dim=0).mean()).sqrt(),
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
