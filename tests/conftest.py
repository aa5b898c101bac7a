"""The world of every test: one thread, a fixed seed, no network, no GPU unless marked."""

from __future__ import annotations

import os

# Before torch, numpy and their BLAS libraries load: the tests' tensors are small, and one thread
# makes sums independent of the machine's number of cores.
os.environ["OMP_NUM_THREADS"] = "1"
os.environ["OPENBLAS_NUM_THREADS"] = "1"
# The definitions alone: numbers that depend on no compiler. Tests of kernels ask for them by name.
os.environ["REFINE_OPS"] = "reference"

import sys
from collections.abc import Iterator
from pathlib import Path

import hypothesis
import jaxtyping
import pytest
import torch

# What is checked against the shapes in its signatures, in tests alone: at run time nothing is
# installed. The doors of students and teachers only: their layers are called too often for it.
SHAPES_CHECKED = [
    *("metrics", "roles"),
    *("students.adapters", "students.base", "students.r3gan.generator", "students.seeds"),
    *("students.stylegan2.generator", "students.stylegan3.generator"),
    *("students.stylegan2.discriminator", "students.stylegan_xl"),
    *(f"teachers.{name}" for name in ("denoiser", "diffusers", "edm", "edm2", "features")),
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
