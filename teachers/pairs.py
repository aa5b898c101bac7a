"""Pairs (latent, image, label) that a teacher makes, for losses that regress on them (DMD, 2023).

A folder holds shard-NNNNNN.npz (latents float32 [m, c h w], images float32 [m, c, h, w], labels
float32 [m, label_dim] where there are classes, seeds int64 [m]) and manifest.json, which says of
which teacher, seeds and steps they are. A shard is written as a whole or not at all, and is a
function of its seeds, so a stopped run continues with the first one that is missing. Latents are
unit Gaussian; a one-step student of the same images takes them as they are.
"""

from __future__ import annotations

import hashlib
import json
import math
import zipfile
import zlib
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import NamedTuple, TypedDict, cast

import numpy as np
import torch
from jaxtyping import Float

import checkpoints
from checkpoints import Json
from roles import Denoiser
from teachers.sampler import inputs_of_seeds, sample

MANIFEST = "manifest.json"
FORMAT = 1
MAX_SHARD = 1_000_000
PLAIN = (bool, int, float, str, type(None))


class Manifest(TypedDict):
    """The numbers of manifest.json, beside what the pairs were made by."""

    num_pairs: int
    shard_size: int
    img_channels: int
    img_resolution: int
    label_dim: int


class Pairs(NamedTuple):
    """Some pairs.

    Attributes:
        latents: unit Gaussian, float32 [m, c * h * w].
        images: the teacher's, float32 [m, c, h, w], about [-1, 1].
        labels: one-hot float32 [m, label_dim], or None.
        seeds: int64 [m].
    """

    latents: torch.Tensor
    images: torch.Tensor
    labels: torch.Tensor | None
    seeds: torch.Tensor


def fingerprint(denoiser: Denoiser) -> str:
    """Return the SHA-256 of what a denoiser computes by: its classes, plain attributes, tensors."""
    digest = hashlib.sha256()
    for name, module in denoiser.named_modules():
        plain = {
            key: list(value) if isinstance(value, tuple) else value
            for key, value in vars(module).items()
            if not key.startswith("_") and key not in ("training", "init_kwargs")
            if isinstance(value, (*PLAIN, tuple, list))
        }
        text = f"{name} {type(module).__name__} {sorted(plain.items())}"
        digest.update(text.encode())
    for name, tensor in (*denoiser.named_parameters(), *denoiser.named_buffers()):
        digest.update(f"{name} {tensor.dtype} {list(tensor.shape)}".encode())
        digest.update(checkpoints.value_bytes(tensor))
    return digest.hexdigest()


def make_pairs(
    denoiser: Denoiser,
    outdir: str | Path,
    *,
    num_pairs: int,
    first_seed: int = 0,
    num_steps: int = 18,
    s_churn: float = 0.0,
    solver: str = "heun",
    batch: int = 64,
    shard_size: int = 1024,
    device: torch.device | str = "cpu",
    progress: Callable[[int, int], None] | None = None,
) -> Path:
    """Make pairs of the seeds first_seed to first_seed + num_pairs - 1 in a folder, or the rest.

    Memory is that of one shard and one batch. A call with more pairs than a folder has continues
    it; everything else must be as it was.

    Args:
        denoiser: the teacher, on the device.
        outdir: the folder, new or of a run with the same options.
        num_pairs: how many pairs there shall be.
        first_seed: seed of the first pair; each has its own.
        num_steps: noise levels visited, see sample.
        s_churn: noise added back, see sample; 0 makes an image a function of its latent.
        solver: "heun" or "euler".
        batch: images at a time; it changes rounding at most.
        shard_size: pairs a file.
        device: where to compute.
        progress: called with (pairs there are, num_pairs) at the start and after each batch.

    Returns:
        The folder.

    Raises:
        ValueError: an option is out of range, or the folder was made with others.
        OSError: a file cannot be written.
    """
    for name, value, most in (
        ("num_pairs", num_pairs, 10**10),
        ("batch", batch, MAX_SHARD),
        ("shard_size", shard_size, MAX_SHARD),
    ):
        if not 1 <= value <= most:
            raise ValueError(f"{name} is {value}; it must be in 1 to {most}")
    outdir = Path(outdir)
    made_by: dict[str, Json] = {
        "format": FORMAT,
        "teacher": type(denoiser).__name__,
        "teacher_sha256": fingerprint(denoiser),
        "first_seed": first_seed,
        "num_steps": num_steps,
        "s_churn": s_churn,
        "solver": solver,
        "shard_size": shard_size,
        "img_channels": denoiser.img_channels,
        "img_resolution": denoiser.img_resolution,
        "label_dim": denoiser.label_dim,
    }
    done = _continue(outdir, made_by)
    draw = partial(sample, denoiser, num_steps=num_steps, s_churn=s_churn, solver=solver)
    report = progress or (lambda done, total: None)
    report(min(done, num_pairs), num_pairs)
    # A last shard that is not full is made anew where more pairs are wanted.
    start = done - done % shard_size if done < num_pairs else num_pairs
    for first in range(start, num_pairs, shard_size):
        seeds = range(first_seed + first, first_seed + min(first + shard_size, num_pairs))
        parts = []
        for i in range(0, len(seeds), batch):
            parts.append(_make(denoiser, seeds[i : i + batch], device, draw))
            report(first + min(i + batch, len(seeds)), num_pairs)
        _write_shard(outdir / shard_name(first // shard_size), parts)
        _write_manifest(outdir, {**made_by, "num_pairs": first + len(seeds)})
    return outdir


def shard_name(number: int) -> str:
    """Return the file name of a shard."""
    return f"shard-{number:06d}.npz"


def _make(
    denoiser: Denoiser,
    seeds: range,
    device: torch.device | str,
    draw: Callable[..., torch.Tensor],
) -> Pairs:
    latents, labels, streams = inputs_of_seeds(denoiser, seeds)
    on_device = None if labels is None else labels.to(device)
    images = draw(latents.to(device), labels=on_device, generator=streams).cpu()
    return Pairs(latents.flatten(1), images, labels, torch.tensor(seeds))


def _write_shard(path: Path, parts: list[Pairs]) -> None:
    columns = zip(Pairs._fields, zip(*parts, strict=True), strict=True)
    arrays = {name: torch.cat(column).numpy() for name, column in columns if column[0] is not None}
    with checkpoints.replacing(path) as file:
        np.savez(file, allow_pickle=False, **arrays)


def _write_manifest(outdir: Path, manifest: dict[str, Json]) -> None:
    with checkpoints.replacing(outdir / MANIFEST) as file:
        file.write((json.dumps(manifest, indent=2) + "\n").encode())


def _continue(outdir: Path, made_by: dict[str, Json]) -> int:
    """Return how many pairs the folder has; a new one has none.

    Raises:
        ValueError: the folder was made with other options.
    """
    outdir.mkdir(parents=True, exist_ok=True)
    if not (outdir / MANIFEST).exists():
        _write_manifest(outdir, {**made_by, "num_pairs": 0})
        return 0
    manifest = read_manifest(outdir)
    held = cast("dict[str, Json]", manifest)
    drift = [f"{k} {held.get(k)} -> {v}" for k, v in made_by.items() if held.get(k) != v]
    if drift:
        raise ValueError(
            f"{outdir} has pairs made otherwise ({', '.join(drift)}); give another folder"
        )
    return manifest["num_pairs"]


def read_manifest(folder: str | Path) -> Manifest:
    """Return manifest.json of a folder of pairs.

    Raises:
        ValueError: there is none, or it is of another format.
    """
    path = Path(folder) / MANIFEST
    if not path.is_file():
        raise ValueError(f"{folder} has no {MANIFEST}; give a folder that make_pairs made")
    held = checkpoints.read_json(path)
    if held.get("format") != FORMAT:
        raise ValueError(f"{path} is no manifest of pairs of format {FORMAT}")
    numbers = {name: held.get(name) for name in Manifest.__annotations__}
    bad = [name for name, n in numbers.items() if not isinstance(n, int) or n < 0]
    manifest = cast("Manifest", held)
    if bad or not 1 <= manifest["shard_size"] <= MAX_SHARD:
        raise ValueError(f"{path} has no proper {', '.join(bad) or 'shard_size'}")
    return manifest


def read_pairs(folder: str | Path) -> Iterator[Pairs]:
    """Yield the shards of a folder in order, one in memory at a time.

    Raises:
        ValueError: no such folder, a shard is missing, broken or of other sizes.
    """
    manifest = read_manifest(folder)
    for number in range(_num_shards(manifest)):
        yield _read_shard(Path(folder), manifest, number)


class PairFolder:
    """A folder of pairs as a source: (n, generator) -> latents, labels or None, images.

    A draw takes one shard, by its share of the pairs, and n of its pairs with replacement; one
    shard is kept in memory.

    Raises:
        ValueError: no such folder, no pairs in it; when drawn from, a broken shard.
    """

    def __init__(self, folder: str | Path):
        self.folder = Path(folder)
        self.manifest = read_manifest(folder)
        if not self.manifest["num_pairs"]:
            raise ValueError(f"{folder} has no pairs yet; let make_pairs go on")
        self._kept: tuple[int, Pairs] | None = None

    def __call__(
        self, n: int, generator: torch.Generator
    ) -> tuple[
        Float[torch.Tensor, "n z_dim"],
        Float[torch.Tensor, "n label_dim"] | None,
        Float[torch.Tensor, "n c h w"],
    ]:
        """Draw n pairs; everything random comes from the generator."""
        pair = int(torch.randint(self.manifest["num_pairs"], [], generator=generator))
        number = pair // self.manifest["shard_size"]
        if self._kept is None or self._kept[0] != number:
            self._kept = (number, _read_shard(self.folder, self.manifest, number))
        pairs = self._kept[1]
        chosen = torch.randint(len(pairs.latents), [n], generator=generator)
        labels = None if pairs.labels is None else pairs.labels[chosen]
        return pairs.latents[chosen], labels, pairs.images[chosen]


def _num_shards(manifest: Manifest) -> int:
    return -(-manifest["num_pairs"] // manifest["shard_size"])


def _read_shard(folder: Path, manifest: Manifest, number: int) -> Pairs:
    path, size = folder / shard_name(number), manifest["shard_size"]
    m = min(size, manifest["num_pairs"] - number * size)
    c, r, k = manifest["img_channels"], manifest["img_resolution"], manifest["label_dim"]
    wanted = {"latents": [m, c * r * r], "images": [m, c, r, r], "seeds": [m]}
    wanted |= {"labels": [m, k]} if k else {}
    try:
        with zipfile.ZipFile(path) as file:
            arrays = {name: _read_array(file, name, shape) for name, shape in wanted.items()}
    except (ValueError, KeyError, EOFError, OSError, zipfile.BadZipFile, zlib.error) as error:
        raise ValueError(f"{path} cannot be read as pairs: {error}; make it anew") from error
    return Pairs(arrays["latents"], arrays["images"], arrays.get("labels"), arrays["seeds"])


def _read_array(file: zipfile.ZipFile, name: str, shape: list[int]) -> torch.Tensor:
    """Read an array of a shard; its size is checked before memory is taken."""
    dtype = np.dtype(np.int64 if name == "seeds" else np.float32)
    with file.open(f"{name}.npy") as member:
        version = np.lib.format.read_magic(member)
        if version != (1, 0):
            raise ValueError(f"{name} is of NumPy's format {version}")
        found, fortran, kind = np.lib.format.read_array_header_1_0(member)
        if list(found) != shape or fortran or kind != dtype:
            raise ValueError(f"{name} is {kind} {list(found)} instead of {dtype} {shape}")
        data = member.read(dtype.itemsize * math.prod(shape) + 1)
    if len(data) != dtype.itemsize * math.prod(shape):
        raise ValueError(f"{name} is cut short")
    return torch.from_numpy(np.frombuffer(bytearray(data), dtype).reshape(shape))
