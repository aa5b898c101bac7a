"""One pass of the auxiliary for its loss and for the student: what changes, and what does not."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from refiners import Refinement, Settings
from refiners.diff_instruct import DiffInstruct
from refiners.dmd2 import DMD2
from refiners.moments import DiffInstructMoments
from refiners.sds import SDS
from refiners.sigma_laws import denoising_weight
from refiners.training.shared_pass import Heard, check_shared_pass, shared_gradient

SHARED = {"warmup_kimg": 0, "auxiliary_ema": 0, "share_pass": True}


def test_the_gradient_is_at_the_noise_that_the_auxiliary_learned_from(gaussian):
    """g = D_q(x) - D_p(x) at the x and sigma of the loss, which is computed here from them too."""
    x_0, teacher, method = torch.randn(6, 1, 4, 4), gaussian(0.5, 1.0), DiffInstruct()
    heard: Any = Heard(gaussian(0.0, 2.0))
    loss = method.auxiliary_loss(x_0, None, auxiliary=heard)
    assert heard.last is not None
    x, sigma, d_q = heard.last.x, heard.last.sigma, heard.last.denoised
    error = (d_q - x_0).square().sum(dim=[1, 2, 3])
    torch.testing.assert_close(loss.detach(), (denoising_weight(sigma, 0.5) * error).mean())
    g = shared_gradient(method, x_0, None, heard.last, teacher=teacher)
    torch.testing.assert_close(g, d_q - teacher(x, sigma).detach())
    assert not g.requires_grad


@pytest.mark.parametrize(("share", "passes"), [(True, 1), (False, 2)])
def test_a_step_passes_through_the_auxiliary_once_instead_of_twice(
    affine, gaussian, settings, share, passes
):
    teacher = gaussian(0.0, 1.0)
    chosen = settings(**{**SHARED, "share_pass": share})
    job = Refinement(affine(1.0, 1.0), teacher, DiffInstruct(), chosen)
    calls = []
    for name in ("auxiliary", "auxiliary_average", "teacher"):
        note = lambda *_, name=name: calls.append(name)  # noqa: E731  # a hook a network
        getattr(job, name).register_forward_hook(note)
    job.advance()
    assert sum(name.startswith("auxiliary") for name in calls) == passes
    assert calls.count("teacher") == 1


def test_pieces_share_their_passes_too(affine, gaussian, settings):
    """Equal laws and a shared pass: the auxiliary's own noise, one call of the teacher a piece."""
    teacher = gaussian(0.0, 1.0)
    job = Refinement(affine(1.0, 1.0), teacher, DiffInstruct(), settings(**SHARED, batch_gpu=4))
    seen = []
    watched: Any = job.teacher
    watched.register_forward_hook(lambda module, given, found: seen.append(len(given[0])))
    job.advance()
    assert seen == [4] * (job.settings.batch // 4)


def test_the_student_still_comes_to_the_teachers_law(affine, gaussian, settings):
    chosen = settings(**{**SHARED, "warmup_kimg": 0.32}, kimg=9.6, batch_gpu=0, ema=1)
    job = Refinement(affine(0.6, 0.8), gaussian(0.0, 0.5), DiffInstruct(), chosen)
    for _ in range(chosen.num_warmup_steps + chosen.num_steps):
        job.advance()
    average: Any = job.average
    assert abs(float(average.mean)) < 0.1
    assert abs(abs(float(average.std)) - 0.5) < 0.1


@pytest.mark.parametrize(
    ("method", "changes", "message"),
    [
        (SDS(), {}, "SDS cannot do"),
        (DMD2(), {}, "DMD2 cannot do"),
        (DiffInstruct(student_sigma="lognormal:0,1"), {}, "one law"),
        (DiffInstructMoments(), {"auxiliary_ema": 5.0}, "auxiliary_ema to 0"),
    ],
)
def test_what_one_pass_cannot_serve_is_refused(method, changes, message):
    with pytest.raises(ValueError, match=message):
        check_shared_pass(method, Settings(**{**SHARED, **changes}))


def test_nothing_is_asked_where_no_pass_is_shared():
    check_shared_pass(SDS(), Settings())
