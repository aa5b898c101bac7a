"""Values, first and second gradients of the original implementations, in float64.

A first gradient is that of <out, gy>; a second one is the gradient of the sum of the squares of all
first gradients.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import stylegan_ops

OPS = (
    "bias_act",
    "conv2d_resample",
    "downsample2d",
    "filter2d",
    "filtered_lrelu",
    "fma",
    "setup_filter",
    "upfirdn2d",
    "upsample2d",
)


@pytest.fixture(scope="module")
def cases(samples: Path) -> list[dict[str, Any]]:
    return json.loads((samples / "ops.cases.json").read_text())


@pytest.fixture(scope="module")
def vectors(samples: Path) -> Mapping[str, np.ndarray]:
    with np.load(samples / "ops.ref.npz") as file:
        return dict(file)


def close(ours: torch.Tensor, vectors: Mapping[str, np.ndarray], name: str, atol: float) -> None:
    torch.testing.assert_close(
        ours, torch.from_numpy(vectors[name]), rtol=0, atol=atol, msg=lambda text: f"{name}: {text}"
    )


def test_operations_equal_the_originals_in_value_and_first_and_second_gradient(cases, vectors):
    assert {case["op"] for case in cases} == set(OPS)
    for case in cases:
        op, key = case["op"], case["key"]
        if op == "setup_filter":
            f = stylegan_ops.setup_filter(case["f"], **case["kwargs"])
            close(f, vectors, key, 1e-7)
            continue
        inputs = {
            name: torch.from_numpy(vectors[f"{key}/in_{name}"])
            for name in case["inputs"]
            if f"{key}/in_{name}" in vectors
        }
        leaves = {n: v.requires_grad_() for n, v in inputs.items() if v.dtype == torch.float64}
        out = getattr(stylegan_ops, op)(**inputs, **case["kwargs"])
        close(out, vectors, f"{key}/out", 1e-10)
        gy = torch.from_numpy(vectors[f"{key}/gy"])
        first = torch.autograd.grad(out, list(leaves.values()), gy, create_graph=True)
        for name, gradient in zip(leaves, first, strict=True):
            close(gradient, vectors, f"{key}/grad_{name}", 1e-8)
        wanted = [name for name in leaves if f"{key}/grad2_{name}" in vectors]
        if wanted:
            squares = torch.stack([gradient.square().sum() for gradient in first]).sum()
            second = torch.autograd.grad(squares, [leaves[n] for n in wanted], allow_unused=True)
            for name, gradient in zip(wanted, second, strict=True):
                gradient = torch.zeros_like(leaves[name]) if gradient is None else gradient
                close(gradient, vectors, f"{key}/grad2_{name}", 1e-8)
