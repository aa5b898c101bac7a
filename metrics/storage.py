"""Files of arrays and of weights, read without trusting them.

An .npz is a zip of .npy members. Every member's header (dtype, shape) is read and checked against
the size the zip states before memory is taken for it; members of pickled objects are refused by
their dtype. Weights are known by their SHA-256 before they are opened, and no code of theirs runs.
"""

from __future__ import annotations

import io
import math
import os
import re
import struct
import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import safetensors.torch
from safetensors import SafetensorError
from torch import Tensor

import checkpoints
from roles.budget import check_unpacked, file_size
from roles.shown import shown

# Statistics of 2048 features are 32 MiB; 50,000 x 2048 float32 features are 400 MiB.
MAX_BYTES = 1 << 30
MAX_MEMBERS = 64

Arrays = dict[str, np.ndarray]

# What zipfile raises on files that are no zip, cut, encrypted, or packed in a way it does not know.
UNREADABLE = (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError)


def read_arrays(path: str | os.PathLike[str]) -> Arrays:
    """Every array of an .npz file, by name; ValueError naming the file where one is not plain."""
    file_size(Path(path))
    try:
        with zipfile.ZipFile(path) as archive:
            members = archive.infolist()
            for member in members:
                where = f"{path}: {shown(member.filename)}"
                check_unpacked(member.file_size, member.compress_size, where)
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
    for part in weights.values() if isinstance(weights, dict) else [weights]:
        if isinstance(part, checkpoints.Record):
            checkpoints.check_clean(part, path, "object")
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
    where = f"{path}: array {shown(member.filename.removesuffix('.npy'))}"
    with archive.open(member) as file:
        assert isinstance(file, io.BufferedIOBase)  # ZipExtFile is; its stub says less
        shape, fortran_order, dtype = _read_header(file, where)
        num_bytes, held = math.prod(shape) * dtype.itemsize, member.file_size - file.tell()
        if num_bytes != held:
            raise ValueError(f"{where} is of {num_bytes} bytes and has {held}; the file is damaged")
        raw = bytearray(num_bytes)
        got = 0
        with memoryview(raw) as memory:
            while got < num_bytes:
                count = file.readinto(memory[got:])
                if not count:
                    raise ValueError(f"{where} ends after {got} of {num_bytes} bytes")
                got += count
    return np.frombuffer(raw, dtype).reshape(shape, order="F" if fortran_order else "C")


# The header as numpy writes it; numpy's own reader evaluates whatever literal stands there.
HEADER = re.compile(
    r"\{'descr': '([<>|=]?[A-Za-z]\d{1,4})', 'fortran_order': (True|False), "
    r"'shape': \(((?:\d{1,18}L?(?:, ?)?){0,32})\),? ?\} *\n?"
)
SIZE_OF_LENGTH = {1: "<H", 2: "<I", 3: "<I"}  # by the format's version
MAX_HEADER = 10_000


def _read_header(file: io.BufferedIOBase, where: str) -> tuple[tuple[int, ...], bool, np.dtype]:
    """Shape, whether the first axis runs fastest, and type of an .npy (NumPy's NEP 1)."""
    magic = file.read(8)
    layout = SIZE_OF_LENGTH.get(magic[6]) if len(magic) == 8 else None
    found = None
    if layout is not None and magic.startswith(b"\x93NUMPY"):
        raw = file.read(struct.calcsize(layout))
        length = struct.unpack(layout, raw)[0] if len(raw) == struct.calcsize(layout) else 0
        text = file.read(min(length, MAX_HEADER)).decode("latin1")
        if "|O" in text:
            raise ValueError(
                f"{where} holds pickled Python objects; only plain numbers and text are read"
            )
        found = HEADER.fullmatch(text)
    if found is None:
        raise ValueError(f"{where} is not in numpy's format; make the file with numpy.savez")
    descr, order, sizes = found.groups()
    if descr.lstrip("<>|=")[0] not in "fiubU":
        raise ValueError(f"{where} holds dtype {descr}; only plain numbers and text are read")
    try:
        dtype = np.dtype(descr)
    except TypeError:
        raise ValueError(f"{where} holds dtype {descr}, which numpy does not know") from None
    shape = tuple(int(size.rstrip("L")) for size in re.findall(r"\d+", sizes))
    return shape, order == "True", dtype
