"""What a step draws: latents and labels, and the real images or pairs that some methods need.

Every draw comes from (seed, step), so that a resumed run sees what the undisturbed one would have.
A source is called as source(n, generator): it takes its randomness from that generator alone.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch

from refiners.base import Distance, Method, WithDiscriminator, WithHead, WithMemory, WithPairs
from roles import Student
from roles.device import sent

# (n, generator) -> images [n, c, h, w] in [-1, 1] and one-hot labels [n, label_dim] or None.
RealImages = Callable[[int, torch.Generator], tuple[torch.Tensor, torch.Tensor | None]]
# (n, generator) -> latents [n, z_dim], labels [n, c_dim] or None, images [n, c, h, w] in [-1, 1].
Pairs = Callable[[int, torch.Generator], tuple[torch.Tensor, torch.Tensor | None, torch.Tensor]]


def pseudo_huber(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """Return sqrt(mean |x - y|^2 + c^2) - c per sample [n], c = 0.00054.

    Song and Dhariwal 2023, arXiv:2310.14189, Section 3.3: it is robust like a perceptual distance
    and needs no network. It is theirs over sqrt(dims), so that dims times its slope, which is what
    a loss as a mean over pixels pulls with, has rms 1 as long as x and y are not alike. Towards y a
    perceptual distance pulls like that: LPIPS's form in EfficientNet-Lite0 measured 1.3 to 1.9 on
    the demo's pairs, theirs 32 there. So one weight of the regression, DMD's, suits both.
    """
    c = 0.00054
    return ((x - y).square().mean(dim=[1, 2, 3]) + c**2).sqrt() - c


def name_of(distance: Distance) -> str:
    """Return what logs and states call a distance."""
    name = getattr(distance, "name", None) or getattr(distance, "__name__", None)
    return str(name or type(distance).__name__)


@dataclass(frozen=True)
class Inputs:
    """What a run is given beside student and teacher.

    Attributes:
        real_images: source of real images, for a method with a head, a discriminator or a
            memory; the teacher's
            own samples may stand for them.
        pairs: source of latents with the teacher's images for them, for a method with a regression.
        distance: by which the student's images are compared with those of the pairs.
    """

    real_images: RealImages | None = None
    pairs: Pairs | None = None
    distance: Distance = pseudo_huber

    def on(self, device: torch.device) -> Inputs:
        """Return the same with sources of ours drawing onto a device."""
        images, pairs = self.real_images, self.pairs
        return Inputs(
            images.on(device) if isinstance(images, ImageSet) else images,
            pairs.on(device) if isinstance(pairs, PairSet) else pairs,
            self.distance,
        )

    def check(self, method: Method) -> None:
        """Raise ValueError unless what the method needs is there, and nothing that it ignores."""
        for name, needs in (
            ("real_images", isinstance(method, (WithDiscriminator, WithHead, WithMemory))),
            ("pairs", isinstance(method, WithPairs)),
        ):
            given = getattr(self, name) is not None
            if needs != given:
                what = "needs" if needs else "takes no"
                raise ValueError(
                    f"{type(method).__name__} {what} {name}; "
                    f"{'give them' if needs else 'leave them out'} (see refiners.ImageSet, PairSet)"
                )


class ImageSet:
    """Images in memory as a source: batches are drawn with replacement.

    Args:
        images: uint8 [m, c, h, w] in [0, 255], or float in [-1, 1].
        labels: one-hot [m, label_dim] or None.
        device: where what is drawn goes, bytes as such; None is where the images are.

    Raises:
        ValueError: no images, or as many labels as there are not images.
    """

    def __init__(
        self,
        images: torch.Tensor,
        labels: torch.Tensor | None = None,
        *,
        device: torch.device | None = None,
    ):
        if images.ndim != 4 or not len(images):
            raise ValueError(f"images are {list(images.shape)}; give [m, c, h, w], m at least 1")
        if labels is not None and len(labels) != len(images):
            raise ValueError(f"there are {len(labels)} labels for {len(images)} images")
        self.images = images
        self.labels = labels
        self.device = images.device if device is None else device

    def on(self, device: torch.device) -> ImageSet:
        """Return the same source, drawing onto a device."""
        return ImageSet(self.images, self.labels, device=device)

    def __call__(
        self, n: int, generator: torch.Generator
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Return n images as float in [-1, 1], and their labels."""
        return self.at(self.draw(n, generator))

    def draw(self, n: int, generator: torch.Generator) -> torch.Tensor:
        """Return n numbers of images."""
        chosen = torch.randint(len(self.images), [n], generator=generator)
        return chosen.to(self.images.device)

    def at(self, chosen: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Return the images of these numbers as float in [-1, 1], and their labels."""
        images = sent(self.images[chosen], self.device)
        if images.dtype == torch.uint8:
            images = images.float() / 127.5 - 1
        return images, None if self.labels is None else sent(self.labels[chosen], self.device)


class PairSet:
    """Latents [m, z_dim] with their images [m, c, h, w] and labels as a source; see ImageSet."""

    def __init__(
        self, latents: torch.Tensor, images: torch.Tensor, labels: torch.Tensor | None = None
    ):
        if len(latents) != len(images):
            raise ValueError(f"there are {len(latents)} latents for {len(images)} images")
        self.images = ImageSet(images, labels)
        self.latents = latents

    def on(self, device: torch.device) -> PairSet:
        """Return the same source, drawing onto a device."""
        moved = PairSet(self.latents, self.images.images, self.images.labels)
        moved.images = self.images.on(device)
        return moved

    def __call__(
        self, n: int, generator: torch.Generator
    ) -> tuple[torch.Tensor, torch.Tensor | None, torch.Tensor]:
        """Return n latents, their labels and their images."""
        chosen = self.images.draw(n, generator)
        images, labels = self.images.at(chosen)
        return sent(self.latents[chosen], self.images.device), labels, images


def draw_inputs(
    student: Student, n: int, device: torch.device
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Draw latents [n, z_dim] and one-hot labels [n, c_dim] or None, by torch's stream.

    Classes are equally frequent, or as frequent as the student's class_weights [c_dim], if it has
    any, say.
    """
    z = sent(student.sample_latents(n), device)
    if not student.c_dim:
        return z, None
    weights = getattr(student, "class_weights", None)
    if weights is None:
        classes = torch.randint(student.c_dim, [n])
    else:
        classes = torch.multinomial(weights, n, replacement=True)
    labels = torch.nn.functional.one_hot(classes, student.c_dim)
    return z, sent(labels.float(), device)


def source_stream() -> torch.Generator:
    """Return a generator for the sources of this step, seeded from torch's stream."""
    return torch.Generator().manual_seed(int(torch.randint(2**32, [])))
