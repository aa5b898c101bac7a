"""One step of a refinement: a batch of the student's images moves the auxiliary and the student.

The batch comes in pieces (see shards); what couples its samples sees all of them.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

import torch

from refiners.base import WithAuxiliary, WithHead, WithMemory, WithPairs
from refiners.training.average import follow
from refiners.training.inputs import draw_inputs
from refiners.training.optimiser import step_if_finite
from refiners.training.pieces import Stream
from refiners.training.processes import couples_samples
from refiners.training.shared_pass import Heard, Pass, shared_gradient


@dataclass
class Batch:
    """What a step works on: latents [n, z_dim], labels, and those that the teacher sees.

    Attributes:
        images: the student's, of each piece of this process.
        heard: the auxiliary's last pass of each piece, where it is shared.
        stream: where the random streams were before they were made.
    """

    z: torch.Tensor
    labels: torch.Tensor | None
    seen: torch.Tensor | None
    stream: Stream
    images: list[torch.Tensor] = field(default_factory=list)
    heard: dict[int, Pass] = field(default_factory=dict)


def take_step(job: Any, *, moves_student: bool) -> dict[str, float]:
    """Do one step of a Refinement and return its losses and the norms of its gradients.

    A network whose loss or gradient is not finite does not move, nor does anything after it.
    """
    losses = {"Loss/auxiliary": 0.0, "Gradient/pixel_norm": 0.0}
    z, labels = draw_inputs(job.student, job.settings.batch, job.device)
    seen = labels if job.teacher.label_dim else None
    batch = Batch(z, labels, seen, Stream(job.device))
    job.moving.train(moves_student)
    # Several passes keep no graph meanwhile: the images are made once more for it.
    batch.images = draw_images(job, batch, graph=moves_student and len(job.pieces.rows) == 1)
    if job.auxiliary is not None:
        losses |= advance_auxiliary(job, batch)
    if moves_student and all(map(math.isfinite, losses.values())):
        losses |= advance_student(job, batch)
    return losses


def draw_images(job: Any, batch: Batch, *, graph: bool) -> list[torch.Tensor]:
    """Return the student's images, piece by piece; without a graph, running means stay."""
    with torch.set_grad_enabled(graph):
        return job.pieces.each_of(job.moving, lambda i: image(job, batch, i), keep=graph)


def image(job: Any, batch: Batch, i: int) -> torch.Tensor:
    """Return the student's images of a piece."""
    return job.student(job.pieces.cut(batch.z, i), job.pieces.cut(batch.labels, i))


def advance_auxiliary(job: Any, batch: Batch) -> dict[str, float]:
    """Train the auxiliary on the student's images; every update draws fresh noise."""
    value = size = 0.0
    rate = job.settings.lr * job.rate_scale
    for _ in range(job.settings.auxiliary_steps):
        job.auxiliary_adam.zero_grad()
        losses = job.pieces.each(lambda i: auxiliary_loss(job, batch, i))
        loss = torch.stack(losses).sum()
        add_gradients(job, job.auxiliary.parameters(), loss, "the auxiliary's gradient")
        value, size = step_if_finite(job.auxiliary_adam, loss, rate)
        if not (math.isfinite(value) and math.isfinite(size)):
            break
        follow(job.auxiliary_average, job.auxiliary, 1, job.settings.auxiliary_ema)
    return {"Loss/auxiliary": value, "Gradient/auxiliary_norm": size}


def auxiliary_loss(job: Any, batch: Batch, i: int) -> torch.Tensor:
    """Take a piece's part of the auxiliary's loss, and the gradient of that."""
    method, cut = job.method, job.pieces.cut
    assert isinstance(method, WithAuxiliary)
    x_0, labels = batch.images[i].detach(), cut(batch.seen, i)
    auxiliary: Any = Heard(job.auxiliary) if job.settings.share_pass else job.auxiliary
    loss = method.auxiliary_loss(x_0, labels, auxiliary=auxiliary)
    if isinstance(auxiliary, Heard) and auxiliary.last is not None:
        batch.heard[i] = auxiliary.last
    if isinstance(method, WithHead):
        images, classes = (cut(part, i) for part in job.draw_real(job.settings.batch))
        loss = loss + method.head_loss(x_0, labels, images, classes, auxiliary=job.auxiliary)
    loss = loss * job.pieces.share(i)
    loss.backward()
    return loss.detach()


def add_gradients(job: Any, parameters: Any, value: torch.Tensor, phase: str) -> None:
    """Sum gradients and a value over the processes."""
    grads = [p.grad for p in parameters if p.grad is not None]
    job.processes.add([value, *grads], phase)


def advance_student(job: Any, batch: Batch) -> dict[str, float]:
    """Send the method's pixel gradient through the student, x_0.backward(g / n)."""
    settings, pieces = job.settings, job.pieces
    with job.asking_teacher() as teacher:
        slopes = pixel_gradient(job, batch, teacher)
    norm = (
        torch.stack([g.square().sum(dim=[1, 2, 3]).sqrt().sum() for g in slopes]).sum()
        / settings.batch
    )
    pairs = job.draw_pairs(settings.batch) if isinstance(job.method, WithPairs) else None
    after = Stream(job.device)
    job.student_adam.zero_grad()
    if len(pieces.rows) > 1:
        batch.stream.restore()
        pieces.each_of(
            job.moving, lambda i: image(job, batch, i).backward(slopes[i] / settings.batch)
        )
    else:
        # A block that is computed again draws again, and then too its rows of the batch's noise.
        pieces.each(lambda i: batch.images[i].backward(slopes[i] / settings.batch))
    if pairs is not None:
        after.restore()
        pieces.each_of(job.moving, lambda i: add_pair_slope(job, pairs, i))
    add_gradients(job, job.trained, norm, "the student's gradient")
    rate = settings.student_rate(job.num_images + settings.batch)
    value, size = step_if_finite(job.student_adam, norm, rate * job.rate_scale)
    if math.isfinite(value) and math.isfinite(size):
        half_life = settings.ema_kimg * 1000
        if settings.ema_rampup_ratio:
            half_life = min(half_life, job.num_images * settings.ema_rampup_ratio)
        follow(job.average, job.student, settings.batch, half_life)
    return {"Gradient/pixel_norm": value, "Gradient/student_norm": size}


def pixel_gradient(job: Any, batch: Batch, teacher: Any) -> list[torch.Tensor]:
    """Return the method's pixel gradient, piece by piece.

    What couples the samples of a batch sees all of them, in each process.
    """
    method, pieces, processes = job.method, job.pieces, job.processes
    auxiliary = teacher if job.auxiliary is None else job.auxiliary_average
    networks = {"teacher": teacher, "auxiliary": auxiliary}
    images = [x_0.detach() for x_0 in batch.images]
    whole = None
    if not pieces.are_one and (couples_samples(method) or job.memory is not None):
        whole = processes.gather(torch.cat(images), "the images")
    if whole is not None and couples_samples(method):
        g = method.pixel_gradient(whole, batch.seen, **networks)
    else:
        slopes = pieces.each(lambda i: piece_gradient(job, batch, images[i], i, networks))
        if job.memory is None:
            return slopes
        g = processes.gather(torch.cat(slopes), "the pixel gradient")
    if isinstance(method, WithMemory):
        assert job.memory is not None
        x_0 = images[0] if whole is None else whole
        g = method.join(g, x_0, teacher=teacher, memory=job.memory)
    return [g[rows] for rows in pieces.rows]


def piece_gradient(
    job: Any, batch: Batch, x_0: torch.Tensor, i: int, networks: dict[str, Any]
) -> torch.Tensor:
    """Return the method's pixel gradient of a piece, at noise of its own or at the auxiliary's."""
    labels = job.pieces.cut(batch.seen, i)
    if i in batch.heard:
        teacher = networks["teacher"]
        return shared_gradient(job.method, x_0, labels, batch.heard[i], teacher=teacher)
    return job.method.pixel_gradient(x_0, labels, **networks)


def add_pair_slope(job: Any, pairs: Any, i: int) -> None:
    """Send the regression's slope at the student's images of a piece's pairs through it."""
    assert isinstance(job.method, WithPairs)
    z, labels, targets = (job.pieces.cut(part, i) for part in pairs)
    images = job.student(z, labels)
    slope = job.method.pair_gradient(images.detach(), targets, distance=job.inputs.distance)
    images.backward(slope / job.settings.batch)
