"""The layers of FastGAN: spectrally normalised convolutions, normalisation, noise, gates.

Everything is computed as the original does in eval mode, whatever mode the network is in: spectral
norms by the file's vectors u and v, normalisation by the file's means and variances. So an image
depends on its latent alone and not on its batch, also while the network is refined.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Float

EPS = 1e-5  # of all normalisations, PyTorch's default


class Spectral(torch.nn.Module):
    """A weight divided by its largest singular value (Miyato et al. 2018, arXiv:1802.05957).

    W / (u^T W v), with W [rows, columns] the weight as a matrix and u, v the file's estimates of
    its first singular vectors.

    Args:
        shape: of the weight.
        axis: of the weight that gives the rows; the others give the columns.
        bias: whether there is one, of `shape[0]` numbers.
    """

    weight_u: torch.Tensor
    weight_v: torch.Tensor

    def __init__(self, shape: tuple[int, ...], *, axis: int = 0, bias: bool = False):
        super().__init__()
        self.axis = axis
        self.bias = torch.nn.Parameter(torch.zeros([shape[0]])) if bias else None
        self.weight_orig = torch.nn.Parameter(torch.randn(shape))
        rows = shape[axis]
        columns = 1
        for i, size in enumerate(shape):
            columns *= 1 if i == axis else size
        self.register_buffer("weight_u", torch.randn([rows]))
        self.register_buffer("weight_v", torch.randn([columns]))

    @property
    def weight(self) -> torch.Tensor:
        """The weight as it is used."""
        matrix = self.weight_orig.movedim(self.axis, 0).flatten(1)
        return self.weight_orig / torch.dot(self.weight_u, matrix @ self.weight_v)


class Conv(Spectral):
    """A convolution of a square kernel."""

    def __init__(self, given: int, out: int, kernel: int, *, padding: int = 0, bias: bool = False):
        super().__init__((out, given, kernel, kernel), bias=bias)
        self.padding = padding

    def forward(self, x: Float[torch.Tensor, "n c h w"]) -> Float[torch.Tensor, "n d i j"]:
        """Return the convolution of x."""
        return F.conv2d(x, self.weight, self.bias, padding=self.padding)


class Norm(torch.nn.Module):
    """(x - mean) / sqrt(variance + eps), scaled and shifted by channel."""

    running_mean: torch.Tensor
    running_var: torch.Tensor
    num_batches_tracked: torch.Tensor

    def __init__(self, channels: int):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.ones([channels]))
        self.bias = torch.nn.Parameter(torch.zeros([channels]))
        self.register_buffer("running_mean", torch.zeros([channels]))
        self.register_buffer("running_var", torch.ones([channels]))
        self.register_buffer("num_batches_tracked", torch.zeros([], dtype=torch.long))

    def forward(
        self, x: Float[torch.Tensor, "n c h w"], label: torch.Tensor | None
    ) -> Float[torch.Tensor, "n c h w"]:
        """Return x normalised; the label is not looked at."""
        return F.batch_norm(x, self.running_mean, self.running_var, self.weight, self.bias, eps=EPS)


class LabelledNorm(torch.nn.Module):
    """The same, scaled and shifted by what is affine in the label's embedding."""

    stored_mean: torch.Tensor
    stored_var: torch.Tensor

    def __init__(self, channels: int, embedding: int):
        super().__init__()
        self.gain = Spectral((channels, embedding), bias=True)
        self.bias = Spectral((channels, embedding), bias=True)
        self.register_buffer("stored_mean", torch.zeros([channels]))
        self.register_buffer("stored_var", torch.ones([channels]))

    def forward(
        self, x: Float[torch.Tensor, "n c h w"], label: Float[torch.Tensor, "n d"]
    ) -> Float[torch.Tensor, "n c h w"]:
        """Return x normalised, of labels that are embedded."""
        gain, bias = (F.linear(label, part.weight, part.bias) for part in (self.gain, self.bias))
        x = F.batch_norm(x, self.stored_mean, self.stored_var, eps=EPS)
        return x * (1 + gain)[:, :, None, None] + bias[:, :, None, None]


class Noise(torch.nn.Module):
    """Adds one number of noise to all channels of a pixel."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros([1]))

    def forward(
        self, x: Float[torch.Tensor, "n c h w"], noise_mode: str
    ) -> Float[torch.Tensor, "n c h w"]:
        """Return x with noise: new, of a fixed seed, or none."""
        if noise_mode == "none":
            return x
        shape = [len(x), 1, *x.shape[2:]]
        if noise_mode == "random":
            noise = torch.randn(shape, device=x.device, dtype=x.dtype)
        else:  # files have no constants: those of one seed, the same for all images
            stream = torch.Generator().manual_seed(shape[2])
            noise = torch.randn([1, *shape[1:]], generator=stream).to(x)
        return x + self.weight * noise


class Opening(Spectral):
    """A vector as 4 x 4 features."""

    def forward(self, z: Float[torch.Tensor, "n z_dim"]) -> Float[torch.Tensor, "n c h w"]:
        """Return the transposed convolution of z as an image of one pixel."""
        return F.conv_transpose2d(z[:, :, None, None], self.weight)


class InitLayer(torch.nn.Module):
    """A latent as 4 x 4 features."""

    def __init__(self, z_dim: int, channels: int):
        super().__init__()
        opening = Opening((z_dim, 2 * channels, 4, 4), axis=1)
        self.init = torch.nn.ModuleList([opening, Norm(2 * channels)])

    def forward(self, z: Float[torch.Tensor, "n z_dim"]) -> Float[torch.Tensor, "n c h w"]:
        """Return features of latents."""
        opening, norm = self.init
        return F.glu(norm(opening(z), None), dim=1)


class UpBlock(torch.nn.Module):
    """Twice the size: one or two convolutions, each with [noise], normalisation and a gate.

    Args:
        given: channels that come in.
        out: channels that go out.
        is_double: two convolutions with noise, instead of one without.
        embedding: length of an embedded label; 0 for a network without labels.
    """

    def __init__(self, given: int, out: int, *, is_double: bool, embedding: int):
        super().__init__()
        # Names of convolution, noise and normalisation, which the files have.
        if embedding:
            double = (("conv1", "noise", "bn1"), ("conv2", "noise", "bn2"))
            single = (("conv", "", "bn"),)
        else:
            double = (("1", "2", "3"), ("5", "6", "7"))
            single = (("1", "", "2"),)
        self.steps = double if is_double else single
        for i, (conv, noise, norm) in enumerate(self.steps):
            self.add_module(conv, Conv(out if i else given, 2 * out, 3, padding=1))
            if noise and noise not in self._modules:
                self.add_module(noise, Noise())
            made = LabelledNorm(2 * out, embedding) if embedding else Norm(2 * out)
            self.add_module(norm, made)

    def forward(
        self, x: Float[torch.Tensor, "n c h w"], label: torch.Tensor | None, noise_mode: str
    ) -> Float[torch.Tensor, "n c_out h2 w2"]:
        """Return features of twice the height and width."""
        x = F.interpolate(x, scale_factor=2, mode="nearest")
        for conv, noise, norm in self.steps:
            x = self.get_submodule(conv)(x)
            x = self.get_submodule(noise)(x, noise_mode) if noise else x
            x = F.glu(self.get_submodule(norm)(x, label), dim=1)
        return x


class Excitation(torch.nn.Module):
    """Scales the channels of large features by what small ones say (section 3.1)."""

    def __init__(self, small: int, large: int):
        super().__init__()
        self.main = torch.nn.ModuleDict({"1": Conv(small, large, 4), "3": Conv(large, large, 1)})

    def forward(
        self, small: Float[torch.Tensor, "n c i j"], large: Float[torch.Tensor, "n d h w"]
    ) -> Float[torch.Tensor, "n d h w"]:
        """Return the large features, scaled."""
        x = self.main["1"](F.adaptive_avg_pool2d(small, 4))
        return large * self.main["3"](F.silu(x)).sigmoid()
