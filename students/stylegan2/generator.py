"""The StyleGAN2 generator (Karras et al. 2020, arXiv:1912.04958; with ADA, arXiv:2006.06676).

A mapping network turns a latent z into w; a synthesis network turns w into an image. Module names
are those of the network files, so that a file's tensors load by name.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from jaxtyping import Float

from checkpoints import with_options
from checkpoints.options import Option
from students.base import StudentModule
from students.options import SQUARE
from students.stylegan2.blocks import grown
from students.stylegan2.mapping import MappingNetwork
from students.stylegan2.synthesis import SynthesisNetwork


class Generator(StudentModule):
    """The StyleGAN2 generator: mapping and synthesis.

    Its argument img_resolution is the files': images that grow from init_res (height, width)
    instead of 4 x 4 have the sides init_res times img_resolution / 4.

    Attributes:
        w_dim: length of a w.
        num_ws: how many ws the synthesis takes.
        init_kwargs: the constructor call, as files record it.
    """

    def __init__(
        self,
        *,
        z_dim: int,
        c_dim: int,
        w_dim: int,
        img_resolution: int,
        img_channels: int,
        init_res: Sequence[int] = SQUARE,
        mapping_kwargs: Mapping[str, Option] | None = None,
        synthesis_kwargs: Mapping[str, Option] | None = None,
    ):
        super().__init__()
        mapping_kwargs, synthesis_kwargs = dict(mapping_kwargs or {}), dict(synthesis_kwargs or {})
        self.z_dim = z_dim
        self.c_dim = c_dim
        self.w_dim = w_dim
        self._img_shape = grown(init_res, img_resolution)
        self.img_resolution = max(self._img_shape)
        self.img_channels = img_channels
        # Synthesis before mapping: the order of the parameters in the files.
        self.synthesis = with_options(
            SynthesisNetwork,
            synthesis_kwargs,
            w_dim=w_dim,
            img_resolution=img_resolution,
            img_channels=img_channels,
            init_res=init_res,
        )
        self.num_ws = self.synthesis.num_ws
        self.mapping = with_options(
            MappingNetwork,
            mapping_kwargs,
            z_dim=z_dim,
            c_dim=c_dim,
            w_dim=w_dim,
            num_ws=self.num_ws,
        )
        self.init_kwargs = {
            "z_dim": z_dim,
            "c_dim": c_dim,
            "w_dim": w_dim,
            "img_resolution": img_resolution,
            "img_channels": img_channels,
            **({} if tuple(init_res) == SQUARE else {"init_res": list(init_res)}),
            "mapping_kwargs": mapping_kwargs,
            "synthesis_kwargs": synthesis_kwargs,
        }

    def forward(
        self,
        z: Float[torch.Tensor, "n z_dim"],
        c: Float[torch.Tensor, "n c_dim"] | None = None,
        *,
        truncation_psi: float = 1.0,
        truncation_cutoff: int | None = None,
        noise_mode: str = "random",
        force_fp32: bool | None = None,
    ) -> Float[torch.Tensor, "n c h w"]:
        """Return images [n, img_channels, h, w] of latents z [n, z_dim] and labels c [n, c_dim].

        About [-1, 1], not clamped. The options are those of `mapping` and `synthesis`, and so are
        the errors.
        """
        ws = self.mapping(z, c, truncation_psi=truncation_psi, truncation_cutoff=truncation_cutoff)
        return self.synthesis(ws, noise_mode=noise_mode, force_fp32=force_fp32)
