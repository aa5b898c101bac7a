"""Files of named tensors as teachers: which program wrote them, and what teaches no pixels."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch

import checkpoints
from checkpoints import Value
from roles.shown import shown
from teachers import denoising_diffusion, guided_diffusion, score_sde
from teachers.denoiser import DenoiserModule

# Where training programs keep the tensors of a network, the averaged ones first.
WRAPPERS = ("ema", "state_dict", "model")
# Ends of names that tell the layouts that are read.
NAMES = ("time_embed.0.weight", "all_modules.0.weight", "all_modules.0.W")
# What else people have, by a name in it: (part of a tensor's name, what it is, what to do).
OTHERS = (
    ("first_stage_model.", "a latent-diffusion checkpoint", "LATENT"),
    ("model.diffusion_model.", "a latent-diffusion checkpoint", "LATENT"),
    ("x_embedder.proj.", "a DiT", "LATENT"),
    ("param_groups", "an optimiser's state", "BESIDE"),
)
ADVICE = {
    "LATENT": "it denoises latents of an autoencoder, which are not read yet; give a model of "
    "pixels",
    "BESIDE": "give the network beside it, as ema_*.pt",
}


def load(data: Value, source: str | Path, facts: Mapping[str, object]) -> DenoiserModule | None:
    """Build a teacher of a file's named tensors, or return None where it holds none.

    Raises:
        ValueError: they are of another kind of network, or facts are missing or do not fit.
    """
    if score_sde.is_layout(data):
        return score_sde.load(data, source, facts)
    if denoising_diffusion.is_layout(data):
        return denoising_diffusion.load(data, source, facts)
    check_tensors(data, source)
    tensors = tensors_of(data)
    if tensors is not None and guided_diffusion.is_layout(tensors):
        return guided_diffusion.load(tensors, source, facts)
    other = kind_of(data)
    if other is not None:
        what, advice = other
        raise ValueError(f"{source} holds {what}; {advice}")
    if tensors is not None:
        raise ValueError(
            f"{source} holds {len(tensors)} named tensors ({', '.join(list(tensors)[:3])[:120]} "
            "...) of a network that is not known; a teacher is a pickle of EDM, a diffusers "
            "folder, or a file of guided-diffusion, consistency_models, score_sde or "
            "denoising-diffusion-pytorch"
        )
    return None


def is_teacher(data: Value) -> bool:
    """Whether a file's data are named tensors of a denoiser, by its names."""
    tensors = tensors_of(data)
    if score_sde.is_layout(data) or denoising_diffusion.is_layout(data):
        return True
    return tensors is not None and guided_diffusion.is_layout(tensors)


def tensors_of(data: Value) -> dict[str, torch.Tensor] | None:
    """Return the named tensors of a file, without what training put around them, or None."""
    places: list[object] = [data]
    if isinstance(data, Mapping):
        places += [data[key] for key in WRAPPERS if key in data]
    tensors = next((dict(place) for place in places if checkpoints.is_state_dict(place)), None)
    if tensors is None:
        return None
    # The name of torch's DistributedDataParallel.
    bare = all(name.startswith("module.") for name in tensors)
    return {name.removeprefix("module."): t for name, t in tensors.items()} if bare else tensors


def check_tensors(data: Value, source: str | Path) -> None:
    """Raise ValueError for something else than a tensor among those of a layout that is read."""
    places = [data, *(data.get(key) for key in WRAPPERS)] if isinstance(data, Mapping) else []
    for place in places:
        if not isinstance(place, Mapping) or not any(
            str(name).endswith(NAMES) and isinstance(value, torch.Tensor)
            for name, value in place.items()
        ):
            continue
        for name, value in place.items():
            if not isinstance(value, torch.Tensor):
                raise ValueError(
                    f"{source} holds {shown(value)} as {shown(str(name))} among its tensors; a "
                    "file of weights holds tensors alone"
                )


def kind_of(data: Value) -> tuple[str, str] | None:
    """Return what a file of another kind is, and what to do, or None."""
    if not isinstance(data, Mapping):
        return None
    names = [str(name) for name in data]
    for key in WRAPPERS:
        inner = data.get(key)
        names += [str(name) for name in inner] if isinstance(inner, Mapping) else []
    for part, what, advice in OTHERS:
        if any(part in name for name in names):
            return what, ADVICE[advice]
    return None


def refuse_facts(source: str | Path, facts: Mapping[str, object] | None) -> None:
    """Raise ValueError if facts are given for a file that holds its own."""
    if facts:
        raise ValueError(
            f"{source} says all of itself, but {', '.join(facts)} is given; leave --teacher-set "
            "and facts out"
        )
