"""scheduler_config.json -> a noise scale: by the scheduler's name, from a list.

A scheduler is a way to draw samples; what matters here is the noising that its network was trained
on, which most of them share: DDPM's, by its betas.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch

from checkpoints import Json
from checkpoints.options import WHOLE, Option, Options, Reader, number, one_of, read_options, whole
from roles.shown import shown
from teachers.noise_scales import PREDICTIONS, EDMScale, NoiseScale, Steps, VEScale, schedule

MAX_TIMESTEPS = 100_000
COSINE = "squaredcos_cap_v2"


def numbers(value: object) -> list[Option] | None:
    """Read a list of betas, or None."""
    if value is None:
        return None
    if isinstance(value, list) and 0 < len(value) <= MAX_TIMESTEPS:
        found = [float(n) for n in value if isinstance(n, (*WHOLE, float)) and 0 < n < 1]
        if len(found) == len(value):
            return list(found)
    raise ValueError(f"up to {MAX_TIMESTEPS} numbers between 0 and 1, or None")


# Of these options alone; all others are of how samples are drawn.
BETAS: dict[str, Reader] = {
    "num_train_timesteps": whole(1, MAX_TIMESTEPS),
    "beta_start": number(0, 1),
    "beta_end": number(0, 1),
    "beta_schedule": one_of("linear", "scaled_linear", COSINE, "sigmoid"),
    "trained_betas": numbers,
    "rescale_betas_zero_snr": one_of(True, False),
    "prediction_type": one_of(*PREDICTIONS),
    # These make another noising of the same options.
    "use_flow_sigmas": one_of(False),
    "timestep_type": one_of("discrete"),
}
LEVELS: dict[str, Reader] = {
    "sigma_min": number(1e-9, 1e9),
    "sigma_max": number(1e-9, 1e9),
}
EDM: dict[str, Reader] = {
    **LEVELS,
    "sigma_data": number(1e-9, 1e9),
    "prediction_type": one_of("epsilon", "v_prediction"),
}


def steps(given: Mapping[str, Json]) -> Steps:
    """Return DDPM's noising; what is not given is as in DDPMScheduler."""
    options = _read(given, BETAS)
    a = alphas_cumprod(options)
    # Of a schedule rescaled to end in pure noise that end has no noise level; what a cosine ends in
    # is what is left when its last beta is clipped.
    a = a[:-1] if len(a) > 1 and a[-1] == 0 else a
    cosine = options.get("beta_schedule") == COSINE and options.get("trained_betas") is None
    top = -2 if cosine and len(a) > 1 else None
    return Steps(a, prediction=str(options.get("prediction_type", "epsilon")), top=top)


def variance_exploding(given: Mapping[str, Json]) -> VEScale:
    """Return score_sde's; sigma_min and sigma_max there are of images in [0, 1]."""
    low, high = _range(_read(given, LEVELS), 0.01, 1348.0)
    return VEScale(2 * low, 2 * high, factor=0.5)


def preconditioned(given: Mapping[str, Json]) -> EDMScale:
    """Return EDM's."""
    options = _read(given, EDM)
    low, high = _range(options, 0.002, 80.0)
    sigma_data = float(str(options.get("sigma_data", 0.5)))
    sign = -1.0 if options.get("prediction_type") == "v_prediction" else 1.0
    return EDMScale(low, high, sigma_data, factor=0.25, sign=sign)


SCHEDULERS: dict[str, Callable[[Mapping[str, Json]], NoiseScale]] = {
    **dict.fromkeys(
        (
            *("DDPMScheduler", "DDIMScheduler", "PNDMScheduler"),
            *("DDPMParallelScheduler", "DDIMParallelScheduler", "DEISMultistepScheduler"),
            *("DPMSolverMultistepScheduler", "DPMSolverSinglestepScheduler"),
            *("EulerAncestralDiscreteScheduler", "EulerDiscreteScheduler"),
            *("LMSDiscreteScheduler", "UniPCMultistepScheduler"),
        ),
        steps,
    ),
    "ScoreSdeVeScheduler": variance_exploding,
    **dict.fromkeys(("EDMEulerScheduler", "EDMDPMSolverMultistepScheduler"), preconditioned),
}


def scale_of(config: Mapping[str, Json], *, fourier: bool) -> NoiseScale:
    """Return the noise scale of a scheduler_config.json.

    Args:
        config: what is in it; empty where there is none, which is DDPM's, but not of a network
            that is told its noise level by Fourier features.
        fourier: whether the network is such a one.

    Raises:
        ValueError: another scheduler, or an option that it cannot have.
    """
    if not config and fourier:
        raise ValueError(
            "a network with Fourier features and no scheduler_config.json beside it; give the "
            "pipeline's own (google/ncsnpp-* have a ScoreSdeVeScheduler)"
        )
    name = config.get("_class_name", "DDPMScheduler" if not config else None)
    if not isinstance(name, str) or name not in SCHEDULERS:
        flow = "Flow" in str(name) or "flow" in str(config.get("prediction_type"))
        why = ", which is flow matching and not converted" if flow else ""
        raise ValueError(
            f"its scheduler is {shown(name)}{why}; allowed are {', '.join(SCHEDULERS)}"
        )
    if fourier is not (SCHEDULERS[name] is variance_exploding):
        kind = "fourier" if fourier else "positional"
        raise ValueError(
            f"its scheduler is {name} and its time_embedding_type {kind}; ScoreSdeVeScheduler goes "
            "with fourier, and all others with positional"
        )
    return SCHEDULERS[name](config)


def alphas_cumprod(options: Options) -> torch.Tensor:
    """Return a_t [num_train_timesteps] of options that were read.

    Betas are computed in float32, as files were trained with.
    """
    given, kind = options.get("trained_betas"), options.get("beta_schedule", "linear")
    num_steps = int(str(options.get("num_train_timesteps", 1000)))
    low = float(str(options.get("beta_start", 1e-4)))
    high = float(str(options.get("beta_end", 0.02)))
    if isinstance(given, list):
        betas = torch.tensor(given, dtype=torch.float32)
    elif kind == "scaled_linear":
        betas = torch.linspace(low**0.5, high**0.5, num_steps).square()
    elif kind == "sigmoid":
        betas = torch.linspace(-6, 6, num_steps).sigmoid() * (high - low) + low
    else:
        betas = torch.linspace(low, high, num_steps)
    a = (1 - betas).cumprod(0)
    if given is None and kind == COSINE:
        a = schedule("cosine", num_steps)
    if options.get("rescale_betas_zero_snr") and len(a) > 1:
        # Lin et al. 2023 (arXiv:2305.08891), Algorithm 1.
        root = a.sqrt()
        a = ((root - root[-1]) * root[0] / (root[0] - root[-1])).square()
    return a


def _read(config: Mapping[str, Json], table: Mapping[str, Reader]) -> Options:
    """Return those options of a file that are in the table, each checked."""
    return read_options({k: v for k, v in config.items() if k in table}, table, "")


def _range(options: Options, low: float, high: float) -> tuple[float, float]:
    """Return sigma_min and sigma_max of options that were read, these where they are not given."""
    low, high = (
        float(str(options.get(name, usual)))
        for name, usual in (("sigma_min", low), ("sigma_max", high))
    )
    if low >= high:
        raise ValueError(f"sigma_min is {low:g} and sigma_max {high:g}; sigma_max is the larger")
    return low, high
