"""The judge of a run: it chooses the result, and sees with eyes that no method has.

Where the run's --reference has features of single real images, its distance is to them. Else it is
in the features of a small classifier that is trained for the run (metrics.spaces.fresh), on images
that methods use too; but what a student is measured against are images held back from them. Either
way there are three parts, and latents of their own for each:

    chooses    ranks the snapshots
    confirms   says whether the best of them is better than the original beyond chance
    reports    is what the report compares with

of a quarter, a half and a quarter of the images: what confirms has to tell a small change from
accidents of its images.

So a number that chose is never the one that is told, and a student that was trained towards some
images or features has no advantage. What no judge can see without real images is whether the
teacher's are the better ones.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch

import metrics
from metrics.reference import extract
from refiners.runs.progress import stage_bar
from refiners.training.inputs import ImageSet
from refiners.training.pieces import JUDGE, seed_of
from roles import Student

SHARE = 3  # one image in so many is held back
BATCH = 250
NUM_IMAGES = 2000  # of a student, behind each number of the judge
TEACHERS = 1000  # of the teacher's own, where real images are given and it makes no others
# Where a teacher's images stand for real ones, they and the original are two witnesses of the real
# law that err each in its own way; a run to the end of what they like best made a student that was
# as good as its teacher worse by two fifths, half of the way neither harmed it nor made a decent
# one gain less (docs/experiments.md).
HALFWAY = 0.5
GROUPS = 20  # of the jackknife, where there are images enough
MANY = 3  # images behind the mean for each single one: then the whole tells more than a part
LEAST_ROWS = 600  # of a reference that judges


@dataclass(frozen=True)
class Judge:
    """Judges students by their distance to images that no method has seen; lower is better.

    Attributes:
        chooses: what snapshots are ranked by.
        confirms: what the best is compared with the original by.
        reports: what a report without a reference of its own compares by.
        num_images: of a student, behind each number.
        seed: of the run; the latents of each part are other ones.
        reach: how much of the way from the original to what it likes best a run may go: 1 where its
            images are what the student is to be like, else HALFWAY.
    """

    chooses: metrics.Reference
    confirms: metrics.Reference
    reports: metrics.Reference
    num_images: int
    seed: int
    reach: float = 1.0

    @property
    def name(self) -> str:
        """What a report calls it."""
        return f"{self.chooses.space}, {self.chooses.source}"

    def __call__(self, student: Student) -> float:
        """Return a student's distance to the images that choose."""
        found = metrics.measure(
            student,
            self.chooses,
            num_images=self.num_images,
            seed=seed_of(self.seed, JUDGE),
            progress=stage_bar("judging"),
        )
        return found.frechet_distance

    def change(self, before: Student, after: Student) -> metrics.Difference:
        """Return what two students differ by, on other images and latents than those that chose.

        The interval is of both, the latents and the images: few of these have accidents of their
        own, which a student may have come nearer to.
        """
        rows = [self._features(self._drawn(s), "confirming") for s in (before, after)]
        return self._change(*rows)

    def lead(self, student: Student, images: ImageSet) -> metrics.Difference:
        """Return what ready images differ from a student's by: negative where they are better.

        They are measured as in `change`, but share no latents with the student's.
        """
        num = min(self.num_images, len(images.images))
        # In turn their classes come in step with the jackknife's groups, each of one class then.
        generator = torch.Generator().manual_seed(seed_of(self.seed, JUDGE, 2))
        chosen = torch.randperm(len(images.images), generator=generator)[:num]
        theirs = self._features(iter(images.images[chosen].split(BATCH)), "measuring the teacher")
        mine = self._features(self._drawn(student), "measuring the student")
        return self._change(mine[:num], theirs)

    def _change(self, before: torch.Tensor, after: torch.Tensor) -> metrics.Difference:
        """Return what features differ by, measured against the images that confirm."""
        real = self.confirms.rows
        assert real is not None
        groups = min(GROUPS, len(real) // 2)
        return metrics.frechet_change(before, after, real, groups=groups)

    def _drawn(self, student: Student) -> Iterator[torch.Tensor]:
        """Yield a student's images of the latents that confirm."""
        return metrics.draw_images(student, self.num_images, seed=seed_of(self.seed, JUDGE, 1))

    def _features(self, images: Iterator[torch.Tensor], stage: str) -> torch.Tensor:
        """Return features of images, showing how far that is."""
        tell, found = stage_bar(stage), []
        for part in images:
            found.append(extract(self.confirms.extractor, part)[0])
            tell(sum(map(len, found)), self.num_images)
        return torch.cat(found)


def held_back(images: ImageSet, seed: int) -> tuple[ImageSet, ImageSet]:
    """Return the images for methods, and those for the judge: one in SHARE, drawn by the seed."""
    order = torch.randperm(len(images.images), generator=torch.Generator().manual_seed(seed))
    count = len(order) // SHARE
    return subset(images, order[count:].sort().values), subset(images, order[:count])


def subset(images: ImageSet, chosen: torch.Tensor) -> ImageSet:
    """Return the images of these numbers, with their labels."""
    labels = None if images.labels is None else images.labels[chosen]
    return ImageSet(images.images[chosen], labels)


def judge_of(images: ImageSet, *, num: int, seed: int, device: str, reach: float = 1.0) -> Judge:
    """Return the judge of a run by its images, real ones or the teacher's.

    Args:
        images: all of them; the classifier is trained on those for methods.
        num: of a student's images, at most NUM_IMAGES are taken.
        seed: of the run.
        device: where features are computed.
        reach: see Judge.
    """
    seen, kept = held_back(images, seed)
    space = metrics.fresh_features(seen.images, seen.labels, seed=seed, device=device)
    values = torch.cat(
        [space(part)[0].to("cpu", torch.float64) for part in kept.images.split(BATCH)]
    )
    labels = None if kept.labels is None else kept.labels.argmax(dim=1).numpy()
    chooses, confirms, reports = (
        _reference(values, labels, space, part, "images held back from the method")
        for part in parts_of(len(values), seed)
    )
    count = min(num, NUM_IMAGES)
    return Judge(chooses, confirms, reports, num_images=count, seed=seed, reach=reach)


def judge_by(reference: metrics.Reference, *, num: int, seed: int) -> Judge | None:
    """Return the judge of a run by its reference; None where that has too few single images.

    The report keeps the whole reference where its mean and covariance are of many more images than
    those that chose.
    """
    values, labels = reference.rows, reference.statistics.labels
    if values is None or len(values) < LEAST_ROWS:
        return None
    space = reference.extractor
    chooses, confirms, reports = (
        _reference(values, labels, space, part, f"images of {reference.source}")
        for part in parts_of(len(values), seed)
    )
    if (reference.statistics.num or 0) >= MANY * len(values):
        reports = reference
    return Judge(chooses, confirms, reports, num_images=min(num, NUM_IMAGES), seed=seed)


def parts_of(count: int, seed: int) -> tuple[torch.Tensor, ...]:
    """Return the numbers of the images that choose, confirm and report, drawn by the seed.

    Drawn, as a data set may be in the order of its classes.
    """
    order = torch.randperm(count, generator=torch.Generator().manual_seed(seed_of(seed, JUDGE, 3)))
    quarter = count // 4
    return order.split([quarter, count - 2 * quarter, quarter])


def _reference(
    values: torch.Tensor,
    labels: np.ndarray | None,
    space: metrics.AnyExtractor,
    part: torch.Tensor,
    source: str,
) -> metrics.Reference:
    """Return one of the parts of features as a reference."""
    chosen = values[part.to(values.device)].double()
    statistics = metrics.Statistics.of(
        metrics.Moments.of(chosen),
        space=metrics.space_name(space),
        features=chosen.float(),
        labels=None if labels is None else labels[part.numpy()],
    )
    return metrics.Reference(statistics, space, f"{len(chosen)} {source}")
