"""bias_act against closed forms in NumPy."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from stylegan_ops import ACTIVATIONS, bias_act, fma

ALPHA, SCALE = 1.6732632423543772, 1.0507009873554805  # Klambauer et al. 2017, arXiv:1706.02515
FORMULAS = {
    "linear": lambda x: x,
    "relu": lambda x: math.sqrt(2) * np.maximum(x, 0),
    "lrelu": lambda x: math.sqrt(2) * np.where(x > 0, x, 0.2 * x),
    "tanh": lambda x: (np.exp(2 * x) - 1) / (np.exp(2 * x) + 1),
    "sigmoid": lambda x: 1 / (1 + np.exp(-x)),
    "elu": lambda x: np.where(x > 0, x, np.exp(x) - 1),
    "selu": lambda x: SCALE * np.where(x > 0, x, ALPHA * (np.exp(x) - 1)),
    "softplus": lambda x: np.log(1 + np.exp(x)),
    "swish": lambda x: math.sqrt(2) * x / (1 + np.exp(-x)),
}


def test_every_activation_has_a_closed_form_here():
    assert set(ACTIVATIONS) == set(FORMULAS)


@pytest.mark.parametrize("act", FORMULAS)
def test_each_activation_is_its_closed_form(act):
    x, b = torch.randn(2, 3, 4, dtype=torch.float64), torch.randn(3, dtype=torch.float64)
    expected = FORMULAS[act](x.numpy() + b.numpy()[:, None])
    np.testing.assert_allclose(bias_act(x, b, act=act).numpy(), expected, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("act", FORMULAS)
def test_first_and_second_derivatives_of_each_activation_are_exact(act):
    x = torch.randn(2, 3, 2, dtype=torch.float64, requires_grad=True)
    b = torch.randn(3, dtype=torch.float64, requires_grad=True)

    def run(x, b):
        return bias_act(x, b, act=act, gain=1.7, clamp=0.9)

    assert torch.autograd.gradcheck(run, (x, b))
    assert torch.autograd.gradgradcheck(run, (x, b))


def test_gain_scales_after_the_activation_and_clamp_limits_after_the_gain():
    x = torch.tensor([-2.0, -0.1, 0.3, 5.0])
    assert bias_act(x, act="lrelu", alpha=0.5, gain=2).tolist() == pytest.approx(
        [-2.0, -0.1, 0.6, 10.0]
    )
    limited = bias_act(x, act="lrelu", alpha=0.5, gain=2, clamp=1)
    assert limited.tolist() == pytest.approx([-1.0, -0.1, 0.6, 1.0])
    assert not bias_act(x, clamp=0).any()


@pytest.mark.parametrize("dim", [0, 1, 2, -1])
def test_the_bias_belongs_to_the_dimension_that_is_named(dim):
    x = torch.zeros(3, 3, 3)
    b = torch.tensor([1.0, 2.0, 3.0])
    y = bias_act(x, b, dim=dim)
    assert torch.equal(y.movedim(dim, -1), b.expand(3, 3, 3))


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32, torch.float64])
def test_the_result_has_the_dtype_of_x(dtype):
    x, b = torch.randn(2, 3).to(dtype), torch.randn(3).to(dtype)
    for act in FORMULAS:
        assert bias_act(x, b, act=act, clamp=2).dtype == dtype


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"act": "gelu"}, "act is 'gelu'; allowed are linear, relu"),
        ({"clamp": -1}, "clamp is -1; it must be at least 0"),
        ({"clamp": math.nan}, "clamp is nan"),
        ({"b": torch.zeros(4)}, r"b is \[4\].*it must be \[3\] torch.float32 to match dimension 1"),
        ({"b": torch.zeros(3, 1)}, r"b is \[3, 1\]"),
        ({"b": torch.zeros(3, dtype=torch.float64)}, r"b is \[3\] torch.float64"),
    ],
)
def test_an_argument_that_does_not_fit_is_named(arguments, message):
    with pytest.raises(ValueError, match=message):
        bias_act(torch.zeros(2, 3), **arguments)


def test_fma_is_the_sum_of_a_product_and_broadcasts_with_its_derivatives():
    a = torch.randn(2, 3, 2, dtype=torch.float64, requires_grad=True)
    b = torch.randn(3, 1, dtype=torch.float64, requires_grad=True)
    c = torch.randn(1, 1, 2, dtype=torch.float64, requires_grad=True)
    torch.testing.assert_close(fma(a, b, c), a * b + c)
    assert torch.autograd.gradcheck(fma, (a, b, c))
    assert torch.autograd.gradgradcheck(fma, (a, b, c))
