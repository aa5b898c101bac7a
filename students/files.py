"""Students in network files: recognised, built from the recorded call, filled by name, written.

Nothing in a file runs; `checkpoints` reads it as plain data.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch

import checkpoints
from checkpoints import Record
from students import calls
from students.discriminator import Discriminator
from students.stylegan2 import Generator


class Family(NamedTuple):
    """A kind of network: how to recognise its record and how to build it."""

    name: str
    matches: Callable[[Record], bool]
    build: Callable[[Record], torch.nn.Module]


FAMILIES = (
    Family(
        "StyleGAN2 generator",
        calls.is_generator,
        lambda record: Generator(**calls.generator_kwargs(record)),
    ),
    Family(
        "StyleGAN2 discriminator",
        calls.is_discriminator,
        lambda record: Discriminator(**calls.discriminator_kwargs(record)),
    ),
)


def family_of(record: Record) -> Family:
    """Return the family of a network's record.

    Raises:
        ValueError: no family matches; the message names the class and its parts.
    """
    for family in FAMILIES:
        if family.matches(record):
            return family
    parts = ascii(", ".join(list(record.state.get("_modules", {}))[:5])[:100])
    known = ", ".join(family.name for family in FAMILIES)
    raise ValueError(
        f"a network of class {record.class_name[:100]!a} with the parts {parts} cannot be "
        f"loaded; known: {known}"
    )


def load(
    path_or_url: str | Path, *, network: str = "G_ema", device: torch.device | str = "cpu"
) -> Any:
    """Load a generator (or with network="D" a discriminator) from a network file.

    Args:
        path_or_url: a StyleGAN pickle, or its http(s) address; nothing in it runs.
        network: which of the file's networks: "G_ema", "G" or "D".
        device: where the parameters go.

    Returns:
        A Student in eval mode without gradients; a plain module for a discriminator. Its parameters
        are the file's, in float32.

    Raises:
        ValueError: no such network, an unknown class or option, tensors that do not fit or are not
            finite; checkpoints.UnsafeCheckpoint where the file asks for what no network needs.
        OSError: the file cannot be read.
    """
    record = find_network(checkpoints.read(path_or_url), network, path_or_url)
    try:
        module = build(record)
    except ValueError as error:
        raise ValueError(f"{path_or_url}: network {network}: {error}") from error
    return module.to(device)


def find_network(data: Any, network: str, source: str | Path) -> Record:
    """Return one network's record among a file's data.

    Raises:
        ValueError: the data hold no such network; the message says what they hold.
    """
    networks = {}
    if isinstance(data, Mapping):
        networks = {str(key): value for key, value in data.items() if isinstance(value, Record)}
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


def build(record: Record) -> torch.nn.Module:
    """Build a network and give it its record's tensors; names and shapes must agree exactly.

    Raises:
        ValueError: an unknown class or option, tensors that are missing, unknown, of another shape
            or not finite.
    """
    family = family_of(record)
    # Without memory: what the file asks for is not to be believed before its tensors agree.
    with torch.device("meta"):
        module = family.build(record)
    wanted, tensors = module.state_dict(), checkpoints.tensors(record)
    check_fit(tensors, wanted, f"the {family.name}'s tensors do not fit its options")
    nonfinite = checkpoints.nonfinite(record)
    if nonfinite:
        raise ValueError(f"tensors that are not finite: {', '.join(nonfinite[:3])}")
    weights = {n: tensors[n].detach().to(like.dtype).contiguous() for n, like in wanted.items()}
    module.load_state_dict(weights, assign=True)
    return module.eval().requires_grad_(False)


def check_fit(
    given: Mapping[str, torch.Tensor], wanted: Mapping[str, torch.Tensor], complaint: str
) -> None:
    """Raise ValueError unless the tensors given have the names and shapes of those wanted."""
    faults = [f"{name} is missing" for name in wanted if name not in given]
    faults += [f"{name} is unknown" for name in given if name not in wanted]
    faults += [
        f"{name} is {list(given[name].shape)} instead of {list(like.shape)}"
        for name, like in wanted.items()
        if name in given and given[name].shape != like.shape
    ]
    if faults:
        more = f" and {len(faults) - 3} more" if len(faults) > 3 else ""
        raise ValueError(f"{complaint}: {'; '.join(faults[:3])}{more}")


def save(
    student: torch.nn.Module, path: str | Path, *, like: str | Path, network: str = "G_ema"
) -> None:
    """Write the file `like` with the student's weights in one of its networks.

    Args:
        student: a network of the architecture of that one in `like`; it is not changed.
        path: the file to write, as a whole or not at all.
        like: the pickle that the student came from; its other networks, options and embedded source
            pass through.
        network: which of its networks gets the weights.

    Raises:
        ValueError: the student's tensors do not fit, or are not finite; `path` is left as it was.
        OSError: a file cannot be read or written.
    """
    data = checkpoints.read(like)
    record = find_network(data, network, like)
    weights = student.state_dict()
    check_fit(weights, checkpoints.tensors(record), f"the student does not fit {network} of {like}")
    bad = [name for name, tensor in weights.items() if not bool(tensor.isfinite().all())]
    if bad:
        raise ValueError(f"the student has weights that are not finite: {', '.join(bad[:3])}")
    data[network] = checkpoints.with_tensors(record, weights)
    checkpoints.write(data, path)
