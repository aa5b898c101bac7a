"""Whether the kernels of a GPU (gpu_kernels.py) are used: where they run and are right.

Triton compiles them at their first use, for which it needs a C compiler. Where it is absent, cannot
build, or gives other numbers than the definitions, these run, and one line says why.
"""

from __future__ import annotations

import functools
import importlib.util
import sys

import torch

DTYPES = (torch.float32, torch.float16, torch.bfloat16)
# Launches are what small tensors cost, and one kernel is one; but each shape of call is compiled.
LEAST_ELEMENTS = 1 << 16
# A result may have sixteen times as many elements, whose numbers are 32 bits wide.
MOST_ELEMENTS = 1 << 27
TOLERANCE = 1e-4  # float32, results of order one; TF32 has no part in them


@functools.cache
def available() -> bool:
    """Whether kernels are used on this GPU; if not, one line says why."""
    why = refusal()
    if why:
        print(f"Kernels for the GPU are off, torch's own are used: {why}", file=sys.stderr)
    return not why


@functools.cache
def refusal(device: str = "cuda") -> str:
    """Return why kernels are not used on a device; empty where they are."""
    if importlib.util.find_spec("triton") is None:
        return "Triton is not installed"
    try:
        _register()
        worst = difference(device)
    except Exception as error:  # of a compiler, a driver or Triton: of any type
        told = str(error).strip().splitlines() or [""]
        return f"{type(error).__name__}: {told[-1][:200]}"
    # A NaN is no agreement.
    return "" if worst < TOLERANCE else f"they differ from their definitions by {worst:.1e}"


def _register() -> None:
    """Let the operations of this folder take the kernels on CUDA."""
    # Their definitions, which are not loaded before a kernel is called for.
    for name in ("bias_act", "modulation", "upfirdn2d", "filtered_lrelu"):
        importlib.import_module(f"stylegan_ops.kernels.{name}")
    kernels = importlib.import_module("stylegan_ops.kernels.gpu_kernels")
    library = importlib.import_module("stylegan_ops.kernels.native").LIBRARY
    for name in ("bias_act", "modulate", "channel_dot", "upfirdn2d", "filtered_lrelu"):
        library.impl(name, getattr(kernels, name), "CUDA")


def difference(device: str) -> float:
    """Return the largest difference of a kernel to its definition on a few numbers."""
    ops = importlib.import_module("stylegan_ops")
    kernels = importlib.import_module("stylegan_ops.kernels.gpu_kernels")
    draw = torch.Generator().manual_seed(0)
    x, b, s = (torch.randn(shape, generator=draw) for shape in ([2, 5, 6, 7], [5], [2, 5]))
    f = ops.setup_filter([1, 3, 3, 1])
    bent = ops.bias_act(x * s[:, :, None, None], b, act="lrelu", clamp=1.0, impl="reference")
    doubled = ops.upfirdn2d(x, f, up=2, padding=[2, 1, 2, 1], impl="reference")
    with torch.no_grad():
        x_, b_, s_, taps = (t.to(device) for t in (x, b, s, f.flip([0, 1])))
        found = kernels.modulate(x_, s_, None, b_, 2, 0.2, 2**0.5, 1.0)
        grown = kernels.upfirdn2d(x_, taps, [2, 2, 1, 1, 2, 1, 2, 1])
        dots = kernels.channel_dot(x_, x_)
    pairs = ((found, bent), (grown, doubled), (dots, x.square().sum(dim=[2, 3])))
    return max(float((ours.cpu() - wanted).abs().max()) for ours, wanted in pairs)
