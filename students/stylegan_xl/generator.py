"""The StyleGAN-XL generators (Sauer et al. 2022, arXiv:2202.00273): stem and superresolution.

StyleGAN3's synthesis, whose mapping sees the class through an embedding of an image classifier and
keeps one mean w for each class. A superresolution network is a stem without its last layers, under
new ones; the stem inside may be one itself.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from checkpoints import with_options
from checkpoints.options import Option
from students.stylegan3 import generator as stylegan3
from students.stylegan3.layers import LayerPlan
from students.stylegan3.synthesis import SynthesisNetwork
from students.stylegan_xl.mapping import EMBEDDING, MappingNetwork


class Generator(stylegan3.Generator):
    """The StyleGAN-XL stem: a mapping with class embedding and StyleGAN3's synthesis."""

    def __init__(self, *, embedding: Sequence[int] = EMBEDDING, **options: Option):
        """Make a network with new weights; options as in students.stylegan3.generator.Generator."""

        def make_mapping(*, rand_embedding: bool = False, **given: Option) -> MappingNetwork:
            # How the embedding's first values were made; in a file it has its trained ones.
            return with_options(MappingNetwork, given, embedding=embedding)

        with_options(super().__init__, options, make_mapping=make_mapping)


class SuperresGenerator(stylegan3.MappedGenerator):
    """A stem's mapping and first layers under the layers of a higher resolution.

    Its constructor call in a file names the stem's file, which is not needed: all layers are in the
    network's own file, each with its own call.

    Attributes:
        head_layer_names: the layers that are not the stem's.
    """

    def __init__(
        self,
        plans: Sequence[LayerPlan],
        *,
        z_dim: int,
        c_dim: int,
        w_dim: int,
        mapping_kwargs: Mapping[str, Option] | None = None,
        embedding: Sequence[int] = EMBEDDING,
        output_scale: float = 0.25,
        head_layers: int,
        up_factor: int,
        path_stem: str = "",
    ):
        """Make a network with new weights.

        Args:
            plans: all layers, the stem's and the others.
            z_dim: length of a latent.
            c_dim: number of classes; 0 means unconditional.
            w_dim: length of a w.
            mapping_kwargs: num_layers, lr_multiplier, w_avg_beta.
            embedding: rows and features of the classifier's embedding.
            output_scale: factor of the images.
            head_layers: how many of the last layers before ToRGB are not the stem's.
            up_factor: resolution over the stem's.
            path_stem: where the stem's file was; kept, never opened.
        """
        super().__init__()
        self.z_dim = z_dim
        self.c_dim = c_dim
        self.w_dim = w_dim
        # Mapping before synthesis, unlike in a stem: the order of the parameters in the files.
        self.mapping = with_options(
            MappingNetwork,
            mapping_kwargs or {},
            z_dim=z_dim,
            c_dim=c_dim,
            w_dim=w_dim,
            num_ws=len(plans) + 1,
            embedding=embedding,
        )
        self.synthesis = SynthesisNetwork(plans, w_dim=w_dim, output_scale=output_scale)
        self.num_ws = self.synthesis.num_ws
        self.img_resolution = self.synthesis.img_resolution
        self.img_channels = self.synthesis.img_channels
        self.head_layer_names = self.synthesis.layer_names[-1 - head_layers :]
        self.init_kwargs = {
            "c_dim": c_dim,
            "img_resolution": self.img_resolution,
            "img_channels": self.img_channels,
            "path_stem": path_stem,
            "head_layers": head_layers,
            "up_factor": up_factor,
        }
