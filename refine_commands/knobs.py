"""What each knob is: the paper's symbol, where it is useful, and what goes wrong elsewhere.

SETTINGS are the fields of refiners.Settings, which are flags; KNOBS those of the methods, which
--set sets. A range spans the published settings and those of docs/experiments.md where there are
any; the others are starting points that the equations suggest, not results.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any

import click


@dataclass(frozen=True)
class Knob:
    """Help on a knob.

    Attributes:
        meaning: what it is, with the paper's symbol where it has one.
        useful: the range that has been of use.
        outside: what goes wrong beyond it.
    """

    meaning: str
    useful: str = ""
    outside: str = ""

    def in_one_line(self) -> str:
        """Return all of it as --help shows it."""
        parts = [self.meaning, self.useful and f"Useful: {self.useful}.", self.outside]
        return " ".join(part for part in parts if part)


SETTINGS = {
    "kimg": Knob(
        "Length of the run.",
        "5 to 50 for a GAN, thousands for a distillation",
        "Too short, and the first disturbance is all that is seen.",
    ),
    "batch": Knob(
        "Images per step.",
        "32 to 512",
        "Below, the gradient is noise; above, the steps are few.",
    ),
    "glr": Knob(
        "Learning rate of the student (eta).",
        "2e-4 to 2e-3 for a StyleGAN, 1e-6 to 5e-4 for a denoiser as generator",
        "Too high and the auxiliary cannot keep up: the curve rises.",
    ),
    "lr": Knob(
        "Learning rate of the auxiliary network.",
        "5e-4 to 1e-3 for small networks, 1e-6 to 1e-4 for large ones",
        "Too high and its difference to the teacher is its own noise.",
    ),
    "rampup_kimg": Knob("Over which the student's rate rises.", "0 to 2", ""),
    "decay_kimg": Knob(
        "After which the student's rate falls as 1 / sqrt(images); 0 keeps it.",
        "1 to 10 for a StyleGAN; 0 for long runs at a low rate",
        "Constant, a high rate keeps a good student wandering about.",
    ),
    "ema": Knob(
        "Half-life of the student's average, which is the result.",
        "a tenth of the run; 500 where published",
        "Too long and the result is the student of long ago.",
    ),
    "ema_rampup_ratio": Knob(
        "The half-life is at most this share of the images so far; 0 does not limit it.",
        "0.05 (EDM) to 0.25",
        "",
    ),
    "warmup_kimg": Knob(
        "Images on which the auxiliary first learns the student; half the run at most by default.",
        "1 to 10 for a GAN",
        "Without it the student follows an auxiliary that does not know it.",
    ),
    "auxiliary_steps": Knob(
        "Auxiliary updates per student update.",
        "1 (Diff-Instruct, SiD) to 5 (DMD2)",
        "Too few and it lags; each costs a forward and a backward pass.",
    ),
    "auxiliary_ema": Knob(
        "Half-life of the auxiliary's average.",
        "0 to 10",
        "Too long and it lags behind the student, which then pales; too short, it is noise.",
    ),
    "train": Knob("What moves: all, synthesis or mapping."),
    "seed": Knob("Of every random draw."),
    "tick": Knob("Between log lines."),
    "snap": Knob("Between snapshots."),
    "max_hours": Knob(
        "Ends the run with a snapshot and a state to resume from; 0 is no limit.",
        "a little less than a machine is lent for",
        "Checked after each step, so the last one, pictures and metrics come on top.",
    ),
    "stop_if": Knob(
        "Ends the run likewise at the first tick where it holds of a name in stats.jsonl.",
        "Health/error_share_0.2>0.99 or Health/saturated>0.3",
        "A name that there is not is said in the log.",
    ),
    "batch_gpu": Knob(
        "Images at a time in each process; gradients add up to the same result.",
        "auto halves the share until a step fits the GPU, and is all of it on a CPU",
        "Below the share a step makes its images twice.",
    ),
    "precision": Knob(
        "bf16 is of the denoisers' passes; a GAN keeps its file's. What is kept is float32.",
        "tf32 or bf16 on a GPU, fp32 on a CPU",
        "bf16 was measured to change D_aux - D_teacher by 3 to 4 % (benchmarks/loop.py bf16).",
    ),
    "compile": Knob(
        "torch.compile the networks.",
        "runs of an hour and more",
        "The first step takes minutes, and it needs a compiler.",
    ),
    "channels_last": Knob(
        "Hold the denoisers' weights and activations channels last; the same but for rounding.",
        "with bf16 on a GPU",
        "On a CPU, whose kernels choose their own order, it was measured to change nothing.",
    ),
    "share_pass": Knob(
        "One pass of the auxiliary serves its loss and the student's gradient: less work a step.",
        "with --aux-ema 0, --aux-steps 1 and one law of sigma, as published",
        "The student then follows the auxiliary's own noise, unaveraged.",
    ),
}

KNOBS = {
    "student_sigma": Knob(
        "Law of the noise level in the student's gradient, p(sigma): lognormal:P_MEAN,P_STD, "
        "loguniform:MIN,MAX or karras:MIN,MAX.",
        "sigma from 0.02 to 20 for images in [-1, 1]",
        "Low levels alone move detail and never layout; high levels alone blur detail.",
    ),
    "auxiliary_sigma": Knob(
        "Law of the noise level in the auxiliary's denoising loss.",
        "at least as wide as student_sigma",
        "Where it is narrower the auxiliary is not trained, and the gradient is wrong.",
    ),
    "head_sigma": Knob(
        "Law of the noise level at which the head judges.",
        "karras:0.002,80 (published)",
        "Low levels alone let it win at once, and its gradient vanishes.",
    ),
    "weight": Knob(
        "Weight w of the gradient or loss: one or dmd (1 / mean |x_0 - D|) for generators; "
        "snr_trunc (max(SNR, 1)) or snr_plus_1 for fewer steps.",
        "as published",
        "dmd lifts the samples of which the teacher is sure.",
    ),
    "hold_contrast": Knob(
        "Share of the gradient along a batch's contrast that is removed; 0 is published.",
        "0 to 1",
        "At 1 a student whose contrast is wrong stays so.",
    ),
    "sigma_data": Knob(
        "Spread of the data that the teacher's preconditioning assumes, sigma_data.",
        "the teacher's own: 0.5 for EDM",
        "Another value weighs the auxiliary's loss wrongly over sigma.",
    ),
    "regression": Knob(
        "Weight of the regression on the teacher's pairs, lambda_reg.",
        "0.25 to 0.5 (published, with LPIPS)",
        "0 may lose modes; too high and the images blur.",
    ),
    "student_gan": Knob(
        "Weight of the head's judgement in the student's loss.",
        "1e-3 to 1e-2; 3e-3 published",
        "Too high and the run is a GAN's, with its instability.",
    ),
    "auxiliary_gan": Knob(
        "Weight of the head's loss in the auxiliary's.",
        "1e-2 (published)",
        "Too high and the auxiliary forgets to denoise.",
    ),
    "layer": Knob(
        "The teacher's module that is tapped: for a head its encoder, for guidance what embeds "
        "the noise level.",
        "model.enc and model.map_layer0 for EDM's networks",
        "Another name is refused, with those that there are.",
    ),
    "divergence": Knob(
        "The divergence f: rkl, kl or js.",
        "js",
        "rkl seeks modes; kl covers them, with a weight of high variance.",
    ),
    "bins": Knob(
        "Groups of like sigma in which the weight's mean is 1.",
        "4 to 10, with 8 samples or more in each",
        "With one sample in each every weight is 1, which is rkl.",
    ),
    "alpha": Knob(
        "SiD's alpha, the weight of |D_p - D_q|^2.",
        "0.75 to 1.2 (published)",
        "Above 1.25 it diverges; below 0.5 it is slow.",
    ),
    "c": Knob(
        "Where SIM's distance turns from square to linear, per square root of the pixels.",
        "1e-4 to 1e-2",
        "Very large it is SiD's square, very small the gradient has no scale.",
    ),
    "moments": Knob(
        "Share a of the moments' gradient, in units of Diff-Instruct's.",
        "0.3 to 1",
        "0 is Diff-Instruct; far above 1 the features are matched and the images are not.",
    ),
    "feature_sigmas": Knob(
        "Noise levels at which the teacher's features are taken, comma separated.",
        "0.1 to 1",
        "Above, the features see layout alone; each level costs a pass.",
    ),
    "num_features": Knob(
        "Random combinations of the features whose moments are matched.",
        "64 to 512",
        "More than a third of memory and their covariance is noise.",
    ),
    "memory": Knob(
        "Images over which the student's running moments forget.",
        "500 to 5000",
        "Too long and they are the student's of long ago.",
    ),
    "num_reference": Knob(
        "Reference images behind the moments to reach.",
        "ten times num_features or more",
        "Too few and their covariance is noise.",
    ),
    "num_steps": Knob(
        "Steps N of the first student, a power of two; its teacher makes 2 N.",
        "8 to 1024",
        "Too few and the first teacher is coarse; each halving takes its share of the run.",
    ),
    "sigma_min": Knob("Where the schedule is cut off.", "0.002 (EDM)", "Above, noise stays."),
    "sigma_max": Knob(
        "Where the schedule starts, and the one step's noise level.",
        "80 (EDM)",
        "Below several times the data's spread the start is not pure noise.",
    ),
    "stochastic": Knob("Train for the stochastic sampler, 0 or 1.", "0 for a single step"),
    "guidance_min": Knob(
        "Lowest guidance weight, g_min.", "0 is no guidance", "-1 is the unconditional model."
    ),
    "guidance_max": Knob(
        "Highest guidance weight, g_max.", "4 for pixels (published)", "Above, colours saturate."
    ),
    "guidance": Knob(
        "Guidance weight g of pictures, figures and the network that is written.",
        "between guidance_min and guidance_max",
        "Outside, the network was not trained, and it is refused.",
    ),
}


def explain(method: str) -> str:
    """Return the help on a method's knobs, with their defaults."""
    from refiners.runs.recipes import method_class

    lines = []
    for field in fields(method_class(method)):
        knob = KNOBS[field.name]
        lines += [f"{field.name}={field.default}", f"    {knob.in_one_line()}"]
    return "\n".join(lines)


def show_knobs(ctx: click.Context, param: click.Parameter, value: str | None) -> Any:
    """Print the help on a method's knobs and end the command."""
    if value is not None and not ctx.resilient_parsing:
        click.echo(explain(value))
        ctx.exit()
