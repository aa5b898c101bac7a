"""The world of every test: one thread, a fixed seed, no network, no GPU unless marked."""

from __future__ import annotations

import os

# Before torch, numpy and their BLAS libraries load: the tests' tensors are small, and one thread
# makes sums independent of the machine's number of cores.
os.environ["OMP_NUM_THREADS"] = "1"
os.environ["OPENBLAS_NUM_THREADS"] = "1"
# The definitions alone: numbers that depend on no compiler. Tests of kernels ask for them by name.
os.environ["REFINE_OPS"] = "reference"

import json
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import hypothesis
import jaxtyping
import pytest
import safetensors.torch
import torch

if TYPE_CHECKING:
    from teachers.networks.unet2d import UNet2D

# What is checked against the shapes in its signatures, in tests alone: at run time nothing is
# installed. The doors of students and teachers only: their layers are called too often for it.
SHAPES_CHECKED = [
    *("metrics", "roles"),
    *("students.adapters", "students.base", "students.r3gan.generator", "students.seeds"),
    *("students.stylegan2.generator", "students.stylegan3.generator"),
    *("students.stylegan2.discriminator", "students.stylegan_xl"),
    *(
        f"teachers.{name}"
        for name in (
            "converted",
            "denoiser",
            "diffusers",
            "edm",
            "edm2",
            "features",
            "noise_scales",
        )
    ),
    *(f"teachers.{name}" for name in ("gaussian", "guidance", "pairs", "relabelled", "sampler")),
]
jaxtyping.install_import_hook(
    SHAPES_CHECKED, "beartype.beartype(conf=beartype.BeartypeConf(is_pep484_tower=True))"
)

CHECKOUT = Path(__file__).resolve().parent.parent

# The same examples in every run, and no time limit that a busy machine could break.
hypothesis.settings.register_profile("fixed", derandomize=True, deadline=None)
hypothesis.settings.load_profile("fixed")


def _refuse_the_network(event: str, arguments: tuple[object, ...]) -> None:
    if event != "socket.connect":
        return
    address = arguments[1]
    if isinstance(address, tuple) and str(address[0]) not in ("127.0.0.1", "::1", "localhost"):
        raise RuntimeError(f"a test wants to connect to {address[0]}; tests use this machine only")


sys.addaudithook(_refuse_the_network)


@pytest.fixture
def any_shape() -> Iterator[None]:
    """For what a function itself says of tensors that its signature forbids."""
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)


@pytest.fixture(autouse=True)
def fixed_seed() -> None:
    """A test gives the same numbers alone, in any order, and in any company."""
    torch.manual_seed(0)


@pytest.fixture(scope="session")
def samples() -> Path:
    """Folder of network files with reference outputs of the original implementations."""
    given = os.environ.get("REFINE_SAMPLES")
    folder = Path(given) if given else CHECKOUT.parent / "shared" / "samples"
    if not folder.is_dir():
        pytest.skip(f"no reference samples in {folder}; name their folder in REFINE_SAMPLES")
    return folder


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip what needs a CUDA device where there is none."""
    if torch.cuda.is_available():
        return
    for item in items:
        if item.get_closest_marker("gpu"):
            item.add_marker(pytest.mark.skip(reason="no CUDA device"))


TINY_UNET: dict[str, object] = {
    "_class_name": "UNet2DModel",
    "sample_size": 16,
    "in_channels": 1,
    "out_channels": 1,
    "block_out_channels": [8, 16],
    "layers_per_block": 1,
    "norm_num_groups": 4,
    "attention_head_dim": 8,
    "down_block_types": ["DownBlock2D", "AttnDownBlock2D"],
    "up_block_types": ["AttnUpBlock2D", "UpBlock2D"],
}


@pytest.fixture
def write_diffusers() -> Callable[..., UNet2D]:
    """Write a pipeline as diffusers does, of a small random network, and return the network.

    (folder, scheduler=None for none, old_names=False, flat=False, beside={} of more entries of
    config.json, **what it has instead)
    """

    def write(
        folder: Path,
        scheduler: dict[str, object] | None = None,
        *,
        old_names: bool = False,
        flat: bool = False,
        beside: Mapping[str, object] | None = None,
        **config: object,
    ) -> UNet2D:
        from teachers.networks.unet2d import UNet2D

        told = {**TINY_UNET, **config}
        options = {k: v for k, v in told.items() if k not in ("_class_name", "sample_size")}
        network = UNet2D(**cast("dict[str, Any]", options)).eval().requires_grad_(False)
        for parameter in network.parameters():  # off zero, so that every part counts
            parameter.data.add_(0.1 * torch.randn_like(parameter))
        state = {k: v.clone() for k, v in network.state_dict().items()}
        unet = folder if flat else folder / "unet"
        unet.mkdir(parents=True)
        (unet / "config.json").write_text(json.dumps({**told, **(beside or {})}))
        if scheduler is not None:
            place = folder if flat else folder / "scheduler"
            place.mkdir(exist_ok=True)
            (place / "scheduler_config.json").write_text(json.dumps(scheduler))
        index = {"_class_name": "DDPMPipeline", "unet": ["diffusers", "UNet2DModel"]}
        (folder / "model_index.json").write_text(json.dumps(index))
        if not old_names:
            safetensors.torch.save_file(state, unet / "diffusion_pytorch_model.safetensors")
            return network
        names = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}
        for new, old in names.items():
            state = {k.replace(f".{new}.", f".{old}."): v for k, v in state.items()}
        torch.save(state, unet / "diffusion_pytorch_model.bin")
        return network

    return write
