"""What the names in a file may stand for: functions of ours, tokens, and classes by name."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class Call:
    """What REDUCE may call: our function, the types of its arguments, how many may be left out."""

    function: Callable[..., object]
    types: tuple[type | tuple[type, ...], ...] = ()
    optional: int = 0

    def accepts(self, args: tuple[object, ...]) -> bool:
        """Whether number and types of the arguments are right."""
        if not len(self.types) - self.optional <= len(args) <= len(self.types):
            return False
        return all(isinstance(arg, kind) for arg, kind in zip(args, self.types, strict=False))


@dataclass(frozen=True)
class New:
    """What NEWOBJ may make: our function without arguments."""

    function: Callable[[], object]


@dataclass(frozen=True)
class Token:
    """A name that is only ever an argument, such as `numpy.ndarray`."""

    name: str


# Module and name -> what they stand for.
Names = Mapping[tuple[str, str], Call | New | Token | torch.dtype]

# Classes that a file may name without bringing their source. Reading makes a `Record` of such an
# object and imports nothing, so an entry here gives a file no power.
_STYLEGAN2 = (
    "Conv2dLayer Discriminator DiscriminatorBlock DiscriminatorEpilogue FullyConnectedLayer "
    "Generator MappingNetwork MinibatchStdLayer SynthesisBlock SynthesisLayer SynthesisNetwork "
    "ToRGBLayer"
)
_STYLEGAN3 = (
    "FullyConnectedLayer Generator MappingNetwork SynthesisInput SynthesisLayer SynthesisNetwork"
)
_EDM = (
    "Conv2d DhariwalUNet EDMPrecond FourierEmbedding GroupNorm Linear PositionalEmbedding SongUNet "
    "UNetBlock VEPrecond VPPrecond iDDPMPrecond"
)
_MODULES = {
    "torch.nn.modules": (
        "activation.GELU activation.LeakyReLU activation.ReLU activation.SiLU activation.Sigmoid "
        "activation.Softplus activation.Tanh batchnorm.BatchNorm2d container.ModuleDict "
        "container.ModuleList container.Sequential conv.Conv1d conv.Conv2d conv.ConvTranspose2d "
        "dropout.Dropout flatten.Flatten linear.Identity linear.Linear module._WrappedHook "
        "normalization.GroupNorm normalization.LayerNorm pooling.AdaptiveAvgPool2d "
        "pooling.AvgPool2d pooling.MaxPool2d sparse.Embedding upsampling.Upsample"
    ),
    # Hooks by which PyTorch keeps a spectral norm: a name and three numbers.
    "torch.nn.utils": (
        "spectral_norm.SpectralNorm spectral_norm.SpectralNormLoadStateDictPreHook "
        "spectral_norm.SpectralNormStateDictHook"
    ),
    # Of the checkouts of StyleGAN2-ADA and EDM, which share a name, of StyleGAN3 and of EDM2.
    "training": " ".join(
        f"{module}.{name}"
        for module, names in {
            "networks": f"{_STYLEGAN2} {_EDM}",
            "networks_stylegan2": _STYLEGAN2,
            "networks_stylegan3": _STYLEGAN3,
            "networks_edm2": "Block MPConv MPFourier Precond UNet",
        }.items()
        for name in names.split()
    ),
    "R3GAN": (
        "Networks.Generator Networks.Discriminator Networks.GeneratorStage "
        "Networks.DiscriminatorStage Networks.ResidualBlock Networks.Convolution "
        "Networks.UpsampleLayer Networks.DownsampleLayer Networks.GenerativeBasis "
        "Networks.DiscriminativeBasis FusedOperators.BiasedActivationCUDA "
        "Resamplers.InterpolativeUpsamplerCUDA Resamplers.InterpolativeDownsamplerCUDA"
    ),
    # Of the checkouts of Projected GAN and Diffusion-GAN.
    "pg_modules": (
        "networks_fastgan.Generator networks_fastgan.FastganSynthesis "
        "networks_fastgan.FastganSynthesisCond networks_fastgan.DummyMapping blocks.InitLayer "
        "blocks.UpBlockBigCond blocks.UpBlockSmallCond blocks.SEBlock blocks.GLU blocks.Swish "
        "blocks.NoiseInjection blocks.CCBN"
    ),
    "dnnlib.tflib": "network.Network",
}

PLAIN_CLASSES = frozenset(
    (f"{package}.{entry.rpartition('.')[0]}", entry.rpartition(".")[2])
    for package, entries in _MODULES.items()
    for entry in entries.split()
) | {("argparse", "Namespace")}  # the options of a training script, in files of torch.save
