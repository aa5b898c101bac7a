"""Which teacher can judge which student: everything else is refused before the first step."""

from __future__ import annotations

from typing import Any

import pytest

from refiners import check_pair, refine


@pytest.mark.parametrize(
    ("student", "teacher", "complaint"),
    [
        ({"img_resolution": 8}, {}, "img_resolution 8, the teacher 4; choose a teacher with"),
        ({"img_channels": 3}, {}, "img_channels 3, the teacher 1; choose a teacher with"),
        ({"c_dim": 10}, {}, "student has 10 classes, the teacher none; choose a conditional"),
        ({"c_dim": 10}, {"label_dim": 7}, "student has 10 classes, the teacher 7"),
        ({"c_dim": 0}, {"label_dim": 10}, "unconditional.*without label dropout.*choose an uncond"),
    ],
)
def test_a_pair_that_does_not_fit_is_refused_with_both_sizes_and_the_way_out(
    affine: Any, gaussian: Any, student: dict, teacher: dict, complaint: str
) -> None:
    wrong = affine(0.0, 1.0), gaussian(0.0, 1.0)
    for network, sizes in zip(wrong, (student, teacher), strict=True):
        for name, value in sizes.items():
            setattr(network, name, value)
    with pytest.raises(ValueError, match=complaint):
        check_pair(*wrong)
    with pytest.raises(ValueError, match=complaint):
        refine(*wrong, kimg=1)


@pytest.mark.parametrize("c_dim", [0, 10])
def test_a_teacher_with_label_dropout_judges_students_with_and_without_classes(
    affine: Any, gaussian: Any, c_dim: int
) -> None:
    teacher = gaussian(0.0, 1.0, label_dim=10)
    teacher.label_dropout = 0.1
    check_pair(affine(0.0, 1.0, c_dim=c_dim), teacher)


def test_an_unconditional_student_asks_a_conditional_teacher_without_labels(
    affine: Any, gaussian: Any, refinement: Any
) -> None:
    teacher = gaussian(0.3, 0.5, label_dim=10)
    teacher.label_dropout = 0.1
    job = refinement(affine(0.0, 1.0), teacher, warmup_kimg=0)
    job.advance()
    assert job.teacher.seen[2] is None


def test_a_conditional_student_and_its_teacher_get_the_same_one_hot_labels(
    affine: Any, gaussian: Any, refinement: Any
) -> None:
    student, teacher = affine(0.0, 1.0, c_dim=10), gaussian(0.3, 0.5, label_dim=10)
    job = refinement(student, teacher, warmup_kimg=0, batch=256)
    given = []
    job.student.register_forward_pre_hook(lambda module, inputs: given.append(inputs[1]))
    job.advance()
    assert given[0] is job.teacher.seen[2]
    assert (given[0].sum(dim=1) == 1).all()
    # All classes occur: the draw is uniform.
    assert (given[0].sum(dim=0) > 256 / 10 / 3).all()
