"""A refinement in memory, and its step: a batch of the student's images moves both networks.

The step knows no method. It draws the student's images, trains the auxiliary on them, asks the
method for the pixel gradient and sends that through the student. The batch comes in pieces (see
pieces); what couples its samples sees all of them. All randomness of a step comes from
(seed, step), so a resumed run equals the undisturbed one.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace
from typing import cast

import torch
from jaxtyping import Float

from refiners.base import (
    Method,
    WithAuxiliary,
    WithDiscriminator,
    WithHead,
    WithMemory,
    WithPairs,
)
from refiners.feature_discriminator import FeatureDiscriminator
from refiners.training.augment import LABELS, Told, augmented
from refiners.training.dropout import OneMask, blocks_of, dropping
from refiners.training.figures import Figures
from refiners.training.fit import check_pair, check_teacher
from refiners.training.health import Health
from refiners.training.inputs import Inputs, draw_inputs, name_of, source_stream
from refiners.training.optimiser import (
    follow,
    frozen_view,
    half_life_of,
    new_adam,
    pixels_of,
    replicated,
    step_if_finite,
    summing_up,
    trainable,
)
from refiners.training.pieces import HEAD, MEMORY, Pieces, seed_of
from refiners.training.precision import arithmetic, check_device, prepare, settled
from refiners.training.settings import Settings
from refiners.training.shared_pass import Heard, Pass, check_shared_pass, shared_gradient
from refiners.training.state import Counts, Parts, State, check_networks, restore, state_of
from roles import Denoiser, Discriminator, Network, Processes, Student
from roles.device import sent
from roles.streams import Stream, random_stream

Images = Float[torch.Tensor, "n c h w"]
Labels = Float[torch.Tensor, "n k"] | None


@dataclass
class Batch:
    """What a step works on, piece by piece: latents, labels, and those that the teacher sees.

    Attributes:
        images: the student's.
        before_images: where the streams were before these were made.
        heard: the auxiliary's last pass, where it is shared.
    """

    z: list[torch.Tensor] = field(default_factory=list)
    labels: list[Labels] = field(default_factory=list)
    seen: list[Labels] = field(default_factory=list)
    images: list[torch.Tensor] = field(default_factory=list)
    before_images: list[Stream] = field(default_factory=list)
    heard: dict[int, Pass] = field(default_factory=dict)


class AuxiliaryLoss(torch.nn.Module):
    """The auxiliary's loss as a module, for that is what several processes share the gradient of.

    Args:
        method: whose loss it is, and the head's if it has one.
        auxiliary: the network that is trained.
        draw_real: n -> real images and labels, for the head.
        share_pass: whether the auxiliary's pass is kept for the student's gradient.
        augment: probability of each of EDM's augmentations.
    """

    def __init__(
        self,
        method: Method,
        auxiliary: torch.nn.Module,
        draw_real: Callable[[int], tuple[torch.Tensor, Labels]],
        *,
        share_pass: bool,
        augment: float = 0.0,
    ):
        super().__init__()
        self.method, self.auxiliary = method, auxiliary
        self.draw_real, self.share_pass, self.augment = draw_real, share_pass, augment

    def forward(self, x_0: Images, labels: Labels) -> tuple[torch.Tensor, Pass | None]:
        """Return the mean loss on images without a graph, and the pass that made it."""
        auxiliary, method = cast("Denoiser", self.auxiliary), self.method
        assert isinstance(method, WithAuxiliary)
        if self.augment:
            x_0, told = augmented(x_0, self.augment)
            return method.auxiliary_loss(x_0, labels, auxiliary=Told(auxiliary, told)), None
        heard = Heard(auxiliary) if self.share_pass else None
        loss = method.auxiliary_loss(x_0, labels, auxiliary=heard or auxiliary)
        if isinstance(method, WithHead):
            real, real_labels = self.draw_real(len(x_0))
            loss = loss + method.head_loss(x_0, labels, real, real_labels, auxiliary=auxiliary)
        return loss, heard and heard.last


class DiscriminatorLoss(torch.nn.Module):
    """The discriminator's loss as a module, see AuxiliaryLoss."""

    def __init__(self, method: WithDiscriminator, discriminator: torch.nn.Module):
        super().__init__()
        self.method, self.discriminator = method, discriminator

    def forward(
        self, x_0: Images, labels: Labels, real: Images, real_labels: Labels, step: int
    ) -> torch.Tensor:
        """Return the mean loss on images without a graph and on real ones."""
        discriminator = cast("Discriminator", self.discriminator)
        return self.method.discriminator_loss(
            x_0, labels, real, real_labels, discriminator=discriminator, step=step
        )


class Refinement:
    """A run in memory: the student and the auxiliary that move, their averages, the frozen teacher.

    The student and the teacher given are never changed; `average` is the refined student.

    Args:
        student: a module that is a Student.
        teacher: a module that is a Denoiser.
        method: what to follow, see base.
        settings: everything else.
        inputs: real images, pairs and distance, where the method needs them.
        auxiliary: a Denoiser to start the auxiliary network from; None is a copy of the teacher.
        discriminator: what the discriminator starts from, where the method has one; None grows one
            on the teacher's features.
        processes: those that share the batches; None is this one alone.

    Raises:
        ValueError: networks or processes that do not fit, or inputs other than the method needs.
    """

    def __init__(
        self,
        student: Student,
        teacher: Denoiser,
        method: Method,
        settings: Settings,
        *,
        inputs: Inputs | None = None,
        auxiliary: Denoiser | None = None,
        discriminator: Discriminator | None = None,
        processes: Processes | None = None,
    ):
        check_pair(student, teacher)
        self.inputs = inputs or Inputs()
        self.inputs.check(method)
        check_teacher(method, teacher)
        self.waiting: Figures | None = None  # of the step before, on a GPU
        self.method = method
        self.teacher = frozen_view(teacher)
        self.student = copy.deepcopy(student).eval().requires_grad_(False)
        # Only what moves is in training mode, and only when it moves: its running means follow it.
        self.moving, self.trained = trainable(self.student, settings.train)
        self.average = copy.deepcopy(student).eval().requires_grad_(False)
        self.device = next(self.student.parameters()).device
        self.inputs = self.inputs.on(self.device)
        self.settings = settings = settled(settings, self.device)
        check_device(settings, self.device)
        check_shared_pass(method, settings)
        check_training_noise(method, settings, teacher)
        self.processes = processes or Processes()
        self.pieces = Pieces(
            settings.batch, settings.batch_gpu, settings.seed, self.processes, self.device
        )
        prepare(self.teacher, settings, self.device)  # what looks at its features begins with it
        self.student_adam = new_adam(self.trained, settings.glr, settings)
        self.auxiliary: Denoiser | None = None
        self.auxiliary_average = self.teacher
        if isinstance(method, WithAuxiliary):
            start = teacher if auxiliary is None else auxiliary
            check_pair(student, start)
            self.auxiliary = self._new_auxiliary(start)
            self.auxiliary_average = copy.deepcopy(self.auxiliary).requires_grad_(False)
            self.auxiliary_adam = new_adam(self.auxiliary.parameters(), settings.lr, settings)
        self.discriminator: Discriminator | None = None
        if isinstance(method, WithDiscriminator):
            self.discriminator = self._new_discriminator(discriminator)
            self.discriminator_adam = new_adam(
                self.discriminator.parameters(), settings.lr, settings
            )
        self.memory = self._new_memory() if isinstance(method, WithMemory) else None
        for network in self._networks():
            prepare(network, settings, self.device)
        if self.discriminator is not None:
            # Its penalty is a gradient of a gradient, which torch.compile has not.
            prepare(self.discriminator, replace(settings, compile=False), self.device)
        self._replicate()
        self.counts = Counts()
        followed = self.auxiliary_average if self.auxiliary is not None else None
        self.figures = Health(
            self.average, self.teacher, followed, seed=settings.seed, device=self.device
        )

    def _networks(self) -> list[Network]:
        """Return the networks that a step passes through, but for the teacher.

        The student's average, which is judged and written, computes as its file says.
        """
        auxiliaries: list[Network] = []
        if self.auxiliary is not None:
            auxiliaries = [self.auxiliary, self.auxiliary_average]
        return [self.student, *auxiliaries]

    def _replicate(self) -> None:
        """Let several processes share the gradients of what is trained."""
        self.student_replica = replicated(cast("torch.nn.Module", self.student), self.processes)
        if self.auxiliary is not None:
            loss = AuxiliaryLoss(
                self.method,
                cast("torch.nn.Module", self.auxiliary),
                self.draw_real,
                share_pass=self.settings.share_pass,
                augment=self.settings.augment,
            )
            self.auxiliary_loss = replicated(loss, self.processes)
        if self.discriminator is not None:
            assert isinstance(self.method, WithDiscriminator)
            discriminator = cast("torch.nn.Module", self.discriminator)
            self.discriminator_loss = replicated(
                DiscriminatorLoss(self.method, discriminator), self.processes
            )

    def _new_auxiliary(self, start: Denoiser) -> Denoiser:
        """Copy a denoiser, with the method's head; dropout is off, as it would be noise on D_q."""
        auxiliary = copy.deepcopy(start)
        if isinstance(self.method, WithHead):
            with random_stream(seed_of(self.settings.seed, HEAD), self.device):
                auxiliary = self.method.with_head(auxiliary, teacher=self.teacher)
        return auxiliary.eval().requires_grad_(True)

    def _new_discriminator(self, start: Discriminator | None) -> Discriminator:
        """Copy a discriminator, or grow one on the teacher's features."""
        if start is not None:
            return copy.deepcopy(start).eval().requires_grad_(True)
        with random_stream(seed_of(self.settings.seed, HEAD), self.device):
            return FeatureDiscriminator(self.teacher, c_dim=self.student.c_dim)

    def _new_memory(self) -> torch.nn.Module:
        """Let the method look at the student, which has not moved yet, and at real images."""
        assert isinstance(self.method, WithMemory)
        with random_stream(seed_of(self.settings.seed, MEMORY), self.device):
            return self.method.new_memory(
                lambda n: self.average(*draw_inputs(self.average, n, self.device)),
                lambda n: self.draw_real(n)[0],
                teacher=self.teacher,
            )

    @property
    def step(self) -> int:
        """Steps done, warm-up included."""
        return self.counts.step

    @property
    def num_warmup_steps(self) -> int:
        """Steps of the other networks alone before the first of the student; 0 without any."""
        alone = self.auxiliary is None and self.discriminator is None
        return 0 if alone else self.settings.num_warmup_steps

    @property
    def num_images(self) -> int:
        """Images that have moved the student so far."""
        return max(0, self.step - self.num_warmup_steps) * self.settings.batch

    def advance(self) -> dict[str, float]:
        """Do one step, of warm-up or of both networks, and return its losses.

        A network whose loss or gradient is not finite does not move, nor does anything after it in
        that step; such a step is counted in `counts` and returns no losses. On a GPU the losses,
        the count and the error are those of the step before; settle has those of the last.

        Raises:
            FloatingPointError: the third such step in a row, with its reason.
        """
        settings = self.settings
        with (
            self.processes.together("a step"),
            arithmetic(settings, self.device),
            random_stream(seed_of(settings.seed, self.step), self.device),
        ):
            figures = self._take_step(moves_student=self.step >= self.num_warmup_steps)
        if not figures.is_late:
            return self.counts.note(figures.read(), seed=settings.seed)
        figures.leave()
        losses = self.settle()
        self.waiting = figures
        self.counts.step += 1
        return losses

    def settle(self) -> dict[str, float]:
        """Return the losses of a step that advance has not returned yet, see there; or none."""
        figures, self.waiting = self.waiting, None
        if figures is None:
            return {}
        return self.counts.judge(figures.read(), self.step - 1, seed=self.settings.seed)

    def _take_step(self, *, moves_student: bool) -> Figures:
        """Do one step and return its losses and the norms of its gradients."""
        start = {"Loss/auxiliary": 0.0, "Gradient/pixel_norm": 0.0}
        figures = Figures(self.device, start)
        self.pieces.begin(self.step)
        turns = [False, True] if moves_student else [False]  # whether the student's
        if self.settings.student_first:
            turns.reverse()
        own = self.settings.fresh_images == "all"
        batch = None
        for is_students in turns:
            if batch is None or own:
                batch = self._new_batch(for_student=is_students if own else moves_student)
            (self._advance_student if is_students else self._advance_others)(batch, figures)
            if figures.are_bad:
                break
        return figures

    def _new_batch(self, *, for_student: bool) -> Batch:
        """Draw latents and make their images, for an update of the student or for others alone."""
        batch = self._draw_latents()
        self.moving.train(for_student)
        batch.before_images = list(self.pieces.streams)
        # Several pieces keep no graph meanwhile: the images are made once more for it.
        with dropping([self.student], self.settings.dropout if for_student else 0.0):
            self._draw_images(batch, graph=for_student and len(self.pieces.rows) == 1)
        return batch

    def _advance_others(self, batch: Batch, figures: Figures) -> None:
        """Train what judges the student's images on them."""
        if self.auxiliary is not None:
            self._advance_auxiliary(batch, figures)
        if self.discriminator is not None:
            self._advance_discriminator(batch, figures)

    def _advance_student(self, batch: Batch, figures: Figures) -> None:
        """Move the student along the method's gradient at its images."""
        slopes = self._pixel_gradient(batch, figures)
        norms = [g.square().sum(dim=[1, 2, 3]).sqrt().sum() for g in slopes]
        norm = torch.stack(norms).sum() / self.pieces.share
        self.processes.mean(norm, phase="the pixel gradient's norm")
        self.student_adam.zero_grad()
        if len(self.pieces.rows) == 1:
            self._send_back(batch.images[0], slopes[0])
        else:
            with (
                self.pieces.one_mean(self.moving) as note,
                dropping([self.student], self.settings.dropout),
            ):

                def resend(i: int) -> None:
                    with summing_up(self.student_replica, last=self._is_last_pass(i)):
                        self._send_back(
                            self.student_replica(batch.z[i], batch.labels[i]), slopes[i]
                        )
                    note(i)

                self.pieces.again(batch.before_images, resend)
        if isinstance(self.method, WithPairs):
            self._regress_on_pairs()
        self._move_student(norm, figures)

    def _draw_latents(self) -> Batch:
        """Draw latents and labels."""
        drawn = self.pieces.each(
            lambda i: draw_inputs(self.student, self.pieces.size(i), self.device)
        )
        z, labels = [z for z, _ in drawn], [labels for _, labels in drawn]
        return Batch(z, labels, labels if self.teacher.label_dim else [None] * len(z))

    def _draw_images(self, batch: Batch, *, graph: bool) -> None:
        """Make the student's images; without a graph, running means stay."""
        network = self.student_replica if graph else self.student
        with (
            torch.set_grad_enabled(graph),
            self.pieces.one_mean(self.moving, keep=graph) as note,
        ):

            def make(i: int) -> torch.Tensor:
                with summing_up(network, last=self._is_last_pass(i)):
                    images = network(batch.z[i], batch.labels[i])
                note(i)
                return images

            batch.images = self.pieces.each(make)

    def _is_last_pass(self, i: int) -> bool:
        """Whether no pass of the student's, with a backward pass, follows in this step."""
        return self.pieces.is_last(i) and not isinstance(self.method, WithPairs)

    def _send_back(self, images: torch.Tensor, slope: torch.Tensor) -> None:
        """Send per-sample slopes at images through the student: x_0.backward(g / n)."""
        images.backward(slope / self.pieces.share)

    def _advance_auxiliary(self, batch: Batch, figures: Figures) -> None:
        """Train the auxiliary on the student's images; every update draws fresh noise."""
        assert self.auxiliary is not None
        names = ("Loss/auxiliary", "Gradient/auxiliary_norm")
        settings = self.settings

        def part(i: int) -> torch.Tensor:
            share = self.pieces.size(i) / self.pieces.share
            with summing_up(self.auxiliary_loss, last=self.pieces.is_last(i)):
                loss, heard = self.auxiliary_loss(batch.images[i].detach(), batch.seen[i])
                (loss * share).backward()
            if heard is not None:
                batch.heard[i] = heard
            return loss.detach() * share

        for update in range(settings.auxiliary_steps):
            if update and settings.fresh_images != "none":
                batch = self._new_batch(for_student=False)
            self.auxiliary_adam.zero_grad()
            with dropping([self.auxiliary], settings.dropout):
                loss = torch.stack(self.pieces.each(part)).sum()
            self.processes.mean(loss, phase="the auxiliary's loss")
            ramp = settings.rampup(self.step * settings.auxiliary_steps + update)
            moved = step_if_finite(
                self.auxiliary_adam,
                loss,
                settings.lr * self.counts.rate_scale * ramp,
                figures,
                names=names,
                clip=settings.clip * pixels_of(self.teacher),
                clip_each=settings.auxiliary_clip,
            )
            if not moved:
                break
            follow(self.auxiliary_average, self.auxiliary, 1, settings.auxiliary_ema)

    def _advance_discriminator(self, batch: Batch, figures: Figures) -> None:
        """Train the discriminator on the student's images and on as many real ones."""
        self.discriminator_adam.zero_grad()

        def part(i: int) -> torch.Tensor:
            share = self.pieces.size(i) / self.pieces.share
            real, real_labels = self.draw_real(self.pieces.size(i))
            with summing_up(self.discriminator_loss, last=self.pieces.is_last(i)):
                loss = self.discriminator_loss(
                    batch.images[i].detach(), batch.labels[i], real, real_labels, self.step
                )
                (loss * share).backward()
            return loss.detach() * share

        loss = torch.stack(self.pieces.each(part)).sum()
        self.processes.mean(loss, phase="the discriminator's loss")
        rate = self.settings.lr * self.counts.rate_scale
        names, clip = ("Loss/discriminator", "Gradient/discriminator_norm"), self.settings.clip
        step_if_finite(self.discriminator_adam, loss, rate, figures, names=names, clip=clip)

    def _pixel_gradient(self, batch: Batch, figures: Figures) -> list[torch.Tensor]:
        """Return the method's pixel gradient, piece by piece.

        What couples the samples of a batch sees all of them, in each process.
        """
        method, pieces = self.method, self.pieces
        images = [x_0.detach() for x_0 in batch.images]

        def whole(parts: list[torch.Tensor]) -> torch.Tensor:
            return parts[0] if pieces.are_one else pieces.gather(parts, "the whole batch")

        if couples_samples(method) and not pieces.are_one:
            x_0, labels = whole(images), None
            if batch.seen[0] is not None:
                labels = whole(cast("list[torch.Tensor]", batch.seen))
            return pieces.cut(pieces.of_batch(lambda: self._gradient_at(x_0, labels)))
        slopes = pieces.each(lambda i: self._piece_gradient(batch, images[i], i))
        if isinstance(method, WithMemory):
            assert self.memory is not None
            g, x_0, memory = whole(slopes), whole(images), self.memory
            before = [b.clone() for b in memory.buffers()] if figures.is_late else []
            joined = pieces.of_batch(
                lambda: method.join(
                    g, x_0, teacher=self.teacher, memory=memory, at_a_time=pieces.size(0)
                )
            )
            figures.undo(memory.buffers(), before)
            return pieces.cut(joined)
        return slopes

    def _piece_gradient(self, batch: Batch, x_0: torch.Tensor, i: int) -> torch.Tensor:
        """Return a piece's pixel gradient, at noise of its own or at the auxiliary's."""
        labels, teacher = batch.seen[i], self.teacher
        if i in batch.heard:
            return shared_gradient(self.method, x_0, labels, batch.heard[i], teacher=teacher)
        g = self._gradient_at(x_0, labels)
        if self.discriminator is None:
            return g
        assert isinstance(self.method, WithDiscriminator)
        return g + self.method.discriminator_gradient(
            x_0, batch.labels[i], discriminator=self.discriminator
        )

    def _gradient_at(self, x_0: torch.Tensor, labels: Labels) -> torch.Tensor:
        """Return the method's gradient at images; teacher and auxiliary drop alike, if at all."""
        networks = {"teacher": self.teacher, "auxiliary": self.auxiliary_average}
        if not (self.settings.dropout and self.settings.dropout_in_gradient):
            return self.method.pixel_gradient(x_0, labels, **networks)
        seed = int(torch.randint(2**62, []))
        masked = {k: OneMask(network, seed, self.device) for k, network in networks.items()}
        with dropping([*networks.values()], self.settings.dropout):
            return self.method.pixel_gradient(x_0, labels, **masked)

    def _regress_on_pairs(self) -> None:
        """Send the regression's slope at the student's images of pairs through it."""
        method = self.method
        assert isinstance(method, WithPairs)
        with self.pieces.one_mean(self.moving) as note:

            def send(i: int) -> None:
                z, labels, targets = self.draw_pairs(self.pieces.size(i))
                with summing_up(self.student_replica, last=self.pieces.is_last(i)):
                    images = self.student_replica(z, labels)
                    slope = method.pair_gradient(
                        images.detach(), targets, distance=self.inputs.distance
                    )
                    self._send_back(images, slope)
                note(i)

            self.pieces.each(send)

    def _move_student(self, norm: torch.Tensor, figures: Figures) -> None:
        """Step along the gradient that has been summed up, and let the average follow."""
        settings = self.settings
        rate = settings.student_rate(self.num_images + settings.batch) * self.counts.rate_scale
        rate *= settings.rampup(self.step * settings.auxiliary_steps)
        clip = settings.clip * pixels_of(self.teacher)
        names = ("Gradient/pixel_norm", "Gradient/student_norm")
        if step_if_finite(self.student_adam, norm, rate, figures, names=names, clip=clip):
            half_life = half_life_of(settings, self.num_images)
            follow(self.average, self.student, settings.batch, half_life)

    def draw_real(self, n: int) -> tuple[torch.Tensor, Labels]:
        """Draw real images, with labels where teacher and student have classes."""
        assert self.inputs.real_images is not None
        images, labels = self.inputs.real_images(n, source_stream())
        if not (self.student.c_dim and self.teacher.label_dim):
            labels = None
        on = self.device
        return sent(images, on), None if labels is None else sent(labels, on)

    def draw_pairs(self, n: int) -> tuple[torch.Tensor, Labels, torch.Tensor]:
        """Draw latents, the student's labels and the teacher's images for them."""
        assert self.inputs.pairs is not None
        z, labels, targets = self.inputs.pairs(n, source_stream())
        on = self.device
        labels = sent(labels, on) if self.student.c_dim and labels is not None else None
        return sent(z, on), labels, sent(targets, on)

    def health(self) -> dict[str, float]:
        """Return figures that warn, see Health; process 0 alone has them."""
        return self.figures.measure() if self.processes.is_first else {}

    def views(self) -> tuple[torch.Tensor, int]:
        """Return pictures of what the networks see, see Health, and how many to a row."""
        return self.figures.views()

    def _parts(self) -> Parts:
        """Return the networks by name, then the optimisers, as a state holds them."""
        networks: dict[str, Network] = {"student": self.student, "average": self.average}
        optimisers: dict[str, torch.optim.Optimizer] = {"student_adam": self.student_adam}
        if self.memory is not None:
            networks["memory"] = self.memory
        if self.auxiliary is not None:
            networks |= {"auxiliary": self.auxiliary, "auxiliary_average": self.auxiliary_average}
            optimisers["auxiliary_adam"] = self.auxiliary_adam
        if self.discriminator is not None:
            networks["discriminator"] = self.discriminator
            optimisers["discriminator_adam"] = self.discriminator_adam
        return Parts(networks, optimisers)

    def _options(self) -> State:
        """Return what a state was made with."""
        method = {"method": type(self.method).__name__, **vars(self.method)}
        if isinstance(self.method, WithPairs):
            method["distance"] = name_of(self.inputs.distance)
        return {"settings": asdict(self.settings), "method": method}

    def state_dict(self) -> State:
        """Return everything that moves, as plain data and tensors."""
        self.settle()
        return state_of(
            self._parts(), self.counts, self._options(), self.num_images, self.processes.size
        )

    def load_state_dict(self, state: State) -> list[str]:
        """Continue from a state of the same settings; a longer kimg is allowed.

        Returns what to tell of it: other pieces or processes than before draw other noise.

        Raises:
            ValueError: settings or networks that differ, with the difference; a state that lacks
                something. Then nothing has changed.
        """
        remarks = restore(state, self._parts(), self.counts, self._options(), self.processes.size)
        self.waiting = None
        return remarks

    def start_from(self, state: State) -> None:
        """Begin anew from the networks of another run's state; its settings may differ.

        The student starts from that run's average.

        Raises:
            ValueError: networks that differ. Then nothing has changed.
        """
        networks = self._parts().networks
        theirs = check_networks(state, networks, starts={"student": "average"})
        for name, network in networks.items():
            network.load_state_dict(theirs[name])
        self.figures.begin()


def check_training_noise(method: Method, settings: Settings, teacher: Denoiser) -> None:
    """Raise ValueError where the networks or the method cannot be trained with what is asked."""
    if settings.dropout and not blocks_of(teacher):
        raise ValueError(
            f"dropout is {settings.dropout:g}, but a {type(teacher).__name__} has no blocks that "
            "drop features; set it to 0"
        )
    if settings.dropout_in_gradient and isinstance(method, WithHead):
        raise ValueError(
            f"dropout_in_gradient is set, but {type(method).__name__} has a head, which would see "
            "another mask; leave it out"
        )
    if not settings.augment:
        return
    if not isinstance(method, WithAuxiliary) or isinstance(method, WithHead):
        raise ValueError(
            f"augment is {settings.augment:g}, which {type(method).__name__} cannot take: it "
            "trains no auxiliary by denoising alone; set it to 0"
        )
    found = getattr(teacher, "augment_dim", 0)
    if found != LABELS:
        raise ValueError(
            f"augment is {settings.augment:g}, but the teacher takes {found} augmentation labels, "
            f"not EDM's {LABELS}; set it to 0"
        )


def couples_samples(method: Method) -> bool:
    """Whether a method's pixel gradient of one sample depends on the others of the batch."""
    return getattr(method, "couples_samples", False)
