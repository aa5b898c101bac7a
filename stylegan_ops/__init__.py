"""The operations of StyleGAN-family networks, defined in plain torch.

Each file holds one operation and is its specification: ordinary differentiable torch code, right to
any order of derivative, on any device, with nothing to compile. kernels/ holds faster code equal to
it, which is built on first use where it can be and never required. Images are float [n, c, h, w];
filters are float32, 1-D (separable) or 2-D.
"""

from stylegan_ops.bias_act import ACTIVATIONS, bias_act
from stylegan_ops.conv2d_resample import conv2d_resample
from stylegan_ops.conv3x3 import conv3x3
from stylegan_ops.filtered_lrelu import filtered_lrelu
from stylegan_ops.fma import fma
from stylegan_ops.modulated_conv2d import modulated_conv2d
from stylegan_ops.upfirdn2d import Taps, downsample2d, filter2d, setup_filter, upfirdn2d, upsample2d

__all__ = [
    "ACTIVATIONS",
    "Taps",
    "bias_act",
    "conv2d_resample",
    "conv3x3",
    "downsample2d",
    "filter2d",
    "filtered_lrelu",
    "fma",
    "modulated_conv2d",
    "setup_filter",
    "upfirdn2d",
    "upsample2d",
]
