"""Which teacher can judge which student."""

from __future__ import annotations

from roles import Denoiser, Student


def check_pair(student: Student, teacher: Denoiser) -> None:
    """Raise ValueError unless the teacher can judge the student's images."""
    for name in ("img_resolution", "img_channels"):
        a, b = getattr(student, name), getattr(teacher, name)
        if a != b:
            raise ValueError(
                f"the student has {name} {a}, the teacher {b}; choose a teacher with {name} {a}, "
                "or bridge the two (--adapt)"
            )
    if student.c_dim and not teacher.label_dim:
        raise ValueError(
            f"the student has {student.c_dim} classes, the teacher none; "
            "choose a conditional teacher, or hide the classes from it (--class-map none)"
        )
    if student.c_dim and student.c_dim != teacher.label_dim:
        raise ValueError(
            f"the student has {student.c_dim} classes, the teacher {teacher.label_dim}; "
            "choose a teacher of the same classes, or say which stands for which (--class-map)"
        )
    if not student.c_dim and teacher.label_dim and not getattr(teacher, "label_dropout", 0):
        raise ValueError(
            f"the student is unconditional, the teacher has {teacher.label_dim} classes and was "
            "trained without label dropout, so it has no unconditional model; "
            "choose an unconditional teacher"
        )
