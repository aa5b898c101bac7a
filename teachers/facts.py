"""Facts that a network's file does not hold, under the flag names of the program that wrote it.

A wrong head count, a wrong order of query, key and value or a wrong noise schedule raises nothing:
the network just denoises badly. So none is guessed. They come from the table of published files
(`teachers.published_facts`), from FILE.json beside the file, or from the caller.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import checkpoints
from checkpoints.options import (
    FLAG,
    MAX_RESOLUTION,
    MAX_WIDTH,
    Options,
    Reader,
    number,
    one_of,
    read_options,
    whole,
)
from roles.shown import shown
from teachers.noise_scales import NOISE_SCHEDULES, SDES
from teachers.options import MAX_LEVELS

LEVEL = number(1e-6, 1e6)


def text(value: object) -> str:
    """Read a flag's text, such as 32,16,8."""
    if isinstance(value, (str, int)) and len(str(value)) <= 200:
        return str(value)
    raise ValueError("text of up to 200 characters")


IMAGE_SIZE: dict[str, Reader] = {"image_size": whole(1, MAX_RESOLUTION)}
# improved-diffusion, guided-diffusion, consistency_models
# (denoising-diffusion-pytorch needs the size alone).
GUIDED: dict[str, Reader] = {
    **IMAGE_SIZE,
    "num_heads": whole(-1, MAX_WIDTH),
    "num_head_channels": whole(-1, MAX_WIDTH),
    "num_heads_upsample": whole(-1, MAX_WIDTH),
    "use_new_attention_order": FLAG,
    "noise_schedule": one_of(*NOISE_SCHEDULES),
    "diffusion_steps": whole(1, MAX_LEVELS),
    "rescale_timesteps": FLAG,
    "predict_xstart": FLAG,
    "preconditioning": one_of("edm"),
    "sigma_min": LEVEL,
    "sigma_max": LEVEL,
    # Their tensors show these; what is said of them is compared.
    "num_channels": whole(1, MAX_WIDTH),
    "num_res_blocks": whole(1, MAX_WIDTH),
    "channel_mult": text,
    "attention_resolutions": text,
    "learn_sigma": FLAG,
    "class_cond": FLAG,
    "use_scale_shift_norm": FLAG,
    "resblock_updown": FLAG,
}
# score_sde_pytorch.
SCORE: dict[str, Reader] = {
    **IMAGE_SIZE,
    "sde": one_of(*SDES),
    "continuous": FLAG,
    "centered": FLAG,
    "fir": FLAG,
    "sigma_min": LEVEL,
    "sigma_max": LEVEL,
    "beta_min": number(0, 1e3),
    "beta_max": number(1e-6, 1e3),
    "num_scales": whole(2, MAX_LEVELS),
    "attention_type": one_of("ddpm"),
}
# Flags that people paste along, of what a frozen network does not do.
OF_TRAINING = ("dropout", "use_fp16", "use_checkpoint", "timestep_respacing", "use_kl")
OF_TRAINING += ("rescale_learned_sigmas", "sigma_small", "weight_schedule")

# What each fact is, for who has to give it.
EXPLAINED = {
    "image_size": "image_size (pixels)",
    "num_heads": "num_heads or num_head_channels (attention heads, or channels of one)",
    "noise_schedule": "noise_schedule (linear or cosine)",
    "diffusion_steps": "diffusion_steps (1000, 4000 ...)",
    "rescale_timesteps": "rescale_timesteps (true or false)",
    "preconditioning": "preconditioning (edm, where it is a denoiser and no consistency model)",
    "sde": "sde (vesde, vpsde or subvpsde)",
    "continuous": "continuous (true or false)",
    "fir": "fir (true or false)",
}


def parse(given: Sequence[str] | Mapping[str, object]) -> dict[str, object]:
    """Return facts as plain values, given by name or as texts KEY=VALUE, as --teacher-set is.

    Raises:
        ValueError: a text is none, or a key stands twice.
    """
    if isinstance(given, Mapping):
        return {key: _plain(value) for key, value in given.items()}
    found: dict[str, object] = {}
    for pair in given:
        key, equals, value = pair.partition("=")
        if not key or not equals:
            raise ValueError(f"--teacher-set is {shown(pair)}; give KEY=VALUE, as num_heads=4")
        if key in found:
            raise ValueError(f"--teacher-set gives {key} twice; give it once")
        found[key] = _plain(value)
    return found


def gather(source: str | Path, given: Mapping[str, object], table: Mapping[str, Reader]) -> Options:
    """Return the facts of FILE.json beside a file, and those that are given, which win.

    The name of that file is the network's with .json at its end, or in place of its ending.

    Raises:
        ValueError: a fact that is not in the table, or a value that is not allowed.
    """
    beside = beside_of(source)
    said = {} if beside is None else read(checkpoints.read_json(beside), table, str(beside))
    return {**said, **read(given, table, "facts")}


def beside_of(source: str | Path) -> Path | None:
    """Return the path of FILE.json beside a file, if there is one."""
    if "://" in str(source):
        return None
    path = Path(source)
    names = [path.with_name(f"{path.name}.json"), path.with_suffix(".json")]
    return next((name for name in names if name.is_file()), None)


def read(given: Mapping[str, object], table: Mapping[str, Reader], where: str) -> Options:
    """Return facts as plain values, each checked; text is read as a command line would.

    Raises:
        ValueError: one that is not in the table, or a value that is not allowed.
    """
    wanted = {str(key): _plain(value) for key, value in given.items() if key not in OF_TRAINING}
    unknown = [shown(key, quoted=False) for key in wanted if key not in table]
    if unknown:
        raise ValueError(
            f"{where}: unknown {', '.join(unknown[:5])}; allowed are {', '.join(table)}"
        )
    return read_options(wanted, table, where)


def _plain(value: object) -> object:
    if not isinstance(value, str):
        return value
    if value.lower() in ("true", "false"):
        return value.lower() == "true"
    for kind in (int, float):
        try:
            return kind(value)
        except ValueError:
            continue
    return value


def missing(
    source: str | Path, what: str, names: Sequence[str], *, default: str = "", hint: str = ""
) -> ValueError:
    """Return the error that says which facts are to be given, and how.

    Args:
        source: the file.
        what: what it is.
        names: of the facts, keys of EXPLAINED.
        default: what is taken of another where it is not given, or "".
        hint: what published files of this shape have, or "".
    """
    file = Path(str(source)).name
    return ValueError(
        f"it is {what}, and does not hold {'; '.join(EXPLAINED[name] for name in names)}. Wrong "
        "ones would go unnoticed, so none is guessed: give them by --teacher-set KEY=VALUE, by "
        f"facts={{...}} or in {file}.json"
        + (f" ({default})" if default else "")
        + (f"; {hint}" if hint else "")
    )
