"""Students: (z, labels) -> images.

`load` rebuilds a generator from a network file, its architecture always taken from the file; `wrap` makes any module a student; `save`
writes the file back with the student's weights in it. FAMILIES is the table of what can be loaded: a new family is a row and a file.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

import checkpoints
from checkpoints import Record
from students import discriminator, stylegan2
from students.base import NOISE_MODES, Student, WrappedStudent

__all__ = ["FAMILIES", "NOISE_MODES", "Student", "family_of", "generate", "load", "save", "wrap"]


class Family(NamedTuple):
    """A kind of network: how to recognise its record and how to build it."""

    name: str
    matches: Callable[[Record], bool]
    build: Callable[[Record], torch.nn.Module]


def _is_stylegan2(record: Record) -> bool:
    modules = record.state.get("_modules", {})
    synthesis = modules.get("synthesis")
    return (
        record.class_name == "Generator"
        and isinstance(synthesis, Record)
        and "b4" in synthesis.state.get("_modules", {})
    )


def _is_discriminator(record: Record) -> bool:
    return record.class_name == "Discriminator" and "b4" in record.state.get("_modules", {})


FAMILIES = (
    Family(
        "StyleGAN2 generator",
        _is_stylegan2,
        lambda record: stylegan2.Generator(
            **stylegan2.kwargs_from(record.init_kwargs, record.state)
        ),
    ),
    Family(
        "StyleGAN2 discriminator",
        _is_discriminator,
        lambda record: discriminator.Discriminator(
            **discriminator.kwargs_from(record.init_kwargs, record.state)
        ),
    ),
)


def family_of(record: Record) -> Family:
    """Return the family of a network's record.

    Raises:
        ValueError: no family matches; the message names the class.
    """
    for family in FAMILIES:
        if family.matches(record):
            return family
    known = ", ".join(family.name for family in FAMILIES)
    raise ValueError(f"a network of class {record.class_name} cannot be loaded; known: {known}")


def network_record(data: Any, network: str, source: str | Path) -> Record:
    """Return one network's record from a file's data.

    Raises:
        ValueError: the data hold no such network.
    """
    networks = (
        {k: v for k, v in data.items() if isinstance(v, Record)}
        if isinstance(data, Mapping)
        else {}
    )
    if network in networks:
        return networks[network]
    if "ema" in networks:
        raise ValueError(
            f"{source} holds a {networks['ema'].class_name} denoiser, no {network}: it is a teacher"
        )
    if networks:
        raise ValueError(f"{source} has no network {network}; it has {', '.join(networks)}")
    raise ValueError(
        f"{source} holds no network; a StyleGAN pickle is a dict with the networks G, D, G_ema"
    )


def load(
    path_or_url: str | Path, *, network: str = "G_ema", device: torch.device | str = "cpu"
) -> Any:
    """Load a generator (or with network="D" a discriminator) from a network file; nothing in the file runs.

    Args:
        path_or_url: a StyleGAN pickle, or its http(s) address.
        network: which of the file's networks: "G_ema", "G" or "D".
        device: where the parameters go.

    Returns:
        A Student in eval mode without gradients; a plain module for a discriminator.

    Raises:
        ValueError: no such network, an unknown class or option, tensors that do not fit. checkpoints.UnsafeCheckpoint is one.
        OSError: the file cannot be read.
    """
    data = checkpoints.read(path_or_url)
    record = network_record(data, network, path_or_url)
    try:
        return build(record).to(device)
    except (TypeError, KeyError, AttributeError, ZeroDivisionError, OverflowError) as error:
        # Constructor arguments come from the file: whatever they break says the same.
        raise ValueError(
            f"{path_or_url}: network {network} has arguments that make no {record.class_name}: {error}"
        ) from error


def build(record: Record) -> torch.nn.Module:
    """Build a network and give it its record's tensors; names and shapes must agree exactly."""
    family = family_of(record)
    tensors = checkpoints.tensors(record)
    limit = 64 * sum(t.numel() for t in tensors.values()) + 2**20
    with torch.device("meta"):
        module = family.build(record)
    wanted = module.state_dict()
    if sum(t.numel() for t in wanted.values()) > limit:
        raise ValueError(
            f"the {family.name}'s arguments ask for far more weights than the file has"
        )
    faults = [f"{n} is missing" for n in wanted if n not in tensors]
    faults += [f"{n} is unknown" for n in tensors if n not in wanted]
    faults += [
        f"{n} is {list(tensors[n].shape)}, expected {list(t.shape)}"
        for n, t in wanted.items()
        if n in tensors and tensors[n].shape != t.shape
    ]
    if faults:
        more = f" and {len(faults) - 3} more" if len(faults) > 3 else ""
        raise ValueError(
            f"the {family.name} does not fit its tensors: {'; '.join(faults[:3])}{more}"
        )
    weights = {n: tensors[n].detach().to(t.dtype).contiguous() for n, t in wanted.items()}
    module.load_state_dict(weights, assign=True)
    return module.eval().requires_grad_(False)


def wrap(
    module: torch.nn.Module, *, z_dim: int, c_dim: int = 0, img_resolution: int, img_channels: int
) -> Student:
    """Make a student of any module (z [n, z_dim], c one-hot [n, c_dim] or None) -> images [n, c, h, w]."""
    for name, value, least in (
        ("z_dim", z_dim, 1),
        ("c_dim", c_dim, 0),
        ("img_resolution", img_resolution, 1),
        ("img_channels", img_channels, 1),
    ):
        if value < least:
            raise ValueError(f"{name} is {value}; it must be at least {least}")
    return WrappedStudent(
        module, z_dim=z_dim, c_dim=c_dim, img_resolution=img_resolution, img_channels=img_channels
    )


@torch.no_grad()
def generate(
    student: Student,
    seeds: Sequence[int],
    *,
    truncation_psi: float = 1.0,
    label: int | None = None,
    noise_mode: str = "const",
) -> Iterator[np.ndarray]:
    """Yield one uint8 image [c, h, w] per seed; everything random about it comes from that seed.

    Args:
        student: a generator.
        seeds: non-negative integers.
        truncation_psi: 1 is no truncation.
        label: the class of a conditional student; None draws it from the seed.
        noise_mode: "const", "random" or "none".
    """
    if label is not None and label >= student.c_dim:
        raise ValueError(f"the class is {label}; this student has {student.c_dim} classes, from 0")
    device = next(student.parameters()).device
    for seed in seeds:
        with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
            torch.manual_seed(seed)
            z = student.sample_latents(1).to(device)
            c = None
            if student.c_dim:
                k = torch.randint(student.c_dim, [1]) if label is None else torch.tensor([label])
                c = torch.nn.functional.one_hot(k, student.c_dim).float().to(device)
            image = student(z, c, truncation_psi=truncation_psi, noise_mode=noise_mode)[0]
        yield (image.float().cpu() * 127.5 + 128).clamp(0, 255).to(torch.uint8).numpy()


def save(
    student: torch.nn.Module, path: str | Path, *, like: str | Path, network: str = "G_ema"
) -> None:
    """Write the file `like` with the student's weights in one of its networks; all else stays as it was.

    Args:
        student: a network of the architecture of that one in `like`.
        path: the file to write, as a whole or not at all.
        like: the pickle that the student came from; its other networks, options and embedded source pass through.
        network: which of its networks gets the weights.

    Raises:
        ValueError: the student's tensors do not fit, or are not finite.
    """
    data = checkpoints.read(like)
    record = network_record(data, network, like)
    weights = {name: tensor.detach().cpu() for name, tensor in student.state_dict().items()}
    bad = [name for name, tensor in weights.items() if not math.isfinite(tensor.double().sum())]
    if bad:
        raise ValueError(f"the student has weights that are not finite: {', '.join(bad[:3])}")
    data[network] = checkpoints.with_tensors(record, weights)
    checkpoints.write(data, path)
