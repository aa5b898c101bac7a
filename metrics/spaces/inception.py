"""The Inception network of 2015: 2048 features of images, in which FID and KID are defined.

TensorFlow's graph inception-2015-12-05 (Szegedy et al. 2015, arXiv:1512.00567, with batch norm), as
a table of branches. Where it differs from the network of that name in today's model zoos: 1008
classes, average pools that leave padding out of the mean, and a max pool in the last block.

Batch norm is folded into the convolutions before it (in float64), and memory is channels-last: the
same numbers to float32's rounding, about twice as fast on a CPU.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import NamedTuple, TypeVar

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

FEATURES = 2048
CLASSES = 1008
BATCH_NORM_EPS = 1e-3


class Conv(NamedTuple):
    """A convolution with batch norm and ReLU; `valid` means without padding, as stride 2 is."""

    name: str
    width: int
    kernel: tuple[int, int] = (1, 1)
    stride: int = 1
    valid: bool = False


Network = TypeVar("Network", bound=nn.Module)

# A branch is layers in a row; its last may be a tuple of convolutions side by side.
AVERAGE, MAXIMUM, HALVE = "average", "maximum", "halve"
Branch = list[Conv | str | tuple[Conv, ...]]


def _smaller_scales(pool: int) -> list[Branch]:
    return [
        [Conv("branch1x1", 64)],
        [Conv("branch5x5_1", 48), Conv("branch5x5_2", 64, (5, 5))],
        [
            Conv("branch3x3dbl_1", 64),
            Conv("branch3x3dbl_2", 96, (3, 3)),
            Conv("branch3x3dbl_3", 96, (3, 3)),
        ],
        [AVERAGE, Conv("branch_pool", pool)],
    ]


def _factorised(width: int) -> list[Branch]:
    across, down = (1, 7), (7, 1)
    return [
        [Conv("branch1x1", 192)],
        [
            Conv("branch7x7_1", width),
            Conv("branch7x7_2", width, across),
            Conv("branch7x7_3", 192, down),
        ],
        [
            Conv("branch7x7dbl_1", width),
            Conv("branch7x7dbl_2", width, down),
            Conv("branch7x7dbl_3", width, across),
            Conv("branch7x7dbl_4", width, down),
            Conv("branch7x7dbl_5", 192, across),
        ],
        [AVERAGE, Conv("branch_pool", 192)],
    ]


def _widest(pool: str) -> list[Branch]:
    across, down = (1, 3), (3, 1)
    return [
        [Conv("branch1x1", 320)],
        [
            Conv("branch3x3_1", 384),
            (Conv("branch3x3_2a", 384, across), Conv("branch3x3_2b", 384, down)),
        ],
        [
            Conv("branch3x3dbl_1", 448),
            Conv("branch3x3dbl_2", 384, (3, 3)),
            (Conv("branch3x3dbl_3a", 384, across), Conv("branch3x3dbl_3b", 384, down)),
        ],
        [pool, Conv("branch_pool", 192)],
    ]


STEM: Branch = [
    Conv("Conv2d_1a_3x3", 32, (3, 3), stride=2),
    Conv("Conv2d_2a_3x3", 32, (3, 3), valid=True),
    Conv("Conv2d_2b_3x3", 64, (3, 3)),
    HALVE,
    Conv("Conv2d_3b_1x1", 80),
    Conv("Conv2d_4a_3x3", 192, (3, 3), valid=True),
    HALVE,
]
BLOCKS: dict[str, list[Branch]] = {
    "Mixed_5b": _smaller_scales(32),
    "Mixed_5c": _smaller_scales(64),
    "Mixed_5d": _smaller_scales(64),
    "Mixed_6a": [
        [Conv("branch3x3", 384, (3, 3), stride=2)],
        [
            Conv("branch3x3dbl_1", 64),
            Conv("branch3x3dbl_2", 96, (3, 3)),
            Conv("branch3x3dbl_3", 96, (3, 3), stride=2),
        ],
        [HALVE],
    ],
    "Mixed_6b": _factorised(128),
    "Mixed_6c": _factorised(160),
    "Mixed_6d": _factorised(160),
    "Mixed_6e": _factorised(192),
    "Mixed_7a": [
        [Conv("branch3x3_1", 192), Conv("branch3x3_2", 320, (3, 3), stride=2)],
        [
            Conv("branch7x7x3_1", 192),
            Conv("branch7x7x3_2", 192, (1, 7)),
            Conv("branch7x7x3_3", 192, (7, 1)),
            Conv("branch7x7x3_4", 192, (3, 3), stride=2),
        ],
        [HALVE],
    ],
    "Mixed_7b": _widest(AVERAGE),
    "Mixed_7c": _widest(MAXIMUM),
}


class Inception(nn.Module):
    """Images float [n, 3, 299, 299], (x - 128) / 128 of levels, to features and class logits.

    The logits [n, 1008] are without the output bias, as the Inception Score has them.
    """

    def __init__(self) -> None:
        super().__init__()
        self.convolutions = nn.ModuleDict()
        width = self._add("", STEM, 3)
        for block, branches in BLOCKS.items():
            width = sum(self._add(f"{block}/", branch, width) for branch in branches)
        self.classes = nn.Linear(FEATURES, CLASSES, bias=False)

    def _add(self, prefix: str, branch: Branch, width: int) -> int:
        """Make a branch's convolutions for an input of `width` channels; return its output's."""
        for layer in branch:
            if isinstance(layer, str):
                continue
            side_by_side = (layer,) if isinstance(layer, Conv) else layer
            for conv in side_by_side:
                bare = conv.valid or conv.stride > 1
                self.convolutions[prefix + conv.name] = nn.Conv2d(
                    width,
                    conv.width,
                    conv.kernel,
                    stride=conv.stride,
                    padding=0 if bare else (conv.kernel[0] // 2, conv.kernel[1] // 2),
                )
            width = sum(conv.width for conv in side_by_side)
        return width

    def forward(
        self, x: Float[Tensor, "n c h w"]
    ) -> tuple[Float[Tensor, "n d"], Float[Tensor, "n k"]]:
        """Features [n, 2048], the mean over the last block's places, and logits [n, 1008]."""
        x = self._branch("", STEM, x)
        for block, branches in BLOCKS.items():
            x = torch.cat([self._branch(f"{block}/", branch, x) for branch in branches], dim=1)
        features = x.mean((2, 3))
        return features, self.classes(features)

    def _branch(self, prefix: str, branch: Branch, x: Tensor) -> Tensor:
        for layer in branch:
            if isinstance(layer, str):
                x = _pool(layer, x)
            elif isinstance(layer, Conv):
                x = F.relu_(self.convolutions[prefix + layer.name](x))
            else:
                sides = [F.relu_(self.convolutions[prefix + conv.name](x)) for conv in layer]
                x = torch.cat(sides, dim=1)
        return x


def _pool(kind: str, x: Tensor) -> Tensor:
    if kind == HALVE:
        return F.max_pool2d(x, 3, stride=2)
    if kind == MAXIMUM:
        return F.max_pool2d(x, 3, stride=1, padding=1)
    return F.avg_pool2d(x, 3, stride=1, padding=1, count_include_pad=False)


def load_inception(weights: Mapping[str, Tensor]) -> Inception:
    """The network of a state dict of the public file, folded; ValueError naming what does not fit.

    Names are those of pt_inception-2015-12-05-6726825d.pth (pytorch-fid) and of
    weights-inception-2015-12-05-6726825d.pth (torch-fidelity).
    """
    # Without memory: its numbers all come from the file.
    with torch.device("meta"):
        network = Inception()
    state: dict[str, Tensor] = {}
    for name, module in network.convolutions.items():
        assert isinstance(module, nn.Conv2d)
        weight, bias = folded(weights, name.replace("/", "."), tuple(module.weight.shape))
        state |= {f"convolutions.{name}.weight": weight, f"convolutions.{name}.bias": bias}
    state["classes.weight"] = required(weights, "fc.weight", (CLASSES, FEATURES))
    network.load_state_dict(state, assign=True)
    return channels_last(network.eval().requires_grad_(False))


def channels_last(network: Network) -> Network:
    """The network with its convolutions' weights channels-last, in which CPUs convolve faster."""
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            module.weight.data = module.weight.data.contiguous(memory_format=torch.channels_last)
    return network


def folded(
    weights: Mapping[str, Tensor], name: str, shape: tuple[int, ...]
) -> tuple[Tensor, Tensor]:
    """Weight and bias in float32 of a convolution with the batch norm after it folded in."""
    weight = required(weights, f"{name}.conv.weight", shape).double()
    norm = {
        part: required(weights, f"{name}.bn.{part}", shape[:1]).double()
        for part in ("weight", "bias", "running_mean", "running_var")
    }
    return fold(weight, norm, eps=BATCH_NORM_EPS)


def fold(weight: Tensor, norm: Mapping[str, Tensor], *, eps: float) -> tuple[Tensor, Tensor]:
    """Float32 weight and bias of conv(x, weight) followed by the batch norm, all in float64."""
    gain = norm["weight"] / (norm["running_var"] + eps).sqrt()
    bias = norm["bias"] - norm["running_mean"] * gain
    return (weight * gain[:, None, None, None]).float(), bias.float()


def required(weights: Mapping[str, Tensor], name: str, shape: tuple[int, ...]) -> Tensor:
    """One tensor of a state dict; ValueError where it is missing, of another shape, not finite."""
    tensor = weights.get(name)
    if not isinstance(tensor, Tensor) or tuple(tensor.shape) != shape:
        got = tuple(tensor.shape) if isinstance(tensor, Tensor) else "missing"
        raise ValueError(f"weight {name!r} is {got}; it must be a tensor of shape {shape}")
    if not tensor.is_floating_point() or not tensor.isfinite().all():
        raise ValueError(f"weight {name!r} must hold finite floating-point numbers")
    return tensor


def parameter_names() -> Iterator[tuple[str, tuple[int, ...]]]:
    """Name and shape of every tensor that the weights file must have."""
    with torch.device("meta"):
        network = Inception()
    for name, module in network.convolutions.items():
        assert isinstance(module, nn.Conv2d)
        path = name.replace("/", ".")
        yield f"{path}.conv.weight", tuple(module.weight.shape)
        for part in ("weight", "bias", "running_mean", "running_var"):
            yield f"{path}.bn.{part}", (module.out_channels,)
    yield "fc.weight", (CLASSES, FEATURES)
