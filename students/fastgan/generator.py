"""The FastGAN generator (Liu et al. 2021, arXiv:2101.04775, figures 3 and 4).

Projected GAN (Sauer et al. 2021, arXiv:2111.01007) normalises the latent, has two convolutions in
every block (`lite`: one), and may take labels; FastGAN's own program alternates, and bounds images
of 1024 pixels by tanh. Module names are those of the network files.
"""

from __future__ import annotations

import torch
from jaxtyping import Float

from students.base import StudentModule, check_labels, check_latents, check_noise_mode
from students.fastgan.layers import Conv, Excitation, InitLayer, UpBlock
from students.layers import normalize_2nd_moment

# Channels of each resolution, as a multiple of ngf.
WIDTHS = {4: 16, 8: 8, 16: 4, 32: 2, 64: 2, 128: 1, 256: 0.5, 512: 0.25, 1024: 0.125}
RESOLUTIONS = (32, 64, 128, 256, 512, 1024)
ALWAYS = 256  # resolution up to which files hold the layers, whatever the images need
# Resolution of large features: that of the small ones that scale them.
SCALED_BY = {64: 4, 128: 8, 256: 16, 512: 32}


class Synthesis(torch.nn.Module):
    """Latents (and labels) to images; the arguments are FastGAN's."""

    def __init__(
        self,
        *,
        z_dim: int,
        num_classes: int,
        img_resolution: int,
        img_channels: int,
        ngf: int,
        kind: str,
    ):
        super().__init__()
        self.img_resolution = img_resolution
        self.kind = kind
        channels = {r: int(ngf * width) for r, width in WIDTHS.items()}
        top = max(ALWAYS, img_resolution)
        self.init = InitLayer(z_dim, channels[4])
        for r in [r for r in WIDTHS if 4 < r <= top]:
            is_double = kind == "big" or (kind == "own" and r in (8, 32, 128, 512))
            block = UpBlock(
                channels[r // 2],
                channels[r],
                is_double=is_double,
                embedding=z_dim if num_classes else 0,
            )
            self.add_module(f"feat_{r}", block)
        for r, small in SCALED_BY.items():
            if r <= top:
                self.add_module(f"se_{r}", Excitation(channels[small], channels[r]))
        is_own = kind == "own"
        self.to_big = Conv(channels[img_resolution], img_channels, 3, padding=1, bias=not is_own)
        if is_own:
            self.to_128 = Conv(channels[128], img_channels, 1)  # of the training alone
        if num_classes:
            self.embed = torch.nn.Embedding(num_classes, z_dim)

    def forward(
        self,
        z: Float[torch.Tensor, "n z_dim"],
        c: Float[torch.Tensor, "n c_dim"] | None,
        *,
        noise_mode: str,
    ) -> Float[torch.Tensor, "n c h w"]:
        """Return images of latents and one-hot labels."""
        label = None if c is None else self.embed(c.argmax(dim=1))
        x = self.init(z if self.kind == "own" else normalize_2nd_moment(z))
        seen = {4: x}
        for r in [r for r in WIDTHS if 4 < r <= self.img_resolution]:
            x = self.get_submodule(f"feat_{r}")(x, label, noise_mode)
            if r in SCALED_BY:
                x = self.get_submodule(f"se_{r}")(seen[SCALED_BY[r]], x)
            seen[r] = x
        x = self.to_big(x)
        return x.tanh() if self.kind == "own" and self.img_resolution == 1024 else x


class FastGANGenerator(StudentModule):
    """The FastGAN generator.

    Args:
        z_dim: length of a latent.
        c_dim: number of classes; 0 means unconditional.
        num_classes: of the embedding, at least c_dim; 0 where there are none.
        img_resolution: one of RESOLUTIONS.
        img_channels: channels of the images.
        ngf: channels at 128 pixels.
        kind: "big" or "lite", Projected GAN's; "own", FastGAN's.
    """

    def __init__(
        self,
        *,
        z_dim: int,
        c_dim: int,
        num_classes: int,
        img_resolution: int,
        img_channels: int,
        ngf: int,
        kind: str,
    ):
        super().__init__()
        self.z_dim = z_dim
        self.c_dim = c_dim
        self.img_resolution = img_resolution
        self.img_channels = img_channels
        self.synthesis = Synthesis(
            z_dim=z_dim,
            num_classes=num_classes,
            img_resolution=img_resolution,
            img_channels=img_channels,
            ngf=ngf,
            kind=kind,
        )

    def forward(
        self,
        z: Float[torch.Tensor, "n z_dim"],
        c: Float[torch.Tensor, "n c_dim"] | None = None,
        *,
        truncation_psi: float = 1.0,
        truncation_cutoff: int | None = None,
        noise_mode: str = "random",
    ) -> Float[torch.Tensor, "n c h w"]:
        """Return images [n, img_channels, h, w], about [-1, 1], not clamped.

        Args:
            z: latents [n, z_dim].
            c: one-hot labels [n, c_dim]; not looked at where c_dim is 0.
            truncation_psi: must be 1, and truncation_cutoff None: there is no w to truncate.
            truncation_cutoff: see truncation_psi.
            noise_mode: "random" draws new noise; "const" is that of a fixed seed, as files hold
                none; "none" uses none.

        Raises:
            ValueError: latents or labels of another shape, a truncation, an unknown noise_mode.
        """
        check_noise_mode(noise_mode)
        if truncation_psi != 1 or truncation_cutoff is not None:
            raise ValueError("a FastGAN generator has no truncation; leave truncation_psi at 1")
        z = check_latents(z, self.z_dim)
        labels = check_labels(c, self.c_dim, len(z)) if self.c_dim else None
        return self.synthesis(z, labels, noise_mode=noise_mode)
