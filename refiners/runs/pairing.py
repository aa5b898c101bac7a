"""How a student and a teacher of other sizes, classes or strength are brought together."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

import teachers
from roles import Denoiser, Student
from students.adapters.bridge import Bridge

ADAPTS = ("area", "crop", "tiles")
NO_CLASSES = "none"
EVERYWHERE = "0,inf"  # an interval of noise levels


@dataclass(frozen=True)
class Pair:
    """A student as the teacher sees it, the teacher, and where the auxiliary network starts.

    Attributes:
        student: the student, or a bridge around it.
        auxiliary: the teacher without its guidance, as that is a model of images and the guided
            one is none; None where the teacher is one.
        remark: what the teacher sees of the student, where it is not all; else empty.
    """

    student: Student
    teacher: Denoiser
    auxiliary: Denoiser | None
    remark: str


def bring_together(
    student: Student,
    teacher: Denoiser,
    *,
    adapt: str | None = None,
    class_map: str | None = None,
    guidance: float = 1.0,
    guide: str | None = None,
    guidance_interval: str = EVERYWHERE,
    device: str = "cpu",
) -> Pair:
    """Build what the options of a run ask for; see refine().

    Raises:
        ValueError: options that do not fit each other or the networks.
        OSError: a file cannot be read.
    """
    plain = teacher
    if guide is not None or guidance != 1:
        interval = parse_interval(guidance_interval)
        teacher = guided(plain, student, guidance, guide, interval, device)
    elif guidance_interval != EVERYWHERE:
        raise ValueError(
            f"--guidance-interval is {guidance_interval}, but nothing guides; give --guidance"
        )
    hides = class_map == NO_CLASSES
    if hides and not student.c_dim:
        raise ValueError("--class-map is none, but the student has no classes; leave it out")
    if class_map is not None and not hides:
        numbers = read_class_map(Path(class_map), student.c_dim)
        teacher, plain = (teachers.Relabelled(d, numbers) for d in (teacher, plain))
    remark = ""
    if adapt is not None or hides:
        student = Bridge(
            student,
            img_resolution=teacher.img_resolution,
            img_channels=teacher.img_channels,
            has_classes=not hides,
            adapt=adapt or "area",
        ).to(device)
        remark = student.sees
    return Pair(student, teacher, None if guidance == 1 else plain, remark)


def guided(
    teacher: Denoiser,
    student: Student,
    weight: float,
    guide: str | None,
    interval: tuple[float, float],
    device: str,
) -> Denoiser:
    """Return the teacher guided away from another, or from itself without the label."""
    if guide is None:
        if not student.c_dim:
            raise ValueError(
                f"--guidance is {weight:g} for a student without classes; name a weaker copy of "
                "the teacher by --guide"
            )
        return teachers.classifier_free(teacher, weight=weight, interval=interval)
    if weight == 1:
        raise ValueError(
            f"--guide is {guide}, but --guidance is 1, which is no guidance; give 2, say"
        )
    other = teachers.load(guide, device=device)
    if teacher.label_dim and not other.label_dim:
        return teachers.classifier_free(teacher, other, weight=weight, interval=interval)
    return teachers.autoguidance(teacher, other, weight=weight, interval=interval)


def parse_interval(text: str) -> tuple[float, float]:
    """Return (low, high) of a text such as 0.2,1.6.

    Raises:
        ValueError: it is none.
    """
    try:
        low, high = (float(part) for part in text.split(","))
    except ValueError:
        low = math.nan
        high = math.nan
    if math.isnan(low) or math.isnan(high):
        raise ValueError(f"--guidance-interval is {text!r}; give LOW,HIGH as in 0.2,1.6")
    return low, high


def read_class_map(path: Path, num_classes: int) -> list[int]:
    """Return the teacher's class number for each class of the student, one a line.

    Raises:
        ValueError: the file cannot be read, a line is no number, or there are more or fewer than
            the student has classes.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        why = error.strerror if isinstance(error, OSError) else "no text"
        raise ValueError(
            f"--class-map is {path}, which cannot be read ({why}); give a file with a class number "
            "of the teacher in each line, or none"
        ) from error
    lines = [line.split("#")[0].strip() for line in text.splitlines()]
    numbers = []
    for i, line in enumerate(lines, start=1):
        if line and not line.isdecimal():
            raise ValueError(
                f"{path}, line {i} is {line[:40]!r}; give a class number of the teacher"
            )
        if line:
            numbers.append(int(line))
    if len(numbers) != num_classes:
        raise ValueError(
            f"{path} has {len(numbers)} class numbers, the student {num_classes} classes; "
            "give one line for each class"
        )
    return numbers


def whole(student: Student) -> Student:
    """Return the student that is refined, also where it is inside a bridge."""
    return student.inner if isinstance(student, Bridge) else student
