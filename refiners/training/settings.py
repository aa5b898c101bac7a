"""The settings of a run, checked; names follow StyleGAN and EDM."""

from __future__ import annotations

import math
import numbers
from dataclasses import dataclass, fields, replace

TRAINABLE = ("all", "synthesis", "mapping")
PRECISIONS = ("fp32", "tf32", "bf16")
KINDS = {
    "int": (numbers.Integral, "a whole number"),
    "float": (numbers.Real, "a number"),
    "str": (str, "a text"),
    "bool": (bool, "True or False"),
}


@dataclass(frozen=True)
class Settings:
    """What the loop needs to know beside the method; kimg are thousands of the student's images.

    Attributes:
        kimg: length of the run.
        batch: images per step.
        glr: the student's learning rate (Adam).
        lr: the auxiliary's learning rate (Adam).
        beta1, beta2: Adam's decay rates, for both.
        rampup_kimg: images over which the student's rate rises from 0 to glr; Adam's first steps,
            all of full size, would otherwise move every weight before the gradient's mean is known.
        decay_kimg: images after which the student's rate falls as 1 / sqrt(images) (Karras et al.
            2024, arXiv:2312.02696, Eq. 67), whatever the run's length; 0 keeps it.
        ema: half-life of the student's average, which is the result; 0 averages nothing.
        ema_rampup_ratio: the half-life is at most this share of the images so far (EDM's 0.05 was
            made for runs of many thousand kimg); 0 does not limit it.
        warmup_kimg: images on which the auxiliary learns the student before the student moves.
        auxiliary_steps: auxiliary updates per student update.
        auxiliary_ema: half-life, in auxiliary updates, of the auxiliary's average, whose difference
            to the teacher is followed. Too long, it lags behind the student and the run overshoots;
            too short, the difference is the auxiliary's own training noise.
        train: which part of the student moves: "all", "synthesis" or "mapping".
        seed: of every random draw.
        tick: kimg between log lines.
        snap: ticks between snapshots.
        max_hours: after which the run ends with a state to continue from; 0 is no limit.
        stop_if: ends the run likewise at the first tick where it holds, NAME>NUMBER or NAME<NUMBER
            of a statistic, as in Health/error_share_0.2>0.99; empty never does.
        batch_gpu: images at a time in each process, by gradient accumulation, for less memory and
            the same result; 0 is the process' whole share of the batch.
        precision: "fp32", "tf32", or "bf16", the denoisers' passes by autocast; a GAN's layers stay
            as its file has them. Differences, weights, optimisers and averages are float32 in each.
        compile: torch.compile the denoisers and the student.
        channels_last: hold the denoisers' weights, and so their activations, channels last; the
            same but for rounding.
        share_pass: let the auxiliary's pass for its loss serve the student's gradient too, see
            shared_pass; for methods whose gradient is that of one pass.
    """

    kimg: float = 20.0
    batch: int = 32
    glr: float = 1e-3
    lr: float = 1e-3
    beta1: float = 0.0
    beta2: float = 0.999
    rampup_kimg: float = 1.0
    decay_kimg: float = 1.0
    ema: float = 3.0
    ema_rampup_ratio: float = 0.25
    warmup_kimg: float = 5.0
    auxiliary_steps: int = 2
    auxiliary_ema: float = 5.0
    train: str = "all"
    seed: int = 0
    tick: float = 1.0
    snap: int = 5
    max_hours: float = 0.0
    stop_if: str = ""
    batch_gpu: int = 0
    precision: str = "fp32"
    compile: bool = False
    channels_last: bool = False
    share_pass: bool = False

    def __post_init__(self) -> None:
        """Raise ValueError naming the first value that cannot be."""
        above = ("kimg", "batch", "glr", "lr", "tick", "snap", "auxiliary_steps")
        for field in fields(self):
            value = getattr(self, field.name)
            kind, name = KINDS[str(field.type)]
            if isinstance(value, bool) is not (kind is bool) or not isinstance(value, kind):
                raise ValueError(f"{field.name} is {value!r}; it must be {name}")
            if isinstance(value, (str, bool)):
                continue
            if not math.isfinite(value):
                raise ValueError(f"{field.name} is {value}; it must be finite")
            if field.name in above and not value > 0:
                raise ValueError(f"{field.name} is {value}; it must be above 0")
            if field.name not in above and value < 0:
                raise ValueError(f"{field.name} is {value}; it must be at least 0")
            # NumPy's numbers become Python's, as a state file holds plain data only.
            if type(value) not in (int, float):
                object.__setattr__(
                    self, field.name, int(value) if name != "a number" else float(value)
                )
        if self.beta1 >= 1 or self.beta2 >= 1:
            raise ValueError(f"beta1, beta2 are {self.beta1}, {self.beta2}; they must be below 1")
        if self.train not in TRAINABLE:
            raise ValueError(f"train is {self.train!r}; allowed are {', '.join(TRAINABLE)}")
        if self.precision not in PRECISIONS:
            allowed = ", ".join(PRECISIONS)
            raise ValueError(f"precision is {self.precision!r}; allowed are {allowed}")
        if self.batch_gpu > self.batch:
            raise ValueError(
                f"batch_gpu is {self.batch_gpu}, above the batch of {self.batch}; give at most that"
            )
        if self.stop_if:
            parse_condition(self.stop_if)

    def with_length(self, kimg: float, batch: int | None) -> Settings:
        """Return these settings with another length and, unless None, other batches."""
        return replace(self, kimg=kimg, batch=self.batch if batch is None else batch)

    def student_rate(self, num_images: int) -> float:
        """Return the student's learning rate after that many images."""
        ramp, decay = self.rampup_kimg * 1000, self.decay_kimg * 1000
        rate = self.glr * min(1.0, num_images / max(ramp, 1))
        return rate / math.sqrt(max(num_images / decay, 1.0)) if decay else rate

    @property
    def num_steps(self) -> int:
        """The number of student updates."""
        return math.ceil(self.kimg * 1000 / self.batch)

    @property
    def num_warmup_steps(self) -> int:
        """The number of auxiliary updates before the first student update."""
        return math.ceil(self.warmup_kimg * 1000 / self.batch)


def parse_condition(text: str) -> tuple[str, str, float]:
    """Return name, sign and number of a condition such as Loss/auxiliary>100.

    Raises:
        ValueError: it is none.
    """
    sign = ">" if ">" in text else "<"
    name, _, number = (part.strip() for part in text.partition(sign))
    try:
        bound = float(number)
    except ValueError:
        bound = math.nan
    if not name or math.isnan(bound):
        raise ValueError(f"stop_if is {text!r}; allowed are NAME>NUMBER and NAME<NUMBER")
    return name, sign, bound
