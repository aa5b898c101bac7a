"""Dropout: only where it is asked for, and by one mask where two networks are compared."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch

from refiners import ImageSet, Inputs
from refiners.diff_instruct import DiffInstruct
from refiners.dmd2 import DMD2
from refiners.training.dropout import OneMask, dropping
from students.adapters.one_step import OneStep
from teachers.edm import EDMPrecond

CPU = torch.device("cpu")


def small_edm() -> EDMPrecond:
    network = EDMPrecond(
        8, 1, 2, model_type="SongUNet", model_channels=8, channel_mult=[1], num_blocks=1,
        dropout=0.3, label_dropout=0.5,
    )  # fmt: skip
    for parameter in network.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    return network.eval()


def test_blocks_drop_inside_and_nothing_else_does_nor_stays() -> None:
    network = small_edm()
    x, sigma, labels = torch.randn(4, 1, 8, 8), torch.ones(4), torch.eye(2)[[0, 1, 0, 1]]
    still = network(x, sigma, labels)
    with dropping([network], 0.13):
        drops = [(m.training, m.dropout) for m in network.modules() if hasattr(m, "dropout")]
        assert drops and set(drops) == {(True, 0.13)}
        assert not torch.equal(network(x, sigma, labels), network(x, sigma, labels))
        # The label is dropped by the network as a whole, which stays as it was.
        assert not network.training
    assert torch.equal(network(x, sigma, labels), still)
    assert {m.dropout for m in network.modules() if hasattr(m, "dropout")} == {0.3}
    with dropping([network], 0.0):
        assert torch.equal(network(x, sigma, labels), still)


def test_two_networks_drop_by_one_mask() -> None:
    network = small_edm()
    x, sigma = torch.randn(4, 1, 8, 8), torch.ones(4)
    state = torch.get_rng_state()
    a, b, c = (OneMask(copy.deepcopy(network), seed, CPU) for seed in (1, 1, 2))
    with dropping([a, b, c], 0.13):
        assert torch.equal(a(x, sigma), b(x, sigma))
        assert not torch.allclose(a(x, sigma), c(x, sigma))
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("batch_gpu", [0, 6])
def test_a_gradient_by_one_mask_vanishes_where_the_auxiliary_is_the_teacher(
    refinement: Any, batch_gpu: int
) -> None:
    teacher = small_edm()
    student = OneStep(copy.deepcopy(teacher), sigma_init=1.0)
    changes: Any = {"warmup_kimg": 0, "student_first": True, "batch_gpu": batch_gpu}
    changes |= {"dropout": 0.13, "dropout_in_gradient": True}
    job = refinement(student, teacher, DiffInstruct(), **changes)
    assert job.advance()["Gradient/pixel_norm"] == 0
    # The auxiliary has learnt meanwhile.
    assert job.advance()["Gradient/pixel_norm"] > 0


def test_the_student_drops_where_it_is_trained_and_not_as_a_result(refinement: Any) -> None:
    teacher = small_edm()
    student = OneStep(copy.deepcopy(teacher), sigma_init=1.0)
    images: list[torch.Tensor] = []
    job = refinement(
        student, teacher, DiffInstruct(), warmup_kimg=0, dropout=0.13, fresh_images="all"
    )
    blocks = [m for m in job.student.modules() if hasattr(m, "dropout")]
    job.student.denoiser.register_forward_hook(
        lambda module, given, out: images.append(torch.tensor([b.training for b in blocks]))
    )
    job.advance()
    of_auxiliary, of_student = images
    assert not of_auxiliary.any() and of_student.all()
    assert not any(m.training for m in job.average.modules() if hasattr(m, "dropout"))


def test_what_cannot_drop_is_refused(refinement: Any, gaussian: Any) -> None:
    with pytest.raises(ValueError, match="a GaussianDenoiser has no blocks that drop features"):
        refinement(dropout=0.1)
    student = OneStep(small_edm(), sigma_init=1.0)
    with pytest.raises(ValueError, match="dropout_in_gradient is set, but DMD2 has a head"):
        refinement(
            student, small_edm(), DMD2(), dropout=0.1, dropout_in_gradient=True,
            inputs=Inputs(real_images=ImageSet(torch.zeros(4, 1, 8, 8))),
        )  # fmt: skip
