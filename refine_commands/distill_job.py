"""What `distill` was asked to do, completed by what its method takes, loaded and checked."""

from __future__ import annotations

import copy
import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from refine_commands.device import pick_device
from refine_commands.measuring import open_measured
from refine_commands.real_images import read_images
from refine_commands.recipes import IMAGE_METHODS, INIT_SIGMA, method_with
from refine_commands.running import (
    check_running,
    settings_of,
    stand_in_images,
    take_weights,
    with_batch_gpu,
)

NUM_PAIRS = 10_000


@dataclass(frozen=True)
class DistillJob:
    """What `distill` was asked to do; None is what the method takes unless it is told."""

    teacher: str
    outdir: Path
    init_sigma: float | None
    labels: str
    data: str | None
    teacher_images: int
    teacher_steps: int
    pairs: int | None
    distance: str | None
    keep: str | None
    reference: str | None
    features: str | None
    num: int
    device: str
    resume: str | None
    transfer: str | None
    wandb: str | None
    desc: str
    dry_run: bool

    def completed(self, method_name: str, method: Any) -> DistillJob:
        """Return the job with every option that depends on the method.

        Raises:
            ValueError: an option that the method would ignore.
        """
        from refiners.base import WithPairs

        of_images = method_name in IMAGE_METHODS
        regresses = isinstance(method, WithPairs)
        for flag, given, ignored, hint in (
            ("--init-sigma", self.init_sigma is not None, of_images, "use --set sigma_max=SIGMA"),
            ("--labels data", self.labels == "data", of_images, "images bring their labels"),
            ("--keep best", self.keep == "best", of_images, "its result is the last student"),
            ("--transfer", self.transfer is not None, of_images, "it starts from the teacher"),
            ("--pairs", self.pairs is not None, not regresses, "leave it out"),
            ("--distance", self.distance is not None, not regresses, "leave it out"),
        ):
            if given and ignored:
                raise ValueError(f"{method_name} takes no {flag}; {hint}")
        if self.labels == "data" and not self.data:
            raise ValueError("--labels is data, but there is no --data; name the data set")
        if Path(self.teacher).is_dir():
            raise ValueError(
                f"{self.teacher} is a folder; the student is written in the layout of the "
                "teacher's pickle, so give a pickle"
            )
        sigma = method.sigma_max if of_images else INIT_SIGMA[method_name]
        return replace(
            self,
            init_sigma=sigma if self.init_sigma is None else self.init_sigma,
            keep=self.keep or ("last" if of_images else "best"),
            pairs=self.pairs or (NUM_PAIRS if regresses else None),
            distance=self.distance or ("pseudo-huber" if regresses else None),
        )


@dataclass(frozen=True)
class Plan:
    """A job with everything that it names loaded and checked."""

    job: DistillJob
    method_name: str
    method: Any
    settings: Any
    teacher: Any
    start: Any  # the one-step student before any training
    reference: Any
    real_images: Any
    space: Any  # features by which the best is chosen, or None
    distance: Any  # by which pairs are compared, or None for the refiners' own
    device: str

    @property
    def needs_images(self) -> bool:
        """Whether the method compares with images or trains on them."""
        from refiners.base import WithHead, WithMemory

        return self.method_name in IMAGE_METHODS or isinstance(self.method, (WithHead, WithMemory))

    def begin(self, method: Any, settings: Any) -> Any:
        """Return a run in memory with noise for images, to see what a step takes."""
        import torch

        from refiners import Distillation, Inputs, PairSet, Refinement
        from refiners.base import WithPairs
        from refiners.training.inputs import pseudo_huber

        images = stand_in_images(self.teacher)
        if self.method_name in IMAGE_METHODS:
            return Distillation(self.teacher, method, settings, real_images=images)
        latents, (shown, labels) = torch.randn(100, self.start.z_dim), images.at(torch.arange(100))
        regresses = isinstance(self.method, WithPairs)
        inputs = Inputs(
            images if self.needs_images else None,
            PairSet(latents, shown, labels) if regresses else None,
            pseudo_huber if self.distance is None else self.distance.to(self.device),
        )
        return Refinement(self.start, self.teacher, method, settings, inputs=inputs)

    @property
    def options(self) -> dict[str, Any]:
        """Every option of the run with its value."""
        paths = {"outdir": str(self.job.outdir), "device": self.device}
        asked = {k: v for k, v in asdict(self.job).items() if k not in ("resume", "dry_run")}
        named = {"method": self.method_name, **asdict(self.method), **asdict(self.settings)}
        return {**named, **asked, **paths}

    def folder_name(self) -> str:
        """Return the run folder's name after its number."""
        length = f"kimg{self.settings.kimg:g}-batch{self.settings.batch}"
        name = f"{Path(self.job.teacher).stem}-{self.method_name}-1step-{length}"
        return re.sub(r"[^A-Za-z0-9._-]+", "_", self.job.desc or name)


def prepare(
    job: DistillJob, method_name: str, knobs: Sequence[str], options: dict[str, Any]
) -> Plan:
    """Load and check everything that a job names.

    Raises:
        ValueError: something does not fit; nothing has been written.
        OSError: a file cannot be read.
    """
    import metrics
    import teachers
    from refiners.training.processes import device_of_rank
    from students.adapters.one_step import OneStep

    settings, method = settings_of(options, job), method_with(method_name, knobs, {})
    job = job.completed(method_name, method)
    device = device_of_rank(pick_device(job.device))
    check_running(job, settings, method, device)
    teacher = teachers.load(job.teacher, device=device)
    assert job.init_sigma is not None
    start: Any = OneStep(copy.deepcopy(teacher), sigma_init=job.init_sigma)
    if method_name in IMAGE_METHODS:
        method.new_student(teacher)  # says what the method asks of the teacher
    if job.transfer:
        take_weights(start.denoiser, job.transfer, teachers.load)
    real_images = read_images(job.data, teacher) if job.data else None
    distance = metrics.choose_distance(job.distance) if job.distance else None
    if job.labels == "data":
        start.class_weights = class_frequencies(real_images, job.data)
    plan = Plan(
        job=job,
        method_name=method_name,
        method=method,
        settings=settings,
        teacher=teacher,
        start=start,
        reference=open_measured(job.reference, job.features),
        real_images=real_images,
        space=teachers.EncoderFeatures(teacher) if job.keep == "best" else None,
        distance=distance,
        device=device,
    )
    settings = with_batch_gpu(options, settings, method, plan.begin, device)
    return replace(plan, settings=settings)


def class_frequencies(real_images: Any, source: str | None) -> Any:
    """Return how many images of a source each class has, float [label_dim]."""
    if real_images.labels is None:
        raise ValueError(
            f"--labels is data, but {source} has no labels of the teacher's classes; use uniform"
        )
    return real_images.labels.sum(dim=0)
