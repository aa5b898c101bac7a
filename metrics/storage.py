"""Files of arrays and of weights, read without trusting them.

An .npz is a zip of .npy members. Every member's header (dtype, shape) is read and checked against
the size the zip states before memory is taken for it; members of pickled objects are refused by
their dtype. Weights are known by their SHA-256 before they are opened, and no code of theirs runs.
"""

from __future__ import annotations

import os
import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import safetensors.torch
from safetensors import SafetensorError
from torch import Tensor

import checkpoints

# Statistics of 2048 features are 32 MiB; 50,000 x 2048 float32 features are 400 MiB.
MAX_BYTES = 1 << 30
MAX_MEMBERS = 64

Arrays = dict[str, np.ndarray]

# What zipfile raises on files that are no zip, cut, encrypted, or packed in a way it does not know.
UNREADABLE = (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError)


def read_arrays(path: str | os.PathLike[str]) -> Arrays:
    """Every array of an .npz file, by name; ValueError naming the file where one is not plain."""
    try:
        with zipfile.ZipFile(path) as archive:
            members = archive.infolist()
            total = sum(m.file_size for m in members)
            if len(members) > MAX_MEMBERS or total > MAX_BYTES:
                raise ValueError(
                    f"{path}: {len(members)} arrays of {total >> 20} MiB; at most {MAX_MEMBERS} "
                    f"of {MAX_BYTES >> 20} MiB are read: save statistics, not whole data sets"
                )
            return {
                m.filename.removesuffix(".npy"): _read_member(archive, m, path) for m in members
            }
    except UNREADABLE as error:
        raise ValueError(
            f"{path}: not a readable .npz file ({error}); make it with numpy.savez"
        ) from None


def read_weights(path: Path, sha256: str) -> tuple[dict[str, Tensor], str]:
    """The state dict of a file and its hash, which is checked before the file is opened as one.

    `sha256` is its beginning, of 8 digits at least, or nothing where any will do.
    """
    found = checkpoints.sha256(path)
    if 0 < len(sha256) < 8 or not found.startswith(sha256.lower()):
        raise ValueError(
            f"{path}: SHA-256 is {found[:16]}..., and that of the weights begins with "
            f"{sha256[:16]}; download the file again"
        )
    if path.suffix == ".safetensors":
        try:
            return safetensors.torch.load_file(path), found
        except SafetensorError as error:
            raise ValueError(f"{path}: no complete safetensors file ({error})") from error
    weights = checkpoints.read(path)
    if not checkpoints.is_state_dict(weights):
        raise ValueError(f"{path}: holds no table of weights; give the state dict file")
    return weights, found


def text(arrays: Arrays, key: str, *, path: str | os.PathLike[str]) -> str | None:
    """The piece of text stored as `key`, None where there is none; `path` is for messages."""
    found = _scalar(arrays, key, "U", "one piece of text", path)
    return None if found is None else str(found)


def whole_number(arrays: Arrays, key: str, *, path: str | os.PathLike[str]) -> int | None:
    """The whole number stored as `key`, None where there is none; `path` is for messages."""
    found = _scalar(arrays, key, "iu", "one whole number", path)
    return None if found is None else int(found)


def write_arrays(path: str | os.PathLike[str], arrays: Mapping[str, np.ndarray]) -> None:
    """Write an .npz file, whole or not at all."""
    with checkpoints.replacing(Path(path)) as stream, zipfile.ZipFile(stream, "w") as archive:
        for name, array in arrays.items():
            with archive.open(f"{name}.npy", "w", force_zip64=True) as member:
                np.lib.format.write_array(member, np.asarray(array), allow_pickle=False)


def _scalar(
    arrays: Arrays, key: str, kinds: str, what: str, path: str | os.PathLike[str]
) -> np.ndarray | None:
    if key not in arrays:
        return None
    value = arrays[key]
    if value.ndim or value.dtype.kind not in kinds:
        raise ValueError(f"{path}: {key!r} is {value.dtype} {value.shape}; it must be {what}")
    return value


def _read_member(
    archive: zipfile.ZipFile, member: zipfile.ZipInfo, path: str | os.PathLike[str]
) -> np.ndarray:
    where = f"{path}: array {member.filename.removesuffix('.npy')!r}"
    with archive.open(member) as file:
        try:
            version = np.lib.format.read_magic(file)
            read_header = {
                (1, 0): np.lib.format.read_array_header_1_0,
                (2, 0): np.lib.format.read_array_header_2_0,
            }[version]
            shape, fortran_order, dtype = read_header(file)
        except (ValueError, KeyError, SyntaxError, TypeError):
            raise ValueError(
                f"{where} is not in numpy's format; make the file with numpy.savez"
            ) from None
        if dtype.kind not in "fiubU":
            what = "pickled Python objects" if dtype.hasobject else f"dtype {dtype}"
            raise ValueError(f"{where} holds {what}; only plain numbers and text are read")
        count = 1
        for length in shape:
            count *= length
        num_bytes, held = count * dtype.itemsize, member.file_size - file.tell()
        if num_bytes != held:
            raise ValueError(f"{where} is of {num_bytes} bytes and has {held}; the file is damaged")
        flat = np.frombuffer(bytearray(file.read(num_bytes)), dtype)
    return flat.reshape(shape, order="F" if fortran_order else "C")
