"""A diffusers folder as a teacher: UNet2DModel with its own noise schedule as D(x; sigma).

Ho et al. 2020 (arXiv:2006.11239): x_t = sqrt(a_t) x_0 + sqrt(1 - a_t) eps, a_t the running product
of 1 - beta. With sigma_t = sqrt((1 - a_t) / a_t), x = x_t / sqrt(a_t) is x_0 plus noise of standard
deviation sigma_t, and the network is called with x / sqrt(1 + sigma^2) and t(sigma). What it
predicts becomes D (Salimans and Ho 2022, arXiv:2202.00512, Section 4 and Appendix D):

    epsilon: x - sigma F        sample: F        v_prediction: x / (1 + sigma^2) - c F,

with c = sigma / sqrt(1 + sigma^2). The package diffusers builds the network and is imported only
here. The weights come from safetensors, or from a .bin that is read as plain data.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from types import ModuleType

import torch
from jaxtyping import Float

import checkpoints
from checkpoints import Json
from roles import Sigma
from teachers.arguments import check_choice
from teachers.denoiser import DenoiserModule

PREDICTIONS = ("epsilon", "sample", "v_prediction")
TIMESTEPS = ("interpolated", "nearest")
WEIGHTS = ("diffusion_pytorch_model.safetensors", "diffusion_pytorch_model.bin")
SCHEDULE = (
    *("num_train_timesteps", "beta_start", "beta_end", "beta_schedule", "trained_betas"),
    "rescale_betas_zero_snr",
)
MAX_TIMESTEPS = 100_000
INSTALL = "pip install 'stylegan-refiner[diffusers]'"


class DiffusersDenoiser(DenoiserModule):
    """A network (x_t, t[, class]) with a discrete schedule as D(x; sigma).

    Args:
        unet: called as unet(x_t, t, class_labels=..., return_dict=False); may return more channels,
            which are variances and are not used.
        alphas_cumprod: the schedule a_t, falling, each in 0 to 1.
        img_channels: channels of the images.
        img_resolution: height and width of the images.
        label_dim: number of classes, the null class of the network included; 0 is unconditional.
        prediction: what the network predicts, one of PREDICTIONS.
        timestep: "interpolated" between the trained ones in ln(sigma), or the "nearest", which is
            then the grid of round_sigma.

    Raises:
        ValueError: an unknown prediction or timestep, a schedule that does not fall within 0 to 1.
    """

    sigmas: torch.Tensor

    def __init__(
        self,
        unet: torch.nn.Module,
        alphas_cumprod: Float[torch.Tensor, " t"],
        *,
        img_channels: int,
        img_resolution: int,
        label_dim: int = 0,
        prediction: str = "epsilon",
        timestep: str = "interpolated",
    ):
        check_choice("prediction_type", prediction, PREDICTIONS)
        check_choice("timestep", timestep, TIMESTEPS)
        a = torch.as_tensor(alphas_cumprod, dtype=torch.float64, device="cpu")
        # A schedule rescaled to end in pure noise has no finite noise level there.
        a = a[:-1] if len(a) and a[-1] == 0 else a
        if (
            not len(a)
            or not 0 < float(a.min()) <= float(a.max()) < 1
            or bool((a.diff() >= 0).any())
        ):
            raise ValueError("alphas_cumprod must fall, and lie between 0 and 1")
        super().__init__(img_channels, img_resolution, label_dim=label_dim)
        self.unet = unet
        self.prediction = prediction
        self.timestep = timestep
        self.register_buffer("sigmas", ((1 - a) / a).sqrt().float(), persistent=False)
        self.sigma_min, self.sigma_max = float(self.sigmas[0]), float(self.sigmas[-1])

    def forward(
        self,
        x: Float[torch.Tensor, "n c h w"],
        sigma: Sigma,
        labels: Float[torch.Tensor, "#n label_dim"] | None = None,
    ) -> Float[torch.Tensor, "n c h w"]:
        """Return D(x; sigma) [n, c, h, w]. See Denoiser; a conditional network needs the labels.

        Raises:
            ValueError: a shape does not fit, or the labels are missing.
        """
        weights = next(self.unet.parameters()).dtype
        wide = torch.promote_types(weights, torch.float32)
        if self.label_dim and labels is None:
            raise ValueError(
                f"this teacher has {self.label_dim} classes and no model without a class; "
                f"give one-hot labels [{len(x)}, {self.label_dim}]"
            )
        x, sigma, labels = self.check_inputs(x, sigma, labels, dtype=wide)
        classes = {}
        if labels is not None:
            classes = {"class_labels": labels.argmax(dim=1).expand(len(x))}
        t = self.time(sigma.flatten()).expand(len(x)).to(weights)
        vp = (1 + sigma**2).sqrt()
        out = self.unet((x / vp).to(weights), t, return_dict=False, **classes)[0]
        out = out[:, : self.img_channels].to(wide)
        if self.prediction == "epsilon":
            return x - sigma * out
        if self.prediction == "sample":
            return out
        return x / vp.square() - sigma / vp * out

    def time(self, sigma: Float[torch.Tensor, " n"]) -> Float[torch.Tensor, " n"]:
        """Return the timestep t in 0 to len(sigmas) - 1 of noise levels [n]; those outside clip."""
        logs, wanted = self.sigmas.log(), sigma.to(self.sigmas).log()
        if self.timestep == "nearest":
            return self._nearest(sigma).to(wanted)
        last = len(logs) - 1
        above = torch.searchsorted(logs, wanted.contiguous()).clamp(min(1, last), last)
        below = (above - 1).clamp_min(0)
        span = (logs[above] - logs[below]).clamp_min(torch.finfo(logs.dtype).tiny)
        return below + ((wanted - logs[below]) / span).clamp(0, 1)

    def round_sigma(self, sigma: float | Float[torch.Tensor, "*s"]) -> Float[torch.Tensor, "*s"]:
        """Return sigma, or with the nearest timestep the nearest trained level, in sigma's type."""
        sigma = torch.as_tensor(sigma)
        if self.timestep == "interpolated":
            return sigma
        return self.sigmas[self._nearest(sigma)].to(sigma)

    def _nearest(self, sigma: torch.Tensor) -> torch.Tensor:
        return (sigma.to(self.sigmas)[..., None] - self.sigmas).abs().argmin(dim=-1)


def load_folder(folder: str | Path, *, timestep: str = "interpolated") -> DiffusersDenoiser:
    """Load a folder that diffusers wrote: a UNet2DModel, or a DDPM pipeline with one.

    A pipeline has model_index.json, unet/ and scheduler/; a model alone has config.json and
    weights, and is taken for one of DDPM's schedule (1000 steps, beta 0.0001 to 0.02) that predicts
    epsilon, unless a scheduler_config.json lies beside it.

    Returns:
        The denoiser in eval mode without gradients, in float32.

    Raises:
        ValueError: no such folder, a network or schedule of another kind, weights that are missing,
            unknown, of another shape or not finite, the package diffusers is not installed.
        OSError: a file cannot be read.
    """
    folder = Path(folder)
    unet_folder = folder / "unet" if (folder / "unet").is_dir() else folder
    config = _read_json(unet_folder / "config.json")
    kind = config.get("_class_name", "UNet2DModel")
    if kind != "UNet2DModel":
        raise ValueError(f"{unet_folder} holds a {str(kind)[:100]!a}; allowed is UNet2DModel")
    scheduler = next(
        (p for p in (folder / "scheduler", folder) if (p / "scheduler_config.json").is_file()), None
    )
    schedule = {} if scheduler is None else _read_json(scheduler / "scheduler_config.json")
    try:
        unet = _build(config, _read_weights(unet_folder))
        denoiser = DiffusersDenoiser(
            unet,
            _alphas_cumprod(schedule),
            **_sizes(config),
            prediction=str(schedule.get("prediction_type", "epsilon")),
            timestep=timestep,
        )
    except (TypeError, ValueError, KeyError, AttributeError, IndexError, RuntimeError) as error:
        raise ValueError(f"{folder}: {' '.join(str(error).split())}") from error
    return denoiser.eval().requires_grad_(False)


def _diffusers() -> ModuleType:
    try:
        import diffusers
    except ImportError as error:
        raise ValueError(f"a diffusers folder needs the package diffusers: {INSTALL}") from error
    return diffusers


def _read_json(path: Path) -> dict[str, Json]:
    if not path.is_file():
        raise ValueError(
            f"{path.parent} has no {path.name}; give a network pickle, or a folder with a "
            "UNet2DModel or a DDPM pipeline as diffusers writes them"
        )
    return checkpoints.read_json(path)


def _read_weights(folder: Path) -> dict[str, torch.Tensor]:
    path = next((folder / name for name in WEIGHTS if (folder / name).is_file()), None)
    if path is None:
        raise ValueError(f"{folder} has no weights; there should be {' or '.join(WEIGHTS)}")
    if path.suffix == ".bin":
        data = checkpoints.read(path)
    else:
        _diffusers()  # which brings safetensors
        from safetensors import SafetensorError
        from safetensors.torch import load_file

        try:
            data = load_file(path)
        except SafetensorError as error:
            raise ValueError(f"{path.name} is broken: {error}") from error
    if not checkpoints.is_state_dict(data):
        raise ValueError(f"{path.name} holds something else than named tensors")
    return data


def _build(config: Mapping[str, Json], weights: Mapping[str, torch.Tensor]) -> torch.nn.Module:
    """Build the network without memory first: its sizes are believed once the tensors agree."""
    _diffusers()  # says what is missing
    from diffusers.models.attention_processor import Attention, AttnProcessor  # pyright: ignore[reportMissingImports]  # optional

    if config.get("class_embed_type") is not None:
        raise ValueError(
            f"class_embed_type is {config['class_embed_type']!a}; allowed is null, with "
            "num_class_embeds for a network of classes"
        )
    blocks = config.get("layers_per_block", 2)
    if not isinstance(blocks, int) or not 1 <= blocks <= len(weights):
        raise ValueError(f"layers_per_block is {blocks!a} with {len(weights)} tensors")
    arguments = {key: value for key, value in config.items() if not key.startswith("_")}
    complaint = "tensors that do not fit config.json"
    unet = checkpoints.filled(lambda: _diffusers().UNet2DModel(**arguments), weights, complaint)
    # Torch's fused attention, the default, has no second derivative on a CPU.
    for module in unet.modules():
        if isinstance(module, Attention):
            module.set_processor(AttnProcessor())
    return unet


def _sizes(config: Mapping[str, Json]) -> dict[str, int]:
    size, channels = config.get("sample_size"), config.get("in_channels", 3)
    if isinstance(size, list) and len(size) == 2 and size[0] == size[1]:
        size = size[0]
    if not isinstance(size, int):
        raise ValueError(f"sample_size is {size!a}; it must be one number, the images' resolution")
    classes = config.get("num_class_embeds") or 0
    if not isinstance(channels, int) or not isinstance(classes, int):
        raise ValueError(
            f"in_channels is {channels!a} and num_class_embeds {classes!a}; they must be numbers"
        )
    if config.get("out_channels", 3) not in (channels, 2 * channels):
        raise ValueError(
            f"out_channels is {config.get('out_channels', 3)} with in_channels {channels}; "
            f"it must be {channels}, or {2 * channels} with variances"
        )
    return {
        "img_channels": channels,
        "img_resolution": size,
        "label_dim": classes,
    }


def _alphas_cumprod(schedule: Mapping[str, Json]) -> torch.Tensor:
    """Return a_t [num_train_timesteps] of a scheduler_config.json, as DDPMScheduler makes it."""
    given = {key: schedule[key] for key in SCHEDULE if key in schedule}
    if {"sigma_min", "sigma_max"} & schedule.keys() and "beta_schedule" not in schedule:
        raise ValueError(
            f"its schedule is {str(schedule.get('_class_name'))[:100]!a}, without betas; "
            "allowed are those of DDPM"
        )
    steps = given.get("num_train_timesteps", 1000)
    if not isinstance(steps, int) or not 1 <= steps <= MAX_TIMESTEPS:
        raise ValueError(f"num_train_timesteps is {steps!a}; it must be in 1 to {MAX_TIMESTEPS}")
    return _diffusers().DDPMScheduler(**given).alphas_cumprod
