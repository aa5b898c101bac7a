"""The settings of a run, checked; names follow StyleGAN and EDM.

Each field says what it is, and is a flag of `gan` and `distill` by its own name.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

from refiners.knob import check_knobs, knob

TRAINABLE = ("all", "synthesis", "mapping")
AUTO_PRECISION = "auto"
PRECISIONS = (AUTO_PRECISION, "fp32", "tf32", "bf16")
FRESH = ("none", "auxiliary", "all")


@dataclass(frozen=True)
class Settings:
    """What the loop needs to know beside the method; kimg are thousands of the student's images."""

    kimg: float = knob(
        20.0,
        "Length of the run.",
        useful="5 to 50 for a GAN, thousands for a distillation",
        outside="Too short, and the first disturbance is all that is seen.",
        unit="KIMG",
        above=0,
        free_on_resume=True,
    )
    batch: int = knob(
        32,
        "Images per step.",
        useful="32 to 512",
        outside="Below, the gradient is noise; above, the steps are few.",
        above=0,
    )
    glr: float = knob(
        1e-3,
        "Learning rate of the student (Adam).",
        useful="2e-4 to 2e-3 for a StyleGAN, 1e-6 to 5e-4 for a denoiser as generator",
        outside="Too high and the auxiliary cannot keep up: the curve rises.",
        symbol="eta",
        above=0,
    )
    lr: float = knob(
        1e-3,
        "Learning rate of the auxiliary network or the discriminator (Adam).",
        useful="5e-4 to 1e-3 for small networks, 1e-6 to 1e-4 for large ones",
        outside="Too high and its difference to the teacher is its own noise.",
        above=0,
    )
    beta1: float = knob(
        0.0,
        "Adam's decay rate of the mean gradient, for both.",
        useful="0 (published), 0.9 for DMD",
        at_least=0,
        below=1,
    )
    beta2: float = knob(
        0.999,
        "Adam's decay rate of the squared gradient, for both.",
        useful="0.999 (published)",
        at_least=0,
        below=1,
    )
    weight_decay: float = knob(
        0.0,
        "Decoupled decay of the weights, which makes Adam AdamW, for both.",
        useful="0; 0.01 for DMD, DMD2 and f-distill",
        outside="Far above 0.1 the weights vanish.",
        at_least=0,
    )
    # Our losses are sums over pixels; the limit is given as published, for those that are means.
    clip: float = knob(
        0.0,
        "Largest L2 norm of a network's gradient, of losses as means over pixels; 0 limits none.",
        useful="0; 10 for DMD, DMD2 and f-distill, 1 for progressive distillation",
        outside="Too low and Adam's second moment sees steps of one length alone.",
        at_least=0,
    )
    auxiliary_clip: float = knob(
        0.0,
        "Largest size of each element of the auxiliary's gradient; 0 limits none.",
        useful="0; 1 for SiDA",
        at_least=0,
    )
    # Adam's first steps, all of full size, would else move every weight before the gradient's mean
    # is known.
    rampup_kimg: float = knob(
        1.0,
        "Over which the student's rate rises from 0.",
        useful="0 to 2",
        unit="KIMG",
        at_least=0,
    )
    rampup_updates: int = knob(
        0,
        "Auxiliary updates over which both rates rise from 0, beside the student's own rise.",
        useful="0; 500 for DMD, DMD2 and f-distill",
        outside="Of a short run's length, and nothing moves.",
        unit="UPDATES",
        at_least=0,
    )
    # Karras et al. 2024, arXiv:2312.02696, Eq. 67: whatever the run's length.
    decay_kimg: float = knob(
        1.0,
        "After which the student's rate falls as 1 / sqrt(images); 0 keeps it.",
        useful="1 to 10 for a StyleGAN; 0 for long runs at a low rate",
        outside="Constant, a high rate keeps a good student wandering about.",
        unit="KIMG",
        at_least=0,
    )
    ema: float = knob(
        3.0,
        "Half-life of the student's average, which is the result; 0 averages nothing.",
        useful="a tenth of the run; 500 where published",
        outside="Too long and the result is the student of long ago.",
        unit="KIMG",
        at_least=0,
    )
    # EDM's 0.05 was made for runs of many thousand kimg.
    ema_rampup_ratio: float = knob(
        0.25,
        "The half-life is at most this share of the images so far; 0 does not limit it.",
        useful="0.05 (EDM) to 0.25",
        unit="SHARE",
        at_least=0,
    )
    warmup_kimg: float = knob(
        5.0,
        "Images on which the auxiliary network or the discriminator first learns the student; half "
        "the run at most by default.",
        useful="1 to 10 for a GAN",
        outside="Without it the student follows an auxiliary that does not know it.",
        unit="KIMG",
        at_least=0,
    )
    auxiliary_steps: int = knob(
        2,
        "Auxiliary updates per student update.",
        useful="1 (Diff-Instruct, SiD) to 5 (DMD2)",
        outside="Too few and it lags; each costs a forward and a backward pass.",
        above=0,
    )
    student_first: bool = knob(
        False,
        "The student moves before the auxiliary in a step, not after it.",
        useful="for DMD, DMD2 and f-distill, as published",
        outside="The student then follows the auxiliary of the step before.",
    )
    fresh_images: str = knob(
        "none",
        "Which updates of a step see images of their own: none (one batch for all), auxiliary "
        "(each of its updates but the first), or all (the student's too).",
        useful="none; auxiliary for DMD2, all for Diff-Instruct and SiD as published",
        outside="Each batch costs a pass of the student.",
        allowed=FRESH,
    )
    dropout: float = knob(
        0.0,
        "Share of features that the blocks of denoisers drop where the auxiliary or a one-step "
        "student is trained.",
        useful="0; 0.13 for Diff-Instruct and SiD as published on CIFAR-10",
        outside="It is noise on the auxiliary, and on the student's images.",
        unit="SHARE",
        at_least=0,
        below=1,
    )
    dropout_in_gradient: bool = knob(
        False,
        "Teacher and auxiliary drop too where the student follows them, by one mask.",
        useful="for Diff-Instruct as published",
        outside="It is noise on their difference.",
    )
    augment: float = knob(
        0.0,
        "Probability of each of EDM's augmentations of what the auxiliary learns; it is told.",
        useful="0; 0.12 for Diff-Instruct and SiD as published on CIFAR-10",
        outside="It learns more than it needs; a network without augmentation labels cannot.",
        unit="SHARE",
        at_least=0,
        at_most=1,
    )
    # Too long, the run overshoots.
    auxiliary_ema: float = knob(
        5.0,
        "Half-life of the auxiliary's average, whose difference to the teacher is followed.",
        useful="0 to 10",
        outside="Too long and it lags behind the student, which pales; too short, it is noise.",
        unit="UPDATES",
        at_least=0,
    )
    train: str = knob(
        "all", "What moves: all, synthesis or mapping.", unit="PART", allowed=TRAINABLE
    )
    seed: int = knob(0, "Of every random draw.", at_least=0)
    tick: float = knob(1.0, "Between log lines.", unit="KIMG", above=0, free_on_resume=True)
    snap: int = knob(5, "Between snapshots.", unit="TICKS", above=0, free_on_resume=True)
    max_hours: float = knob(
        0.0,
        "From the start, ends the run with its result and a state to resume from; 0 is no limit.",
        useful="a little less than a machine is lent for",
        outside="The last pictures and metrics, and the report, come on top.",
        unit="HOURS",
        at_least=0,
        free_on_resume=True,
    )
    patience_kimg: float = knob(
        0.0,
        "Ends the run likewise where the judge's number has not fallen for so long; 0 is never.",
        useful="8 for a GAN of 32 pixels; a tenth of a long run",
        outside="Shorter than the spacing of snapshots, one unlucky look ends the run.",
        unit="KIMG",
        at_least=0,
        free_on_resume=True,
    )
    stop_if: str = knob(
        "",
        "Ends the run likewise at the first tick where it holds of a name in stats.jsonl.",
        useful="Health/error_share_0.2>0.99 or Health/saturated>0.3",
        outside="A name that there is not is said in the log.",
        unit="NAME>NUMBER",
        check=lambda text: text and parse_condition(text),
        free_on_resume=True,
    )
    ignore_health: bool = knob(
        False,
        "Go on where the run's health says that it diverges or stands still, which else ends it.",
        useful="a run that is meant to leave its original far behind",
        outside="A wrecked student trains on for nothing.",
        free_on_resume=True,
    )
    batch_gpu: int = knob(
        0,
        "Images at a time in each process; gradients add up to the same result. 0 is all of its "
        "share of the batch.",
        useful="auto is the most that fits into the memory, by trial on a GPU, by plan on a CPU",
        outside="Below the share a step makes its images twice.",
        unit="INT|auto",
        at_least=0,
        free_on_resume=True,
    )
    # Differences, weights, optimisers and averages are float32 in each.
    precision: str = knob(
        AUTO_PRECISION,
        "Of every pass; auto is tf32 on CUDA, else fp32. bf16 is of the denoisers and their heads, "
        "with a GAN's half layers as its file names them; the others have no half precision.",
        useful="tf32 or bf16 on a GPU, fp32 on a CPU",
        outside="bf16 was measured to change D_aux - D_teacher by 3 to 4 % (benchmarks/README.md).",
        unit="|".join(PRECISIONS),
        allowed=PRECISIONS,
    )
    compile: bool = knob(
        False,
        "torch.compile the networks.",
        useful="runs of an hour and more",
        outside="The first step takes minutes, and it needs a compiler.",
        free_on_resume=True,
    )
    channels_last: bool = knob(
        False,
        "Hold the denoisers' weights and activations channels last; the same but for rounding.",
        useful="with bf16 on a GPU",
        outside="On a CPU, whose kernels choose their own order, it changed nothing.",
    )
    deterministic: bool = knob(
        False,
        "Only algorithms of a fixed order on CUDA: the same seed is then the same run to the bit.",
        useful="a comparison of two runs on one GPU; a CPU needs none",
        outside="Slower; an operation without such an algorithm ends the run.",
        free_on_resume=True,
    )
    share_pass: bool = knob(
        False,
        "One pass of the auxiliary serves its loss and the student's gradient: less work a step.",
        useful="with --auxiliary-ema 0, --auxiliary-steps 1 and one law of sigma, as published",
        outside="The student then follows the auxiliary's own noise, unaveraged.",
    )

    def __post_init__(self) -> None:
        """Raise ValueError naming the first value that cannot be."""
        check_knobs(self)
        if self.batch_gpu > self.batch:
            raise ValueError(
                f"batch_gpu is {self.batch_gpu}, above the batch of {self.batch}; give at most that"
            )

    def with_length(self, kimg: float, batch: int | None) -> Settings:
        """Return these settings with another length and, unless None, other batches."""
        return replace(self, kimg=kimg, batch=self.batch if batch is None else batch)

    def student_rate(self, num_images: int) -> float:
        """Return the student's learning rate after that many images."""
        return self.rate_after(num_images, self.glr)

    def rate_after(self, num_images: int, rate: float) -> float:
        """Return what a rate has become after that many images, by the ramp and the decay."""
        ramp, decay = self.rampup_kimg * 1000, self.decay_kimg * 1000
        rate = rate * min(1.0, num_images / max(ramp, 1))
        return rate / math.sqrt(max(num_images / decay, 1.0)) if decay else rate

    def rampup(self, num_updates: int) -> float:
        """Return the share of both rates after that many updates of the auxiliary."""
        return min(1.0, num_updates / self.rampup_updates) if self.rampup_updates else 1.0

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
