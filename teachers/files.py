"""Teachers in network files: found by class name, built from the recorded call, filled by name.

Nothing in a file runs; `checkpoints` reads it as plain data.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from pathlib import Path

import torch

import checkpoints
from checkpoints import Program, Record, Value
from roles import Denoiser
from roles.shown import shown
from teachers import diffusers, edm2, state_dicts
from teachers.denoiser import DenoiserModule
from teachers.edm import EDMPrecond, VEPrecond, VPPrecond, iDDPMPrecond
from teachers.options import noise_range, teacher_kwargs

FAMILIES: dict[str, Callable[..., DenoiserModule]] = {
    "VPPrecond": VPPrecond,
    "VEPrecond": VEPrecond,
    "iDDPMPrecond": iDDPMPrecond,
    "EDMPrecond": EDMPrecond,
    "Precond": edm2.Precond,
}

# The arguments of a recorded call come from the file, so they can break a constructor in any way.
BROKEN_CALL = (
    TypeError,
    ValueError,
    AttributeError,
    LookupError,
    ArithmeticError,
    RuntimeError,
    MemoryError,
)


# Whose classes a file written here names; their objects keep nothing that ours do not.
PROGRAMS = {"edm": Program("training.networks"), "edm2": Program("training.networks_edm2")}


def program_of(denoiser: Denoiser) -> str:
    """Return the key of PROGRAMS of the program that has such a denoiser.

    Raises:
        ValueError: there is none.
    """
    name = type(denoiser).__name__
    if name not in FAMILIES:
        raise ValueError(f"a {name} has no file format here; allowed: {', '.join(FAMILIES)}")
    return "edm2" if isinstance(denoiser, edm2.Precond) else "edm"


def load(
    path_or_url: str | Path,
    *,
    device: torch.device | str = "cpu",
    facts: Mapping[str, object] | None = None,
) -> DenoiserModule:
    """Load a denoiser from a network file: under `ema` or `net`, or the file's only object.

    A folder is one that diffusers wrote, see teachers.diffusers; so is a model of the Hugging Face
    Hub, by its id OWNER/NAME or OWNER/NAME@REVISION. Snapshots of SiD and Diff-Instruct hold their
    one-step generator under `ema`, a network of EDM's. Named tensors alone are of the
    programs of teachers.state_dicts.

    Args:
        path_or_url: the file, its address, or a folder.
        device: where the denoiser goes.
        facts: what such tensors do not say, by the flag names of the program that wrote them, see
            teachers.facts; they win over what is known of published files.

    Returns:
        The denoiser in eval mode without gradients; its parameters are the file's, in float32.

    Raises:
        ValueError: the file holds no teacher, or an argument or a tensor does not fit, or facts are
            missing; checkpoints.UnsafeCheckpoint where it asks for what no network needs.
        OSError: the file cannot be read.
    """
    if checkpoints.is_hub_id(path_or_url):
        path_or_url = checkpoints.local(path_or_url)
    if isinstance(path_or_url, str) and not Path(path_or_url).exists():
        # A published network's address has its file's own name, by which some facts are known.
        path_or_url = checkpoints.ADDRESSES.get(path_or_url, path_or_url)
    if Path(path_or_url).is_dir():
        state_dicts.refuse_facts(path_or_url, facts)
        return diffusers.load_folder(path_or_url).to(device)
    data = checkpoints.read(path_or_url)
    found = state_dicts.load(data, path_or_url, facts or {})
    if found is not None:
        return found.to(device)
    record = find_teacher(data, path_or_url)
    state_dicts.refuse_facts(path_or_url, facts)
    try:
        denoiser = build(record)
    except BROKEN_CALL as error:
        reason = " ".join(str(error).split())
        raise ValueError(
            f"{path_or_url}: its {record.class_name} cannot be built: {reason}"
        ) from error
    return denoiser.to(device)


def find_teacher(data: Value, source: str | Path) -> Record:
    """Return the record of the teacher among a file's data.

    Raises:
        ValueError: there is none; the message says what there is, and what a teacher looks like.
    """
    networks = {"": data} if isinstance(data, Record) else {}
    if isinstance(data, Mapping):
        networks = {str(key): value for key, value in data.items() if isinstance(value, Record)}
    for key in ("", "ema", "net"):
        if key in networks:
            checkpoints.check_clean(networks[key], source, key or "object")
            if networks[key].class_name in FAMILIES:
                return networks[key]
    if networks.keys() & {"G", "G_ema"}:
        what = f"a GAN ({', '.join(networks)}), so it is a student"
    elif networks:
        what = ", ".join(
            shown(f"{key} {value.class_name}".strip(), quoted=False)
            for key, value in list(networks.items())[:5]
        )
    else:
        what = "no network"
    raise ValueError(
        f"{source} holds {what}; a teacher is a pickle with a denoiser under the key ema, "
        f"of class {', '.join(FAMILIES)}"
    )


def build(record: Record) -> DenoiserModule:
    """Build a denoiser and give it its record's tensors; names and shapes must agree exactly.

    Raises:
        ValueError: tensors are missing, unknown, of another shape or not finite.
    """
    tensors = checkpoints.tensors(record)
    kwargs = teacher_kwargs(record)
    # A block has several tensors: more blocks than that are refused before they cost anything.
    num_blocks, levels = kwargs.get("num_blocks", 1), kwargs.get("channel_mult", [1])
    assert isinstance(num_blocks, int) and isinstance(levels, list)
    if num_blocks * len(levels) > len(tensors):
        raise ValueError(f"num_blocks is {num_blocks}, but there are {len(tensors)} tensors")
    denoiser = checkpoints.filled(
        lambda: checkpoints.with_options(FAMILIES[record.class_name], kwargs),
        tensors,
        "tensors that do not fit its arguments",
    )
    if isinstance(denoiser, edm2.Precond):
        denoiser.compute_as_stored(tensors["unet.out_gain"].dtype)
    # Samplers clip to this range, which the file's author computed in float32: keep it as it is.
    for name, value in noise_range(record.state).items():
        setattr(denoiser, name, value)
    return denoiser


def save(denoiser: Denoiser, path: str | Path, *, extra: Mapping[str, Value] | None = None) -> None:
    """Write a denoiser of FAMILIES as a network file in EDM's layout.

    The file names the classes of the EDM or EDM2 checkout, where it loads without this project.

    Args:
        denoiser: the network; it is not changed.
        path: the file to write, as a whole or not at all.
        extra: more entries of the file, or others than its loss_fn None, augment_pipe None and
            dataset_kwargs {}.

    Raises:
        ValueError: a class that load does not know, or weights that are not finite.
    """
    name, program = type(denoiser).__name__, PROGRAMS[program_of(denoiser)]
    assert isinstance(denoiser, DenoiserModule)
    bad = [key for key, value in denoiser.state_dict().items() if not bool(value.isfinite().all())]
    if bad:
        raise ValueError(f"the {name} has weights that are not finite: {', '.join(bad[:3])}")
    network = copy.deepcopy(denoiser).cpu().eval().requires_grad_(False)
    for tensor in (*network.parameters(), *network.buffers()):
        tensor.data = tensor.data.contiguous()
    record = checkpoints.describe(network, program=program)
    data = {"ema": record, "loss_fn": None, "augment_pipe": None, "dataset_kwargs": {}}
    checkpoints.write({**data, **(extra or {})}, path)
