"""EDM2's denoiser: D(x; sigma) = c_skip x + c_out F(c_in x; ln(sigma) / 4), and its uncertainty.

Karras et al. 2024, "Analyzing and Improving the Training Dynamics of Diffusion Models"
(arXiv:2312.02696). The preconditioning is EDM's (arXiv:2206.00364, Table 1), the network is new.
The files keep weights and Fourier features in half precision; they are loaded as they are, and
computed with in float32. The "img512" networks denoise latents of an autoencoder, [n, 4, 64, 64].
"""

from __future__ import annotations

import torch
from jaxtyping import Float

from checkpoints import Value, with_options
from roles import Sigma
from teachers.arguments import recorded_call
from teachers.denoiser import DenoiserModule
from teachers.networks.edm2_blocks import MPConv, MPFourier
from teachers.networks.edm2_unet import UNet


class Precond(DenoiserModule):
    """The denoiser of a file, under the file's name for it.

    Args:
        img_resolution: height and width of the images or latents.
        img_channels: channels of the images (3), or of the latents (4).
        label_dim: number of classes; 0 is unconditional.
        use_fp16: on CUDA, F computes in float16.
        sigma_data: standard deviation of the data.
        logvar_channels: width of the uncertainty's Fourier features.
        **model_kwargs: arguments of UNet from model_channels on, and of its blocks.
    """

    def __init__(
        self,
        img_resolution: int,
        img_channels: int,
        label_dim: int,
        use_fp16: bool = True,
        sigma_data: float = 0.5,
        logvar_channels: int = 128,
        **model_kwargs: Value,
    ):
        call = recorded_call(locals())
        super().__init__(img_channels, img_resolution, label_dim=label_dim)
        self.init_kwargs = call
        self.use_fp16 = use_fp16
        self.sigma_data = sigma_data
        self.unet = with_options(UNet, model_kwargs, img_resolution, img_channels, label_dim)
        self.logvar_fourier = MPFourier(logvar_channels)
        self.logvar_linear = MPConv(logvar_channels, 1, [])

    def forward(
        self,
        x: Float[torch.Tensor, "n c h w"],
        sigma: Sigma,
        labels: Float[torch.Tensor, "#n label_dim"] | None = None,
    ) -> Float[torch.Tensor, "n c h w"]:
        """Return D(x; sigma) [n, c, h, w] in float32, or float64 where the weights are.

        The arguments and errors are those of Denoiser; sigma must be above 0.
        """
        x, sigma, labels = self.check_inputs(x, sigma, labels, dtype=self._wide())
        raw = self.unet(*self._scaled(x, sigma), labels)
        total = sigma**2 + self.sigma_data**2
        c_skip, c_out = self.sigma_data**2 / total, sigma * self.sigma_data / total.sqrt()
        return c_skip * x + c_out * raw.to(x.dtype)

    def logvar(self, sigma: float | Float[torch.Tensor, "*s"]) -> Float[torch.Tensor, "n 1 1 1"]:
        """Return u(sigma) [n, 1, 1, 1], the logarithm of the denoising error's variance (Eq. 21).

        Args:
            sigma: noise level, a number or [n], above 0.
        """
        device = self.logvar_linear.weight.device
        level = torch.as_tensor(sigma, dtype=self._wide(), device=device).flatten()
        return self.logvar_linear(self.logvar_fourier(level.log() / 4)).reshape(-1, 1, 1, 1)

    def compute_as_stored(self, dtype: torch.dtype) -> None:
        """Round where the original does if the file that this network is of has gains in dtype."""
        for module in self.modules():
            if isinstance(module, MPConv) and dtype == torch.float16:
                module.divide_gain_in_half()

    def features(
        self,
        x: Float[torch.Tensor, "n c h w"],
        sigma: Sigma,
        labels: Float[torch.Tensor, "#n label_dim"] | None = None,
    ) -> list[torch.Tensor]:
        """Return the encoder's last output at each resolution, from the highest down.

        The arguments and errors are those of forward. The decoder does not run.
        """
        x, sigma, labels = self.check_inputs(x, sigma, labels, dtype=self._wide())
        return self.unet.features(*self._scaled(x, sigma), labels)

    def _wide(self) -> torch.dtype:
        """Type in which images and noise levels meet."""
        return torch.promote_types(self.unet.out_gain.dtype, torch.float32)

    def _scaled(self, x: torch.Tensor, sigma: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return c_in x, in the type that F computes in, and c_noise."""
        narrow = torch.float16 if self.use_fp16 and x.is_cuda else x.dtype
        c_in = 1 / (self.sigma_data**2 + sigma**2).sqrt()
        return (c_in * x).to(narrow), sigma.flatten().log() / 4
