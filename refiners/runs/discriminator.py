"""The discriminator of a student's file, where a run can start from it."""

from __future__ import annotations

from pathlib import Path

import students
from refiners.base import WithDiscriminator
from refiners.runs.pairing import whole
from refiners.runs.plan import AnyMethod
from roles import Discriminator, Student

OWN = "D"  # what network files call it
GROWN = "the discriminator is grown on the teacher's features"


def own_discriminator(
    method: AnyMethod, source: object, student: Student
) -> tuple[Discriminator | None, str]:
    """Return the discriminator that a run starts from and what a log says of it.

    That of the student's file knows the student best. It is None where the method has none, or
    where the file's does not fit what it would see: heads on the teacher's features then take its
    place, and the remark says why.

    Args:
        method: of the run.
        source: the student's file or address, or the module that was given.
        student: as the teacher sees it.
    """
    if not isinstance(method, WithDiscriminator):
        return None, ""
    if not isinstance(source, (str, Path)):
        return None, f"{GROWN}: the student was given as a module, without a file"
    if whole(student) is not student:
        return None, f"{GROWN}: the teacher sees the student's images in another size or no classes"
    try:
        found = _fitting(source, student)
    except ValueError as error:
        return None, f"{GROWN}: {error}"
    return found, f"the discriminator is {OWN} of the student's file"


def _fitting(source: str | Path, student: Student) -> Discriminator:
    """Return the file's discriminator, in single precision; ValueError where it does not fit."""
    found = students.load(source, network=OWN, device=str(next(student.parameters()).device))
    if not isinstance(found, Discriminator) or isinstance(found, Student):
        raise ValueError(f"{OWN} of {source} tells no images apart")
    for name in ("img_resolution", "img_channels", "c_dim"):
        theirs, mine = getattr(found, name, None), getattr(student, name)
        if theirs != mine:
            raise ValueError(f"{OWN} of {source} has {name} {theirs}, the student {mine}")
    for module in found.modules():
        vars(module).update({"use_fp16": False} if "use_fp16" in vars(module) else {})
    return found
