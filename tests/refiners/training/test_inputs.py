"""Real images and pairs: who needs them, and that a batch depends on seed and step alone."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from refiners import REFINERS, ImageSet, Inputs, PairSet
from refiners.dmd import DMD
from refiners.training.inputs import name_of, pseudo_huber


def generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_images_of_files_become_those_of_the_networks() -> None:
    pixels = torch.arange(256, dtype=torch.uint8).reshape(4, 1, 8, 8)
    source = ImageSet(pixels, torch.eye(4))
    images, labels = source(100, generator(0))
    assert labels is not None
    assert images.dtype == torch.float32
    expected = pixels[labels.argmax(dim=1)].double() / 127.5 - 1
    torch.testing.assert_close(images.double(), expected, rtol=0, atol=1e-6)
    assert len(labels.argmax(dim=1).unique()) == 4


def test_float_images_stay_as_they_are_and_are_drawn_by_the_generator_alone() -> None:
    source = ImageSet(torch.randn(50, 2, 4, 4))
    batches = []
    for caller in (1, 2):
        torch.manual_seed(caller)
        images, labels = source(16, generator(7))
        assert labels is None
        batches.append(images)
    assert torch.equal(*batches)
    assert not torch.equal(batches[0], source(16, generator(8))[0])
    assert all(any(torch.equal(x, y) for y in source.images) for x in batches[0])


def test_a_pairs_latent_image_and_label_belong_together() -> None:
    number = torch.arange(20.0)
    source = PairSet(number[:, None], number[:, None, None, None], torch.eye(20))
    z, labels, images = source(200, generator(0))
    assert labels is not None
    assert torch.equal(z[:, 0], images[:, 0, 0, 0])
    assert torch.equal(z[:, 0], labels.argmax(dim=1).float())


@pytest.mark.parametrize(
    ("make", "complaint"),
    [
        (lambda: ImageSet(torch.zeros(0, 1, 4, 4)), r"images are \[0, 1, 4, 4\]; give"),
        (lambda: ImageSet(torch.zeros(3, 4, 4)), r"images are \[3, 4, 4\]; give"),
        (lambda: ImageSet(torch.zeros(3, 1, 4, 4), torch.eye(2)), "2 labels for 3 images"),
        (lambda: PairSet(torch.zeros(2, 8), torch.zeros(3, 1, 4, 4)), "2 latents for 3 images"),
    ],
)
def test_a_source_that_does_not_fit_is_refused(make: Any, complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint):
        make()


@pytest.mark.parametrize("name", REFINERS)
def test_a_method_without_what_it_needs_or_with_what_it_ignores_is_refused(
    refinement: Any, name: str
) -> None:
    method = REFINERS[name]()
    needs = {
        "dmd": "pairs",
        "dmd2": "real_images",
        "f-distill": "real_images",
        "sida": "real_images",
        "uni-instruct": "real_images",
        "diff-instruct-moments": "real_images",
        "adversarial-moments": "real_images",
    }.get(name)
    for given in ("pairs", "real_images"):
        source: Any = lambda n, generator: None  # noqa: E731
        with_one = Inputs(**{given: source})
        if given != needs:
            with pytest.raises(ValueError, match=f"takes no {given}; leave them out|needs"):
                refinement(method=method, inputs=with_one)
    if needs:
        with pytest.raises(ValueError, match=f"needs {needs}; give them"):
            refinement(method=method)


def test_pseudo_huber_is_a_length_far_away_and_a_square_close_by() -> None:
    x = torch.zeros(2, 1, 8, 8, dtype=torch.float64)
    far, near = x + 10, x + 1e-6
    c = 0.00054
    torch.testing.assert_close(pseudo_huber(x, far), torch.full([2], 10 - c).double())
    near_value = torch.full([2], (1e-6) ** 2 / (2 * c)).double()
    torch.testing.assert_close(pseudo_huber(x, near), near_value, rtol=1e-5, atol=0)
    assert pseudo_huber(x, x).tolist() == [0, 0]


def test_a_distance_has_the_name_it_gives_itself() -> None:
    class Perceptual:
        name = "lpips-vgg"

        def __call__(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
            return (x - y).abs().sum(dim=[1, 2, 3])

    assert name_of(Perceptual()) == "lpips-vgg"
    assert name_of(pseudo_huber) == "pseudo_huber"
    Perceptual.name = ""
    assert name_of(Perceptual()) == "Perceptual"


def test_pairs_alone_move_the_student_onto_their_images(refinement: Any, affine: Any) -> None:
    """With the auxiliary equal to the teacher the difference is zero; the regression is left."""
    z = torch.randn(500, 16)
    pairs = PairSet(z, (0.7 + 0.2 * z).reshape(-1, 1, 4, 4))
    job = refinement(
        affine(-0.4, 0.3), method=DMD(), inputs=Inputs(pairs=pairs), warmup_kimg=0, kimg=2.4,
        lr=1e-12, glr=0.05,
    )  # fmt: skip
    for _ in range(150):
        job.advance()
    assert job.average.mean.item() == pytest.approx(0.7, abs=0.05)
    assert job.average.std.item() == pytest.approx(0.2, abs=0.05)
