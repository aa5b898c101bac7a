"""A denoiser at one fixed noise level as a generator: G(z) = D(sigma_init z; sigma_init, c).

Luo et al. 2023, "Diff-Instruct" (arXiv:2305.18455, Algorithm 1) begins distillation from it, with
sigma_init 1, and Zhou et al. 2024, "Score identity Distillation" (arXiv:2404.04057), with 2.5. The
file is a dict {ema: network}, as those programs' own, and the noise level under `init_sigma`, which
they do not read but take as an option of that name.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path

import torch
from jaxtyping import Float

import checkpoints
from checkpoints import Record, Value
from roles import Denoiser
from students.base import StudentModule, check_labels, check_noise_mode

SIGMA_INIT = 2.5  # Zhou et al. 2024, Table 6
NETWORK_KEYS = ("ema", "net")


class OneStep(StudentModule):
    """A one-step generator on a denoiser's weights; it has no truncation and no noise of its own.

    Args:
        denoiser: a module (x, sigma, labels) -> D(x; sigma) with img_resolution, img_channels,
            label_dim, sigma_min and sigma_max. It is used, not copied.
        sigma_init: the noise level, within the denoiser's range.

    Attributes:
        denoiser: the network that is trained.
        sigma_init: the noise level.

    Raises:
        ValueError: a noise level that the denoiser does not know.
    """

    def __init__(self, denoiser: Denoiser, *, sigma_init: float = SIGMA_INIT):
        low, high = denoiser.sigma_min, denoiser.sigma_max
        if not 0 < sigma_init < math.inf or not low <= sigma_init <= high:
            raise ValueError(
                f"sigma_init is {sigma_init}; it must be above 0 and within the teacher's "
                f"{low} to {high}"
            )
        super().__init__()
        self.denoiser = denoiser
        self.sigma_init = float(sigma_init)
        self.c_dim = denoiser.label_dim
        self.img_resolution = denoiser.img_resolution
        self.img_channels = denoiser.img_channels
        self.z_dim = self.img_channels * self.img_resolution**2

    def train(self, mode: bool = True) -> OneStep:
        """Set the mode, but not the denoiser's: dropping features or labels is no generator's."""
        super().train(mode)
        self.denoiser.eval()
        return self

    def forward(
        self,
        z: Float[torch.Tensor, "n ..."],
        c: Float[torch.Tensor, "n c_dim"] | None = None,
        *,
        truncation_psi: float = 1.0,
        truncation_cutoff: int | None = None,
        noise_mode: str = "random",
    ) -> Float[torch.Tensor, "n c h w"]:
        """Return images, about [-1, 1], not clamped.

        Args:
            z: unit Gaussian noise [n, z_dim], or of the images' shape [n, c, h, w].
            c: one-hot labels [n, c_dim]; None where there are no classes.
            truncation_psi: 1, as a denoiser has no truncation.
            truncation_cutoff: None.
            noise_mode: any of NOISE_MODES; there is no noise beside z.

        Raises:
            ValueError: latents or labels of another shape, a truncation, an unknown noise_mode.
        """
        shape = [self.img_channels, self.img_resolution, self.img_resolution]
        if list(z.shape[1:]) not in ([self.z_dim], shape):
            raise ValueError(
                f"z is {list(z.shape)}; this network takes [n, {self.z_dim}] or "
                f"[n, {', '.join(map(str, shape))}]"
            )
        c = check_labels(c, self.c_dim, len(z)) if self.c_dim else None
        if truncation_psi != 1 or truncation_cutoff is not None:
            raise ValueError("a one-step generator has no truncation; leave truncation_psi at 1")
        check_noise_mode(noise_mode)
        x = z.reshape(-1, *shape) * self.sigma_init
        return self.denoiser(x, self.sigma_init, c)


def save(student: OneStep, path: str | Path, *, like: str | Path) -> None:
    """Write {ema, init_sigma}: the network of the file `like` with the student's weights in it.

    The network's recorded call and the source text that the file carries pass through, so what
    loads `like` loads the result; one-step scripts of SiD and Diff-Instruct take its `ema`.

    Args:
        student: on a denoiser of the architecture of that in `like`; it is not changed.
        path: the file to write, as a whole or not at all.
        like: the teacher's file, or a one-step student's.

    Raises:
        ValueError: the weights do not fit, or are not finite; `path` is left as it was.
        OSError: a file cannot be read or written.
    """
    record = _network(checkpoints.read(like), like)
    weights = student.denoiser.state_dict()
    checkpoints.check_fit(weights, checkpoints.tensors(record), f"the student does not fit {like}")
    checkpoints.check_finite(weights)
    data = {"ema": checkpoints.with_tensors(record, weights), "init_sigma": student.sigma_init}
    checkpoints.write(data, path)


def recorded_sigma(path_or_url: str | Path) -> float | None:
    """Return the noise level that a file of `save` records; None is a file of another program.

    Raises:
        ValueError: the file holds no denoiser, or a noise level that is no positive number.
        OSError: the file cannot be read.
    """
    data = checkpoints.read(path_or_url)
    _network(data, path_or_url)
    sigma = data.get("init_sigma") if isinstance(data, Mapping) else None
    if sigma is not None and not (isinstance(sigma, float) and 0 < sigma < math.inf):
        raise ValueError(f"{path_or_url} records init_sigma {sigma!a}; it must be above 0")
    return sigma


def _network(data: Value, source: str | Path) -> Record:
    for key in NETWORK_KEYS:
        found = data.get(key) if isinstance(data, Mapping) else data
        if isinstance(found, Record):
            return found
    raise ValueError(
        f"{source} holds no denoiser under {' or '.join(NETWORK_KEYS)}; a one-step student is "
        "written on the file of its teacher"
    )
