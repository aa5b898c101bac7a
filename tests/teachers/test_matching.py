"""Which teacher fits: the student's own data first, then all of its pixels, then what is easy."""

from __future__ import annotations

import pytest

from teachers.catalogue import BY_HAND, HUB, PublishedTeacher
from teachers.matching import Wanted, matches, named_data


def teacher(name: str, data: str, size: int, layout: str = "edm", **others) -> PublishedTeacher:
    return PublishedTeacher(name, data, size, 1.0, None, layout, "MIT", HUB, **others)


def wanted(*data: str, size: int = 256, channels: int = 3, classes: int = 0) -> Wanted:
    return Wanted(size, channels, classes, frozenset(data))


@pytest.mark.parametrize(
    ("text", "data"),
    [
        ("ffhq-256x256.zip", {"FFHQ"}),
        ("stylegan2-ffhq-config-f.pkl", {"FFHQ"}),
        ("stylegan3-r-metfacesu-1024x1024.pkl", {"MetFaces"}),
        ("data/celeba-hq", {"CelebA-HQ"}),
        ("CelebAHQ_256", {"CelebA-HQ"}),
        ("afhq-cat", {"AFHQ v2"}),
        ("afhqdog.pkl", {"AFHQ dog"}),
        ("afhqv2-512x512.zip", {"AFHQ v2"}),
        ("lsun/cat", {"LSUN cat"}),
        ("lsun_church_outdoor", {"LSUN church"}),
        ("network-snapshot-025000.pkl", set()),
        ("catalogue-of-concatenated-birdhouses", set()),
        ("cifar10.zip", {"CIFAR-10"}),
        ("", set()),
    ],
)
def test_data_are_told_by_the_words_of_a_path(text, data):
    assert named_data([text]) == data


def test_the_same_data_come_first_then_its_kind_then_all_of_imagenet_and_no_other():
    rows = [
        teacher("church", "LSUN church", 256),
        teacher("everything", "ImageNet", 256),
        teacher("celebrities", "CelebA-HQ", 256),
        teacher("small", "FFHQ", 64),
        teacher("faces", "FFHQ", 256),
    ]
    names = [match.teacher.name for match in matches(wanted("FFHQ"), rows)]
    assert names == ["faces", "small", "celebrities", "everything"]
    # Nothing is left out where nobody knows what the student draws.
    assert {match.teacher.name for match in matches(wanted(), rows)} == {t.name for t in rows}
    assert matches(wanted(), rows)[-1].teacher.name == "small"


def test_what_is_read_and_fetched_by_name_comes_before_what_is_not():
    rows = [
        teacher("latent", "FFHQ", 256, "latent"),
        PublishedTeacher("hand", "FFHQ", 256, 1.0, None, "edm", "MIT", BY_HAND, page="https://x"),
        teacher("easy", "FFHQ", 256),
    ]
    assert [m.teacher.name for m in matches(wanted("FFHQ"), rows)] == ["easy", "hand", "latent"]


@pytest.mark.parametrize(
    ("student", "of_teacher", "options", "remark"),
    [
        ({}, {}, (), ""),
        ({"size": 1024}, {}, ("--adapt", "area"), "sees 256 of 1024 pixels, no finer texture"),
        ({"size": 64}, {}, ("--adapt", "area"), ""),
        ({"channels": 1}, {}, ("--adapt", "area"), ""),
        ({"classes": 10}, {}, ("--class-map", "none"), ""),
        ({"classes": 10}, {"classes": 10}, (), ""),
        ({"classes": 3}, {"classes": 10}, ("--class-map", "FILE"), ""),
        ({"classes": 3, "size": 64}, {}, ("--adapt", "area", "--class-map", "none"), ""),
    ],
)
def test_a_match_says_what_gan_needs_and_what_is_not_seen(student, of_teacher, options, remark):
    (match,) = matches(wanted("FFHQ", **student), [teacher("x", "FFHQ", 256, **of_teacher)])
    assert (match.options, match.remark) == (options, remark)
    assert match.adapts == ("--adapt" in options)


def test_a_teacher_of_classes_alone_cannot_judge_a_student_without():
    assert matches(wanted("ImageNet"), [teacher("x", "ImageNet", 256, classes=1000)]) == []
