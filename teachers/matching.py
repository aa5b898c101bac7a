"""Which published teachers fit a student: by its data, size, channels and classes."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from teachers.catalogue import BY_HAND, DATA, KINDS, TEACHERS, PublishedTeacher

GENERAL = "ImageNet"  # of all kinds of pictures
SAME, KINDRED, ANY, OTHER = range(4)


@dataclass(frozen=True)
class Wanted:
    """What a student is like.

    Attributes:
        size: height and width of its images.
        channels: of them.
        classes: how many it has; 0 is unconditional.
        data: what it was trained on, keys of DATA; none where its file does not say.
    """

    size: int
    channels: int
    classes: int
    data: frozenset[str]


@dataclass(frozen=True)
class Match:
    """A teacher for a student.

    Attributes:
        teacher: the published model.
        nearness: of its data to the student's: SAME, KINDRED, ANY or OTHER, which is also said
            where the student's are not known.
        options: of `refine.py gan` that it needs.
        remark: what it does not see of the student; "" where that is all.
    """

    teacher: PublishedTeacher
    nearness: int
    options: tuple[str, ...]
    remark: str

    @property
    def adapts(self) -> bool:
        """Whether the student has to be shown at another size or with other channels."""
        return "--adapt" in self.options


def named_data(texts: Iterable[str]) -> frozenset[str]:
    """Return the keys of DATA that file names or paths name, digits and signs left out."""
    names = {word: key for key, words in DATA.items() for word in words}
    found = set()
    for text in texts:
        words = re.findall("[a-z]+", text.lower())
        at = 0
        while at < len(words):
            pair = "".join(words[at : at + 2])  # afhq-cat is not LSUN's cat
            length = 2 if at + 1 < len(words) and pair in names else 1
            found.add(names.get(pair if length == 2 else words[at]))
            at += length
    return frozenset(key for key in found if key is not None)


def matches(wanted: Wanted, teachers: Sequence[PublishedTeacher] = TEACHERS) -> list[Match]:
    """Return the teachers that can judge a student, the best first.

    Before all else they know the student's data; then they see all of its images as they are, are
    read by this version, and can be fetched by name. Where the student's data are not known, all
    of its size may fit; where they are, those of other kinds of pictures are left out.
    """
    found = [match for teacher in teachers if (match := _match(wanted, teacher)) is not None]
    return sorted(
        found, key=lambda match: _rank(wanted, match)
    )  # stable: the table's order decides


def _match(wanted: Wanted, teacher: PublishedTeacher) -> Match | None:
    nearness = _nearness(wanted.data, teacher.data)
    if nearness == OTHER and wanted.data:
        return None
    if teacher.classes and not wanted.classes:
        return None  # it has no model of images without a class
    options: tuple[str, ...] = ()
    remark = ""
    if (teacher.size, teacher.channels) != (wanted.size, wanted.channels):
        options += ("--adapt", "area")
        if teacher.size < wanted.size:
            remark = f"sees {teacher.size} of {wanted.size} pixels, no finer texture"
    if wanted.classes and not teacher.classes:
        options += ("--class-map", "none")
    elif wanted.classes != teacher.classes:
        options += ("--class-map", "FILE")
    return Match(teacher, nearness, options, remark)


def _nearness(data: frozenset[str], of_teacher: str) -> int:
    if of_teacher in data:
        return SAME
    if any(of_teacher in kind and data & set(kind) for kind in KINDS):
        return KINDRED
    return ANY if of_teacher == GENERAL else OTHER


def _rank(wanted: Wanted, match: Match) -> tuple[float, ...]:
    teacher = match.teacher
    return (
        # Without known data general knowledge is no less than another's.
        match.nearness if wanted.data else SAME,
        match.adapts,
        not teacher.is_read,
        "--class-map" in match.options,
        teacher.place == BY_HAND,
        max(teacher.size, wanted.size) / min(teacher.size, wanted.size),
    )
