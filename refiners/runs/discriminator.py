"""The discriminator that a run starts from: that of the student's file, or one of its own."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import torch

import students
from refiners.base import WithDiscriminator
from refiners.feature_discriminator import FeatureDiscriminator
from refiners.runs.pairing import whole
from refiners.runs.plan import AnyMethod
from refiners.training.pieces import HEAD, random_stream, seed_of
from roles import Denoiser, Discriminator, Student

OWN = "D"  # what network files call it


class DiscriminatorStart(NamedTuple):
    """A discriminator, and what a log says of it."""

    discriminator: Discriminator
    remark: str


def discriminator_for(
    method: AnyMethod,
    source: object,
    student: Student,
    teacher: Denoiser,
    *,
    seed: int,
) -> DiscriminatorStart | None:
    """Return what the discriminator of a run starts from, None for a method without one.

    That of the student's file knows the student best. Where there is none, or it does not fit what
    it would see, heads on the teacher's features take its place, and the remark says why.

    Args:
        method: of the run.
        source: the student's file or address, or the module that was given.
        student: as the teacher sees it.
        teacher: of the run.
        seed: of the heads.

    Raises:
        ValueError: there is neither, as the teacher gives no features.
    """
    if not isinstance(method, WithDiscriminator):
        return None
    device = next(teacher.parameters()).device
    try:
        return DiscriminatorStart(
            _own(source, student, device), "the discriminator is the file's own"
        )
    except ValueError as error:
        why = error
    with random_stream(seed_of(seed, HEAD), device):
        grown = FeatureDiscriminator(teacher, c_dim=student.c_dim)
    return DiscriminatorStart(grown, f"the discriminator is grown on the teacher's features: {why}")


def _own(source: object, student: Student, device: torch.device) -> Discriminator:
    """Return the discriminator of the student's file, in single precision.

    Raises:
        ValueError: there is none that fits, with the reason.
    """
    if not isinstance(source, (str, Path)):
        raise ValueError("the student was given as a module, without a file")
    if whole(student) is not student:
        raise ValueError("the teacher sees the student's images in another size or without classes")
    found = students.load(source, network=OWN, device=str(device))
    if not isinstance(found, Discriminator) or isinstance(found, Student):
        raise ValueError(f"{OWN} of {source} tells no images apart")
    for name in ("img_resolution", "img_channels", "c_dim"):
        theirs, mine = getattr(found, name, None), getattr(student, name)
        if theirs != mine:
            raise ValueError(f"{OWN} of {source} has {name} {theirs}, the student {mine}")
    for module in found.modules():
        vars(module).update({"use_fp16": False} if "use_fp16" in vars(module) else {})
    return found
