"""Images that are there already, on a side of a comparison."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import image_sets
import metrics
from metrics.sides import are_images, open_images
from roles import Processes


@pytest.fixture
def drawn(toy, tmp_path):
    """A student and the zip of its first images."""

    def make(shift: float, name: str, num: int = 120):
        student = toy(shift)
        images = torch.cat(list(metrics.draw_images(student, num)))
        image_sets.write_zip(tmp_path / name, images.numpy())
        return student, tmp_path / name

    return make


def same(found: metrics.Comparison, other: metrics.Comparison) -> None:
    """The same numbers; groups are of other images, so the errors are alike alone."""
    for a, b in zip(found.differences, other.differences, strict=True):
        assert a.metric == b.metric
        if a.metric != "inception_score":  # whose splits are of other images
            assert (a.before, a.after) == pytest.approx((b.before, b.after), rel=1e-6)


def test_groups_of_images_in_classes_are_no_classes(tmp_path):
    """Images that change with their number modulo the groups have an error bar all the same."""
    levels = np.arange(100, dtype=np.uint8)[:, None, None, None] % 20 * 10
    image_sets.write_zip(tmp_path / "a.zip", np.broadcast_to(levels, (100, 1, 4, 4)))
    groups = open_images(tmp_path / "a.zip").part(100).some(range(100))[:, 0, 0, 0].reshape(5, 20)
    assert max(len(set(group.tolist())) for group in groups.T) > 2
    means = groups.float().mean(dim=0)
    assert means.std() < 0.7 * levels.std()


def test_images_of_students_measure_as_the_students_do(drawn, features, reference):
    (before, a), (after, b) = drawn(0.2, "a.zip"), drawn(0.1, "b.zip")
    options = {"features": features, "num_images": 120}
    of_students = metrics.compare(before, after, reference, **options)
    of_images = metrics.compare(open_images(a), open_images(b), reference, **options)
    same(of_images, of_students)
    assert of_images.pairing == "the same file names"
    assert of_images.null is None
    assert of_images.images is not None and of_students.images is not None
    drifts = (sorted(found.images.drift) for found in (of_images, of_students))  # pyright: ignore
    np.testing.assert_allclose(*drifts, rtol=1e-9)
    mixed = metrics.compare(before, open_images(b), reference, **options)
    same(mixed, of_students)
    assert (mixed.pairing, mixed.images, mixed.classes) == ("", None, ())
    assert mixed.null == of_students.null
    one = metrics.measure(open_images(a), reference, features=features, num_images=120)
    assert one.frechet_distance == pytest.approx(of_students["frechet_distance"].before, rel=1e-12)


def test_a_part_is_taken_at_an_even_stride_and_has_of_every_class(tmp_path):
    images = np.repeat(np.arange(3, dtype=np.uint8), 20)[:, None, None, None]
    image_sets.write_zip(tmp_path / "a.zip", np.broadcast_to(images, (60, 1, 4, 4)))
    whole = open_images(tmp_path / "a.zip")
    part = whole.part(6)
    assert sorted(part.some(range(6))[:, 0, 0, 0].tolist()) == [0, 0, 1, 1, 2, 2]
    assert sorted(map(str, part.names))[:2] == ["00000/img00000000", "00000/img00000010"]
    assert part.names == whole.part(6).names
    with pytest.raises(ValueError, match="has 60 images; 61 were asked for"):
        whole.part(61)


@pytest.mark.parametrize("size", [1, 3])
def test_each_process_draws_its_share(tmp_path, size):
    rows = np.arange(70, dtype=np.uint8)[:, None, None, None]
    np.savez(tmp_path / "a.npz", arr_0=np.broadcast_to(rows, (70, 4, 5, 3)))
    whole = open_images(tmp_path / "a.npz")
    assert whole.some([7]).shape == (1, 3, 4, 5)
    seen: list[int] = []
    for rank in range(size):
        of_rank = Processes()
        of_rank.rank, of_rank.size = rank, size
        pieces = list(whole.draw(of_rank.share(70)))
        assert max(map(len, pieces)) <= 25
        seen += torch.cat(pieces)[:, 0, 0, 0].tolist()
    assert seen == list(range(70))


def test_what_is_images_is_told_by_its_name(tmp_path):
    assert are_images(tmp_path)
    assert all(are_images(f"x{end}") for end in (".zip", ".ZIP", ".npz"))
    assert not any(are_images(f"x{end}") for end in (".pkl", ".pt", ""))
    np.savez(tmp_path / "mu.npz", mu=np.zeros(3), sigma=np.eye(3))
    with pytest.raises(ValueError, match=r"mu.npz: holds mu, sigma; a side of a comparison is"):
        open_images(tmp_path / "mu.npz")


def test_pictures_of_two_sets_pair_what_has_one_name(drawn, features, reference):
    (before, a), (_, b) = drawn(0.2, "a.zip"), drawn(0.0, "b.zip")
    sides = open_images(a), open_images(b)
    found = metrics.compare(*sides, reference, features=features, num_images=100)
    pictures = metrics.draw_gallery(*sides, found)
    assert "largest improvements" in pictures
    assert "latent interpolation" not in pictures
    mixed = metrics.compare(before, sides[1], reference, features=features, num_images=100)
    assert not metrics.draw_gallery(before, sides[1], mixed).keys() & {
        "largest improvements",
        "latent interpolation",
    }
