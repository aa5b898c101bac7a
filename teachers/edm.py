"""Preconditioned denoisers: D(x; sigma) = c_skip x + c_out F(c_in x; c_noise).

Karras et al. 2022, "Elucidating the Design Space of Diffusion-Based Generative Models"
(arXiv:2206.00364), Eq. 7. The four columns of its Table 1 are four classes, named as in the network
files. The keyword arguments are the files' too; those that a class does not name go to the U-Net F.
Images and noise levels meet in float32, whatever F computes in.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import cast

import torch
from jaxtyping import Float

from checkpoints import Value, with_options
from roles import Sigma
from teachers.arguments import Sizes, check_choice, recorded_call
from teachers.denoiser import DenoiserModule
from teachers.networks.dhariwal import DhariwalUNet
from teachers.networks.song import SongUNet
from teachers.options import MAX_LEVELS

UNETS = {"SongUNet": SongUNet, "DhariwalUNet": DhariwalUNet}


class Precond(DenoiserModule):
    """What the columns share; each gives c_skip, c_out, c_in and c_noise, functions of any sigma.

    Attributes:
        model: the U-Net F.
        use_fp16: on CUDA, F computes in float16.
    """

    model: SongUNet | DhariwalUNet

    def __init__(
        self,
        call: dict[str, Value],
        model_kwargs: Mapping[str, Value],
        *,
        outputs_per_channel: int = 1,
    ):
        """Take the column's recorded call, and the part of it that goes to F."""
        sizes = cast("Sizes", call)
        c, r, label_dim = sizes["img_channels"], sizes["img_resolution"], sizes["label_dim"]
        check_choice("model_type", sizes["model_type"], list(UNETS))
        super().__init__(c, r, label_dim=label_dim)
        self.init_kwargs = call
        self.use_fp16 = sizes["use_fp16"]
        unet = UNETS[sizes["model_type"]]
        channels = c * outputs_per_channel
        self.model = with_options(unet, model_kwargs, r, c, channels, label_dim=label_dim)

    @property
    def label_dropout(self) -> float:
        """How often training drops the label; above 0, labels None is a trained model too."""
        return self.model.label_dropout

    @property
    def augment_dim(self) -> int:
        """Length of the augmentation labels; 0 is none."""
        layer = self.model.map_augment
        return 0 if layer is None else layer.in_features

    def forward(
        self,
        x: Float[torch.Tensor, "n c h w"],
        sigma: Sigma,
        labels: Float[torch.Tensor, "#n label_dim"] | None = None,
        *,
        augment_labels: Float[torch.Tensor, "n augment_dim"] | None = None,
    ) -> Float[torch.Tensor, "n c h w"]:
        """Return D(x; sigma) [n, c, h, w] in float32, or float64 where the weights are.

        In training, dropout acts, and labels are dropped with probability label_dropout.

        Args:
            x: clean images in about [-1, 1] plus sigma times unit Gaussian noise, [n, c, h, w].
            sigma: noise level, a number or [n], above 0.
            labels: one-hot [n, label_dim]; None is all zero.
            augment_labels: what was done to the images, [n, augment_dim]; None is nothing.

        Raises:
            ValueError: a shape does not fit the network.
        """
        x, sigma, labels = self.check_inputs(x, sigma, labels, dtype=self._wide())
        if labels is not None and self.training and self.label_dropout:
            keep = torch.rand([len(x), 1], device=x.device) >= self.label_dropout
            labels = labels * keep.to(labels.dtype)
        scaled, c_noise = self._scaled(x, sigma)
        raw = self.model(scaled, c_noise, labels, augment_labels)[:, : self.img_channels]
        return self.c_skip(sigma) * x + self.c_out(sigma) * raw.to(x.dtype)

    def features(
        self,
        x: Float[torch.Tensor, "n c h w"],
        sigma: Sigma,
        labels: Float[torch.Tensor, "#n label_dim"] | None = None,
    ) -> list[torch.Tensor]:
        """Return what the U-Net's encoder makes of a noised image, a tensor for each resolution.

        The arguments and errors are those of forward. The decoder does not run.

        Returns:
            [n, width, r, r] for each resolution r, from the highest down.
        """
        x, sigma, labels = self.check_inputs(x, sigma, labels, dtype=self._wide())
        return self.model.features(*self._scaled(x, sigma), labels)

    def _wide(self) -> torch.dtype:
        """Type in which images and noise levels meet."""
        return torch.promote_types(next(self.model.parameters()).dtype, torch.float32)

    def _scaled(self, x: torch.Tensor, sigma: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return c_in x, in the type that F computes in, and c_noise."""
        weights = next(self.model.parameters()).dtype
        narrow = torch.float16 if self.use_fp16 and x.is_cuda else weights
        return (self.c_in(sigma) * x).to(narrow), self.c_noise(sigma).flatten()

    def c_skip(self, sigma: Float[torch.Tensor, "*s"]) -> Float[torch.Tensor, "*s"]:
        """Weight of the input in the result: 1 in all columns but the last."""
        return torch.ones_like(sigma)

    def c_out(self, sigma: Float[torch.Tensor, "*s"]) -> Float[torch.Tensor, "*s"]:
        """Weight of the network's output in the result."""
        raise NotImplementedError

    def c_in(self, sigma: Float[torch.Tensor, "*s"]) -> Float[torch.Tensor, "*s"]:
        """Scale of the network's input."""
        raise NotImplementedError

    def c_noise(self, sigma: Float[torch.Tensor, "*s"]) -> Float[torch.Tensor, "*s"]:
        """Noise level as the network is told."""
        raise NotImplementedError


class VPPrecond(Precond):
    """Column "VP" (Song et al. 2021, arXiv:2011.13456).

    sigma(t) = sqrt(exp(beta_d t^2 / 2 + beta_min t) - 1) at time t, from epsilon_t to 1.
    """

    def __init__(
        self,
        img_resolution: int,
        img_channels: int,
        label_dim: int = 0,
        use_fp16: bool = False,
        beta_d: float = 19.9,
        beta_min: float = 0.1,
        M: int = 1000,
        epsilon_t: float = 1e-5,
        model_type: str = "SongUNet",
        **model_kwargs: Value,
    ):
        super().__init__(recorded_call(locals()), model_kwargs)
        self.beta_d = beta_d
        self.beta_min = beta_min
        self.M = M
        self.epsilon_t = epsilon_t
        # In float32, whose cancellation moves sigma_min: files hold that value, samplers end there.
        t = torch.tensor([epsilon_t, 1.0], dtype=torch.float32, device="cpu")
        self.sigma_min, self.sigma_max = self.sigma(t).tolist()

    def sigma(self, t: Float[torch.Tensor, "*s"]) -> Float[torch.Tensor, "*s"]:
        """Noise level at time t in [0, 1]."""
        return ((0.5 * self.beta_d * t**2 + self.beta_min * t).exp() - 1).sqrt()

    def sigma_inv(self, sigma: Float[torch.Tensor, "*s"]) -> Float[torch.Tensor, "*s"]:
        """Time at which the noise level is sigma."""
        root = (self.beta_min**2 + 2 * self.beta_d * (1 + sigma**2).log()).sqrt()
        return (root - self.beta_min) / self.beta_d

    def c_out(self, sigma: Float[torch.Tensor, "*s"]) -> Float[torch.Tensor, "*s"]:
        """Return -sigma."""
        return -sigma

    def c_in(self, sigma: Float[torch.Tensor, "*s"]) -> Float[torch.Tensor, "*s"]:
        """Return 1 / sqrt(sigma^2 + 1)."""
        return 1 / (sigma**2 + 1).sqrt()

    def c_noise(self, sigma: Float[torch.Tensor, "*s"]) -> Float[torch.Tensor, "*s"]:
        """Return (M - 1) t(sigma)."""
        return (self.M - 1) * self.sigma_inv(sigma)


class VEPrecond(Precond):
    """Column "VE" (Song et al. 2021, arXiv:2011.13456)."""

    def __init__(
        self,
        img_resolution: int,
        img_channels: int,
        label_dim: int = 0,
        use_fp16: bool = False,
        sigma_min: float = 0.02,
        sigma_max: float = 100,
        model_type: str = "SongUNet",
        **model_kwargs: Value,
    ):
        super().__init__(recorded_call(locals()), model_kwargs)
        self.sigma_min = sigma_min
        self.sigma_max = sigma_max

    def c_out(self, sigma: Float[torch.Tensor, "*s"]) -> Float[torch.Tensor, "*s"]:
        """Return sigma."""
        return sigma

    def c_in(self, sigma: Float[torch.Tensor, "*s"]) -> Float[torch.Tensor, "*s"]:
        """Return 1."""
        return torch.ones_like(sigma)

    def c_noise(self, sigma: Float[torch.Tensor, "*s"]) -> Float[torch.Tensor, "*s"]:
        """Return ln(sigma / 2)."""
        return (0.5 * sigma).log()


class iDDPMPrecond(Precond):
    """Column "iDDPM" (Nichol and Dhariwal 2021, arXiv:2102.09672); F also outputs variances.

    The noise levels are u_M = 0 and u_{j-1} = sqrt((u_j^2 + 1) / max(a(j-1) / a(j), C_1) - 1) with
    a(j) = sin^2(pi/2 j / (M (C_2 + 1))).
    """

    u: torch.Tensor

    def __init__(
        self,
        img_resolution: int,
        img_channels: int,
        label_dim: int = 0,
        use_fp16: bool = False,
        C_1: float = 0.001,
        C_2: float = 0.008,
        M: int = 1000,
        model_type: str = "DhariwalUNet",
        **model_kwargs: Value,
    ):
        if not 1 <= M <= MAX_LEVELS:
            raise ValueError(f"M is {M}; it must be in 1 to {MAX_LEVELS}")
        super().__init__(recorded_call(locals()), model_kwargs, outputs_per_channel=2)
        self.C_1 = C_1
        self.C_2 = C_2
        self.M = M
        j = torch.arange(M + 1, dtype=torch.float64, device="cpu")
        a = (0.5 * math.pi * j / M / (C_2 + 1)).sin().square()
        growth = 1 / (a[:-1] / a[1:]).clamp_min(C_1)
        levels = (growth.flip(0).cumprod(0).flip(0) - 1).sqrt()
        self.sigma_min, self.sigma_max = float(levels[-1]), float(levels[0])
        self.register_buffer("u", torch.tensor([*levels.tolist(), 0.0], dtype=torch.float32))

    def round_sigma(self, sigma: float | Float[torch.Tensor, "*s"]) -> Float[torch.Tensor, "*s"]:
        """Return the nearest of the levels u, in sigma's type and shape."""
        sigma = torch.as_tensor(sigma)
        return self.u[self._nearest(sigma)].to(sigma)

    def _nearest(self, sigma: torch.Tensor) -> torch.Tensor:
        """Index of the level nearest to each element of sigma."""
        return (sigma.to(self.u)[..., None] - self.u).abs().argmin(dim=-1)

    def c_out(self, sigma: Float[torch.Tensor, "*s"]) -> Float[torch.Tensor, "*s"]:
        """Return -sigma."""
        return -sigma

    def c_in(self, sigma: Float[torch.Tensor, "*s"]) -> Float[torch.Tensor, "*s"]:
        """Return 1 / sqrt(sigma^2 + 1)."""
        return 1 / (sigma**2 + 1).sqrt()

    def c_noise(self, sigma: Float[torch.Tensor, "*s"]) -> Float[torch.Tensor, "*s"]:
        """Return M - 1 - argmin_j |u_j - sigma|."""
        return (self.M - 1 - self._nearest(sigma)).to(sigma.dtype)


class EDMPrecond(Precond):
    """Column "Ours": F has input and target of unit variance for data of std sigma_data."""

    def __init__(
        self,
        img_resolution: int,
        img_channels: int,
        label_dim: int = 0,
        use_fp16: bool = False,
        sigma_min: float = 0,
        sigma_max: float = math.inf,
        sigma_data: float = 0.5,
        model_type: str = "DhariwalUNet",
        **model_kwargs: Value,
    ):
        super().__init__(recorded_call(locals()), model_kwargs)
        self.sigma_min = sigma_min
        self.sigma_max = sigma_max
        self.sigma_data = sigma_data

    def c_skip(self, sigma: Float[torch.Tensor, "*s"]) -> Float[torch.Tensor, "*s"]:
        """Return sigma_data^2 / (sigma^2 + sigma_data^2)."""
        return self.sigma_data**2 / (sigma**2 + self.sigma_data**2)

    def c_out(self, sigma: Float[torch.Tensor, "*s"]) -> Float[torch.Tensor, "*s"]:
        """Return sigma sigma_data / sqrt(sigma^2 + sigma_data^2)."""
        return sigma * self.sigma_data / (sigma**2 + self.sigma_data**2).sqrt()

    def c_in(self, sigma: Float[torch.Tensor, "*s"]) -> Float[torch.Tensor, "*s"]:
        """Return 1 / sqrt(sigma^2 + sigma_data^2)."""
        return 1 / (self.sigma_data**2 + sigma**2).sqrt()

    def c_noise(self, sigma: Float[torch.Tensor, "*s"]) -> Float[torch.Tensor, "*s"]:
        """Return ln(sigma) / 4."""
        return sigma.log() / 4
