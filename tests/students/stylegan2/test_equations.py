"""Generator and discriminator beside the papers' equations, written out in float64.

Karras et al. 2020 (arXiv:1912.04958), Fig. 2 and 7, equations 1 to 3: weights are modulated and
demodulated for each sample and convolved as they stand, resampling inserts zeros and filters.
Every weight is scaled at run time by 1 / sqrt(fan-in) (Karras et al. 2018, arXiv:1710.10196).
"""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F

TAPS = torch.tensor([1.0, 3, 3, 1], dtype=torch.float64)
FILTER = torch.outer(TAPS, TAPS) / 64


def bent(x: torch.Tensor) -> torch.Tensor:
    """Leaky ReLU that keeps the variance."""
    return math.sqrt(2) * F.leaky_relu(x, 0.2)


def linear(x: torch.Tensor, layer: dict[str, torch.Tensor], rate: float = 1.0) -> torch.Tensor:
    weight = layer["weight"]
    return rate * (x @ weight.T / math.sqrt(weight.shape[1]) + layer["bias"])


def filtered(x: torch.Tensor, before: int, after: int, gain: float = 1.0) -> torch.Tensor:
    kernel = (gain * FILTER).expand(x.shape[1], 1, 4, 4)
    return F.conv2d(F.pad(x, [before, after] * 2), kernel, groups=x.shape[1])


def doubled(x: torch.Tensor) -> torch.Tensor:
    """Zeros between the pixels."""
    n, c, h, w = x.shape
    y = x.new_zeros(n, c, 2 * h, 2 * w)
    y[:, :, ::2, ::2] = x
    return y


def part(state: dict[str, torch.Tensor], prefix: str) -> dict[str, torch.Tensor]:
    """What of a network's tensors stands under a name."""
    start = f"{prefix}."
    return {k.removeprefix(start): v for k, v in state.items() if k.startswith(start)}


def styled(x: torch.Tensor, w: torch.Tensor, layer: dict[str, torch.Tensor], up: bool) -> Any:
    """A layer of the synthesis: equations 1 and 3 for each sample, then noise, bias and ReLU."""
    styles = linear(w, part(layer, "affine"))
    if up:
        x = filtered(doubled(x), 3, 2, 4.0)
    images = []
    for image, style in zip(x, styles, strict=True):
        weight = layer["weight"] * style[:, None, None]
        weight = weight / (weight.square().sum(dim=[1, 2, 3], keepdim=True) + 1e-8).sqrt()
        # Upsampling layers hold their weights for a true convolution.
        weight = weight.flip([2, 3]) if up else weight
        images.append(F.conv2d(image[None], weight, padding=0 if up else 1))
    y = torch.cat(images) + layer["noise_strength"] * layer["noise_const"]
    return bent(y + layer["bias"][:, None, None])


def to_rgb(x: torch.Tensor, w: torch.Tensor, layer: dict[str, torch.Tensor]) -> torch.Tensor:
    """A 1 x 1 layer without demodulation."""
    styles = linear(w, part(layer, "affine")) / math.sqrt(x.shape[1])
    y = torch.einsum("nchw,nc,oc->nohw", x, styles, layer["weight"][:, :, 0, 0])
    return y + layer["bias"][:, None, None]


def equations_of_images(
    state: dict[str, torch.Tensor], ws: torch.Tensor, resolution: int
) -> torch.Tensor:
    """The synthesis network with skip connections."""
    first = part(state, "b4")
    x = first["const"].expand(len(ws), -1, -1, -1)
    x = styled(x, ws[:, 0], part(first, "conv1"), up=False)
    images = to_rgb(x, ws[:, 1], part(first, "torgb"))
    size, i = 8, 1
    while size <= resolution:
        block = part(state, f"b{size}")
        x = styled(x, ws[:, i], part(block, "conv0"), up=True)
        x = styled(x, ws[:, i + 1], part(block, "conv1"), up=False)
        images = filtered(doubled(images), 2, 1, 4.0) + to_rgb(
            x, ws[:, i + 2], part(block, "torgb")
        )
        size, i = 2 * size, i + 2
    return images


def doubles(network: torch.nn.Module) -> dict[str, torch.Tensor]:
    return {name: value.double() for name, value in network.state_dict().items()}


@pytest.mark.parametrize("lr_multiplier", [1.0, 0.01])
def test_the_mapping_is_normalised_latents_through_layers_of_scaled_weights(
    make_generator: Any, lr_multiplier: float
) -> None:
    generator = make_generator(mapping={"num_layers": 3, "lr_multiplier": lr_multiplier})
    state, z = doubles(generator.mapping), torch.randn(4, 5, dtype=torch.float64)
    w = z / (z.square().mean(dim=1, keepdim=True) + 1e-8).sqrt()
    for i in range(3):
        w = bent(linear(w, part(state, f"fc{i}"), lr_multiplier))
    ws = generator.mapping(z.float())
    wanted = w[:, None].expand(-1, generator.num_ws, -1)
    torch.testing.assert_close(ws.double(), wanted, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("resolution", [8, 32])
def test_images_and_their_slopes_are_those_of_the_equations(
    make_generator: Any, resolution: int
) -> None:
    generator = make_generator(img_resolution=resolution)
    ws = torch.randn(2, generator.num_ws, 4, dtype=torch.float64)
    given, exact = ws.float().requires_grad_(), ws.requires_grad_()
    images = generator.synthesis(given, noise_mode="const")
    wanted = equations_of_images(doubles(generator.synthesis), exact, resolution)
    scale = float(wanted.detach().abs().max())
    torch.testing.assert_close(images.double(), wanted, rtol=0, atol=1e-5 * scale)
    y = torch.randn_like(wanted)
    (slope,) = torch.autograd.grad((images * y.float()).sum(), given)
    (exact_slope,) = torch.autograd.grad((wanted * y).sum(), exact)
    # An activation next to leaky ReLU's kink may fall on either side by rounding.
    limit = 1e-3 * float(exact_slope.abs().max())
    torch.testing.assert_close(slope.double(), exact_slope, rtol=0, atol=limit)


def convolved(x: torch.Tensor, layer: dict[str, torch.Tensor], *, down: bool = False) -> Any:
    """A layer of the discriminator before its activation; a 1 x 1 kernel keeps the size too."""
    weight, size = layer["weight"], layer["weight"].shape[2]
    weight = weight / math.sqrt(weight[0].numel())
    if down:
        side = size // 2 + 1
        return F.conv2d(filtered(x, side, side), weight, stride=2)
    return F.conv2d(x, weight, padding=size // 2)


def activated(x: torch.Tensor, layer: dict[str, torch.Tensor], *, down: bool = False) -> Any:
    return bent(convolved(x, layer, down=down) + layer["bias"][:, None, None])


def test_logits_are_those_of_the_equations(make_discriminator: Any) -> None:
    """The residual network of Fig. 7, and the deviation of the batch as one more channel."""
    discriminator = make_discriminator(
        img_resolution=16, architecture="resnet", epilogue_kwargs={"mbstd_group_size": 2}
    )
    state, images = doubles(discriminator), torch.randn(2, 2, 16, 16, dtype=torch.float64)
    x = activated(images, part(state, "b16.fromrgb"))
    for size in (16, 8):
        block = part(state, f"b{size}")
        skip = convolved(x, part(block, "skip"), down=True)
        y = activated(activated(x, part(block, "conv0")), part(block, "conv1"), down=True)
        x = (skip + y) / math.sqrt(2)
    last = part(state, "b4")
    deviation = (x.var(dim=0, correction=0) + 1e-8).sqrt().mean()
    x = torch.cat([x, deviation.expand(2, 1, 4, 4)], dim=1)
    x = activated(x, part(last, "conv")).flatten(1)
    wanted = linear(bent(linear(x, part(last, "fc"))), part(last, "out"))
    torch.testing.assert_close(discriminator(images.float()).double(), wanted, rtol=1e-4, atol=1e-5)
