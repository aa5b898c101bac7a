"""Laws of guidance, on denoisers with a closed form."""

from __future__ import annotations

import copy
import math
import re
from typing import Any

import pytest
import torch

import teachers
from teachers.edm import EDMPrecond
from teachers.gaussian import Gaussian, KernelDensity
from teachers.guidance import autoguidance, classifier_free
from teachers.relabelled import Relabelled

LABELS = torch.eye(2)


def classes() -> KernelDensity:
    """Two classes, at -1 and at 1."""
    images = torch.tensor([-1.0, 1.0]).reshape(2, 1, 1, 1).expand(2, 1, 2, 2)
    return KernelDensity(images, 0.5, labels=torch.eye(2))


def tiny(**kwargs: Any) -> EDMPrecond:
    given = {"img_resolution": 4, "img_channels": 1, "label_dim": 3, "model_channels": 4}
    return EDMPrecond(**{**given, "channel_mult": [1], "num_blocks": 1, **kwargs}).eval()


def test_the_guided_score_is_the_conditional_one_times_the_classifiers_to_the_power():
    """s_g = s + (w - 1) grad log p(c | x; sigma) (Ho and Salimans 2022, Section 3.2)."""
    main, weight, sigma = classes(), 2.5, 0.9
    guided = classifier_free(main, weight=weight)
    x = torch.randn(2, 1, 2, 2, dtype=torch.float64, requires_grad=True)
    variance = 0.5**2 + sigma**2
    # The classifier of two Gaussians of equal spread is a logistic function.
    logit = 2 * x.sum(dim=[1, 2, 3]) / variance * torch.tensor([-1.0, 1.0])
    (slope,) = torch.autograd.grad(torch.nn.functional.logsigmoid(logit).sum(), x)
    expected = main(x, sigma, LABELS) + (weight - 1) * sigma**2 * slope
    torch.testing.assert_close(guided(x, sigma, LABELS), expected)


def test_a_pair_of_networks_guides_as_one_with_dropout_does():
    images = torch.tensor([-1.0, 1.0]).reshape(2, 1, 1, 1).expand(2, 1, 2, 2)
    x = torch.randn(2, 1, 2, 2)
    one = classifier_free(classes(), weight=3.0)
    two = classifier_free(classes(), KernelDensity(images, 0.5), weight=3.0)
    torch.testing.assert_close(two(x, 0.8, LABELS), one(x, 0.8, LABELS))


def test_weight_one_is_the_teacher_and_weight_zero_the_reference():
    main, weak = Gaussian(torch.ones(1, 2, 2), 0.3), Gaussian(torch.zeros(1, 2, 2), 0.6)
    x, sigma = torch.randn(3, 1, 2, 2), torch.tensor([0.1, 1.0, 9.0])
    for weight, same in ((1.0, main), (0.0, weak)):
        torch.testing.assert_close(
            autoguidance(main, weak, weight=weight)(x, sigma), same(x, sigma)
        )


def test_guidance_is_linear_in_its_weight():
    main, weak = Gaussian(torch.ones(1, 2, 2), 0.3), Gaussian(torch.zeros(1, 2, 2), 0.6)
    x = torch.randn(3, 1, 2, 2)
    low, middle, high = (autoguidance(main, weak, weight=w)(x, 0.7) for w in (1.0, 2.0, 3.0))
    torch.testing.assert_close(middle - low, high - middle)


def test_outside_of_its_interval_guidance_does_nothing():
    main, weak = Gaussian(torch.ones(1, 2, 2), 0.3), Gaussian(torch.zeros(1, 2, 2), 0.6)
    x = torch.randn(1, 1, 2, 2).expand(4, 1, 2, 2)
    sigma = torch.tensor([0.5, 0.6, 2.0, 2.1])
    always = autoguidance(main, weak, weight=3.0)(x, sigma)
    within = autoguidance(main, weak, weight=3.0, interval=(0.5, 2.0))(x, sigma)
    plain = main(x, sigma)
    torch.testing.assert_close(within[1:3], always[1:3])
    torch.testing.assert_close(within[::3], plain[::3])
    assert not torch.allclose(always, plain)


def test_the_reference_is_not_computed_where_it_does_not_count():
    def refuse(*_: object) -> None:
        raise AssertionError("the reference was called")

    weak = Gaussian(torch.zeros(1, 2, 2), 0.6)
    weak.register_forward_hook(refuse)
    guided = autoguidance(Gaussian(torch.ones(1, 2, 2), 0.3), weak, weight=3.0, interval=(1.0, 2.0))
    guided(torch.zeros(1, 1, 2, 2), 5.0)
    with pytest.raises(AssertionError, match="was called"):
        guided(torch.zeros(1, 1, 2, 2), 1.5)


def test_a_null_class_stands_for_no_class():
    main, x = tiny(), torch.randn(2, 1, 4, 4)
    for parameter in main.parameters():
        parameter.data += 0.1 * torch.randn_like(parameter)
    labels, null = torch.eye(3)[:2], torch.eye(3)[[2, 2]]
    guided = classifier_free(main, weight=2.0, null_label=2)
    expected = 2 * main(x, 1.0, labels) - main(x, 1.0, null)
    torch.testing.assert_close(guided(x, 1.0, labels), expected)


def test_a_guided_teacher_is_a_denoiser_that_can_be_sampled_and_copied():
    guided = classifier_free(classes(), weight=2.0)
    assert (guided.label_dim, guided.img_resolution, guided.sigma_max) == (2, 2, math.inf)
    latents = torch.randn(2, 1, 2, 2, generator=torch.Generator().manual_seed(0))
    images = teachers.sample(copy.deepcopy(guided), latents, labels=LABELS)
    torch.testing.assert_close(images, teachers.sample(guided, latents, labels=LABELS))
    # Guided away from the other class: beyond the class's own mean.
    assert float(images[0].mean()) < -0.6 and float(images[1].mean()) > 0.6


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            lambda: classifier_free(tiny(), weight=2.0),
            "the guidance weight is 2.0 without a second network",
        ),
        (
            lambda: autoguidance(tiny(), None, weight=2.0),
            "the guidance weight is 2.0 without a second network; autoguidance needs",
        ),
        (lambda: classifier_free(tiny(label_dim=0), weight=2.0), "this teacher has none; choose a"),
        (lambda: classifier_free(tiny(), tiny(), weight=2.0), "the second network has 3 classes"),
        (
            lambda: classifier_free(tiny(), tiny(img_channels=2, label_dim=0), weight=2.0),
            "the second network takes 2 x 4 x 4 images, the teacher 1 x 4 x 4",
        ),
        (lambda: classifier_free(tiny(), weight=2.0, null_label=3), "null_label is 3; it must be"),
        (
            lambda: autoguidance(tiny(), tiny(label_dim=5), weight=2.0),
            "the second network has 5 classes, the teacher 3",
        ),
        (lambda: autoguidance(tiny(), tiny(), weight=-1.0), "weight is -1.0; it must be 0 or more"),
        (
            lambda: autoguidance(tiny(), tiny(), weight=2.0, interval=(2.0, 1.0)),
            "the guidance interval is 2.0 to 1.0; give 0 <= low < high",
        ),
    ],
)
def test_guidance_that_cannot_be_is_refused_in_one_line(make, message):
    with pytest.raises(ValueError, match=re.escape(message)) as error:
        make()
    assert "\n" not in str(error.value)


def test_a_class_map_gives_the_teacher_its_own_numbers():
    main, x = classes(), torch.randn(3, 1, 2, 2)
    mapped = Relabelled(main, [1, 0, 1])
    assert mapped.label_dim == 3 and mapped.label_dropout == main.label_dropout
    torch.testing.assert_close(mapped(x, 0.7, torch.eye(3)), main(x, 0.7, LABELS[[1, 0, 1]]))
    torch.testing.assert_close(mapped(x, 0.7), main(x, 0.7))


def test_wrappers_hand_on_what_the_inner_ones_encoder_sees_under_its_own_labels():
    main, x, labels = tiny(), torch.randn(3, 1, 4, 4), torch.eye(3)
    for parameter in main.parameters():
        parameter.data.add_(0.1 * torch.randn_like(parameter))
    mapped = Relabelled(main, [2, 0])
    theirs = labels[[2, 0, 0]]
    seen = mapped.features(x, 0.7, torch.eye(2)[[0, 1, 1]])
    for one, other in zip(seen, main.features(x, 0.7, theirs), strict=True):
        torch.testing.assert_close(one, other)
    torch.testing.assert_close(mapped.features(x, 0.7)[-1], main.features(x, 0.7)[-1])
    guided = autoguidance(mapped, Relabelled(tiny(), [2, 0]), weight=2.0)
    for one, other in zip(guided.features(x, 0.7, torch.eye(2)[[0, 1, 1]]), seen, strict=True):
        torch.testing.assert_close(one, other)


def test_wrappers_of_what_gives_no_features_give_none():
    for wrapper in (Relabelled(classes(), [1, 0]), classifier_free(classes(), weight=2.0)):
        assert getattr(wrapper, "features", None) is None


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Relabelled(classes(), [0, 2]), "the class map names class 2; the teacher's are 0"),
        (lambda: Relabelled(classes(), []), "the class map names no class"),
        (lambda: Relabelled(tiny(label_dim=0), [0]), "a class map needs a conditional teacher"),
        (
            lambda: Relabelled(classes(), [0, 1])(torch.zeros(2, 1, 2, 2), 1.0, torch.zeros(2, 5)),
            "labels are [2, 5]; this teacher takes one-hot [2, 2]",
        ),
    ],
)
def test_a_class_map_that_does_not_fit_is_refused(make, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        make()
