"""The kernels of a GPU, by Triton's interpreter on a CPU, against the definitions.

In a process of its own: the interpreter is chosen before Triton is imported.
"""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from stylegan_ops import bias_act
from stylegan_ops.kernels import gpu
from stylegan_ops.kernels.choice import _suits_gpu
from tests.virtual_cuda import CUDA, virtual_cuda

ROOT = Path(__file__).parents[2]

COMPARE = r"""
import itertools
import torch
import stylegan_ops as ops
from stylegan_ops.bias_act import ACTIVATIONS
from stylegan_ops.kernels import gpu_kernels as kernels
from stylegan_ops.kernels.bias_act import ACTS

TYPES = {torch.float32: 1e-5, torch.float16: 4e-3, torch.bfloat16: 4e-2}
FORMS = (torch.contiguous_format, torch.channels_last)
torch.manual_seed(0)

def check(name, found, wanted, dtype):
    assert found.dtype == dtype and found.shape == wanted.shape, (name, found.dtype, found.shape)
    size = wanted.double().abs().max().clamp(min=1)
    error = (found.double() - wanted.double()).abs().max() / size
    assert error < TYPES[dtype], (name, dtype, float(error))

def drawn(shape, dtype, form=torch.contiguous_format):
    return torch.randn(shape).to(dtype).contiguous(memory_format=form)

for act, dtype, clamp in itertools.product(ACTS, TYPES, (None, 0.7)):
    form = FORMS[ACTS.index(act) % 2]
    x, g, h = (drawn([2, 5, 3, 7], dtype, form) for _ in range(3))
    x[0, 0, 0, :3] = torch.tensor([1e-4, -1e-4, 25.0])
    b = drawn([5], dtype)
    # At a kink the derivative is a choice, which numbers of few digits do meet.
    x = torch.where((x.double() + b.double()[:, None, None]).abs() < 1e-3, x + 0.5, x)
    settings = ACTIVATIONS[act]
    limit = -1.0 if clamp is None else clamp
    numbers = (1, ACTS.index(act), settings.alpha, settings.gain, limit)
    # The definition in float64, on the rounded inputs.
    v = x.double().requires_grad_()
    y = ops.bias_act(v, b.double(), act=act, clamp=clamp, impl="reference")
    (slope,) = torch.autograd.grad(y, v, g.double(), create_graph=True)
    check(act, kernels.bias_act(x, b, None, None, 0, *numbers), y, dtype)
    check(act + "'", kernels.bias_act(x, b, g, None, 1, *numbers), slope, dtype)
    bend = torch.zeros_like(v)
    if slope.requires_grad:
        (found,) = torch.autograd.grad(slope, v, h.double(), allow_unused=True)
        bend = bend if found is None else found
    check(act + "''", kernels.bias_act(x, b, g, h, 2, *numbers), bend, dtype)
print("bias_act", flush=True)

for dtype, form, noises in itertools.product(TYPES, FORMS, (0, 1, 2)):
    x, s, b = drawn([2, 70, 3, 5], dtype, form), drawn([2, 70], dtype), drawn([70], dtype)
    noise = drawn([noises, 1, 3, 5], dtype) if noises else None
    wanted = x.double() * s.double()[:, :, None, None] + (0 if noise is None else noise.double())
    wanted = ops.bias_act(wanted, b.double(), act="lrelu", clamp=1.0, impl="reference")
    found = kernels.modulate(x, s, noise, b, ACTS.index("lrelu"), 0.2, 2**0.5, 1.0)
    check("modulate", found, wanted, dtype)
    other = drawn([2, 70, 3, 5], dtype, form)
    dot = (x.double() * other.double()).sum(dim=[2, 3])
    check("channel_dot", kernels.channel_dot(x, other), dot, dtype)
print("modulate", flush=True)

f, long = ops.setup_filter([1, 3, 3, 1]), ops.setup_filter([1, 2, 4, 3, 1], separable=True)
for dtype, form in itertools.product(TYPES, FORMS):
    x = drawn([2, 3, 6, 5], dtype, form)
    for up, down, padding in ((2, 1, [2, 1, 2, 1]), (1, 2, [1, 1, 1, 1]), (3, 2, [2, -1, 0, 3])):
        v = x.double().requires_grad_()
        wanted = ops.upfirdn2d(v, f, up=up, down=down, padding=padding, impl="reference")
        numbers = [up, up, down, down, *padding]
        taps = f.flip([0, 1])
        found = kernels.upfirdn2d(x, taps, numbers)
        check("upfirdn2d", found, wanted, dtype)
        g = drawn(list(wanted.shape), dtype, form)
        (slope,) = torch.autograd.grad(wanted, v, g.double())
        (h, w), (th, tw) = x.shape[2:], taps.shape
        x0, _, y0, _ = padding
        sides = [tw - 1 - x0, w * up - g.shape[3] * down + x0 - up + 1]
        sides += [th - 1 - y0, h * up - g.shape[2] * down + y0 - up + 1]
        back = kernels.upfirdn2d(g, taps.flip([0, 1]), [down, down, up, up, *sides])
        check("upfirdn2d'", back, slope, dtype)
    b = drawn([3], dtype)
    for fu, fd in ((f, f), (long, long)):
        wanted = ops.filtered_lrelu(
            x.double(), fu, fd, b.double(), up=2, down=2, padding=4, clamp=0.8, impl="reference"
        )
        flips = [t.flip(list(range(t.ndim))) for t in (fu, fd)]
        flips[0] = flips[0] * (4 if fu.ndim == 2 else 2)
        found = kernels.filtered_lrelu(x, *flips, b, [2, 2, 4, 4, 4, 4], 2**0.5, 0.2, 0.8)
        check("filtered_lrelu", found, wanted, dtype)
print("upfirdn2d", flush=True)

from stylegan_ops.kernels import gpu
assert gpu.refusal("cpu") == "", gpu.refusal("cpu")
kernels.channel_dot = lambda a, b: a.sum(dim=[2, 3])
gpu.refusal.cache_clear()
assert "differ from their definitions by" in gpu.refusal("cpu")
print("refusal", flush=True)
"""


def test_a_machine_without_triton_is_told_so_once_and_takes_the_definitions(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(gpu.importlib.util, "find_spec", lambda name: None)
    monkeypatch.setenv("REFINE_OPS", "auto")
    for cached in (gpu.available, gpu.refusal):
        cached.cache_clear()
    with virtual_cuda():
        x = torch.randn(2, 8, 64, 64, device=CUDA)
        for _ in range(2):
            assert bias_act(x, act="relu").device == CUDA
    said = capsys.readouterr().err.splitlines()
    assert said == ["Kernels for the GPU are off, torch's own are used: Triton is not installed"]
    for cached in (gpu.available, gpu.refusal):
        cached.cache_clear()


def test_kernels_are_for_many_elements_of_a_gpus_types() -> None:
    with virtual_cuda():
        large = torch.zeros(1 << 16, device=CUDA)
        suits = {
            "float32": large,
            "float16": large.half(),
            "bfloat16": large.bfloat16(),
            "float64": large.double(),
            "few": large[1:],
        }
        found = {name: _suits_gpu(x) for name, x in suits.items()}
    assert found == {name: name not in ("float64", "few") for name in suits}


@pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="no Triton here")
def test_kernels_of_a_gpu_equal_the_definitions_in_value_and_both_derivatives() -> None:
    told = subprocess.run(
        [sys.executable, "-c", COMPARE],
        cwd=ROOT,
        env={**os.environ, "TRITON_INTERPRET": "1"},
        capture_output=True,
        text=True,
        timeout=900,
    )
    assert told.stdout.split() == ["bias_act", "modulate", "upfirdn2d", "refusal"], told.stderr[
        -2000:
    ]
