"""The StyleGAN3 generator, configurations T and R (Karras et al. 2021, arXiv:2106.12423).

T is equivariant to translation, R to rotation as well (1 x 1 convolutions, radial filters). Module
names are those of the network files, so that a file's tensors load by name.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial

import torch
from jaxtyping import Float

from checkpoints import with_options
from checkpoints.options import Option
from students.base import StudentModule
from students.stylegan2.mapping import MappingNetwork
from students.stylegan3.synthesis import SynthesisNetwork, plan_layers

# With the options that the program has where a call names none.
make_default_mapping = partial(MappingNetwork, num_layers=2, lr_multiplier=0.01, w_avg_beta=0.998)


class MappedGenerator(StudentModule):
    """A mapping before StyleGAN3's synthesis; StyleGAN-XL's generators are such, too.

    Attributes:
        w_dim: length of a w.
        num_ws: how many ws the synthesis takes.
        init_kwargs: the constructor call, as files record it.
    """

    w_dim: int
    num_ws: int
    mapping: torch.nn.Module
    synthesis: SynthesisNetwork

    def forward(
        self,
        z: Float[torch.Tensor, "n z_dim"],
        c: Float[torch.Tensor, "n c_dim"] | None = None,
        *,
        truncation_psi: float = 1.0,
        truncation_cutoff: int | None = None,
        noise_mode: str = "random",
        force_fp32: bool | None = None,
        update_emas: bool = False,
    ) -> Float[torch.Tensor, "n c h w"]:
        """Return images [n, img_channels, h, w] of latents z [n, z_dim] and labels c [n, c_dim].

        About [-1, 1], not clamped. The options are those of `mapping` and `synthesis`, and so are
        the errors.
        """
        ws = self.mapping(z, c, truncation_psi=truncation_psi, truncation_cutoff=truncation_cutoff)
        return self.synthesis(
            ws, noise_mode=noise_mode, force_fp32=force_fp32, update_emas=update_emas
        )


class Generator(MappedGenerator):
    """The StyleGAN3 generator: mapping and synthesis."""

    def __init__(
        self,
        *,
        z_dim: int,
        c_dim: int,
        w_dim: int,
        img_resolution: int,
        img_channels: int,
        mapping_kwargs: Mapping[str, Option] | None = None,
        make_mapping: Callable[..., torch.nn.Module] = make_default_mapping,
        **synthesis_kwargs: Option,
    ):
        """Make a network with new weights.

        Args:
            z_dim: length of a latent.
            c_dim: number of classes; 0 means unconditional.
            w_dim: length of a w.
            img_resolution: height and width of the images.
            img_channels: channels of the images.
            mapping_kwargs: num_layers, lr_multiplier, w_avg_beta.
            make_mapping: makes the mapping of its sizes and options.
            **synthesis_kwargs: the other options of `plan_layers`; output_scale, factor of the
                images.
        """
        super().__init__()
        self.z_dim = z_dim
        self.c_dim = c_dim
        self.w_dim = w_dim
        self.img_resolution = img_resolution
        self.img_channels = img_channels
        sizes = {"img_resolution": img_resolution, "img_channels": img_channels}
        self.init_kwargs = {
            "z_dim": z_dim,
            "c_dim": c_dim,
            "w_dim": w_dim,
            **sizes,
            "mapping_kwargs": dict(mapping_kwargs or {}),
            **synthesis_kwargs,
        }
        output_scale = synthesis_kwargs.pop("output_scale", 0.25)
        # Synthesis before mapping: the order of the parameters in the files.
        plans = with_options(plan_layers, synthesis_kwargs, **sizes)
        self.synthesis = with_options(
            SynthesisNetwork, {"output_scale": output_scale}, plans, w_dim=w_dim
        )
        self.num_ws = self.synthesis.num_ws
        self.mapping = make_mapping(
            z_dim=z_dim, c_dim=c_dim, w_dim=w_dim, num_ws=self.num_ws, **(mapping_kwargs or {})
        )
