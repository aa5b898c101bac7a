"""Which teacher can judge which student."""

from __future__ import annotations

from refiners.base import WithWishes
from roles import Denoiser, Student, shape_of

ASKED = {
    "student": ("z_dim", "c_dim", "img_resolution", "img_channels", "sample_latents"),
    "teacher": ("label_dim", "img_resolution", "img_channels", "sigma_min", "sigma_max"),
}


class Mismatch(ValueError):
    """A teacher that cannot judge a student's images, where another may."""


def check_role(role: str, network: object) -> None:
    """Raise ValueError unless a network has what is asked of a student or a teacher (roles)."""
    missing = [name for name in ("parameters", *ASKED[role]) if not hasattr(network, name)]
    if missing:
        raise ValueError(
            f"a {type(network).__name__} was given as the {role} and has no {', '.join(missing)}; "
            "give a network's file, or a module like those of students.load, teachers.load and "
            "students.wrap"
        )


def check_pair(student: Student, teacher: Denoiser) -> None:
    """Raise ValueError, or Mismatch, unless the teacher can judge the student's images."""
    height, width = shape_of(student)
    if height != width:
        raise ValueError(
            f"the student's images are {height} x {width}, the teacher's "
            f"{teacher.img_resolution} x {teacher.img_resolution}; bridge the two "
            "(--adapt area stretches, crop cuts windows)"
        )
    for name in ("img_resolution", "img_channels"):
        a, b = getattr(student, name), getattr(teacher, name)
        if a != b:
            raise Mismatch(
                f"the student has {name} {a}, the teacher {b}; choose a teacher with {name} {a}, "
                "or bridge the two (--adapt)"
            )
    if student.c_dim and not teacher.label_dim:
        raise Mismatch(
            f"the student has {student.c_dim} classes, the teacher none; "
            "choose a conditional teacher, or hide the classes from it (--class-map none)"
        )
    if student.c_dim and student.c_dim != teacher.label_dim:
        raise Mismatch(
            f"the student has {student.c_dim} classes, the teacher {teacher.label_dim}; "
            "choose a teacher of the same classes, or say which stands for which (--class-map)"
        )
    if not student.c_dim and teacher.label_dim and not getattr(teacher, "label_dropout", 0):
        raise Mismatch(
            f"the student is unconditional, the teacher has {teacher.label_dim} classes and was "
            "trained without label dropout, so it has no unconditional model; "
            "choose an unconditional teacher"
        )


def check_teacher(method: object, teacher: Denoiser) -> None:
    """Raise ValueError unless the method can follow this teacher."""
    if isinstance(method, WithWishes):
        method.check_teacher(teacher)
